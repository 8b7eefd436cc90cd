"""What a schema says, as formulas: and, or, other schemas, and assertions about one kind of value.

An assertion about other kinds of values than the one at hand is true, as in JSON Schema; its
negation (`negate`) says that the value is of that kind and different.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

from sgrt.errors import UnsupportedSchema
from sgrt.grammar import json_text, limits
from sgrt.grammar.schema.document import Schema

KINDS = ("null", "boolean", "integer", "fraction", "string", "array", "object")
"""Kinds of values: JSON's, but numbers told apart by whether they are integers."""
NUMERIC = frozenset(("integer", "fraction"))
STRING = frozenset(("string",))
ARRAY = frozenset(("array",))
OBJECT = frozenset(("object",))


def kind_of(value: Any) -> str:
    name = json_text.type_of(value)
    return "fraction" if name == "number" else name


class Formula:
    """Base of all formulas."""

    __slots__ = ()


class _Many(Formula):
    """Several formulas; counts them, so that no schema makes more of them than can be handled."""

    __slots__ = ("_hash", "parts", "size")
    __match_args__ = ("parts",)

    def __init__(self, parts: tuple[Formula, ...]) -> None:
        self.parts = parts
        self.size: int = 1 + len(parts)
        for part in parts:
            if isinstance(part, _Many):
                self.size += part.size - 1
        limits.check_limit("assertions about one value", self.size, limits.MAX_ASSERTIONS)
        self._hash = hash((type(self), parts))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Many) or type(other) is not type(self):
            return False
        return self._hash == other._hash and self.parts == other.parts


class And(_Many):
    __slots__ = ()


class Or(_Many):
    __slots__ = ()


TRUE: Formula = And(())
FALSE: Formula = Or(())


@dataclass(frozen=True)
class Satisfies(Formula):
    """The value satisfies a schema, or does not."""

    schema: Schema
    positive: bool = True


@dataclass(frozen=True)
class IsKind(Formula):
    kinds: frozenset[str]


@dataclass(frozen=True, eq=False)
class Values(Formula):
    """Something about these values; equal where they are written alike."""

    values: tuple[Any, ...]

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._text == other._text

    @cached_property
    def _text(self) -> str:
        return repr(self.values)

    @cached_property
    def keys(self) -> frozenset[str]:
        """The values as `json_text.equality_key` tells them apart."""
        return frozenset(map(json_text.equality_key, self.values))

    @cached_property
    def kinds(self) -> frozenset[str]:
        if self.values and all(type(value) is str for value in self.values):
            return STRING
        return frozenset(map(kind_of, self.values))


class OneOf(Values):
    """The value is one of these."""


class NoneOf(Values):
    """The value is none of these, which are null, booleans or strings."""


@dataclass(frozen=True)
class Atom(Formula):
    """An assertion about values of some kinds."""

    pointer: str = field(compare=False)

    kinds = frozenset[str]()

    def inverse(self) -> Formula:
        """The opposite, for a value of one of these kinds."""
        raise UnsupportedSchema("cannot be negated", pointer=self.pointer)


@dataclass(frozen=True)
class Bound(Atom):
    """A number above or below another: sign +1 for minimum, -1 for maximum."""

    sign: int
    value: int | float
    exclusive: bool
    kinds = NUMERIC

    def inverse(self) -> Formula:
        return Bound(self.pointer, -self.sign, self.value, not self.exclusive)


@dataclass(frozen=True)
class Multiple(Atom):
    step: Fraction
    positive: bool = True
    kinds = NUMERIC

    def inverse(self) -> Formula:
        return Multiple(self.pointer, self.step, not self.positive)


@dataclass(frozen=True)
class Differs(Atom):
    """A number is not this one."""

    value: int | float
    kinds = NUMERIC

    def inverse(self) -> Formula:
        return OneOf((self.value,))


