"""Assertions about an array as tuples the engine enforces exactly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from sgrt.errors import UnsupportedSchema
from sgrt.grammar import json_text, limits
from sgrt.grammar.schema.clauses import Clause
from sgrt.grammar.schema.formula import (
    FALSE,
    TRUE,
    Contains,
    Formula,
    ItemAt,
    ItemsFrom,
    Joins,
    OneOf,
    Size,
    Unique,
    negate,
)
from sgrt.grammar.schema.strings import lengths

Child = Callable[[Formula, int], dict[str, Any] | bool]
"""What stands for the values of a formula, written so many times."""


@dataclass
class Tuple:
    """An array without searches: items by index, the rest, and how many.

    Attributes:
        runs: formulas of the first items, each with how many in a row it is about.
    """

    runs: list[tuple[Formula, int]]
    rest: Formula
    low: int
    high: int | None

    @classmethod
    def of(cls, clause: Clause, joins: Joins) -> Tuple | None:
        """The array of a clause of `ItemAt`, `ItemsFrom` and `Size`; None where there is none."""
        rests: list[tuple[int, Formula]] = []
        at: dict[int, list[Formula]] = {}
        changes = {0}
        for atom in clause:
            if isinstance(atom, ItemAt):
                at.setdefault(atom.index, []).append(atom.item)
                changes |= {atom.index, atom.index + 1}
            elif isinstance(atom, ItemsFrom):
                rests.append((atom.start, atom.item))
                changes.add(atom.start)
        low, high = lengths(clause)
        runs: list[tuple[Formula, int]] = []
        for i, end in itertools.pairwise(sorted(changes)):
            item = joins([item for start, item in rests if start <= i] + at.get(i, []))
            if item == FALSE:
                high = i if high is None else min(i, high)
            if high is not None and high < end:
                runs += [(item, high - i)] * (high > i)
                break
            runs.append((item, end - i))
        rest = joins([item for _, item in rests])
        size = max(changes)
        if rest == FALSE and (high is None or size < high):
            high = size
        return None if high is not None and low > high else cls(runs, rest, low, high)

    def shape(self, child: Child) -> dict[str, Any]:
        """As a schema without `type`."""
        shape: dict[str, Any] = {}
        items: list[dict[str, Any] | bool] = []
        for item, count in self.runs:
            items += [child(item, count)] * count
        rest = child(self.rest, 1)
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


Values = Callable[[int], list[Any]]
"""Values that an item may have, by index."""


def different(
    clause: Clause, values_of: Callable[[Formula], list[Any] | None]
) -> tuple[list[Clause], int | None]:
    """Clauses without `Unique`, each about arrays that begin alike and of which one item is left.

    Args:
        values_of: all values of a formula where they are finitely many scalars.

    Returns:
        the clauses, and how many items their arrays have at most where longer ones are left out.

    Raises:
        UnsupportedSchema: there are infinitely many values.
        GrammarBudgetExceeded: there are too many even for two items.
    """
    pointer = next(a.pointer for a in clause if isinstance(a, Unique))
    others = tuple(a for a in clause if not isinstance(a, Unique))
    array = Tuple.of(tuple(a for a in others if not isinstance(a, Contains)), Joins())
    if array is None:
        return [], None
    options: list[list[Any] | None] = []
    for item, count in array.runs:
        options += [values_of(item)] * count
    num_first = len(options)
    has_rest = array.high is None or array.high > num_first
    options.append(values_of(array.rest) if has_rest else [])
    if None in options:
        _refuse(pointer)
    begins, is_whole = _begins(lambda i: options[min(i, num_first)] or [], array)
    one_of: dict[tuple[Any, ...], Formula] = {}  # the same object for the same place
    clauses = [(*others, Size(pointer, "array", False, 0))] if array.low == 0 else []
    for begin, left in begins:
        low = max(array.low, len(begin))
        high = len(begin) + bool(left)
        if low <= high:
            listed = [*((value,) for value in begin), tuple(left)]
            keys = [tuple(map(json_text.equality_key, values)) for values in listed]
            items = [one_of.setdefault(k, OneOf(v)) for k, v in zip(keys, listed, strict=True)]
            sizes = (Size(pointer, "array", True, low), Size(pointer, "array", False, high))
            clauses.append((*others, *(ItemAt(pointer, i, f) for i, f in enumerate(items)), *sizes))
    return clauses, None if is_whole else len(begins[0][0]) + 1


def _begins(values: Values, array: Tuple) -> tuple[list[tuple[list[Any], list[Any]]], bool]:
    """Beginnings of arrays with the values left for one item more, the longest first; whether
    that is all. Every other length is enough: an item more may be there or not."""
    levels: list[list[list[Any]]] = [[[]]]
    is_whole = False
    while not is_whole:
        begins = levels[-1]
        longer = [[*b, v] for b in begins for v in _left(values, b, array)]
        num_values = len(longer) * len(values(len(levels)))
        is_many = num_values > limits.MAX_ENUM_VALUES
        if not longer or is_many or len(longer) > limits.MAX_UNIQUE_ARRAYS:
            is_whole = not longer or array.high == len(levels)
            break
        levels.append(longer)
    if not is_whole and len(levels) < max(2, array.low):
        limits.check_limit(
            "values of arrays of different items", num_values, limits.MAX_ENUM_VALUES
        )
        limits.check_limit(
            "beginnings of arrays of different items", len(longer), limits.MAX_UNIQUE_ARRAYS
        )
    if is_whole and not longer and len(levels) > 1:
        levels.pop()  # those one shorter with an item more
    chosen = [begin for level in levels[::-2] for begin in level]
    return [(begin, _left(values, begin, array)) for begin in chosen], is_whole


def _left(values: Values, begin: list[Any], array: Tuple) -> list[Any]:
    if array.high is not None and len(begin) >= array.high:
        return []
    taken = set(map(json_text.equality_key, begin))
    return [v for v in values(len(begin)) if json_text.equality_key(v) not in taken]


def _refuse(pointer: str) -> NoReturn:
    raise UnsupportedSchema(
        "is only supported for arrays of few different values",
        pointer=pointer,
        keyword="uniqueItems",
        hint="give items an enum and maxItems",
    )
