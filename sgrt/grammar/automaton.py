"""Finite automata over Unicode: what regular expressions of the engine's syntax have in common.

The engine intersects patterns by itself; complements, differences and questions ("does this name
match?", "is anything left?") are answered here and written back as a pattern.
"""

from __future__ import annotations

import bisect
import functools
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import add, and_, or_
from typing import Any, TypeVar

from sgrt.grammar import charset, limits, minimal
from sgrt.grammar.charset import Charset

T = TypeVar("T", bound=Hashable)

_EVERYTHING: Charset = ((0, charset.MAX_CODE_POINT),)


@dataclass(frozen=True, eq=False)
class Automaton:
    """A complete, minimal deterministic automaton; state 0 is the start.

    States and classes are numbered in the order in which texts meet them.

    Attributes:
        starts: first code point of each run of characters.
        classes: class of each run; characters of one class are never told apart.
        table: [states][classes] next state.
        accepting: [states] whether a text may end there.
    """

    starts: tuple[int, ...]
    classes: tuple[int, ...]
    table: tuple[tuple[int, ...], ...]
    accepting: tuple[bool, ...]

    def matches(self, text: str) -> bool:
        """Whether the whole text is accepted. Cost: O(length of the text)."""
        state = 0
        for char in text:
            run = bisect.bisect_right(self.starts, ord(char)) - 1
            state = self.table[state][self.classes[run]]
        return self.accepting[state]

    @functools.cached_property
    def live(self) -> frozenset[int]:
        """States from which a text can still be accepted."""
        sources: list[list[int]] = [[] for _ in self.table]
        for state, row in enumerate(self.table):
            for target in set(row):
                sources[target].append(state)
        todo = [state for state, accepts in enumerate(self.accepting) if accepts]
        live = set(todo)
        while todo:
            for source in sources[todo.pop()]:
                if source not in live:
                    live.add(source)
                    todo.append(source)
        return frozenset(live)

    def is_empty(self) -> bool:
        return not any(self.accepting)  # every state is reachable

    def is_same(self, other: Automaton) -> bool:
        """Whether both accept the same texts."""
        return self._key() == other._key()

    def _key(self) -> tuple[object, ...]:
        return self.starts, self.classes, self.table, self.accepting

    def texts(self, most: int) -> list[str] | None:
        """All texts that are accepted; None where there are more than ``most``."""
        live = live_states(self)
        chars = chars_of(self)
        found: list[str] = []
        todo = [(0, "")] if 0 in live else []
        while todo:
            state, text = todo.pop()
            if self.accepting[state]:
                found.append(text)
            for name, target in enumerate(self.table[state]):
                if target in live:
                    size = sum(high - low + 1 for low, high in chars[name])
                    if len(found) + len(todo) + size > most or len(text) > len(self.table):
                        return None
                    codes = (c for low, high in chars[name] for c in range(low, high + 1))
                    todo += [(target, text + chr(code)) for code in codes]
        return sorted(found) if len(found) <= most else None

    def num_texts(self, low: int, high: int | None, most: int) -> int:
        """How many texts of ``low`` to ``high`` characters are accepted, or a number above
        ``most``.

        Raises:
            GrammarBudgetExceeded: ``low`` is too large to count that far.
        """
        _check_states(low)
        live = live_states(self)
        sizes = [sum(high - low + 1 for low, high in chars) for chars in chars_of(self)]
        moves = [
            [(t, size) for t, size in zip(r, sizes, strict=True) if t in live] for r in self.table
        ]
        level = dict.fromkeys({0} & live, 1)
        found = length = 0
        while level and found <= most and (high is None or length <= high):
            limits.check_patience()
            if length >= low:
                found += sum(count for state, count in level.items() if self.accepting[state])
            below: dict[int, int] = {}
            for state, count in level.items():
                for target, size in moves[state]:
                    below[target] = min(below.get(target, 0) + count * size, most + 1)
            level = below
            length += 1
        return found

    def meets(self, other: Automaton) -> bool:
        """Whether some text is accepted by both. Cheap where they differ early on."""
        columns = set(_common_runs(self, other)[1])
        live, others = live_states(self), live_states(other)
        found = {(0, 0)} if 0 in live and 0 in others else set()
        todo = list(found)
        for i, j in todo:
            if self.accepting[i] and other.accepting[j]:
                return True
            for left, right in columns:
                pair = self.table[i][left], other.table[j][right]
                if pair not in found and pair[0] in live and pair[1] in others:
                    found.add(pair)
                    todo.append(pair)
            limits.check_patience()
        return False

    def __invert__(self) -> Automaton:
        accepting = tuple(not accepts for accepts in self.accepting)
        return Automaton(self.starts, self.classes, self.table, accepting)

    def __and__(self, other: Automaton) -> Automaton:
        return _product(self, other, is_and=True)

    def __or__(self, other: Automaton) -> Automaton:
        return _product(self, other, is_and=False)


