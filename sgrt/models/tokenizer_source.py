"""What a tokenizer is made of, read from tokenizer.json or from GGUF metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tokenizers
from tokenizers import models, normalizers

from sgrt.errors import CorruptModel, ModelError
from sgrt.models.gguf import GgufFile
from sgrt.models.pretokenizers import PRE_TOKENIZERS, byte_level_bytes

SPACE = "\u2581"
"""How SentencePiece spells a space."""

Place = Literal["start", "special", "text"]
"""What stands before a stretch of text: nothing, a special token, or other text."""

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6


@dataclass(frozen=True)
class AddedToken:
    """A token that is found by its spelling before text is cut into pieces.

    Args:
        lstrip: it takes the white space before it along.
        rstrip: the same, after it.
        single_word: it counts only where no word character touches it.
    """

    id: int
    text: str
    special: bool
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


@dataclass(frozen=True, kw_only=True)
class TokenizerSource:
    """A tokenizer, taken apart.

    Args:
        encoders: by place; they treat the spelling of special tokens as text.
        texts: how each id is spelled; "" for ids that mean nothing.
        table: bytes each id adds to a text; b"" for special ones.
        added: tokens found by spelling.
        special_ids: tokens that are not text: control, unknown, unused.
        eos_id: the one that the files call the end of text.
        eos_ids: all tokens that end a text, as the files declare.
        add_bos: whether a text begins with ``bos_id``.
        chat_template: jinja source, or None.
    """

    path: Path
    encoders: dict[Place, tokenizers.Tokenizer]
    texts: list[str]
    table: list[bytes]
    added: tuple[AddedToken, ...]
    special_ids: frozenset[int]
    bos_id: int | None
    eos_id: int | None
    eos_ids: frozenset[int]
    add_bos: bool
    chat_template: str | None = field(repr=False)


# ---------------------------------------------------------------- GGUF


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
            types = [int(kind) for kind in file.numbers("tokenizer.ggml.token_type")]
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


# ---------------------------------------------------------------- tokenizer.json


def from_directory(directory: Path) -> TokenizerSource:
    """The tokenizer in a model directory: tokenizer.json and the files beside it.

    Raises:
        CorruptModel: a file is missing, or is not what it should be.
        ModelError: a kind of tokenizer whose tokens have no exact bytes.
    """
    path = directory / "tokenizer.json"
    files = _SideFiles(directory)
    data = _read_json(path)
    if data is None:
        raise CorruptModel(path, "the file is missing")
    data["truncation"] = data["padding"] = None
    encoder = _load(path, data)
    declared = _declared(files, encoder)
    added = _mark_special(data, encoder, declared.eos_ids)
    encoders = _by_place(path, data, added)
    _refuse_unknown_model(path, data["model"])
    spell = _speller(path, data)
    texts, table, special_ids = _table(encoders["start"], added, spell)
    return TokenizerSource(
        path=path,
        encoders=encoders,
        texts=texts,
        table=table,
        added=added,
        special_ids=special_ids,
        bos_id=declared.bos_id,
        eos_id=declared.eos_id,
        eos_ids=declared.eos_ids,
        add_bos=declared.add_bos,
        chat_template=files.chat_template(),
    )


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError, RecursionError) as error:
        raise CorruptModel(path, f"not readable as JSON: {error}") from error
    if not isinstance(data, dict):
        raise CorruptModel(path, f"holds a {type(data).__name__}, expected an object")
    return data


def _load(path: Path, data: dict[str, Any]) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(data))
    except Exception as error:  # the library raises bare Exception
        raise CorruptModel(path, f"not a tokenizer: {error}") from error


class _SideFiles:
    """The small JSON files of a model directory; absent ones are empty."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = _read_json(directory / "config.json") or {}
        self.generation = _read_json(directory / "generation_config.json") or {}
        self.tokenizer = _read_json(directory / "tokenizer_config.json") or {}

    def token_text(self, key: str) -> str | None:
        value = self.tokenizer.get(key)
        if isinstance(value, dict):
            value = value.get("content")
        if value is not None and not isinstance(value, str):
            raise CorruptModel(
                self.directory / "tokenizer_config.json", f"{key} is {value!r}, not a token"
            )
        return value

    def chat_template(self) -> str | None:
        file = self.directory / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8")
        found = self.tokenizer.get("chat_template")
        if found is None:
            found = (_read_json(self.directory / "chat_template.json") or {}).get("chat_template")
        if isinstance(found, list):
            named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
            found = named.get("default")
        if found is not None and not isinstance(found, str):
            raise CorruptModel(
                self.directory / "tokenizer_config.json", "chat_template is not a string"
            )
        return found


@dataclass(frozen=True)
class _Declared:
    bos_id: int | None
    eos_id: int | None
    eos_ids: frozenset[int]
    add_bos: bool


