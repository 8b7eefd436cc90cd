"""Assertions about a number as ranges the engine enforces exactly."""

from __future__ import annotations

import bisect
import heapq
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction
from functools import reduce
from typing import Any

from sgrt.errors import GrammarBudgetExceeded, UnsupportedSchema
from sgrt.grammar import json_text, limits
from sgrt.grammar.schema import digits
from sgrt.grammar.schema.clauses import Clause
from sgrt.grammar.schema.formula import Bound, Differs, Formula, Multiple

_TOP = json_text.MAX_EXACT_INT
_MAX_COUNTED, _MAX_COUNTED_DIGITS = 250_000, 10_000
"""Of a step, and of its digits without the zeros behind: a second of the engine's time."""


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
            case Differs(_, value):
                holes.add(value)
    limits.check_limit("numbers excluded", len(holes), limits.MAX_CLAUSES)
    if kind == "integer" and step is not None:
        step = Fraction(step.numerator)  # an integer that is a multiple of 3/4 is one of 3
    for start, end in _ranges(low, high, sorted(holes)):
        if _is_beyond(start, end):
            continue  # as `narrowed` tells
        if step is not None:
            start, end = _at_multiple(start, step, 1), _at_multiple(end, step, -1)
        if kind == "fraction":
            start, end = _open_at_integer(start, end)
        start, end = _inside(start, 1), _inside(end, -1)
        if not _is_empty(start, end, kind):
            for written in _steps(step):
                yield _shape(start, end, written)


def cut_short(clause: Iterable[Formula]) -> Iterator[float]:
    """Numbers whose decimals are the first ones of a bound: 0.9 and 0.99 of 0.999. The engine asks for
    as many decimals as the bound has there, so they are listed, those that satisfy the clause."""
    for atom in clause:
        if isinstance(atom, (Bound, Differs)) and abs(atom.value) < _TOP:
            text = format(Decimal(str(atom.value)), "f")
            point = text.find(".")
            if point > 0:
                cut = (float(text[:end]) for end in range(point + 2, len(text)))
                yield from filter(_is_exact, cut)


def spelled(clause: Iterable[Formula]) -> list[str] | None:
    """Patterns of the integers of a clause whose bounds the engine is not exact at; None where it is,
    where they have to be multiples, or where there are too many digits."""
    clause = list(clause)
    far = [abs(a.value) for a in clause if isinstance(a, (Bound, Differs)) and _is_far(a)]
    if any(isinstance(a, Multiple) for a in clause) or not far or max(far) > digits.MAX:
        return None
    low, high = _integer_bounds(clause)
    holes = (a.value for a in clause if isinstance(a, Differs))
    found: list[tuple[int | None, int | None]] = []
    for hole in sorted({int(h) for h in holes if exact(h).denominator == 1}):
        if (low is None or hole >= low) and (high is None or hole <= high):
            found.append((low, hole - 1))
            low = hole + 1
    found.append((low, high))
    return [digits.of_range(a, b) for a, b in found if a is None or b is None or a <= b]


def _is_far(atom: Formula) -> bool:
    return isinstance(atom, (Bound, Differs)) and abs(atom.value) > _TOP


def _is_beyond(low: _Edge | None, high: _Edge | None) -> bool:
    """Whether all numbers of a range are further out than the engine is exact at."""
    return (low is not None and low.value > _TOP) or (high is not None and high.value < -_TOP)


def _steps(step: Fraction | None) -> Iterator[Fraction | None]:
    """A step and its multiples with fewer decimals: the engine writes a multiple of 0.25 as 0.50."""
    yield step
    if step is None or (step.numerator == 1 and str(step.denominator).strip("0") == "1"):
        return  # of 0.01 the engine knows
    last, unit = None, Fraction(1)
    while (coarser := _common_multiple(step, unit)) != step:
        if coarser != last:
            yield coarser
        last, unit = coarser, unit / 10


def excluded_steps(clause: Iterable[Formula]) -> list[Fraction]:
    """What numbers are not multiples of: the engine cannot say that, so they are listed."""
    return [a.step for a in clause if isinstance(a, Multiple) and not a.positive]