@dataclass(frozen=True)
class Matches(Atom):
    """A string matches a pattern (in the engine's syntax, whole text).

    Attributes:
        pattern: what every reader of the user's pattern matches.
        widest: what some reader matches.
    """

    pattern: str
    widest: str
    positive: bool = True
    kinds = STRING

    def inverse(self) -> Formula:
        return Matches(self.pointer, self.pattern, self.widest, not self.positive)


@dataclass(frozen=True)
class Size(Atom):
    """Characters of a string, items of an array or keys of an object: at least or at most."""

    kind: str
    is_least: bool
    count: int

    @property
    def kinds(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset((self.kind,))

    def inverse(self) -> Formula:
        if self.is_least:
            return Size(self.pointer, self.kind, False, self.count - 1) if self.count else FALSE
        return Size(self.pointer, self.kind, True, self.count + 1)


# arrays


@dataclass(frozen=True)
class ItemAt(Atom):
    """The item at an index satisfies a formula, where there is one."""

    index: int
    item: Formula
    kinds = ARRAY

    def inverse(self) -> Formula:
        there = Size(self.pointer, "array", True, self.index + 1)
        return And((there, ItemAt(self.pointer, self.index, negate(self.item))))


@dataclass(frozen=True)
class ItemsFrom(Atom):
    """All items from an index on satisfy a formula."""

    start: int
    item: Formula
    kinds = ARRAY

    def inverse(self) -> Formula:
        return Contains(self.pointer, self.start, negate(self.item), 1, None)


@dataclass(frozen=True)
class Contains(Atom):
    """So many items from an index on satisfy a formula."""

    start: int
    item: Formula
    least: int
    most: int | None
    kinds = ARRAY

    def inverse(self) -> Formula:
        if (self.least, self.most) == (1, None):
            return ItemsFrom(self.pointer, self.start, negate(self.item))
        other = []
        if self.least:
            other.append(Contains(self.pointer, self.start, self.item, 0, self.least - 1))
        if self.most is not None:
            other.append(Contains(self.pointer, self.start, self.item, self.most + 1, None))
        return Or(tuple(other))


@dataclass(frozen=True)
class Unique(Atom):
    kinds = ARRAY

    def inverse(self) -> Formula:
        raise UnsupportedSchema("cannot be negated", pointer=self.pointer, keyword="uniqueItems")


# objects


@dataclass(frozen=True)
class Keys:
    """A set of keys.

    Attributes:
        names: keys, with ``others`` those that are not in the set.
        patterns: the same for keys that match one of these (pattern, widest) pairs.
        failing: instead of all that: the keys that do not satisfy this formula.
    """

    names: frozenset[str] = frozenset()
    patterns: tuple[tuple[str, str], ...] = ()
    others: bool = False
    failing: Formula | None = None


@dataclass(frozen=True)
class Has(Atom):
    """An object has a key, or has it not."""

    name: str
    present: bool = True
    kinds = OBJECT

    def inverse(self) -> Formula:
        return Has(self.pointer, self.name, not self.present)


@dataclass(frozen=True)
class Property(Atom):
    """The value of a key satisfies a formula, where the key is there."""

    name: str
    value: Formula
    kinds = OBJECT

    def inverse(self) -> Formula:
        there = Has(self.pointer, self.name)
        return And((there, Property(self.pointer, self.name, negate(self.value))))


@dataclass(frozen=True)
class Properties(Atom):
    """The values of all keys in a set satisfy a formula."""

    keys: Keys
    value: Formula
    kinds = OBJECT

    def inverse(self) -> Formula:
        if self.keys == Keys(others=True) and self.value == FALSE:
            return Size(self.pointer, "object", True, 1)
        return SomeProperty(self.pointer, self.keys, negate(self.value))


@dataclass(frozen=True)
class SomeProperty(Atom):
    """The value of some key in a set satisfies a formula."""

    keys: Keys
    value: Formula
    kinds = OBJECT

    def inverse(self) -> Formula:
        return Properties(self.pointer, self.keys, negate(self.value))


# operations


def satisfies(schema: Schema, positive: bool = True) -> Formula:
    """The value satisfies a schema, or does not."""
    if isinstance(schema.node, bool) or not schema.node:
        return TRUE if (schema.node is not False) == positive else FALSE
    return Satisfies(schema, positive)


def both(parts: Iterable[Formula]) -> Formula:
    """All of these hold."""
    flat: dict[Formula, None] = {}
    for part in parts:
        if isinstance(part, And):
            flat.update(dict.fromkeys(part.parts))
        else:
            flat[part] = None
    if FALSE in flat:
        return FALSE
    return next(iter(flat)) if len(flat) == 1 else And(tuple(flat))


class Joins:
    """`both`, remembered by which formulas were given: those of clauses are mostly the same.

    Args:
        simplified: the same formula, said in less; FALSE where plainly no value satisfies it.
    """

    def __init__(self, simplified: Callable[[Formula], Formula] | None = None) -> None:
        self._simplified = simplified
        self._known: dict[tuple[int, ...], tuple[list[Formula], Formula]] = {}

    def __call__(self, parts: list[Formula]) -> Formula:
        key = tuple(map(id, parts))
        known = self._known.get(key)
        if known is None:
            joined = both(parts)
            if self._simplified is not None:
                joined = self._simplified(joined)
            known = self._known[key] = parts, joined  # kept, so that no other gets its identity
        return known[1]


def either(parts: Iterable[Formula]) -> Formula:
    """At least one of these holds."""
    flat: dict[Formula, None] = {}
    for part in parts:
        if isinstance(part, Or):
            flat.update(dict.fromkeys(part.parts))
        else:
            flat[part] = None
    if TRUE in flat:
        return TRUE
    return next(iter(flat)) if len(flat) == 1 else Or(tuple(flat))


def negate(formula: Formula) -> Formula:
    """The opposite.

    Raises:
        UnsupportedSchema: it cannot be said.
    """
    match formula:
        case And(parts):
            return either(negate(part) for part in parts)
        case Or(parts):
            return both(negate(part) for part in parts)
        case Satisfies(schema, positive):
            return Satisfies(schema, not positive)
        case IsKind(kinds):
            return IsKind(frozenset(KINDS) - kinds)
        case OneOf(values):
            plain = tuple(v for v in values if kind_of(v) in ("null", "boolean", "string"))
            rest = (differs(v) for v in values if kind_of(v) not in ("null", "boolean", "string"))
            return both((*((NoneOf(plain),) if plain else ()), *rest))
        case NoneOf(values):
            return OneOf(values)
        case Atom():
            return both((IsKind(formula.kinds), formula.inverse()))
    raise TypeError(f"{formula!r} is not a formula")


def equals(value: Any) -> Formula:
    """The value at hand is this one: an array or an object part by part."""
    if isinstance(value, list):
        same: list[Formula] = [IsKind(ARRAY)]
        same += (Size("", "array", least, len(value)) for least in (True, False))
        same += (ItemAt("", i, equals(item)) for i, item in enumerate(value))
        return both(same)
    if isinstance(value, dict):
        same = [IsKind(OBJECT), Properties("", Keys(frozenset(value), others=True), FALSE)]
        same += (Has("", name) for name in value)
        same += (Property("", name, equals(item)) for name, item in value.items())
        return both(same)
    return OneOf((value,))


def one_of(values: list[Any]) -> Formula:
    """The value is one of these; what holds an integer beyond 2**53 is told part by part."""
    far = [v for v in values if isinstance(v, (list, dict)) and json_text.unwritable(v)]
    if not far:
        return OneOf(tuple(values))
    plain = tuple(v for v in values if not any(v is f for f in far))
    return either((*((OneOf(plain),) if plain else ()), *map(equals, far)))


def differs(value: Any) -> Formula:
    """The value at hand is not this one."""
    if isinstance(value, (list, dict)):
        return negate(equals(value))
    return Differs("", value) if kind_of(value) in NUMERIC else NoneOf((value,))
