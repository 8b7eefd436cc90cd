"""Small vocabularies, and ways to walk and probe a matcher."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable
from functools import cache

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from sgrt.core import Constraint, JsonSchema
from sgrt.errors import ConstraintError
from sgrt.grammar.compiler import GrammarCompiler
from sgrt.grammar.matcher import Grammar, Matcher
from sgrt.grammar.vocabulary import Vocabulary
from sgrt.grammar.worker import Budget, CompileProcess

_CORPUS = [
    '{"name":"Anna","age":31,"city":"Oslo","tags":["a","b"],"note":null}',
    '{"date":"2024-02-29","amount":1200,"valid":true,"kind":"invoice"}',
    "the quick brown fox, the lazy dog; hello world  hello   there\n\n- item\n- item",
]


@cache
def byte_vocabulary() -> Vocabulary:
    """256 bytes and an end-of-text token."""
    tokens = [bytes([i]) for i in range(256)] + [b""]
    return Vocabulary(tokens, [256], 256, lambda text: list(text.encode()), "bytes")


@cache
def bpe_vocabulary() -> Vocabulary:
    """A byte-level BPE of 401 tokens that merges across JSON punctuation."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS * 3, trainer)
    size = tokenizer.get_vocab_size()
    tokens = [_piece_bytes(tokenizer.id_to_token(i)) for i in range(size)] + [b"<|end|>"]

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    return Vocabulary(tokens, [size], size, encode, "bpe")


def _piece_bytes(piece: str) -> bytes:
    """Undo the byte-level alphabet: printable bytes stand for themselves, the rest from U+0100."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in printable]
    table = {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(hidden)}
    return bytes(table[c] for c in piece)


@cache
def compiler(name: str = "bytes") -> GrammarCompiler:
    return GrammarCompiler({"bytes": byte_vocabulary, "bpe": bpe_vocabulary}[name]())


def grammar(constraint: Constraint, name: str = "bytes") -> Grammar:
    return compiler(name).compile(constraint)


def accepts(compiled: Grammar, text: str | bytes) -> bool:
    """Whether a grammar over bytes takes the whole text."""
    matcher = compiled.matcher()
    data = text.encode() if isinstance(text, str) else text
    try:
        matcher.accept(list(data))
    except ConstraintError:
        return False
    return matcher.is_complete


def mask_of(matcher: Matcher, vocabulary: Vocabulary) -> NDArray[np.uint32]:
    row = np.full(vocabulary.num_words, 0xFFFFFFFF, np.uint32)
    matcher.fill(row)
    return row


def allowed_ids(matcher: Matcher, vocabulary: Vocabulary) -> list[int]:
    return ids_of(mask_of(matcher, vocabulary))


def ids_of(mask: NDArray[np.uint32]) -> list[int]:
    """The bits set in a mask."""
    bits = np.unpackbits(mask.astype("<u4", copy=False).view(np.uint8), bitorder="little")
    found: list[int] = bits.nonzero()[0].tolist()
    return found


def walk(
    matcher: Matcher,
    vocabulary: Vocabulary,
    rng: random.Random,
    max_tokens: int = 80,
    closers: Iterable[bytes] = (b'"', b"}", b"]", b",", b":"),
) -> list[int] | None:
    """Tokens of one random text, or None where it did not end in time.

    A place that is not complete and allows nothing fails here: nothing generated could end.
    """
    closing = set(closers)
    ids: list[int] = []
    for _ in range(max_tokens):
        if matcher.is_final or (matcher.is_complete and rng.random() < 0.3):
            return ids
        allowed = allowed_ids(matcher, vocabulary)
        assert allowed, f"dead end after {vocabulary.bytes_of(ids)!r}"
        shortcuts = [i for i in allowed if vocabulary.tokens[i] in closing]
        token_id = rng.choice(shortcuts if shortcuts and rng.random() < 0.4 else allowed)
        matcher.accept([token_id])
        ids.append(token_id)
    return None


ENDLESS = JsonSchema('{"type":"integer","multipleOf":20011,"title":"endless"}')
_HANGS = (
    "import threading, sgrt.grammar.worker as w; source_of = w.source_of; "
    "w.source_of = lambda c: 'endless' in c.schema and threading.Event().wait() or source_of(c); "
    "w.main()"
)


def compiler_that_hangs(seconds: float) -> GrammarCompiler:
    """Its process never ends with `ENDLESS`, and has that long for each constraint."""
    compiler = GrammarCompiler(byte_vocabulary())
    command = (sys.executable, "-c", _HANGS)
    compiler.process = CompileProcess(byte_vocabulary(), Budget(seconds=seconds), command=command)
    return compiler