def _product(a: Automaton, b: Automaton, *, is_and: bool) -> Automaton:
    """What both accept, or one of them."""
    for one, other in ((a, b), (b, a)):
        if len(one.table) == 1:  # everything or nothing
            return other if one.accepting[0] == is_and else one
    join = and_ if is_and else or_
    starts, classes, table, pairs = _joint(a, b, _settled(a, b, accepts=not is_and))
    accepting = [join(a.accepting[i], b.accepting[j]) for i, j in pairs]
    return _minimal(starts, classes, table, accepting)


def cells(
    languages: Iterable[tuple[Automaton, T]], join: Callable[[T, T], T], start: T
) -> dict[T, Automaton]:
    """All texts, split by what holds for them.

    Args:
        languages: each with what holds for the texts in it.
        join: what two of them come to.
        start: what holds for every text.

    Returns:
        the texts by what holds for them; none of the languages is empty.

    Raises:
        GrammarBudgetExceeded: it needs too many states.
    """
    whole = NOTHING
    names = [start]
    for language, name in languages:
        starts, classes, table, pairs = _joint(whole, language, {})
        held = [(before, join(before, name)) for before in names]
        number: dict[T, int] = {}
        outputs = [
            number.setdefault(held[whole.accepting[i]][language.accepting[j]], len(number))
            for i, j in pairs
        ]
        names = list(number)
        whole = _minimal(starts, classes, table, outputs)
    return {name: _saying(whole, i, len(names)) for i, name in enumerate(names)}


def _saying(whole: Automaton, said: int, num_said: int) -> Automaton:
    """The texts of which one of several things is said."""
    accepting = tuple([said == other for other in whole.accepting])
    if num_said <= 2:  # all the same is told apart
        return Automaton(whole.starts, whole.classes, whole.table, accepting)
    return _minimal(whole.starts, whole.classes, whole.table, accepting)


def _joint(
    a: Automaton, b: Automaton, settled: dict[int, int]
) -> tuple[list[int], tuple[int, ...], list[list[int]], list[tuple[int, int]]]:
    """Both at once: runs, their classes, the table, and which states of the two each state is.

    A pair of states is one number; `settled` names those that another one stands for.
    """
    starts, pairs = _common_runs(a, b)
    columns: dict[tuple[int, int], int] = {}
    classes = tuple(columns.setdefault(pair, len(columns)) for pair in pairs)
    left, right = zip(*columns, strict=True)
    width = len(b.table)
    of_a = [[row[c] * width for c in left] for row in a.table]
    of_b = [[row[c] for c in right] for row in b.table]
    found = {settled.get(0, 0): 0}
    todo = list(found)
    table = []
    for pair in todo:
        i, j = divmod(pair, width)
        row = list(map(add, of_a[i], of_b[j]))
        if settled:
            row = [settled.get(target, target) for target in row]
        for target in row:
            if target not in found:
                found[target] = len(todo)
                todo.append(target)
        table.append([found[target] for target in row])
        _check_states(len(todo))
    return starts, classes, table, [divmod(pair, width) for pair in todo]


def _common_runs(a: Automaton, b: Automaton) -> tuple[list[int], list[tuple[int, int]]]:
    """Runs of characters that neither tells apart, each with its class in both."""
    starts = sorted({*a.starts, *b.starts})
    in_a, in_b = (
        dict(zip(a.starts, a.classes, strict=True)),
        dict(zip(b.starts, b.classes, strict=True)),
    )
    pairs = []
    left = right = 0
    for start in starts:
        left, right = in_a.get(start, left), in_b.get(start, right)
        pairs.append((left, right))
    return starts, pairs


def _settled(a: Automaton, b: Automaton, *, accepts: bool) -> dict[int, int]:
    """Pairs in which one state decides for good, each with the one that stands for them all."""
    width = len(b.table)
    pairs = [i * width + j for i in _sinks(a, accepts) for j in range(width)]
    pairs += [i * width + j for j in _sinks(b, accepts) for i in range(len(a.table))]
    return dict.fromkeys(pairs, pairs[0]) if pairs else {}


def _sinks(a: Automaton, accepts: bool) -> list[int]:
    """States that are never left and accept or not (one at most, where it is minimal)."""
    return [s for s, row in enumerate(a.table) if a.accepting[s] == accepts and set(row) == {s}]


def _check_states(count: int, limit: int = limits.MAX_AUTOMATON_STATES) -> None:
    limits.check_limit("states of an automaton", count, limit)