def is_coarse(clause: Iterable[Formula]) -> bool:
    """Whether integers are multiples of so large a number that the engine, which counts up to it,
    would take long; trailing zeros it does not count."""
    steps = (a.step for a in clause if isinstance(a, Multiple) and a.positive)
    step = reduce(_common_multiple, steps, Fraction(1)).numerator
    return step > _MAX_COUNTED and int(str(step).rstrip("0")) > _MAX_COUNTED_DIGITS


def listed(clause: Iterable[Formula]) -> tuple[list[int], range | None]:
    """Integers of a clause one by one, those nearest to 0 or to its bound.

    Returns:
        the integers, and the range they were looked for in where that is not all.

    Raises:
        GrammarBudgetExceeded: none was found.
    """
    clause = list(clause)
    steps = [a.step for a in clause if isinstance(a, Multiple) and a.positive]
    step = int(reduce(_common_multiple, steps, Fraction(1)))
    without = excluded_steps(clause)
    holes = {a.value for a in clause if isinstance(a, Differs)}
    low, high = _integer_bounds(clause)
    most = limits.MAX_NUMBERS_TRIED
    start = low if low is not None else max(0, high) - most * step if high is not None else None
    if start is None:
        start = -(most // 2) * step
    start += -start % step
    stop = start + most * step
    is_whole = low is not None and high is not None and high < stop
    candidates = range(start, stop if high is None else min(stop, high + 1), step)
    periods = [s.numerator for s in without]  # integers are multiples of n/d where they are of n
    is_left = _sieved(candidates, periods)
    if not any(is_left) and reduce(_common_multiple, without, Fraction(step)) <= most * step:
        return [], None  # what holds for one period holds for all numbers
    left = (n for n in _nearest(candidates, is_left) if n not in holes)
    found = list(itertools.islice(left, limits.MAX_LISTED_NUMBERS + 1))
    kept = sorted(found[: limits.MAX_LISTED_NUMBERS])
    if not kept and not is_whole:
        raise GrammarBudgetExceeded("numbers tried", most + 1, most)
    if is_whole and len(kept) == len(found):
        return kept, None
    return kept, range(kept[0], kept[-1] + 1)


def _sieved(numbers: range, periods: list[int]) -> bytearray:
    """Which of these multiples of their step are multiples of no period."""
    is_left = bytearray(b"\1") * len(numbers)
    step = numbers.step
    for period in periods:
        every = period // math.gcd(period, step)
        first = -(numbers.start // step) % every
        is_left[first::every] = bytes(len(range(first, len(numbers), every)))
    return is_left


def _nearest(numbers: range, is_left: bytearray) -> Iterator[int]:
    """Those left, the ones nearest to 0 first, the negative one of two; ``numbers`` ascend."""
    at = bisect.bisect_left(numbers, 0)
    below = itertools.compress(reversed(numbers[:at]), reversed(is_left[:at]))
    return heapq.merge(below, itertools.compress(numbers[at:], is_left[at:]), key=abs)


def between_integers(clause: Clause) -> tuple[list[Clause], range | None]:
    """Clauses for the numbers of a clause that are no integers, one for each gap between two.

    Returns:
        the clauses, and the gaps (each by the integer below it) where they are not all: those
        nearest to 0 or to a bound.
    """
    bounds = [a for a in clause if isinstance(a, Bound)]
    low = max((math.floor(a.value) for a in bounds if a.sign > 0), default=None)
    high = min((math.ceil(a.value) for a in bounds if a.sign < 0), default=None)
    most = limits.MAX_NUMBER_GAPS
    if low is None:
        low = max(-most // 2, -_TOP) if high is None else min(-most // 2, high - most)
    gaps = range(low, low + most if high is None else min(high, low + most))
    is_whole = any(a.sign > 0 for a in bounds) and high is not None and gaps.stop == high
    clauses: list[Clause] = []
    for below in gaps:
        sides = Bound("", 1, below, True), Bound("", -1, below + 1, True)
        clauses.append((*clause, *sides))
    return clauses, None if is_whole else gaps


def _integer_bounds(clause: Iterable[Formula]) -> tuple[int | None, int | None]:
    low: int | None = None
    high: int | None = None
    for atom in clause:
        match atom:
            case Bound(_, 1, value, exclusive):
                first = max(_first_after(v, exclusive) for v in (value, exact(value)))
                low = first if low is None else max(low, first)
            case Bound(_, _, value, exclusive):
                last = min(-_first_after(-v, exclusive) for v in (value, exact(value)))
                high = last if high is None else min(high, last)
    return low, high


def _first_after(value: int | float | Fraction, exclusive: bool) -> int:
    return math.floor(value) + 1 if exclusive else math.ceil(value)


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


def _at_multiple(edge: _Edge | None, step: Fraction, sign: int) -> _Edge | None:
    """The first multiple within a bound that has more decimals as that bound: next to such a one the
    engine wants more of them than it takes of a multiple."""
    if edge is None:
        return None
    scale = 1
    while (step * scale).denominator > 1:
        scale *= 10
    if (exact(edge.value) * scale).denominator == 1:
        return edge
    multiple = sign * _first_after(sign * exact(edge.value) / step, edge.exclusive) * step
    value = multiple.numerator if multiple.denominator == 1 else float(multiple)
    return _Edge(value, False) if exact(value) == multiple else edge


def _open_at_integer(low: _Edge | None, high: _Edge | None) -> tuple[_Edge | None, _Edge | None]:
    """Bounds without the fault of the engine that takes the 6 in 6 < x < 6.5, and the 0 in 0 < x < 0.5:
    the next number in decimals that a 64-bit float tells apart (beside 0 the smallest exact one)
    instead."""
    if low is not None and high is not None:
        if low.exclusive and 0 <= low.value == math.floor(high.value):
            low = _Edge(_next(low.value), False)
        elif high.exclusive and 0 >= high.value == math.ceil(low.value):
            high = _Edge(-_next(-high.value), False)
    return low, high


def _next(value: int | float) -> float:
    return max(math.nextafter(value, math.inf), json_text.MIN_EXACT_FRACTION)


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
        shape["exclusiveMinimum" if low.exclusive else "minimum"] = low.value
    if high is not None:
        shape["exclusiveMaximum" if high.exclusive else "maximum"] = high.value
    if step is not None:
        if step.numerator > _TOP:
            raise UnsupportedSchema(f"common multiple {step.numerator} is beyond 2**53")
        shape["multipleOf"] = step.numerator if step.denominator == 1 else float(step)
    return shape


def narrowed(atoms: Iterable[Formula]) -> Iterator[tuple[str, str | None, bool]]:
    """Pointers and names of bounds that are moved in to where the engine is exact; whether from
    further out, or by rounding."""
    for atom in atoms:
        if isinstance(atom, Differs) and _is_far(atom):
            yield atom.pointer, None, True
        if isinstance(atom, Bound) and (_is_far(atom) or not _is_exact(atom.value)):
            name = "minimum" if atom.sign > 0 else "maximum"
            name = f"exclusive{name.title()}" if atom.exclusive else name
            yield atom.pointer, name, _is_far(atom)


def _is_exact(value: int | float) -> bool:
    return isinstance(value, int) or json_text.is_exact(value)


def _inside(edge: _Edge | None, sign: int) -> _Edge | None:
    """A bound that the engine is exact at, further in where that one is not: beyond 2**53, or of more
    digits than it reads."""
    if edge is None:
        return None
    if 0 < abs(edge.value) < json_text.MIN_EXACT_FRACTION:
        raise UnsupportedSchema(f"bound {edge.value!r:.40} is too close to 0 to be exact")
    if abs(edge.value) > _TOP:
        return _Edge(_TOP if edge.value > 0 else -_TOP, False)
    if _is_exact(edge.value):
        return edge if edge.value % 1 else _Edge(int(edge.value), edge.exclusive)
    rounding = ROUND_CEILING if sign > 0 else ROUND_FLOOR
    rounded = Context(json_text.MAX_EXACT_DIGITS, rounding).create_decimal(repr(edge.value))
    if -rounded.as_tuple().exponent > json_text.MAX_EXACT_SCALE:  # type: ignore[operator]
        rounded = rounded.quantize(Decimal(1).scaleb(-json_text.MAX_EXACT_SCALE), rounding)
    return _Edge(int(rounded) if rounded == int(rounded) else float(rounded), False)
