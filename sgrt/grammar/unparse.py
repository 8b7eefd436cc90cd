"""Automata written back as patterns of the engine's syntax."""

from __future__ import annotations

import heapq
import re

from sgrt.grammar import charset, limits
from sgrt.grammar.automaton import Automaton, chars_of

_NOTHING = charset.to_regex(())


def to_pattern(a: Automaton) -> str:
    """A pattern in the engine's syntax for the same texts (states are eliminated one by one).

    Raises:
        GrammarBudgetExceeded: the pattern gets too long.
    """
    if a.is_empty():
        return _NOTHING
    limits.check_limit("states of a pattern to write", len(a.live) + 1, limits.MAX_WRITTEN_STATES)
    graph = _Graph(a)
    left = {state: graph.growth(state) for state in sorted(a.live)}
    todo = [(growth, state) for state, growth in left.items()]
    heapq.heapify(todo)
    while todo:
        growth, state = heapq.heappop(todo)
        if left.get(state) != growth:
            continue  # it has changed since
        del left[state]
        for other in graph.eliminate(state) & left.keys():
            left[other] = graph.growth(other)
            heapq.heappush(todo, (left[other], other))
    return f"(?:{graph.edges[-1].get(-2, _NOTHING)})"


class _Graph:
    """Patterns between states that lead somewhere; -1 is before the start, -2 after the end.

    Attributes:
        edges: pattern by target, by source.
    """

    def __init__(self, a: Automaton) -> None:
        self.edges: dict[int, dict[int, str]] = {state: {} for state in (-1, *a.live)}
        self._sources: dict[int, set[int]] = {state: set() for state in (-2, *a.live)}
        self._in: dict[int, int] = dict.fromkeys(self._sources, 0)
        self._out: dict[int, int] = dict.fromkeys(self.edges, 0)
        """Length of all patterns into and out of a state, but the one to itself."""
        self._set(-1, 0, "")
        all_chars = chars_of(a)
        written: dict[tuple[int, ...], str] = {}
        for state in a.live:
            names: dict[int, list[int]] = {}
            for name, target in enumerate(a.table[state]):
                if target in a.live:
                    names.setdefault(target, []).append(name)
            for target, found in names.items():
                key = tuple(found)
                if key not in written:
                    written[key] = charset.to_regex(charset.union(*(all_chars[n] for n in key)))
                if written[key] != _NOTHING:  # half surrogates
                    self._set(state, target, written[key])
            if a.accepting[state]:
                self._set(state, -2, "")

    def _set(self, source: int, target: int, text: str) -> None:
        if source != target:
            longer = len(text) - len(self.edges[source].get(target, ""))
            self._in[target] += longer
            self._out[source] += longer
        self.edges[source][target] = text
        self._sources[target].add(source)

    def growth(self, state: int) -> int:
        """How many characters longer the patterns get without a state."""
        loop = self.edges[state].get(state)
        num_in = len(self._sources[state]) - (loop is not None)
        num_out = len(self.edges[state]) - (loop is not None)
        grown = self._in[state] * (num_out - 1) + self._out[state] * (num_in - 1)
        return grown + len(loop or "") * (num_in * num_out - 1)

    def eliminate(self, state: int) -> set[int]:
        """Let the patterns lead past a state; its neighbours."""
        out = self.edges.pop(state)
        loop = out.pop(state, None)
        middle = "" if loop is None else f"(?:{loop})*"
        into = self._sources.pop(state) - {state}
        for target, after in out.items():
            self._sources[target].discard(state)
            self._in[target] -= len(after)
        for source in into:
            before = self.edges[source].pop(state)
            self._out[source] -= len(before)
            for target, after in out.items():
                path = f"{before}{middle}{after}"
                known = self.edges[source].get(target)
                text = path if known is None else _either(known, path)
                limits.check_limit(
                    "bytes of a complemented regex", len(text), limits.MAX_WRITTEN_REGEX_BYTES
                )
                self._set(source, target, text)
        return into | out.keys()


_PART = re.compile(r"\\x\{[0-9A-F]+\}|\[[^\]]*\]|[0-9A-Za-z]")
"""One character or class, as `charset.to_regex` writes them."""


def _either(one: str, other: str) -> str:
    """Both patterns as alternatives, what they begin with in common written once."""
    if one == other:
        return one
    at = 0
    while found := _PART.match(one, at):
        end = found.end()
        if one[at:end] != other[at:end] or _repeats_at(one, end) or _repeats_at(other, end):
            break
        at = end
    return f"{one[:at]}(?:{one[at:]}|{other[at:]})"


def _repeats_at(pattern: str, at: int) -> bool:
    return pattern[at : at + 1] in ("*", "+", "?", "{")