def _minimal(
    starts: Iterable[int],
    classes: Iterable[int],
    table: Sequence[Sequence[int]],
    accepting: Sequence[Any],
) -> Automaton:
    return Automaton(*minimal.minimised(starts, classes, table, accepting))


def live_states(a: Automaton) -> frozenset[int]:
    """States from which a text can still be accepted."""
    return a.live


def chars_of(a: Automaton) -> list[Charset]:
    """The characters of each class."""
    bounds = [*a.starts, charset.MAX_CODE_POINT + 1]
    ranges: list[list[tuple[int, int]]] = [[] for _ in a.table[0]]
    for i, name in enumerate(a.classes):
        ranges[name].append((bounds[i], bounds[i + 1] - 1))
    return [charset.charset(r) for r in ranges]


# from patterns


@functools.lru_cache(maxsize=256)
def compile(pattern: str, max_states: int = limits.MAX_AUTOMATON_STATES) -> Automaton:
    """The automaton of a pattern in the engine's syntax that matches whole texts.

    Args:
        max_states: of the automaton before it is minimal; four times as many of the pattern.

    Raises:
        GrammarBudgetExceeded: it needs too many states.
    """
    builder = _Builder(pattern, 4 * max_states)
    start = builder.alternatives(builder.end)
    return _determinise(builder, start, builder.end, max_states)


def of_texts(texts: Iterable[str]) -> Automaton:
    """Exactly these texts.

    Raises:
        GrammarBudgetExceeded: it needs too many states.
    """
    return _of_texts(tuple(sorted(set(texts))))


@functools.lru_cache(maxsize=64)
def _of_texts(texts: tuple[str, ...]) -> Automaton:
    starts, columns = charset.runs({((ord(c), ord(c)),) for text in texts for c in text})
    number = {start: columns[i] for i, start in enumerate(starts)}
    dead = 1
    width = max(columns) + 1
    table = [[dead] * width, [dead] * width]
    accepting = [False, False]
    for text in texts:
        state = 0
        for char in text:
            row, name = table[state], number[ord(char)]
            if row[name] == dead:
                row[name] = len(table)
                table.append([dead] * width)
                accepting.append(False)
                _check_states(len(table))
            state = row[name]
        accepting[state] = True
    return Automaton(*minimal.minimised(starts, columns, table, accepting, is_tree=True))


def of_length(low: int, high: int | None) -> Automaton:
    """Every text of so many characters."""
    limits.check_limit("states of an automaton", max(low, high or 0), limits.MAX_AUTOMATON_STATES)
    return compile(f"(?s:.){{{low},{'' if high is None else high}}}")


NOTHING = Automaton((0,), (0,), ((0,),), (False,))


