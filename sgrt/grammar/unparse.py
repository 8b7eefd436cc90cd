"""Automata written back as patterns of the engine's syntax."""

from __future__ import annotations

import re

from sgrt.grammar import charset, limits
from sgrt.grammar.automaton import Automaton, chars_of, live_states
from sgrt.grammar.charset import Charset


def to_pattern(a: Automaton) -> str:
    """A pattern in the engine's syntax for the same texts (states are eliminated one by one).

    Raises:
        GrammarBudgetExceeded: the pattern gets too long.
    """
    if a.is_empty():
        return charset.to_regex(())
    edges = _labelled(a)
    limits.check_limit("states of a pattern to write", len(edges), limits.MAX_WRITTEN_STATES)
    sources: dict[int, set[int]] = {}
    for state, targets in edges.items():
        for target in targets:
            sources.setdefault(target, set()).add(state)
    growth = {state: _growth(edges, sources, state) for state in edges if state >= 0}
    while growth:
        state = min(growth, key=growth.__getitem__)
        del growth[state]
        near = (sources[state] | edges[state].keys()) & growth.keys()
        _eliminate(edges, sources, state)
        growth |= {other: _growth(edges, sources, other) for other in near}
    return f"(?:{edges[-1][-2]})"


Edges = dict[int, dict[int, str]]


def _labelled(a: Automaton) -> Edges:
    """Patterns between states that lead somewhere; -1 is before the start, -2 after the end."""
    live = live_states(a)
    all_chars = chars_of(a)
    edges: Edges = {-1: {0: ""}}
    for state in live:
        chars: dict[int, list[Charset]] = {}
        for name, target in enumerate(a.table[state]):
            if target in live:
                chars.setdefault(target, []).append(all_chars[name])
        edges[state] = {t: charset.to_regex(charset.union(*c)) for t, c in chars.items()}
        if a.accepting[state]:
            edges[state][-2] = ""
    return edges


def _growth(edges: Edges, sources: dict[int, set[int]], state: int) -> int:
    """How many characters longer the patterns get without a state."""
    into = [len(edges[s][state]) for s in sources.get(state, ()) if s != state]
    out = [len(text) for target, text in edges[state].items() if target != state]
    loop = len(edges[state].get(state, ""))
    grown = sum(into) * (len(out) - 1) + sum(out) * (len(into) - 1)
    return grown + loop * (len(into) * len(out) - 1)


def _eliminate(edges: Edges, sources: dict[int, set[int]], state: int) -> None:
    out = edges.pop(state)
    loop = out.pop(state, None)
    middle = "" if loop is None else f"(?:{loop})*"
    for target in out:
        sources[target].discard(state)
    for source in sources.pop(state, set()) - {state}:
        before = edges[source].pop(state)
        for target, after in out.items():
            path = f"{before}{middle}{after}"
            known = edges[source].get(target)
            edges[source][target] = path if known is None else _either(known, path)
            sources[target].add(source)
            limits.check_limit(
                "bytes of a complemented regex",
                len(edges[source][target]),
                limits.MAX_WRITTEN_REGEX_BYTES,
            )


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
