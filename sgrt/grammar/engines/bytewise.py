"""A constraint byte by byte: short ways to its end, and what may follow.

Searches run on an engine of their own, over the 256 bytes instead of the model's tokens: its
masks cost a few microseconds, and no way is missed because of how tokens are cut. What is found
is text; whoever uses it checks it against the matcher of the tokens.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from sgrt.grammar.vocabulary import Vocabulary

MAX_COMPLETION_BYTES = 8_192
_STEPS = 2_000  # of following rules, some 25 µs each
_REPEATS = 4  # of a letter or digit before the next one is taken; of a way out of a word
_PATIENCE = 200  # visits of one place
_SEARCH_NODES = 300
_ALIKE = 8  # ways of one length that go on where the same bytes may follow
_MANY = 24
"""Where more bytes may follow, only one or a few of each kind are tried."""
_TRIED = b'"}]01aAntfi .:-_/,[{\n'
"""Bytes worth a try where many are allowed."""

_LETTERS = bytes(range(ord("a"), ord("z") + 1)) + bytes(range(ord("A"), ord("Z") + 1))
_DIGITS = b"0123456789"
_ALPHANUMERIC = frozenset(_LETTERS + _DIGITS)
_CLOSERS = b'}])"'
_OPENERS = b"[{(<"
_MARKS = b"\n |@.,);:-_/=>+*!?#$%&^~`'"


def _ranks(order: bytes) -> dict[int, int]:
    """Place of each byte in an order; the first one counts."""
    return {byte: rank for rank, byte in reversed(list(enumerate(order)))}


_FEW = _ranks(_CLOSERS + b"," + _DIGITS + _LETTERS + _MARKS + _OPENERS)


_MOST = _ranks(b'"' + _LETTERS + _DIGITS + _MARKS + _OPENERS)


@cache
def byte_vocabulary() -> Vocabulary:
    """256 bytes and an end-of-text token."""
    tokens = [bytes([i]) for i in range(256)] + [b""]
    return Vocabulary(tokens, [256], 256, lambda text: list(text.encode()), "bytes")


def allowed_bytes(engine: Any) -> list[int]:
    """Bytes that may follow, ascending; [] too where the engine's fuel ran out."""
    vocabulary = byte_vocabulary()
    row = np.zeros(vocabulary.num_words, np.uint32)
    if engine.is_stopped():
        return []
    engine.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
    if engine.is_error():
        return []
    bits = np.unpackbits(row.astype("<u4", copy=False).view(np.uint8), bitorder="little")
    found: list[int] = bits[:256].nonzero()[0].tolist()
    return found


def completions(
    engine: Any, *, thorough: bool, endings: Callable[[], Sequence[bytes]] = tuple
) -> list[bytes]:
    """Short texts that complete the one so far, [] where none is found.

    Args:
        engine: over `byte_vocabulary`, where the text stands; not changed.
        thorough: look for the shortest too, not only for one that a few rules lead to.
        endings: texts to try where a string cannot end and nothing else leads on.

    Cost: some 25 µs per byte, 0.1 s where no rule leads to an end; thorough: 10 ms more.
    """
    found: list[bytes] = []
    for patient in (True, False):
        way = _follow_rules(engine.deep_copy(), _Rules(patient=patient))
        if way is not None:
            found.append(way)
            if not thorough:
                break
    if thorough:
        limit = min(map(len, found), default=MAX_COMPLETION_BYTES + 1)
        shortest = _search(engine.deep_copy(), limit)
        found += [] if shortest is None else [shortest]
    for forgets in (True, False) if not found else ():
        rules = _Rules(patient=True, forgets=forgets, endings=endings())
        way = _follow_rules(engine.deep_copy(), rules)
        if way is not None:
            return [way]
    return found


def spell(vocabulary: Vocabulary, text: bytes) -> list[int] | None:
    """Tokens of a text that may begin inside a character; None where they do not spell it."""
    start = next((i for i, byte in enumerate(text) if byte & 0xC0 != 0x80), len(text))
    ids: list[int] = vocabulary.engine.tokenize_bytes(text[:start]) if start else []
    rest = vocabulary.try_encode(text[start:]) if start < len(text) else []
    if rest is None or vocabulary.bytes_of(ids) != text[:start]:
        return None
    return ids + rest