def _declared(files: _SideFiles, encoder: tokenizers.Tokenizer) -> _Declared:
    def known(value: Any) -> list[int]:
        values = value if isinstance(value, list) else [value]
        ints = [v for v in values if isinstance(v, int) and not isinstance(v, bool)]
        return [v for v in ints if encoder.id_to_token(v) is not None]

    def by_text(key: str) -> list[int]:
        return known(encoder.token_to_id(files.token_text(key) or ""))

    eos = [*by_text("eos_token"), *known(files.config.get("eos_token_id"))]
    eos += known(files.generation.get("eos_token_id"))
    bos = [*by_text("bos_token"), *known(files.config.get("bos_token_id"))]
    bos_id = bos[0] if bos else None
    add_bos = files.tokenizer.get("add_bos_token")
    if add_bos is None:
        add_bos = bos_id is not None and encoder.encode("").ids[:1] == [bos_id]
    return _Declared(
        bos_id,
        eos[0] if eos else None,
        frozenset(eos),
        bool(add_bos) and bos_id is not None,
    )


def _mark_special(
    data: dict[str, Any], encoder: tokenizers.Tokenizer, eos_ids: frozenset[int]
) -> tuple[AddedToken, ...]:
    """The added tokens; those that end a text become special in ``data``, whatever it said."""
    entries: dict[int, dict[str, Any]] = {t["id"]: t for t in data.get("added_tokens") or []}
    for token_id in eos_ids:
        entry = entries.setdefault(
            token_id,
            {
                "id": token_id,
                "content": encoder.id_to_token(token_id),
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
            },
        )
        entry["special"] = True
    data["added_tokens"] = [entries[i] for i in sorted(entries)]
    return tuple(
        AddedToken(t["id"], t["content"], t["special"], t["lstrip"], t["rstrip"], t["single_word"])
        for t in data["added_tokens"]
    )


def _by_place(
    path: Path, data: dict[str, Any], added: tuple[AddedToken, ...]
) -> dict[Place, tokenizers.Tokenizer]:
    def build(variant: dict[str, Any]) -> tokenizers.Tokenizer:
        encoder = _load(path, variant)
        encoder.encode_special_tokens = True
        return encoder

    start = build(data)
    bare = {**data, **{key: _no_prefix(data.get(key)) for key in ("normalizer", "pre_tokenizer")}}
    if bare == data:
        return {"start": start, "special": start, "text": start}
    text = build(bare)
    only_first = _steps(data.get("pre_tokenizer"), "Metaspace", prepend_scheme="first")
    return {"start": start, "special": text if only_first else start, "text": text}


def _children(step: dict[str, Any]) -> list[dict[str, Any]]:
    for key in ("normalizers", "pretokenizers", "decoders"):
        if step["type"] == "Sequence" and key in step:
            return list(step[key])
    return [step]


def _steps(step: dict[str, Any] | None, kind: str, **values: Any) -> list[dict[str, Any]]:
    """The parts of a pipeline of one type that have these values."""
    found = [] if step is None else [s for s in _children(step) if s["type"] == kind]
    return [s for s in found if all(s.get(key) == value for key, value in values.items())]


def _no_prefix(step: dict[str, Any] | None) -> dict[str, Any] | None:
    """A pipeline without what puts a space before a text."""
    if step is None or step["type"] == "Prepend":
        return None
    if step["type"] == "Sequence":
        key = "normalizers" if "normalizers" in step else "pretokenizers"
        kept = [_no_prefix(child) for child in step[key]]
        return {**step, key: [child for child in kept if child is not None]}
    if step["type"] == "ByteLevel":
        return {**step, "add_prefix_space": False}
    if step["type"] == "Metaspace":
        without = {key: value for key, value in step.items() if key != "add_prefix_space"}
        return {**without, "prepend_scheme": "never"}
    return step


def _refuse_unknown_model(path: Path, model: dict[str, Any]) -> None:
    if model.get("type", "BPE") not in ("BPE", "Unigram"):
        raise ModelError(f"{path}: tokenizer model {model['type']!r} is not known")
    for option in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            raise ModelError(f"{path}: {option}={model[option]!r} is not supported")


def _speller(path: Path, data: dict[str, Any]) -> Callable[[str], bytes]:
    """How the decoder turns one token into bytes."""
    decoder = data.get("decoder")
    if _steps(decoder, "ByteLevel"):
        return byte_level_bytes
    replaces = _steps(decoder, "Replace", pattern={"String": SPACE}, content=" ")
    if not replaces and not _steps(decoder, "Metaspace", replacement=SPACE):
        kinds = [s["type"] for s in _children(decoder)] if decoder else None
        raise ModelError(f"{path}: tokenizer decoder {kinds} is not known")
    has_bytes = bool(_steps(decoder, "ByteFallback"))

    def spell(token: str) -> bytes:
        match = re.fullmatch("<0x([0-9A-Fa-f]{2})>", token) if has_bytes else None
        return bytes.fromhex(match[1]) if match else token.replace(SPACE, " ").encode()

    return spell


def _table(
    encoder: tokenizers.Tokenizer, added: tuple[AddedToken, ...], spell: Callable[[str], bytes]
) -> tuple[list[str], list[bytes], frozenset[int]]:
    vocab = encoder.get_vocab(with_added_tokens=True)
    texts = [""] * (max(vocab.values(), default=-1) + 1)
    for text, token_id in vocab.items():
        texts[token_id] = text
    literal = {token.id: token.text.encode() for token in added}
    special_ids = {token.id for token in added if token.special}
    special_ids |= {i for i, text in enumerate(texts) if not text}
    table = [
        b"" if i in special_ids else literal.get(i) or spell(text) for i, text in enumerate(texts)
    ]
    return texts, table, frozenset(special_ids)
