"""Holds arrays to different items beside the engine, which cannot compare values.

`DifferentEngine` stands where the engine's matcher would: same names, same meaning, less allowed.
It follows the text byte by byte and remembers the items of every open array whose items must
differ. A token is refused where it completes an item that is there already, and where the item
under way could only become such a one. `sgrt.grammar.different` says why that never leads to
where nothing can follow.
"""

from __future__ import annotations

import copy
import ctypes
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgrt.errors import GrammarBudgetExceeded
from sgrt.grammar import json_text
from sgrt.grammar.different import Schemas
from sgrt.grammar.engines import bytewise
from sgrt.grammar.engines.item_tokens import ItemTokens
from sgrt.grammar.vocabulary import Vocabulary

_WHITE = frozenset(b" \t\n\r")
_ENDS = frozenset(b",]}")
_MAX_VISITS = 5_000
"""Places looked at to find out whether an item can still become a new one."""
_MAX_LEVELS = 300
"""Of one item: Python's JSON is recursive."""
_MAX_INT_DIGITS = 400
_MAX_DIGITS = 24
"""Characters more after which a number that is there already becomes another one, if ever."""
_MAX_SIGNIFICANT = 17
"""Digits after which others make no difference to a 64-bit float."""


class _Mode(IntEnum):
    VALUE = 0  # a value begins, or an array ends
    SCALAR = 1  # in a number or word
    STRING = 2
    KEY = 3  # a key begins, or an object ends
    IN_KEY = 4
    COLON = 5
    AFTER = 6  # a value is complete


@dataclass(frozen=True, slots=True, eq=False)
class _Items:
    """Complete items of one array, as a chain that texts which begin alike share.

    Attributes:
        text: of the last item, without white space.
        key: what tells its value apart.
        before: the items before it; None where there is no item.
    """

    text: bytes = b""
    key: str = ""
    before: _Items | None = None

    def __iter__(self) -> Iterator[_Items]:
        items = self
        while items.before is not None:
            yield items
            items = items.before

    def __contains__(self, key: object) -> bool:
        return any(item.key == key for item in self)

    def __bool__(self) -> bool:
        return self.before is not None


_NO_ITEMS = _Items()


@dataclass(frozen=True, slots=True)
class _Frame:
    """An open container.

    Attributes:
        place: its place in `Schemas`.
        count: items begun before the one under way; -1 in an object.
        items: those of an array whose items must differ.
        start: where its item under way begins in the text that is kept.
    """

    place: int
    count: int = -1
    items: _Items | None = None
    start: int = 0


_TYPE_OF = {b"{": "object", b"[": "array", b'"': "string", b"": "any"}
"""By what is written of a value."""


class Same(Exception):
    """An item is there already."""