def _follow_rules(engine: Any, rules: _Rules) -> bytes | None:
    """Close what can be closed, else go on with the most common byte not tried here yet."""
    text = bytearray()
    for _ in range(_STEPS):
        if len(text) > MAX_COMPLETION_BYTES or engine.is_error():
            return None
        if engine.is_accepting():
            return bytes(text)
        run = engine.compute_ff_bytes()
        if run:
            rules.took_forced_text()
        else:
            run = rules.choose(engine, allowed_bytes(engine))
        if not run or engine.try_consume_tokens(list(run)) < len(run):
            return None
        text += run
    return None


_Place = tuple[int, ...]
"""The bytes that may follow, by which places are told apart."""


class _Rules:
    """Which byte to go on with.

    Args:
        patient: close what can be closed, however often.
        forgets: forget what was tried after each forced text, which is progress in most formats,
            though not where a repeat holds forced text, or a schema itself: then it is only
            forgotten where much is allowed. As `patient` if it is not said.
        endings: texts after one of which a string may end, perhaps.
    """

    def __init__(
        self, *, patient: bool, forgets: bool | None = None, endings: Sequence[bytes] = ()
    ) -> None:
        self._patient = patient
        self._forgets = patient if forgets is None else forgets
        self._endings = endings
        self._tried: Counter[tuple[_Place, int]] = Counter()
        self._visits: Counter[_Place] = Counter()
        self._exits: dict[_Place, frozenset[int]] = {}
        self._queues: dict[_Place, list[tuple[tuple[int, ...], int]]] = {}
        """Heaps of the bytes of a place by cost."""

    def took_forced_text(self) -> None:
        if self._forgets:
            self._tried.clear()
            self._queues.clear()
        elif self._patient:
            self._tried = Counter({k: n for k, n in self._tried.items() if len(k[0]) <= _MANY})
            self._queues = {p: queue for p, queue in self._queues.items() if len(p) <= _MANY}

    def choose(self, engine: Any, allowed: list[int]) -> bytes:
        """One of these bytes; b"" where there is none, or where this goes round in circles."""
        place = tuple(allowed)
        self._visits[place] += 1
        if not allowed or (self._patient and self._visits[place] > _PATIENCE):
            return b""
        if len(allowed) > _MANY and ord('"') not in place:
            for text in self._endings:
                if _ends_string(engine, text):
                    return text
        if len(allowed) > _MANY and self._visits[place] > 1 and place not in self._exits:
            self._exits[place] = _exits(engine, place)
            self._queues.pop(place, None)
        cost = self._cost_among_many if len(allowed) > _MANY else self._cost_among_few
        if place not in self._queues:
            self._queues[place] = sorted((cost(place, byte), byte) for byte in allowed)
        queue = self._queues[place]
        byte = queue[0][1]
        self._tried[place, byte] += 1
        heapq.heapreplace(queue, (cost(place, byte), byte))
        return bytes([byte])

    def _cost_among_few(self, place: _Place, byte: int) -> tuple[int, ...]:
        is_closer = self._patient and byte in _CLOSERS
        return 0 if is_closer else self._tried[place, byte], _FEW.get(byte, 256 + byte)

    def _cost_among_many(self, place: _Place, byte: int) -> tuple[int, ...]:
        """Common bytes first; in a word or string that goes on, those that leave it."""
        rank, times = _MOST.get(byte, 256 + byte), self._tried[place, byte]
        if byte in self._exits.get(place, ()) and times < _REPEATS:
            return False, -1, times, rank
        return rank >= 256, times // (_REPEATS if byte in _ALPHANUMERIC else 1), 0, rank


def _ends_string(engine: Any, text: bytes) -> bool:
    """Whether a string may end after a text that may come next."""
    if engine.validate_tokens(list(text)) < len(text):
        return False
    copy = engine.deep_copy()
    return bool(copy.try_consume_tokens([*text, ord('"')]) > len(text))


