"""A tokenizer from GGUF metadata: byte-level BPE ("gpt2") and SentencePiece BPE ("llama")."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import tokenizers
from tokenizers import models, normalizers

from sgrt.errors import CorruptModel, ModelError
from sgrt.models.gguf import GgufFile
from sgrt.models.pretokenizers import PRE_TOKENIZERS, byte_level_bytes
from sgrt.models.tokenizer_source import SPACE, AddedToken, Place, TokenizerSource

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6


def from_gguf(file: GgufFile) -> TokenizerSource:
    """The tokenizer in a GGUF file's metadata.

    Raises:
        CorruptModel: a field is missing or contradicts another one.
        ModelError: a kind of tokenizer or pre-tokenizer that is not known.
    """
    kind = file.field("tokenizer.ggml.model", str)
    builders: dict[str, Callable[[GgufFile, _GgufVocabulary], _Built]] = {
        "gpt2": _byte_level_from_gguf,
        "llama": _sentencepiece_from_gguf,
    }
    if kind not in builders:
        known = ", ".join(sorted(builders))
        raise ModelError(f"{file.path}: tokenizer model {kind!r} is not known, only {known}")
    vocabulary = _GgufVocabulary.read(file)
    built = builders[kind](file, vocabulary)
    added = vocabulary.added()
    for encoder in set(built.encoders.values()):
        _register(encoder, added)
    special_ids = frozenset(vocabulary.of_type(_CONTROL, _UNKNOWN, _UNUSED))
    return TokenizerSource(
        path=file.path,
        encoders=built.encoders,
        texts=vocabulary.tokens,
        table=[
            b"" if i in special_ids else built.spell(i, text)
            for i, text in enumerate(vocabulary.tokens)
        ],
        added=added,
        special_ids=special_ids,
        bos_id=vocabulary.ids.get("bos"),
        eos_id=vocabulary.ids.get("eos"),
        eos_ids=vocabulary.eos_ids(),
        add_bos=file.field("tokenizer.ggml.add_bos_token", bool, built.add_bos)
        and "bos" in vocabulary.ids,
        chat_template=file.field("tokenizer.chat_template", str, None),
    )


@dataclass(frozen=True)
class _Built:
    encoders: dict[Place, tokenizers.Tokenizer]
    spell: Callable[[int, str], bytes]
    add_bos: bool


@dataclass(frozen=True)
class _GgufVocabulary:
    tokens: list[str]
    types: list[int]
    ids: dict[str, int]

    @classmethod
    def read(cls, file: GgufFile) -> _GgufVocabulary:
        tokens = file.strings("tokenizer.ggml.tokens")
        if len(set(tokens)) != len(tokens) or not tokens:
            raise CorruptModel(file.path, "tokenizer.ggml.tokens is empty or has duplicates")
        types = [_NORMAL] * len(tokens)
        if "tokenizer.ggml.token_type" in file.metadata:
            types = file.integers("tokenizer.ggml.token_type")
        if len(types) != len(tokens):
            raise CorruptModel(file.path, f"{len(types)} token types for {len(tokens)} tokens")
        ids = {}
        for role in ("bos", "eos", "eot", "eom", "unknown"):
            token_id = file.field(f"tokenizer.ggml.{role}_token_id", int, None)
            if token_id is None:
                continue
            if not 0 <= token_id < len(tokens):
                raise CorruptModel(file.path, f"{role} token {token_id} of {len(tokens)} tokens")
            ids[role] = token_id
        # Tokens that end a text are special whatever type the file gives them.
        for role in ("eos", "eot", "eom"):
            if role in ids and types[ids[role]] in (_NORMAL, _USER_DEFINED):
                types[ids[role]] = _CONTROL
        return cls(tokens, types, ids)

    def eos_ids(self) -> frozenset[int]:
        return frozenset(self.ids[role] for role in ("eos", "eot", "eom") if role in self.ids)

    def of_type(self, *types: int) -> list[int]:
        return [i for i, kind in enumerate(self.types) if kind in types]

    def added(self) -> tuple[AddedToken, ...]:
        found = self.of_type(_CONTROL, _UNKNOWN, _USER_DEFINED)
        return tuple(
            AddedToken(i, self.tokens[i], special=self.types[i] != _USER_DEFINED)
            for i in found
            if self.tokens[i]
        )


def _byte_level_from_gguf(file: GgufFile, vocabulary: _GgufVocabulary) -> _Built:
    name = file.field("tokenizer.ggml.pre", str)
    if name not in PRE_TOKENIZERS:
        raise ModelError(
            f"{file.path}: pre-tokenizer {name!r} is not known",
            hint="known: " + ", ".join(sorted(PRE_TOKENIZERS)),
        )
    way = PRE_TOKENIZERS[name]
    merges = [_cut(merge) for merge in file.strings("tokenizer.ggml.merges")]
    encoder = _bpe(file, vocabulary, merges, ignore_merges=way.ignore_merges)
    encoder.pre_tokenizer = way.build()
    normalizer = way.normalizer()
    if normalizer is not None:
        encoder.normalizer = normalizer
    literal = set(vocabulary.of_type(_USER_DEFINED))

    def spell(token_id: int, text: str) -> bytes:
        return text.encode() if token_id in literal else byte_level_bytes(text)

    return _Built({"start": encoder, "special": encoder, "text": encoder}, spell, way.add_bos)


def _cut(merge: str) -> tuple[str, str]:
    at = merge.find(" ", 1)
    return (merge[:at], merge[at + 1 :]) if at > 0 else (merge, "")


def _sentencepiece_from_gguf(file: GgufFile, vocabulary: _GgufVocabulary) -> _Built:
    byte_of = {i: _byte_token(file, i, vocabulary.tokens[i]) for i in vocabulary.of_type(_BYTE)}
    merges = _merges_of_scores(file, vocabulary)

    def build(normalizer: normalizers.Normalizer) -> tokenizers.Tokenizer:
        encoder = _bpe(
            file,
            vocabulary,
            merges,
            unk_token=vocabulary.tokens[vocabulary.ids.get("unknown", 0)],
            fuse_unk=True,
            byte_fallback=len(set(byte_of.values())) == 256,
        )
        encoder.normalizer = normalizer
        return encoder

    def spell(token_id: int, text: str) -> bytes:
        if token_id in byte_of:
            return bytes([byte_of[token_id]])
        return text.replace(SPACE, " ").encode()

    spaces = normalizers.Replace(" ", SPACE)
    plain = build(spaces)
    prefixed = plain
    if file.field("tokenizer.ggml.add_space_prefix", bool, True):
        prefixed = build(normalizers.Sequence([normalizers.Prepend(SPACE), spaces]))
    # The prefix comes at the start and after each special token, as in llama.cpp.
    return _Built({"start": prefixed, "special": prefixed, "text": plain}, spell, add_bos=True)


def _byte_token(file: GgufFile, token_id: int, text: str) -> int:
    match = re.fullmatch("<0x([0-9A-Fa-f]{2})>", text)
    if match is None:
        raise CorruptModel(file.path, f"byte token {token_id} is spelled {text!r}, not <0xHH>")
    return int(match[1], 16)


def _merges_of_scores(file: GgufFile, vocabulary: _GgufVocabulary) -> list[tuple[str, str]]:
    """Merge rules that give what SentencePiece does: the pair whose union has the best score
    first. Only ordinary tokens take part, so no text can merge into a special token."""
    scores = file.numbers("tokenizer.ggml.scores")
    if len(scores) != len(vocabulary.tokens):
        raise CorruptModel(file.path, f"{len(scores)} scores for {len(vocabulary.tokens)} tokens")
    ordinary = {vocabulary.tokens[i]: i for i in vocabulary.of_type(_NORMAL)}
    rules: list[tuple[float, int, int, int, str, str]] = []
    for token, token_id in ordinary.items():
        for cut in range(1, len(token)):
            left, right = ordinary.get(token[:cut]), ordinary.get(token[cut:])
            if left is not None and right is not None:
                rules.append((-scores[token_id], token_id, left, right, token[:cut], token[cut:]))
    rules.sort()
    return [rule[4:] for rule in rules]


def _bpe(
    file: GgufFile, vocabulary: _GgufVocabulary, merges: list[tuple[str, str]], **options: Any
) -> tokenizers.Tokenizer:
    vocab = {token: i for i, token in enumerate(vocabulary.tokens)}
    try:
        return tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, **options))
    except Exception as error:  # the library raises bare Exception
        raise CorruptModel(file.path, f"merges do not fit the vocabulary: {error}") from error


def _register(encoder: tokenizers.Tokenizer, added: Iterable[AddedToken]) -> None:
    for special in (True, False):
        tokens = [
            tokenizers.AddedToken(
                token.text,
                special=special,
                normalized=False,
                lstrip=token.lstrip,
                rstrip=token.rstrip,
                single_word=token.single_word,
            )
            for token in added
            if token.special == special
        ]
        (encoder.add_special_tokens if special else encoder.add_tokens)(tokens)
    encoder.encode_special_tokens = True
