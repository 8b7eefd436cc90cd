"""Small regular languages as tables over the vocabulary: state -> allowed tokens, state -> state.

A pattern becomes an automaton over bytes; the tokens that may follow in a state are found once,
by walking the vocabulary's trie level by level, and kept. From then on a step costs a look-up:
nothing is parsed, copies are two pointers, and rows that stand in one state share one mask.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from sgrt.errors import ConstraintError, GrammarBudgetExceeded, UnsupportedSchema
from sgrt.grammar import automaton, charset
from sgrt.grammar.automaton import Automaton
from sgrt.grammar.engines import bytewise
from sgrt.grammar.vocabulary import Vocabulary

MAX_STATES = 256
"""Of the automaton over bytes."""
MAX_WIDE_STATES = 16
"""Of those, states in which many tokens are allowed: each takes a mask and, once, some ms."""
_WIDE = 24
"""Bytes that may follow in a wide state: more than digits and hexadecimal ones."""
_LISTED = 256
"""States that allow at most so many tokens are known by their ids."""
_DEAD = -1

I32 = NDArray[np.int32]


def try_build(
    vocabulary: Vocabulary, pattern: str, blame: Callable[[bytes], str | None] | None = None
) -> TableGrammar | None:
    """The table of a pattern that `regex.rewrite` wrote; None where it would be a large one.

    Args:
        blame: says what forbids the last byte of a text.

    Raises:
        UnsupportedSchema: no text matches.
    """
    try:
        found = automaton.compile(pattern, MAX_STATES)
    except GrammarBudgetExceeded:
        return None
    states = _ByteStates(found)
    num_wide = sum(256 - row.count(_DEAD) >= _WIDE for row in states.table)
    if len(states.table) > MAX_STATES or num_wide > MAX_WIDE_STATES:
        return None
    if not states.table:
        raise UnsupportedSchema("no text satisfies this constraint")
    return TableGrammar(vocabulary, states, blame)


# bytes


class _ByteStates:
    """An automaton over the bytes of UTF-8, from one over characters; state 0 is the start.

    Attributes:
        table: [states][256] next state, or `_DEAD`; no states where nothing is accepted.
        accepting: [states].
    """

    def __init__(self, source: Automaton) -> None:
        self.table: list[list[int]] = []
        self.accepting: list[bool] = []
        self._source = source
        self._live = automaton.live_states(source)
        self._inner: dict[tuple[int, ...], int] = {}
        if 0 not in self._live:
            return
        # states of the source first, so that they keep their order
        self._number = {state: i for i, state in enumerate(sorted(self._live))}
        for state in self._number:
            self._new(source.accepting[state])
        for state, number in self._number.items():
            self._fill(number, self._runs(state))
            if len(self.table) > MAX_STATES:
                return

    def _new(self, accepting: bool) -> int:
        self.table.append([_DEAD] * 256)
        self.accepting.append(accepting)
        return len(self.table) - 1

    def _runs(self, state: int) -> list[tuple[int, int, int]]:
        """(first, last code point, target), live targets only, surrogates left out."""
        source = self._source
        ends = [*(s - 1 for s in source.starts[1:]), charset.MAX_CODE_POINT]
        found = []
        for low, high, column in zip(source.starts, ends, source.classes, strict=True):
            target = source.table[state][column]
            if target in self._live:
                for a, b in ((low, min(high, 0xD7FF)), (max(low, 0xE000), high)):
                    if a <= b:
                        found.append((a, b, self._number[target]))
        return found

    def _fill(self, number: int, runs: list[tuple[int, int, int]]) -> None:
        row = self.table[number]
        for low, high, target in runs:
            for byte in range(low, min(high, 0x7F) + 1):
                row[byte] = target
        for lead, first, size in _LEADS:
            row[lead] = self._block(_inside(runs, first, size), first, size)

    def _block(self, runs: list[tuple[int, int, int]], first: int, size: int) -> int:
        """The state in which the rest of a character of a block of code points is read."""
        if not runs:
            return _DEAD
        if size == 1:
            return runs[0][2]
        key = (size, *(part for low, high, t in runs for part in (low - first, high - first, t)))
        if key not in self._inner:
            self._inner[key] = number = self._new(accepting=False)
            step = size // 64
            for i in range(64):
                start = first + i * step
                self.table[number][0x80 + i] = self._block(_inside(runs, start, step), start, step)
        return self._inner[key]


_LEADS = [
    *((0xC0 + i, i << 6, 64) for i in range(2, 32)),
    *((0xE0 + i, i << 12, 1 << 12) for i in range(16)),
    *((0xF0 + i, i << 18, 1 << 18) for i in range(5)),
]
"""First bytes of longer characters, with the first code point and the size of their blocks."""
_SHORTEST = {64: 0x80, 1 << 12: 0x800, 1 << 18: 0x10000}


def _inside(runs: list[tuple[int, int, int]], first: int, size: int) -> list[tuple[int, int, int]]:
    last = first + size - 1
    # a block that begins at 0 holds code points that are written shorter
    first = max(first, _SHORTEST.get(size, 0)) if first == 0 else first
    return [(max(a, first), min(b, last), t) for a, b, t in runs if a <= last and b >= first]


# tokens


@dataclass(frozen=True, slots=True)
class _Level:
    """Texts of one length that begin a token, in order.

    Attributes:
        byte: [n] uint8, the last byte of each.
        child_start: [n + 1]: where the texts of the next level begin that go on from it.
        token_ids, token_at: tokens that end here, and at which of the texts.
    """

    byte: NDArray[np.uint8]
    child_start: NDArray[np.int64]
    token_ids: I32
    token_at: NDArray[np.int64]


_LEVELS: WeakKeyDictionary[Vocabulary, list[_Level]] = WeakKeyDictionary()


def _levels(vocabulary: Vocabulary) -> list[_Level]:
    """The vocabulary's trie. Cost: some 0.1 s at V = 49k, once."""
    if vocabulary not in _LEVELS:
        _LEVELS[vocabulary] = list(_build_levels(vocabulary))
    return _LEVELS[vocabulary]