class Spot:
    """Where a text stands. Read on from a copy.

    Attributes:
        held: place of the value that begins or is under way.
        text: what is written of the outermost item that is compared, white space left out.
        key: what is written of a key.
    """

    __slots__ = ("_schemas", "frames", "held", "is_escaped", "is_kept", "key", "mode", "text")

    def __init__(self, schemas: Schemas) -> None:
        self._schemas = schemas
        self.frames: tuple[_Frame, ...] = ()
        self.mode = _Mode.VALUE
        self.held = schemas.start
        self.is_escaped = False
        self.is_kept = False
        self.text = b""
        self.key = b""

    def after(self, text: bytes) -> Spot | None:
        """Where a text that the schema allows leads; None where an item is there already."""
        spot = self._copy()
        try:
            for byte in text:
                spot._read(byte)
        except Same:
            return None
        return spot

    def _copy(self) -> Spot:
        spot = Spot.__new__(Spot)
        spot._schemas, spot.frames, spot.mode = self._schemas, self.frames, self.mode
        spot.held, spot.is_escaped, spot.is_kept = self.held, self.is_escaped, self.is_kept
        spot.text, spot.key = self.text, self.key
        return spot

    def _read(self, byte: int) -> None:
        mode = self.mode
        if mode is _Mode.STRING or mode is _Mode.IN_KEY:
            self._read_string(byte)
            return
        if mode is _Mode.SCALAR:
            if byte not in _ENDS and byte not in _WHITE:
                self._write(byte)
                self._check_zero()
                return
            self._end_value()
        if byte in _WHITE:
            return
        if byte in b"]}" and self.mode is not _Mode.COLON:
            self._close(byte)
            return
        self._write(byte)
        match self.mode:
            case _Mode.VALUE:
                self._open(byte)
            case _Mode.COLON:
                self.mode = _Mode.VALUE
            case _Mode.KEY:
                self.mode, self.key = _Mode.IN_KEY, b'"'
            case _Mode.AFTER if self.frames[-1].count < 0:
                self.mode = _Mode.KEY
            case _:
                self._begin_item(self.frames[-1].count + 1)

    def _write(self, byte: int) -> None:
        if self.is_kept:
            self.text += bytes((byte,))

    def _read_string(self, byte: int) -> None:
        self._write(byte)
        if self.mode is _Mode.IN_KEY:
            self.key += bytes((byte,))
        if self.is_escaped or byte != ord('"'):
            self.is_escaped = byte == ord("\\") and not self.is_escaped
        elif self.mode is _Mode.STRING:
            self._end_value()
        else:
            self.held = self._schemas.below(self.frames[-1].place, json.loads(self.key))
            self.mode = _Mode.COLON

    def _open(self, byte: int) -> None:
        """The first byte of a value."""
        if byte == ord('"'):
            self.mode = _Mode.STRING
        elif byte == ord("{"):
            self.frames += (_Frame(self.held),)
            self.mode = _Mode.KEY
        elif byte == ord("["):
            is_compared = self._schemas.differ(self.held)
            self.is_kept |= is_compared
            self.frames += (_Frame(self.held, 0, _NO_ITEMS if is_compared else None),)
            self._begin_item(0)
        else:
            self.mode = _Mode.SCALAR

    def _begin_item(self, count: int) -> None:
        *outer, frame = self.frames
        if frame.items is not None and all(f.items is None for f in outer):
            self.text = b""
        frame = replace(frame, count=count, start=len(self.text))
        self.frames = (*outer, frame)
        self.held = self._schemas.below(frame.place, count)
        self.mode = _Mode.VALUE

    def _check_zero(self) -> None:
        """An integer has one spelling: "-0" is none."""
        is_zero = self.is_kept and self.text.endswith(b"-0") and self.text[-3:-2] in b"[,:"
        if is_zero and not self._schemas.allows_fractions(self.held):
            raise Same

    def _close(self, byte: int) -> None:
        self.frames = self.frames[:-1]
        self.is_kept = any(frame.items is not None for frame in self.frames)
        self._write(byte)
        if not self.is_kept:
            self.text = b""
        self._end_value()

    def _end_value(self) -> None:
        self.mode = _Mode.AFTER
        frame = self.frames[-1] if self.frames else None
        if frame is None or frame.items is None:
            return
        text = self.text[frame.start :]
        key = _key(text)
        if key in frame.items:
            raise Same
        items = _Items(text, key, frame.items)
        self.frames = (*self.frames[:-1], replace(frame, items=items))

    # what may follow

    def is_fraction(self) -> bool:
        """Whether a number is under way that has more spellings than one."""
        return self.mode is _Mode.SCALAR and self._schemas.allows_fractions(self.held)

    def undecided(self, first: int = 0) -> list[int]:
        """Depths, from one on, of open arrays whose items must differ and have one under way."""
        last = len(self.frames) - (self.mode is _Mode.AFTER)
        return [i for i in range(first, last) if self.frames[i].items is not None]

    def is_new(self, frame: _Frame) -> bool | None:
        """Whether the item under way of an open array can surely become one that is not there
        yet; None where that has to be tried."""
        text = self.text[frame.start :]
        if not frame.items:
            return True
        place = self._schemas.below(frame.place, frame.count)
        name = _TYPE_OF.get(text[:1], "number")
        if name == "number":
            digits = text.removeprefix(b"-")
            may_go_on = digits.isdigit() and digits[:1] != b"0"
        else:
            may_go_on = True
        if may_go_on and self._schemas.is_endless(place, name):
            return True
        if not text:
            return None
        if text[:1] in b"-0123456789" and self._schemas.allows_fractions(place):
            value = _number(text)
            return True if value is not None and value not in frame.items else None
        return None if any(item.text.startswith(text) for item in frame.items) else True


def _key(text: bytes) -> str:
    try:
        return json_text.equality_key(json.loads(text, parse_int=_integer))
    except RecursionError:
        raise GrammarBudgetExceeded("levels of an item", _MAX_LEVELS + 1, _MAX_LEVELS) from None


def _integer(digits: str) -> Any:
    """Beyond what Python reads, told apart by its digits."""
    return int(digits) if len(digits) < _MAX_INT_DIGITS else {"\0": digits}


def _is_settled(text: bytes) -> bool:
    """Whether what is added to the number at the end of a text hardly changes it."""
    number = _LAST_NUMBER.search(text)
    mantissa, e, _ = number[0].lower().partition(b"e") if number else (b"", b"", b"")
    digits = mantissa.replace(b".", b"").lstrip(b"-0")
    if e:
        value = _number(number[0]) if number else None
        return not digits or value in ("0", "Infinity", "-Infinity")
    return b"." in mantissa and len(digits) > _MAX_SIGNIFICANT


