"""Assertions about an array as tuples the engine enforces exactly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from sgrt.errors import UnsupportedSchema
from sgrt.grammar import limits
from sgrt.grammar.schema.expand import Clause
from sgrt.grammar.schema.formula import (
    FALSE,
    TRUE,
    Contains,
    Formula,
    ItemAt,
    ItemsFrom,
    Size,
    Unique,
    both,
    negate,
)
from sgrt.grammar.schema.strings import lengths

Child = Callable[[Formula], dict[str, Any] | bool]


@dataclass
class Tuple:
    """An array without searches: items by index, the rest, and how many."""

    items: list[Formula]
    rest: Formula
    low: int
    high: int | None

    @classmethod
    def of(cls, clause: Clause) -> Tuple | None:
        """The array of a clause of `ItemAt`, `ItemsFrom` and `Size`; None where there is none."""
        starts = [a.start for a in clause if isinstance(a, ItemsFrom)]
        starts += [a.index + 1 for a in clause if isinstance(a, ItemAt)]
        items = [_item(clause, i) for i in range(max(starts, default=0))]
        rest = both(a.item for a in clause if isinstance(a, ItemsFrom))
        low, high = lengths(clause)
        ends = [i for i, item in enumerate([*items, rest]) if item == FALSE]
        if ends and (high is None or ends[0] < high):
            high = ends[0]
        if high is not None:
            items = items[:high]
        return None if high is not None and low > high else cls(items, rest, low, high)

    def shape(self, child: Child) -> dict[str, Any]:
        """As a schema without `type`."""
        shape: dict[str, Any] = {}
        items = [child(item) for item in self.items]
        rest = child(self.rest)
        while items and items[-1] is True and rest is True:
            items.pop()
        if items:
            shape["prefixItems"] = items
        if rest is not True:
            shape["items"] = rest
        if self.low:
            shape["minItems"] = self.low
        if self.high is not None:
            shape["maxItems"] = self.high
        return shape


def _item(clause: Clause, index: int) -> Formula:
    found = [a.item for a in clause if isinstance(a, ItemsFrom) and a.start <= index]
    found += [a.item for a in clause if isinstance(a, ItemAt) and a.index == index]
    return both(found)


def arrange(clause: Clause) -> Iterator[Clause]:
    """Clauses without `Contains` that together are a clause, as far as `searched` says.

    Raises:
        GrammarBudgetExceeded: there are too many places for what is asked for.
    """
    searches = [a for a in clause if isinstance(a, Contains)]
    others = tuple(a for a in clause if not isinstance(a, Contains))
    high = lengths(clause)[1]
    options = []
    count = 1
    for search in searches:
        options.append(list(_places(search, _window(search, high, len(searches)))))
        count *= len(options[-1])
        limits.check_limit("arrangements of one array", count, limits.MAX_ARRANGEMENTS)
    for parts in itertools.product(*options):
        yield others + tuple(itertools.chain.from_iterable(parts))


def searched(clause: Clause) -> int | None:
    """Among how many items `arrange` places what is asked for; None where it leaves nothing out."""
    high = lengths(clause)[1]
    searches = [a for a in clause if isinstance(a, Contains)]
    stops = [_window(a, high, len(searches)).stop for a in searches if a.most != 0]
    return min((stop for stop in stops if high is None or stop < high), default=None)


def _window(search: Contains, high: int | None, num_searches: int) -> range:
    """Indices at which found items are placed: as many as there may be arrangements."""
    size = max(limits.MIN_SEARCHED, search.least)
    most = limits.MAX_ARRANGEMENTS ** (1 / num_searches)
    while size < limits.MAX_SEARCHED and _num_ways(search, size + 1) <= most:
        size += 1
    stop = search.start + size
    return range(search.start, stop if high is None else min(stop, high))


def _num_ways(search: Contains, size: int) -> int:
    most = search.least if search.most is None else search.most
    return sum(math.comb(size, count) for count in range(search.least, min(most, size) + 1))


def _places(search: Contains, window: range) -> Iterator[Clause]:
    """Ways to place what is searched for: at so many indices, and nowhere else if there is a most."""
    at = search.pointer
    if search.item == TRUE:
        yield _sizes(search)
        return
    limits.check_limit("items searched for", search.least, limits.MIN_SEARCHED)
    if search.most is None:
        for places in itertools.combinations(window, search.least):
            yield tuple(_found(search, places))
        return
    missing = negate(search.item)
    for count in range(search.least, min(search.most, len(window)) + 1):
        for places in itertools.combinations(window, count):
            end = places[-1] + 1 if places else search.start
            between = (i for i in range(search.start, end) if i not in places)
            gaps = [ItemAt(at, i, missing) for i in between]
            yield (*_found(search, places), *gaps, ItemsFrom(at, end, missing))


def _sizes(search: Contains) -> Clause:
    least = Size(search.pointer, "array", True, search.start + search.least)
    if search.most is None:
        return (least,)
    return (least, Size(search.pointer, "array", False, search.start + search.most))


def _found(search: Contains, places: Iterable[int]) -> list[Formula]:
    places = tuple(places)
    found: list[Formula] = [ItemAt(search.pointer, i, search.item) for i in places]
    if places:
        found.append(Size(search.pointer, "array", True, places[-1] + 1))
    return found


def different(
    clause: Clause, values_of: Callable[[Formula], list[Any] | None]
) -> tuple[list[Any], int | None]:
    """All arrays of different items that the tuple of a clause allows.

    Args:
        values_of: all values of a formula where they are finitely many.

    Returns:
        the arrays, and how many items they have at most where longer ones are left out.

    Raises:
        UnsupportedSchema: there are infinitely many.
        GrammarBudgetExceeded: there are too many.
    """
    pointer = next(a.pointer for a in clause if isinstance(a, Unique))
    array = Tuple.of(tuple(a for a in clause if not isinstance(a, (Unique, Contains))))
    if array is None:
        return [], None
    high = array.high
    options = [values_of(item) for item in array.items]
    options.append(values_of(array.rest) if high is None or high > len(array.items) else [])
    if None in options:
        _refuse(pointer)
    found: list[list[Any]] = [[]]
    arrays: list[list[Any]] = [[]] if array.low == 0 else []
    index = 0
    while found and (high is None or index < high):
        here = options[min(index, len(array.items))] or []
        if arrays and len(arrays) + len(found) * len(here) > limits.MAX_UNIQUE_ARRAYS and index > 1:
            return arrays, index
        found = [[*values, v] for values in found for v in here if not _holds(values, v)]
        index += 1
        limits.check_limit(
            "arrays of different items", len(arrays) + len(found), limits.MAX_UNIQUE_ARRAYS
        )
        arrays += found if index >= array.low else []
    return arrays, None


def _holds(values: list[Any], value: Any) -> bool:
    # Here values are scalars; True and 1 are different, 1 and 1.0 are not.
    return any(v == value and isinstance(v, bool) == isinstance(value, bool) for v in values)


def _refuse(pointer: str) -> NoReturn:
    raise UnsupportedSchema(
        "is only supported for arrays of few different values",
        pointer=pointer,
        keyword="uniqueItems",
        hint="give items an enum and maxItems",
    )