def _build_levels(vocabulary: Vocabulary) -> Iterator[_Level]:
    special = vocabulary.special_ids
    pairs = sorted((t, i) for i, t in enumerate(vocabulary.tokens) if t and i not in special)
    ids = np.array([i for _, i in pairs], np.int32)
    length = np.array([len(t) for t, _ in pairs], np.int64)
    flat = np.frombuffer(b"".join(t for t, _ in pairs), np.uint8)
    start = np.cumsum(length) - length
    at = np.arange(len(pairs))  # tokens that reach this level
    group = np.zeros(len(pairs), np.int64)  # which text of the level before each goes on from
    depth = 0
    while len(at):
        byte = flat[start[at] + depth]
        new = np.ones(len(at), bool)
        new[1:] = (group[1:] != group[:-1]) | (byte[1:] != byte[:-1])
        text = np.cumsum(new) - 1
        num_texts = int(text[-1]) + 1
        goes_on = length[at] > depth + 1
        next_text = text[goes_on]
        next_byte = flat[start[at[goes_on]] + depth + 1]
        first = np.ones(len(next_text), bool)
        first[1:] = (next_text[1:] != next_text[:-1]) | (next_byte[1:] != next_byte[:-1])
        child_start = np.zeros(num_texts + 1, np.int64)
        np.cumsum(np.bincount(next_text[first], minlength=num_texts), out=child_start[1:])
        yield _Level(byte[new], child_start, ids[at[~goes_on]], text[~goes_on])
        at, group, depth = at[goes_on], next_text, depth + 1


def _allowed(levels: Sequence[_Level], table: NDArray[np.int16], state: int) -> tuple[I32, I32]:
    """Tokens that may follow in a state, ascending, and the state after each."""
    ids, after = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    texts = np.arange(len(levels[0].byte)) if levels else np.zeros(0, np.int64)
    before = np.full(len(texts), state, np.int16)
    for level in levels:
        states = table[before, level.byte[texts]]
        alive = states != _DEAD
        texts, states = texts[alive], states[alive]
        if not len(texts):
            break
        at_text = np.full(len(level.byte), _DEAD, np.int16)
        at_text[texts] = states
        ends = at_text[level.token_at]
        ids.append(level.token_ids[ends != _DEAD])
        after.append(ends[ends != _DEAD].astype(np.int32))
        starts, counts = level.child_start[texts], np.diff(level.child_start)[texts]
        offsets = np.cumsum(counts) - counts
        before = np.repeat(states, counts)
        texts = np.repeat(starts - offsets, counts) + np.arange(int(counts.sum()))
    found, reached = np.concatenate(ids), np.concatenate(after)
    order = np.argsort(found)
    return found[order], reached[order]