class _Builder:
    """A pattern as a non-deterministic automaton, built from its end to its start.

    Besides the engine's syntax it knows ``(?=…)`` and ``(?!…)``, outside of endless repeats: what
    the rest of the text is, and what it is not.
    """

    def __init__(self, pattern: str, max_states: int) -> None:
        self.pattern = pattern
        self._max_states = max_states
        self.pos = 0
        self.empty: list[list[int]] = []
        self.moves: list[tuple[Charset, int] | None] = []
        self.end = self.new_state()

    def new_state(self, *empty: int, move: tuple[Charset, int] | None = None) -> int:
        self.empty.append(list(empty))
        self.moves.append(move)
        limits.check_limit("states of a pattern", len(self.empty), self._max_states)
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
        if self._skip("(?="):
            return self._both(end, self._looked_for())
        if self._skip("(?!"):
            return self._both(end, ~self._looked_for())
        chars = self._class() if self.pattern[start] == "[" else self._one()
        return self.new_state(move=(chars, end))

    def _looked_for(self) -> Automaton:
        outer, self.end = self.end, self.new_state()
        found = self._deterministic(self.alternatives(self.end))
        self.end = outer
        return found

    def _deterministic(self, start: int) -> Automaton:
        return _determinise(self, start, self.end, self._max_states // 4)

    def _both(self, after: int, looked_for: Automaton) -> int:
        """The start of what is left of the text: what comes after, and what is looked for."""
        rest = self._deterministic(after) & looked_for
        chars = chars_of(rest)
        live = live_states(rest)
        states = [self.new_state() for _ in rest.table]
        for state in live:
            if rest.accepting[state]:
                self.empty[states[state]].append(self.end)
            for name, target in enumerate(rest.table[state]):
                if target in live:
                    move = (chars[name], states[target])
                    self.empty[states[state]].append(self.new_state(move=move))
        return states[0]

    def _one(self) -> Charset:
        code_point = self._char()
        return ((code_point, code_point),)

    def _class(self) -> Charset:
        found = _CLASS.match(self.pattern, self.pos)
        assert found is not None
        self.pos = found.end()
        return _class_of(found[0])

    def _char(self) -> int:
        found = _CHAR.match(self.pattern, self.pos)
        assert found is not None
        self.pos = found.end()
        return _code_point(found[0])


_CHAR = re.compile(r"\\x\{[0-9A-Fa-f]+\}|\\?.", re.DOTALL)
_CLASS = re.compile(rf"\[\^?(?:(?!\])(?:{_CHAR.pattern}))+\]", re.DOTALL)
_RANGE = re.compile(rf"(?P<low>{_CHAR.pattern})(?:-(?P<high>{_CHAR.pattern}))?", re.DOTALL)


def _code_point(char: str) -> int:
    """Of a character as patterns write it: plain, behind a backslash, or in hexadecimal."""
    return int(char[3:-1], 16) if char.startswith("\\x{") else ord(char[-1])


@functools.lru_cache(maxsize=256)
def _class_of(text: str) -> Charset:
    """The characters of a class; those of Unicode's shorthands are long and come often."""
    is_negated = text[1] == "^"
    ranges = []
    for found in _RANGE.finditer(text, 1 + is_negated, len(text) - 1):
        low = _code_point(found["low"])
        ranges.append((low, _code_point(found["high"]) if found["high"] else low))
    chars = charset.charset(ranges)
    return charset.complement(chars) if is_negated else chars


def _determinise(nfa: _Builder, start: int, end: int, max_states: int) -> Automaton:
    """Subsets as bits: one for each state that reads a character, and one for the end."""
    sets_of_chars = list({move[0]: None for move in nfa.moves if move})
    starts, classes = charset.runs(sets_of_chars)
    sets_of_class = _sets_of_classes(sets_of_chars, starts, classes)
    closures = _Closures(nfa, end, sets_of_chars, max_states)
    found = {closures.of(start): 0}
    todo = list(found)
    table = []
    num_met = 0
    for bits in todo:
        targets = [0] * len(sets_of_chars)
        for name, to in closures.moves(bits):
            targets[name] |= closures.of(to)
            num_met += 1
        row = []
        for sets in sets_of_class:
            target = 0
            for name in sets:
                target |= targets[name]
            if target not in found:
                found[target] = len(todo)
                todo.append(target)
            row.append(found[target])
        table.append(row)
        _check_states(len(todo), max_states)
        limits.check_limit("states met by states of an automaton", num_met, 100 * max_states)
    return _minimal(starts, classes, table, [bool(bits & 1) for bits in todo])


def _sets_of_classes(
    sets_of_chars: list[Charset], starts: list[int], classes: list[int]
) -> list[tuple[int, ...]]:
    """Which sets each class of characters is in."""
    found: list[dict[int, None]] = [{} for _ in range(max(classes) + 1)]
    for name, chars in enumerate(sets_of_chars):
        for run in charset.runs_in(chars, starts):
            found[classes[run]][name] = None
    return [tuple(names) for names in found]


class _Closures:
    """What can be reached without a character, as bits; the end is the lowest one."""

    def __init__(
        self, nfa: _Builder, end: int, sets_of_chars: list[Charset], max_states: int
    ) -> None:
        self._nfa = nfa
        self._end = end
        self._names = {chars: name for name, chars in enumerate(sets_of_chars)}
        self._most = 100 * max_states
        self._num_met = 0
        self._reading: list[tuple[int, int]] = []
        self._bit: dict[int, int] = {}
        self._known: dict[int, int] = {}

    def of(self, state: int) -> int:
        known = self._known.get(state)
        if known is None:
            known = self._known[state] = self._found_from(state)
        return known

    def _found_from(self, state: int) -> int:
        empty = self._nfa.empty
        seen, todo = {state}, [state]
        bits = 0
        while todo:
            state = todo.pop()
            bits |= self._bit_of(state)
            for target in empty[state]:
                if target not in seen:
                    seen.add(target)
                    todo.append(target)
        self._num_met += len(seen)
        limits.check_limit("states met by states of an automaton", self._num_met, self._most)
        return bits

    def _bit_of(self, state: int) -> int:
        bit = self._bit.get(state)
        if bit is None:
            move = self._nfa.moves[state]
            bit = int(state == self._end)
            if move is not None:
                self._reading.append((self._names[move[0]], move[1]))
                bit = 1 << len(self._reading)
            self._bit[state] = bit
        return bit

    def moves(self, bits: int) -> Iterator[tuple[int, int]]:
        """The sets of characters read in some states, and where they lead."""
        bits >>= 1
        while bits:
            low = bits & -bits
            yield self._reading[low.bit_length() - 1]
            bits ^= low
