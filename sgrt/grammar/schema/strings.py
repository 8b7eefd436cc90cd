"""Assertions about a string as patterns and lengths the engine enforces exactly."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import and_, or_
from typing import Any

from sgrt.grammar import automaton
from sgrt.grammar.automaton import Automaton
from sgrt.grammar.schema.formula import Formula, Matches, NoneOf, Size


def shape(clause: Iterable[Formula]) -> dict[str, Any] | None:
    """A schema (without `type`) for a clause, None where no length is left."""
    clause = list(clause)
    shape: dict[str, Any] = {}
    low, high = lengths(clause)
    if high is not None and low > high:
        return None
    if low:
        shape["minLength"] = low
    if high is not None:
        shape["maxLength"] = high
    patterns = [atom.pattern for atom in clause if isinstance(atom, Matches) and atom.positive]
    excluded = _excluded(clause)
    if excluded is not None:
        patterns.append(automaton.to_pattern(~excluded))
    written = [{"pattern": f"^{pattern}$"} for pattern in dict.fromkeys(patterns)]
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


def _excluded(clause: Iterable[Formula]) -> Automaton | None:
    """What some reader takes one of the negated assertions to forbid."""
    parts = []
    for atom in clause:
        if isinstance(atom, NoneOf):
            parts.append(automaton.of_texts(atom.values))
        elif isinstance(atom, Matches) and not atom.positive:
            parts.append(automaton.compile(atom.widest or atom.pattern))
    return reduce(or_, parts) if parts else None


def language(clause: Iterable[Formula]) -> Automaton:
    """The texts that a clause without `OneOf` allows.

    Raises:
        GrammarBudgetExceeded: it needs too many states.
    """
    clause = list(clause)
    low, high = lengths(clause)
    if high is not None and low > high:
        return automaton.NOTHING
    parts = [
        automaton.compile(atom.pattern)
        for atom in clause
        if isinstance(atom, Matches) and atom.positive
    ]
    if low or high is not None or not parts:
        parts.append(automaton.of_length(low, high))
    excluded = _excluded(clause)
    if excluded is not None:
        parts.append(~excluded)
    return reduce(and_, parts)