_LAST_NUMBER = re.compile(rb"[-+.\deE]*$")


def _number(text: bytes) -> str | None:
    """What tells a number apart; None where it is not one yet."""
    try:
        return _key(text)
    except ValueError:
        return None


_Known = dict[tuple[int, _Items | None], dict[bytes, bool]]
"""By depth of an array, its items and text of a spot: whether the item under way can become a new
one."""


class DifferentEngine:
    """The part of `llguidance.LLMatcher` that is used here, held to different items.

    Args:
        engine: the library's matcher at the start of the text.
        byte_engine: makes the same one over `bytewise.byte_vocabulary`; called when it is needed.
    """

    def __init__(
        self,
        engine: Any,
        schemas: Schemas,
        vocabulary: Vocabulary,
        byte_engine: Callable[[], Any],
    ) -> None:
        self._engine = engine
        self._vocabulary = vocabulary
        self._tokens = _tokens_of(vocabulary)
        self._byte_engine = byte_engine
        self._spots = [Spot(schemas)]  # at the start and behind each token
        self._ids: list[int] = []
        self._read: tuple[Any, int] | None = None  # over bytes, and the tokens it has read

    def deep_copy(self) -> DifferentEngine:
        other = copy.copy(self)
        other._engine = self._engine.deep_copy()
        other._spots, other._ids = self._spots.copy(), self._ids.copy()
        other._read = None
        return other

    # as the engine

    def is_error(self) -> bool:
        return bool(self._engine.is_error())

    def get_error(self) -> str:
        return str(self._engine.get_error())

    def is_stopped(self) -> bool:
        return bool(self._engine.is_stopped())

    def is_accepting(self) -> bool:
        return bool(self._engine.is_accepting())

    def compute_ff_bytes(self) -> bytes:
        return bytes(self._engine.compute_ff_bytes())

    def rollback(self, num_tokens: int) -> None:
        self._engine.rollback(num_tokens)
        if num_tokens:
            del self._ids[-num_tokens:], self._spots[-num_tokens:]
        if self._read is not None and self._read[1] > len(self._ids):
            self._read = None

    def validate_tokens(self, token_ids: Sequence[int]) -> int:
        num_ok = int(self._engine.validate_tokens(token_ids))
        return len(self._follow(token_ids[:num_ok]))

    def try_consume_tokens(self, token_ids: Sequence[int]) -> int:
        num_ok = int(self._engine.try_consume_tokens(token_ids))
        spots: list[Spot] = []
        try:
            spots = self._follow(token_ids[:num_ok])
        finally:
            self._engine.rollback(num_ok - len(spots))
        self._ids += token_ids[: len(spots)]
        self._spots += spots
        return len(spots)

    def unsafe_compute_mask_ptr(self, pointer: int, num_bytes: int) -> None:
        self._engine.unsafe_compute_mask_ptr(pointer, num_bytes)
        if self._engine.is_error():
            return
        row = np.ctypeslib.as_array((ctypes.c_uint32 * (num_bytes // 4)).from_address(pointer))
        known: _Known = {}
        tokens = self._vocabulary.tokens
        # What can go on from a longer text can from a shorter one: the longer ones first.
        for token_id in sorted(self._doubtful(row), key=lambda i: -len(tokens[i])):
            token = tokens[token_id]
            spot = self._spots[-1].after(token)
            if spot is None or not self._has_future(spot, token, known):
                row[token_id // 32] &= np.uint32(~(1 << token_id % 32) & 0xFFFFFFFF)

    # items

    def _follow(self, token_ids: Sequence[int]) -> list[Spot]:
        """Where tokens that the engine allows lead, as far as items differ."""
        spots: list[Spot] = []
        text = b""
        for token_id in token_ids:
            is_text = token_id not in self._vocabulary.special_ids
            token = self._vocabulary.tokens[token_id] if is_text else b""
            spot = (spots or self._spots)[-1].after(token)
            text += token
            if spot is None or not self._has_future(spot, text, {}):
                break
            spots.append(spot)
        return spots

    def _doubtful(self, row: NDArray[np.uint32]) -> list[int]:
        """Allowed tokens that could complete an item, or leave one without a future.

        All others keep items apart that differ already, or may still do so.
        """
        spot, tokens = self._spots[-1], self._tokens
        if not spot.is_kept:
            return _allowed(row, tokens.opening)
        alike, in_container = _alike(spot)
        begins = tokens.of(_begins(spot, alike))
        if spot.mode is _Mode.STRING or spot.mode is _Mode.IN_KEY:
            ids = begins.union(tokens.going_on, tokens.ending if in_container else ())
            return _allowed(row, ids)
        if not alike and spot.mode is not _Mode.SCALAR:
            return _allowed(row, tokens.marked)
        bits = np.unpackbits(row.astype("<u4", copy=False).view(np.uint8), bitorder="little")
        others = tokens.beginning - begins
        allowed = bits[: len(self._vocabulary)].nonzero()[0].tolist()
        return [token_id for token_id in allowed if token_id not in others]

    def _has_future(self, spot: Spot, text: bytes, known: _Known) -> bool:
        """Whether all items under way can become new ones.

        Args:
            text: what leads from the text taken in to the spot.
            known: answers for one text taken in.
        """
        for depth in spot.undecided():
            frame = spot.frames[depth]
            if spot.is_new(frame) is None:
                alive = known.setdefault((depth, frame.items), {})
                if spot.text not in alive:
                    longer = (found and t.startswith(spot.text) for t, found in alive.items())
                    is_alive = any(longer) or self._can_become_new(spot, depth, text)
                    alive[spot.text] = is_alive
                if not alive[spot.text]:
                    return False
        return True

    def _can_become_new(self, spot: Spot, depth: int, text: bytes) -> bool:
        """Try every way an item can go on, as far as there are items that begin so."""
        engine = self._bytewise().deep_copy()
        engine.try_consume_tokens(list(text))
        most, count = len(spot.text) + _MAX_DIGITS, spot.frames[depth].count
        todo = [(engine, spot)]
        for _ in range(_MAX_VISITS):
            if not todo:
                return False
            engine, spot = todo.pop()
            for byte in _next_bytes(engine, spot):
                there = spot.after(bytes((byte,)))
                if there is None:
                    continue
                if _is_behind(there, depth, count) or all(
                    there.is_new(there.frames[inner]) for inner in there.undecided(depth)
                ):
                    return True
                if there.is_fraction() and (len(there.text) > most or _is_settled(there.text)):
                    continue
                branch = engine.deep_copy()
                branch.try_consume_tokens([byte])
                todo.append((branch, there))
        raise GrammarBudgetExceeded(
            "places looked at for different items", _MAX_VISITS + 1, _MAX_VISITS
        )

    def _bytewise(self) -> Any:
        """The engine over bytes, where the text stands."""
        engine, num_read = self._read or (self._byte_engine(), 0)
        engine.try_consume_tokens(list(self._vocabulary.bytes_of(self._ids[num_read:])))
        self._read = engine, len(self._ids)
        return engine


def _alike(spot: Spot) -> tuple[list[bytes], bool]:
    """How items go on that begin like one under way, and whether such a one is a container."""
    found: list[bytes] = []
    in_container = False
    for frame in spot.frames:
        if frame.items:
            text = spot.text[frame.start :]
            found += (i.text[len(text) :] for i in frame.items if i.text.startswith(text))
            in_container |= text[:1] in (b"{", b"[")
    return found, in_container


def _begins(spot: Spot, alike: list[bytes]) -> set[bytes]:
    """What the string under way or next may begin with so that an item stays like another one."""
    found: set[bytes] = set()
    in_string = spot.mode is _Mode.STRING or spot.mode is _Mode.IN_KEY
    for rest in alike:
        end = _string_end(rest, in_string, spot.is_escaped)
        found.update(rest[:i] for i in range(1, end + 1))
    return found


def _string_end(text: bytes, in_string: bool, is_escaped: bool) -> int:
    """Length of the string that a text begins with, 0 if it begins with something else."""
    for i, byte in enumerate(text):
        if not in_string:
            if byte != ord('"'):
                return 0
            in_string = True
        elif is_escaped or byte != ord('"'):
            is_escaped = byte == ord("\\") and not is_escaped
        else:
            return i + 1
    return len(text)


def _next_bytes(engine: Any, spot: Spot) -> list[int]:
    """Bytes that may follow; white space only where nothing else may."""
    allowed = bytewise.allowed_bytes(engine)
    if engine.is_error():
        raise GrammarBudgetExceeded("engine steps of one mask", 1, 0)
    if spot.mode is _Mode.STRING or spot.mode is _Mode.IN_KEY:
        return allowed
    return [byte for byte in allowed if byte not in _WHITE] or allowed


def _is_behind(there: Spot, depth: int, count: int) -> bool:
    """Whether the item of a count in an array of a depth is complete."""
    if len(there.frames) <= depth:
        return True
    is_last = len(there.frames) == depth + 1
    return there.frames[depth].count > count or (is_last and there.mode is _Mode.AFTER)


def _allowed(row: NDArray[np.uint32], token_ids: Iterable[int]) -> list[int]:
    """Those of some tokens that a mask allows."""
    return [i for i in token_ids if row[i // 32] >> np.uint32(i % 32) & 1]


@lru_cache(maxsize=8)
def _tokens_of(vocabulary: Vocabulary) -> ItemTokens:
    return ItemTokens(vocabulary)
