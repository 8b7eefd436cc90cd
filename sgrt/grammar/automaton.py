"""Finite automata over Unicode: what regular expressions of the engine's syntax have in common.

The engine intersects patterns by itself; complements, differences and questions ("does this name
match?", "is anything left?") are answered here and written back as a pattern.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sgrt.grammar import charset, limits
from sgrt.grammar.charset import Charset

_EVERYTHING: Charset = ((0, charset.MAX_CODE_POINT),)


@dataclass(frozen=True)
class Automaton:
    """A complete deterministic automaton; state 0 is the start.

    Attributes:
        starts: first code point of each class of characters that are never told apart.
        table: [states][classes] next state.
        accepting: [states] whether a text may end there.
    """

    starts: tuple[int, ...]
    table: tuple[tuple[int, ...], ...]
    accepting: tuple[bool, ...]

    def matches(self, text: str) -> bool:
        """Whether the whole text is accepted. Cost: O(length of the text)."""
        state = 0
        for char in text:
            state = self.table[state][bisect.bisect_right(self.starts, ord(char)) - 1]
        return self.accepting[state]

    def is_empty(self) -> bool:
        return not any(self.accepting)  # every state is reachable

    def __invert__(self) -> Automaton:
        return Automaton(self.starts, self.table, tuple(not a for a in self.accepting))

    def __and__(self, other: Automaton) -> Automaton:
        return _product(self, other, lambda a, b: a and b)

    def __or__(self, other: Automaton) -> Automaton:
        return _product(self, other, lambda a, b: a or b)


def _product(a: Automaton, b: Automaton, join: Callable[[bool, bool], bool]) -> Automaton:
    starts = tuple(sorted({*a.starts, *b.starts}))
    in_a = [bisect.bisect_right(a.starts, s) - 1 for s in starts]
    in_b = [bisect.bisect_right(b.starts, s) - 1 for s in starts]
    columns = list(zip(in_a, in_b, strict=True))
    found = {(0, 0): 0}
    pairs = [(0, 0)]
    table = []
    for left, right in pairs:
        row = []
        for i, j in columns:
            pair = (a.table[left][i], b.table[right][j])
            if pair not in found:
                found[pair] = len(pairs)
                pairs.append(pair)
            row.append(found[pair])
        table.append(tuple(row))
        _check_states(len(pairs))
    accepting = tuple(join(a.accepting[i], b.accepting[j]) for i, j in pairs)
    return _minimal(Automaton(starts, tuple(table), accepting))


def _check_states(count: int) -> None:
    limits.check_limit("states of an automaton", count, limits.MAX_AUTOMATON_STATES)


def _minimal(a: Automaton) -> Automaton:
    """Merge states that accept the same texts (Moore), then characters that are never told apart."""
    group = [int(accepts) for accepts in a.accepting]
    count = len(set(group))
    while True:
        keys = [(group[s], *(group[t] for t in row)) for s, row in enumerate(a.table)]
        numbers: dict[tuple[int, ...], int] = {}
        group = [numbers.setdefault(key, len(numbers)) for key in keys]
        if len(numbers) == count:
            break
        count = len(numbers)
    rows: dict[int, tuple[int, ...]] = {}
    accepting: dict[int, bool] = {}
    for state, row in enumerate(a.table):
        rows.setdefault(group[state], tuple(group[t] for t in row))
        accepting[group[state]] = a.accepting[state]
    columns = list(zip(*(rows[g] for g in range(count)), strict=True))
    kept = [i for i, column in enumerate(columns) if i == 0 or column != columns[i - 1]]
    table = tuple(tuple(rows[g][i] for i in kept) for g in range(count))
    starts = tuple(a.starts[i] for i in kept)
    return Automaton(starts, table, tuple(accepting[g] for g in range(count)))


# from patterns


@functools.lru_cache(maxsize=256)
def compile(pattern: str) -> Automaton:
    """The automaton of a pattern in the engine's syntax that matches whole texts.

    Raises:
        GrammarBudgetExceeded: it needs too many states.
    """
    builder = _Builder(pattern)
    end = builder.new_state()
    start = builder.alternatives(end)
    return _determinise(builder, start, end)


def of_texts(texts: Iterable[str]) -> Automaton:
    """Exactly these texts."""
    texts = list(texts)
    if not texts:
        return NOTHING
    return compile("|".join("".join(charset.literal(ord(c)) for c in t) for t in sorted(texts)))


def of_length(low: int, high: int | None) -> Automaton:
    """Every text of so many characters."""
    limits.check_limit("states of an automaton", max(low, high or 0), limits.MAX_AUTOMATON_STATES)
    return compile(f"(?s:.){{{low},{'' if high is None else high}}}")


NOTHING = Automaton((0,), ((0,),), (False,))


class _Builder:
    """A pattern as a non-deterministic automaton, built from its end to its start."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.pos = 0
        self.empty: list[list[int]] = []
        self.moves: list[tuple[Charset, int] | None] = []

    def new_state(self, *empty: int, move: tuple[Charset, int] | None = None) -> int:
        self.empty.append(list(empty))
        self.moves.append(move)
        limits.check_limit("states of a pattern", len(self.empty), limits.MAX_PATTERN_STATES)
        return len(self.empty) - 1

    def alternatives(self, end: int) -> int:
        branches = [self._sequence(end)]
        while self._skip("|"):
            branches.append(self._sequence(end))
        return branches[0] if len(branches) == 1 else self.new_state(*branches)

    def _skip(self, text: str) -> bool:
        found = self.pattern.startswith(text, self.pos)
        self.pos += len(text) * found
        return found

    def _sequence(self, end: int) -> int:
        """Parts are located first, then built last to first."""
        spans = []
        while self.pos < len(self.pattern) and self.pattern[self.pos] not in "|)":
            start = self.pos
            self._skip_atom()
            stop = self.pos
            spans.append((start, stop, self._bounds()))
        after = self.pos
        for start, stop, (low, high) in reversed(spans):
            end = self._repeat(start, stop, low, high, end)
        self.pos = after
        return end

    def _skip_atom(self) -> None:
        depth = 0
        while True:
            char = self.pattern[self.pos]
            if char == "[":
                self._class()
            elif char == "\\":
                self._char()
            else:
                self.pos += 1
                depth += (char == "(") - (char == ")")
            if depth == 0:
                return

    def _bounds(self) -> tuple[int, int | None]:
        for suffix, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._skip(suffix):
                return bounds
        if not self._skip("{"):
            return 1, 1
        end = self.pattern.index("}", self.pos)
        low, comma, high = self.pattern[self.pos : end].partition(",")
        self.pos = end + 1
        return int(low), (int(high) if high else None if comma else int(low))

    def _repeat(self, start: int, stop: int, low: int, high: int | None, end: int) -> int:
        if high is None:
            loop = self.new_state(end)
            self.empty[loop].append(self._atom(start, stop, loop))
            end = loop
        for _ in range((high or low) - low):
            end = self.new_state(self._atom(start, stop, end), end)
        for _ in range(low):
            end = self._atom(start, stop, end)
        return end

    def _atom(self, start: int, stop: int, end: int) -> int:
        self.pos = start
        if self._skip("(?s:.)"):
            return self.new_state(move=(_EVERYTHING, end))
        if self._skip("(?:"):
            return self.alternatives(end)
        chars = self._class() if self.pattern[start] == "[" else self._one()
        return self.new_state(move=(chars, end))

    def _one(self) -> Charset:
        code_point = self._char()
        return ((code_point, code_point),)

    def _class(self) -> Charset:
        self._skip("[")
        negated = self._skip("^")
        ranges = []
        while not self._skip("]"):
            low = self._char()
            is_range = self.pattern[self.pos] == "-" and self.pattern[self.pos + 1] != "]"
            self.pos += is_range
            ranges.append((low, self._char() if is_range else low))
        chars = charset.charset(ranges)
        return charset.complement(chars) if negated else chars

    def _char(self) -> int:
        if self._skip("\\x{"):
            end = self.pattern.index("}", self.pos)
            value = int(self.pattern[self.pos : end], 16)
            self.pos = end + 1
            return value
        self._skip("\\")
        self.pos += 1
        return ord(self.pattern[self.pos - 1])


