"""Assertions about a string as patterns and lengths the engine enforces exactly."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache, reduce
from operator import and_, or_
from typing import Any

from sgrt.errors import GrammarBudgetExceeded
from sgrt.grammar import automaton, regex
from sgrt.grammar.automaton import Automaton
from sgrt.grammar.schema.formula import Formula, Matches, NoneOf, Size

_MAX_LISTED = 1_000
"""Texts that are listed instead of described by several patterns."""


def shape(clause: Iterable[Formula]) -> dict[str, Any] | None:
    """A schema (without `type`) for a clause, None where no text is left.

    Where patterns meet or are excluded, they are made one here: the engine has no complement, and
    little patience to find out whether an intersection is empty.
    """
    clause = list(clause)
    low, high = lengths(clause)
    if high is not None and low > high:
        return None
    patterns = dict.fromkeys(
        atom.pattern for atom in clause if isinstance(atom, Matches) and atom.positive
    )
    excluded = _excluded(clause)
    if not excluded and len(patterns) < 2:
        return _described(low, high, list(patterns))
    try:
        allowed = _allowed(low, high, patterns)
        excluded = [texts for texts in excluded if not (texts & allowed).is_empty()]
        whole = reduce(and_, (~texts for texts in excluded), allowed)
    except GrammarBudgetExceeded:
        whole = None
    if whole is not None:
        listed = whole.texts(_MAX_LISTED)
        if listed is not None:
            return {"enum": listed} if listed else None
    return _shortest(low, high, list(patterns), excluded, whole)


def joined(clauses: Sequence[Iterable[Formula]]) -> dict[str, Any] | None:
    """One schema (without `type`) for many clauses; None where no text is left.

    Raises:
        GrammarBudgetExceeded: it needs too many states, or gets too long.
    """
    whole = reduce(or_, map(language, clauses))
    listed = whole.texts(_MAX_LISTED)
    if listed is not None:
        return {"enum": listed} if listed else None
    return _described(0, None, [automaton.to_pattern(whole)])


def _allowed(low: int, high: int | None, patterns: Iterable[str]) -> Automaton:
    parts = [automaton.compile(pattern) for pattern in patterns]
    if low or high is not None or not parts:
        parts.append(automaton.of_length(low, high))
    return reduce(and_, sorted(parts, key=lambda part: len(part.table)))


def _shortest(
    low: int,
    high: int | None,
    patterns: list[str],
    excluded: list[Automaton],
    whole: Automaton | None,
) -> dict[str, Any]:
    """One pattern for the whole, or all patterns and one for what is not excluded."""
    ways = []
    if whole is not None:
        with suppress(GrammarBudgetExceeded):
            ways.append(_described(0, None, [automaton.to_pattern(whole)]))
    try:
        left = [automaton.to_pattern(~reduce(or_, excluded))] if excluded else []
        ways.append(_described(low, high, patterns + left))
    except GrammarBudgetExceeded:
        if not ways:
            raise
    return min(ways, key=lambda way: len(str(way)))


def _described(low: int, high: int | None, patterns: list[str]) -> dict[str, Any]:
    shape: dict[str, Any] = {}
    if low:
        shape["minLength"] = low
    if high is not None:
        shape["maxLength"] = high
    written = [{"pattern": f"^{pattern}$"} for pattern in patterns]
    if len(written) == 1:
        shape |= written[0]
    elif written:
        shape["allOf"] = written
    return shape


def lengths(clause: Iterable[Formula]) -> tuple[int, int | None]:
    """The sizes (of any kind) that a clause allows."""
    sizes = [atom for atom in clause if isinstance(atom, Size)]
    low = max((s.count for s in sizes if s.is_least), default=0)
    high = min((s.count for s in sizes if not s.is_least), default=None)
    return low, high


def _excluded(clause: Iterable[Formula]) -> list[Automaton]:
    """What some reader takes each of the negated assertions to forbid."""
    parts = []
    for atom in clause:
        if isinstance(atom, NoneOf):
            parts.append(automaton.of_texts(atom.values))
        elif isinstance(atom, Matches) and not atom.positive:
            parts.append(automaton.compile(atom.widest or atom.pattern))
    return parts


def language(clause: Iterable[Formula]) -> Automaton:
    """The texts that a clause without `OneOf` allows.

    Raises:
        GrammarBudgetExceeded: it needs too many states.
    """
    clause = list(clause)
    low, high = lengths(clause)
    if high is not None and low > high:
        return automaton.NOTHING
    patterns = [a.pattern for a in clause if isinstance(a, Matches) and a.positive]
    allowed = _allowed(low, high, patterns)
    return reduce(and_, (~texts for texts in _excluded(clause)), allowed)


_LONG_REPEAT = re.compile(r"(?<!\\x)\{\d*,?\d{2,}\}")


@lru_cache(maxsize=256)
def shortened(pattern: str) -> str:
    """A pattern without long repeats that do not matter, as often in a search: `a{1,99}` is `a`."""
    if regex.ANYTHING not in pattern or not _LONG_REPEAT.search(pattern):
        return pattern
    with suppress(GrammarBudgetExceeded):
        found = automaton.compile(pattern)
        if len(found.table) <= _FEW_STATES:
            return automaton.to_pattern(found)
    return pattern


_FEW_STATES = 4