def _exits(engine: Any, place: tuple[int, ...]) -> frozenset[int]:
    """Marks after which something else is allowed than at this place."""
    found = set()
    for byte in set(_MARKS + b'"') & set(place):
        copy = engine.deep_copy()
        copy.try_consume_tokens([byte])
        if copy.is_accepting() or copy.compute_ff_bytes() or tuple(allowed_bytes(copy)) != place:
            found.add(byte)
    return frozenset(found)


@dataclass(slots=True)
class _Way:
    """A text under way and the engine that has read it."""

    engine: Any
    text: bytes


def _search(engine: Any, limit: int) -> bytes | None:
    """The shortest completion below ``limit`` bytes, shortest texts first, as far as fuel goes."""
    levels: dict[int, list[_Way]] = {0: [_Way(engine, b"")]}
    fuel = _SEARCH_NODES
    while levels:
        length = min(levels)
        seen: Counter[tuple[int, ...]] = Counter()
        for way in levels.pop(length):
            if way.engine.is_accepting():
                return way.text
            fuel -= 1
            if fuel < 0:
                return None
            for run in _steps(way.engine, seen):
                if length + len(run) < limit:
                    _extend(levels, way, run)
    return None


def _steps(engine: Any, seen: Counter[tuple[int, ...]]) -> list[bytes]:
    """Texts that may come next: the forced one, or bytes that stand for those alike."""
    run: bytes = engine.compute_ff_bytes()
    allowed = [] if run else allowed_bytes(engine)
    place = (-1, *run) if run else tuple(allowed)
    seen[place] += 1
    if seen[place] > _ALIKE:
        return []
    if run:
        return [run]
    if len(allowed) > _MANY:
        allowed = [byte for byte in allowed if byte in _TRIED] or allowed[:_MANY]
    return [bytes([byte]) for byte in sorted(allowed, key=lambda b: _FEW.get(b, 256 + b))]


def _extend(levels: dict[int, list[_Way]], way: _Way, run: bytes) -> None:
    copy = way.engine.deep_copy()
    if copy.try_consume_tokens(list(run)) == len(run):
        text = way.text + run
        levels.setdefault(len(text), []).append(_Way(copy, text))


# ---------------------------------------------------------------- for people


def why_no_text(vocabulary: Vocabulary, token_id: int, *, can_end: bool) -> str | None:
    """Why a token can stand in no text at all.

    Args:
        can_end: whether the text may end here.
    """
    if not 0 <= token_id < len(vocabulary):
        return f"token {token_id} does not exist: the vocabulary has {len(vocabulary)}"
    if token_id == vocabulary.eos_id and not can_end:
        return "the text is not complete: it cannot end here"
    if token_id in vocabulary.special_ids:
        return f"token {token_id} is a special token, which is no text"
    return None


def why_not(token: bytes, num_ok: int, allowed: list[int], can_end: bool) -> str:
    """What breaks in a token that is not allowed.

    Args:
        num_ok: its bytes that are allowed.
        allowed: the bytes that may follow them.
        can_end: whether the text may end there.
    """
    after = f" after {token[:num_ok]!r:.80}" if num_ok else ""
    what = f"{token[num_ok : num_ok + 1]!r} cannot follow{after}" if token else "it is no text"
    if not allowed:
        return f"{what}: the text is complete" if can_end else f"{what}: nothing can"
    end = ", or the text ends" if can_end else ""
    return f"{what}; allowed: {describe(allowed)}{end}"


def describe(allowed: list[int]) -> str:
    """Bytes as people read them: characters, and ranges of them."""
    parts = [_range(low, high) for low, high in _ranges(b for b in allowed if b < 0x80)]
    if any(byte >= 0x80 for byte in allowed):
        parts.append("characters beyond ASCII")
    shown = parts[:12]
    return ", ".join(shown) + (", ..." if len(parts) > len(shown) else "")


def _ranges(values: Any) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for value in values:
        if found and found[-1][1] == value - 1:
            found[-1] = (found[-1][0], value)
        else:
            found.append((value, value))
    return found


def _range(low: int, high: int) -> str:
    return repr(chr(low)) if low == high else f"{chr(low)!r} to {chr(high)!r}"