def _determinise(nfa: _Builder, start: int, end: int) -> Automaton:
    moves = nfa.moves
    edges = {0}
    for move in moves:
        for low, high in move[0] if move else ():
            edges |= {low, high + 1}
    starts = tuple(sorted(e for e in edges if e <= charset.MAX_CODE_POINT))
    columns: list[list[int]] = [
        [
            i
            for low, high in (move[0] if move else ())
            for i in range(bisect.bisect_left(starts, low), bisect.bisect_right(starts, high))
        ]
        for move in moves
    ]
    first = _closure(nfa.empty, [start])
    numbers = {first: 0}
    sets = [first]
    table = []
    for states in sets:
        targets: list[set[int]] = [set() for _ in starts]
        for state in states:
            move = moves[state]
            for i in columns[state] if move else ():
                targets[i].add(move[1])  # type: ignore[index]
        row = []
        for target in targets:
            closed = _closure(nfa.empty, target)
            if closed not in numbers:
                numbers[closed] = len(sets)
                sets.append(closed)
            row.append(numbers[closed])
        table.append(tuple(row))
        _check_states(len(sets))
    return _minimal(Automaton(starts, tuple(table), tuple(end in s for s in sets)))


def _closure(empty: list[list[int]], states: Iterable[int]) -> frozenset[int]:
    found = set(states)
    todo = list(found)
    while todo:
        for target in empty[todo.pop()]:
            if target not in found:
                found.add(target)
                todo.append(target)
    return frozenset(found)


