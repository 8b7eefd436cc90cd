"""Assertions about a number as ranges the engine enforces exactly."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from sgrt.errors import UnsupportedSchema
from sgrt.grammar import json_text, limits
from sgrt.grammar.schema.formula import Bound, Differs, Formula, Multiple

_TOP = json_text.MAX_EXACT_INT


def exact(value: int | float) -> Fraction:
    """A number as it is written in decimals."""
    return Fraction(value) if isinstance(value, int) else Fraction(str(value))


@dataclass(frozen=True)
class _Edge:
    value: int | float
    exclusive: bool


def shapes(clause: Iterable[Formula], kind: str) -> Iterator[dict[str, Any]]:
    """Schemas (without `type`) that together are a clause; none where nothing satisfies it."""
    low: _Edge | None = None
    high: _Edge | None = None
    step: Fraction | None = None
    holes = set()
    for atom in clause:
        match atom:
            case Bound(_, 1, value, exclusive):
                low = _tighter(low, _Edge(value, exclusive), 1)
            case Bound(_, _, value, exclusive):
                high = _tighter(high, _Edge(value, exclusive), -1)
            case Multiple(_, size, True):
                step = size if step is None else _common_multiple(step, size)
            case Multiple(pointer, _, False):
                raise UnsupportedSchema("cannot be negated", pointer=pointer, keyword="multipleOf")
            case Differs(_, value):
                holes.add(value)
    limits.check_limit("numbers excluded", len(holes), limits.MAX_CLAUSES)
    for start, end in _ranges(low, high, sorted(holes)):
        if not _is_empty(start, end, kind):
            yield _shape(start, end, step)


def _tighter(known: _Edge | None, edge: _Edge, sign: int) -> _Edge:
    if known is None or (edge.value - known.value) * sign > 0:
        return edge
    return edge if edge.value == known.value and edge.exclusive else known


def _common_multiple(a: Fraction, b: Fraction) -> Fraction:
    return Fraction(math.lcm(a.numerator, b.numerator), math.gcd(a.denominator, b.denominator))


def _ranges(
    low: _Edge | None, high: _Edge | None, holes: list[int | float]
) -> Iterator[tuple[_Edge | None, _Edge | None]]:
    """What holes leave of a range."""
    for hole in holes:
        edge = _Edge(hole, True)
        if low is not None and hole < low.value:
            continue
        if high is not None and hole > high.value:
            break
        yield low, _tighter(high, edge, -1)
        low = edge
    yield low, high


def _is_empty(low: _Edge | None, high: _Edge | None, kind: str) -> bool:
    if low is None or high is None:
        return False
    if kind == "integer":
        first = math.floor(low.value) + 1 if low.exclusive else math.ceil(low.value)
        last = math.ceil(high.value) - 1 if high.exclusive else math.floor(high.value)
        return first > last
    closed = not (low.exclusive or high.exclusive)
    return low.value > high.value or (low.value == high.value and not closed)


def _shape(low: _Edge | None, high: _Edge | None, step: Fraction | None) -> dict[str, Any]:
    shape: dict[str, Any] = {}
    if low is not None:
        shape["exclusiveMinimum" if low.exclusive else "minimum"] = _inside(low.value, 1)
    if high is not None:
        shape["exclusiveMaximum" if high.exclusive else "maximum"] = _inside(high.value, -1)
    if step is not None:
        if step.numerator > _TOP:
            raise UnsupportedSchema(f"common multiple {step.numerator} is beyond 2**53")
        shape["multipleOf"] = step.numerator if step.denominator == 1 else float(step)
    return shape


def _inside(value: int | float, sign: int) -> int | float:
    """A bound that the engine is exact at: one further out than 2**53 is moved in to it."""
    if value * sign > _TOP:
        raise UnsupportedSchema(f"bound {value!r:.40} is beyond 2**53, where nothing is exact")
    if 0 < abs(value) < json_text.MIN_EXACT_FRACTION:
        raise UnsupportedSchema(f"bound {value!r:.40} is too close to 0 to be exact")
    return max(-_TOP, min(_TOP, value))