# grammar and matcher


@dataclass(frozen=True, slots=True)
class _Place:
    """What may follow in a state: the mask, the ids where they are few, and the states after."""

    mask: NDArray[np.uint32]
    listed: I32 | None
    after: tuple[int, ...]


class TableGrammar:
    """A compiled pattern.

    Raises:
        UnsupportedSchema: no token begins a text of it.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        states: _ByteStates,
        blame: Callable[[bytes], str | None] | None,
    ) -> None:
        self.vocabulary = vocabulary
        self.blame = blame
        self.table = states.table
        self.accepting = states.accepting
        self._places: dict[int, _Place] = {}
        self._masks: dict[bytes, NDArray[np.uint32]] = {}
        self._forced: dict[int, tuple[list[int], list[int]]] = {}
        if not self.accepting[0] and not self.place(0).after:
            raise UnsupportedSchema("no text satisfies this constraint")

    def matcher(self) -> TableMatcher:
        return TableMatcher(self, [0], [])

    @cached_property
    def _array(self) -> NDArray[np.int16]:
        return np.array(self.table, np.int16)

    def place(self, state: int) -> _Place:
        """What may follow in a state. Cost: up to some ms, once."""
        found = self._places.get(state)
        if found is None:
            found = self._places[state] = self._find(state)
        return found

    def _find(self, state: int) -> _Place:
        ids, after = _allowed(_levels(self.vocabulary), self._array, state)
        bits = np.zeros(self.vocabulary.num_words * 32, np.uint8)
        bits[ids] = 1
        packed = np.packbits(bits, bitorder="little")
        mask = self._masks.setdefault(packed.tobytes(), packed.view("<u4").astype(np.uint32))
        listed = ids if len(ids) <= _LISTED else None
        return _Place(mask, listed, tuple(np.unique(after).tolist()))

    def after(self, state: int, text: bytes) -> int:
        """The state after a text, `_DEAD` where it is not allowed."""
        for byte in text:
            if state == _DEAD:
                break
            state = self.table[state][byte]
        return state

    def next_bytes(self, state: int) -> list[int]:
        return [byte for byte, target in enumerate(self.table[state]) if target != _DEAD]

    def forced(self, state: int) -> tuple[list[int], list[int]]:
        """Tokens of the one text that can follow: those that are certain, and likely ones."""
        if state not in self._forced:
            text, end = bytearray(), state
            # a cycle without a way out would be dead
            while not self.accepting[end] and len(found := self.next_bytes(end)) == 1:
                text += bytes(found)
                end = self.table[end][found[0]]
            after, vocabulary = bytes(self.next_bytes(end)), self.vocabulary
            certain = vocabulary.certain_tokens(bytes(text), after) if text else []
            likely = vocabulary.likely_tokens(bytes(text), after) if text and not certain else []
            self._forced[state] = certain, likely
        return self._forced[state]

    @cached_property
    def _to_end(self) -> list[int | None]:
        """Tokens to the nearest end, per state; None where no tokens lead to one."""
        distance: list[int | None] = [0 if accepts else None for accepts in self.accepting]
        followers = [self.place(s).after for s in range(len(self.table))]
        found = [s for s, d in enumerate(distance) if d == 0]
        steps = 0
        while found:
            steps += 1
            level = set(found)
            found = [
                s for s, d in enumerate(distance) if d is None and level.intersection(followers[s])
            ]
            for state in found:
                distance[state] = steps
        return distance

    def completion(self, state: int) -> list[int] | None:
        """The fewest tokens to an end; of those that are as few, short ones."""
        ids: list[int] = []
        while distance := self._to_end[state]:
            allowed, after = _allowed(_levels(self.vocabulary), self._array, state)
            nearer = [d == distance - 1 for d in self._to_end]
            nearest = allowed[np.array(nearer)[after]].tolist()
            ids.append(min(nearest, key=lambda i: (len(self.vocabulary.tokens[i]), i)))
            state = self.after(state, self.vocabulary.tokens[ids[-1]])
        return None if self._to_end[state] is None else ids


class TableMatcher:
    """`sgrt.grammar.matcher.Matcher` over a table; the states passed are its path."""

    __slots__ = ("_grammar", "_path", "_token_ids")

    def __init__(self, grammar: TableGrammar, path: list[int], token_ids: list[int]) -> None:
        self._grammar = grammar
        self._path = path
        self._token_ids = token_ids

    @property
    def vocabulary(self) -> Vocabulary:
        return self._grammar.vocabulary

    def fill(self, row: NDArray[np.uint32]) -> None:
        mask = self._grammar.place(self._path[-1]).mask
        if row.dtype != np.uint32 or len(row) < len(mask):
            raise ValueError(f"row is {row.dtype} {row.shape}, not [{len(mask)}] uint32")
        row[: len(mask)] = mask
        row[len(mask) :] = 0

    def allowed(self) -> I32 | None:
        return self._grammar.place(self._path[-1]).listed

    @property
    def place(self) -> Hashable:
        return self._grammar, self._path[-1]

    def accept(self, token_ids: Sequence[int]) -> None:
        path: list[int] = []
        for token_id in token_ids:
            state = self._after(self._path[-1] if not path else path[-1], token_id)
            if state == _DEAD:
                raise ConstraintError(
                    f"token {token_id} is not allowed after {len(path)} of {list(token_ids)!r:.80}"
                )
            path.append(state)
        self._path += path
        self._token_ids += token_ids

    def _after(self, state: int, token_id: int) -> int:
        vocabulary = self._grammar.vocabulary
        if not 0 <= token_id < len(vocabulary) or token_id in vocabulary.special_ids:
            return _DEAD
        text = vocabulary.tokens[token_id]
        return self._grammar.after(state, text) if text else _DEAD

    def rollback(self, num_tokens: int) -> None:
        if not 0 <= num_tokens < len(self._path):
            raise ConstraintError(f"cannot undo {num_tokens} of {len(self._path) - 1} tokens")
        if num_tokens:
            del self._path[-num_tokens:]
            del self._token_ids[-num_tokens:]

    def forced(self) -> list[int]:
        return list(self._grammar.forced(self._path[-1])[0])

    def guess(self) -> list[int]:
        return list(self._grammar.forced(self._path[-1])[1])

    @property
    def is_complete(self) -> bool:
        return self._grammar.accepting[self._path[-1]]

    @property
    def is_final(self) -> bool:
        return self.is_complete and not self._grammar.place(self._path[-1]).after

    def fork(self) -> TableMatcher:
        return TableMatcher(self._grammar, self._path.copy(), self._token_ids.copy())

    def completes(self, token_ids: Sequence[int]) -> bool:
        state = self._path[-1]
        for token_id in token_ids:
            state = self._after(state, token_id)
            if state == _DEAD:
                return False
        return self._grammar.accepting[state]

    def shortest_completion(self, *, thorough: bool = True) -> list[int] | None:
        return self._grammar.completion(self._path[-1])

    def explain(self, token_id: int) -> str | None:
        grammar, state = self._grammar, self._path[-1]
        if self._after(state, token_id) != _DEAD:
            return None
        no_text = bytewise.why_no_text(grammar.vocabulary, token_id, can_end=self.is_complete)
        if no_text:
            return no_text
        token, num_ok = grammar.vocabulary.tokens[token_id], 0
        while num_ok < len(token) and (after := grammar.table[state][token[num_ok]]) != _DEAD:
            state, num_ok = after, num_ok + 1
        allowed = grammar.next_bytes(state)
        why = bytewise.why_not(token, num_ok, allowed, grammar.accepting[state])
        text = grammar.vocabulary.bytes_of(self._token_ids) + token[: num_ok + 1]
        blamed = grammar.blame(text) if grammar.blame and allowed and token else None
        return why + (f"; {blamed}" if blamed else "")