# back to patterns


def to_pattern(a: Automaton) -> str:
    """A pattern in the engine's syntax for the same texts (states are eliminated one by one).

    Raises:
        GrammarBudgetExceeded: the pattern gets too long.
    """
    if a.is_empty():
        return charset.to_regex(())
    edges = _labelled(a)
    for state in sorted(edges.keys() - {-1}, key=lambda s: len(edges[s])):
        _eliminate(edges, state)
    return f"(?:{edges[-1][-2]})"


Edges = dict[int, dict[int, str]]


def _labelled(a: Automaton) -> Edges:
    """Patterns between states that lead somewhere; -1 is before the start, -2 after the end."""
    live = _live(a)
    edges: Edges = {-1: {0: ""}}
    bounds = [*a.starts, charset.MAX_CODE_POINT + 1]
    for state in live:
        chars: dict[int, list[tuple[int, int]]] = {}
        for i, target in enumerate(a.table[state]):
            if target in live:
                chars.setdefault(target, []).append((bounds[i], bounds[i + 1] - 1))
        edges[state] = {t: charset.to_regex(charset.charset(c)) for t, c in chars.items()}
        if a.accepting[state]:
            edges[state][-2] = ""
    return edges


def _live(a: Automaton) -> set[int]:
    """States from which a text can still be accepted."""
    sources: dict[int, set[int]] = {}
    for state, row in enumerate(a.table):
        for target in row:
            sources.setdefault(target, set()).add(state)
    live = {s for s, accepts in enumerate(a.accepting) if accepts}
    todo = list(live)
    while todo:
        new = sources.get(todo.pop(), set()) - live
        live |= new
        todo += new
    return live


def _eliminate(edges: Edges, state: int) -> None:
    out = edges.pop(state)
    loop = out.pop(state, None)
    middle = "" if loop is None else f"(?:{loop})*"
    for targets in edges.values():
        before = targets.pop(state, None)
        if before is None:
            continue
        for target, after in out.items():
            path = f"{before}{middle}{after}"
            known = targets.get(target)
            targets[target] = path if known is None else f"(?:{known}|{path})"
            limits.check_limit(
                "bytes of a complemented regex", len(targets[target]), limits.MAX_REGEX_BYTES
            )
