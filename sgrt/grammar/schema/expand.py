"""Formulas as alternatives: for values of one kind, each a list of assertions that all hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sgrt.errors import UnsupportedSchema
from sgrt.grammar import automaton, json_text, limits
from sgrt.grammar.automaton import Automaton
from sgrt.grammar.schema.clauses import Clause, distributed
from sgrt.grammar.schema.document import Schema
from sgrt.grammar.schema.formula import (
    FALSE,
    NUMERIC,
    TRUE,
    And,
    Atom,
    Bound,
    Contains,
    Differs,
    Formula,
    Has,
    IsKind,
    ItemAt,
    ItemsFrom,
    Joins,
    Keys,
    Matches,
    Multiple,
    NoneOf,
    OneOf,
    Or,
    Properties,
    Property,
    Satisfies,
    Size,
    SomeProperty,
    Unique,
    both,
    either,
    kind_of,
    negate,
)
from sgrt.grammar.schema.numbers import exact
from sgrt.grammar.schema.outline import Outline
from sgrt.grammar.schema.reader import Reader


class Expander:
    """Expands the formulas of one document."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._known: dict[tuple[Schema, bool, str], Formula] = {}
        self._negated: dict[Schema, Formula] = {}
        self._open: dict[Schema, None] = {}
        self.outline = Outline(reader)
        self.joins = Joins(self.outline.simplified)
        self._has_key: dict[tuple[Keys, str, bool], bool] = {}
        self.listed: dict[Keys, Keys] = {}
        """Sets of keys, those told by an enumeration by the keys in it."""
        self.languages: dict[Keys, Automaton] = {}
        """The keys of sets of keys."""
        self.cells: dict[Any, tuple[dict[str, Formula], Formula]] = {}
        """What `objects.Object` found out about sets of keys."""

    def clauses(self, formula: Formula, kind: str) -> list[Clause]:
        """Alternatives that together are the formula, for values of one kind.

        Raises:
            UnsupportedSchema: a schema leads back to itself for one value.
            GrammarBudgetExceeded: too many alternatives.
        """
        return distributed(self.under(formula, kind), self.outline.sketch)

    def under(self, formula: Formula, kind: str) -> Formula:
        """The formula for values of one kind: no schemas and no kinds are left in it."""
        match formula:
            case And(parts):
                if any(isinstance(part, IsKind) and kind not in part.kinds for part in parts):
                    return FALSE
                return _absorb(both(self.under(part, kind) for part in parts))
            case Or(parts):
                return either(self.under(part, kind) for part in parts)
            case IsKind(kinds):
                return TRUE if kind in kinds else FALSE
            case Satisfies(schema, positive):
                return self._unfold(schema, positive, kind)
            case OneOf(values):
                if formula.kinds == {kind}:
                    return formula
                left = tuple(v for v in values if kind_of(v) == kind)
                return OneOf(left) if left else FALSE
            case NoneOf(values):
                left = tuple(v for v in values if kind_of(v) == kind)
                return NoneOf(left) if left else TRUE
            case Multiple() if kind in NUMERIC:
                return _simplify_multiple(formula, kind)
            case Size(_, _, True, 0):
                return TRUE
            case Atom():
                return formula if kind in formula.kinds else TRUE
        raise TypeError(f"{formula!r} is not a formula")

    def _unfold(self, schema: Schema, positive: bool, kind: str) -> Formula:
        key = (schema, positive, kind)
        if key not in self._known:
            if schema in self._open:
                reason = "leads back to itself without a value in between"
                raise UnsupportedSchema(reason, pointer=schema.pointer, keyword="$ref")
            limits.check_limit("references in a row", len(self._open) + 1, limits.MAX_REF_CHAIN)
            self._open[schema] = None
            try:
                self._known[key] = self.under(self._said(schema, positive), kind)
            finally:
                del self._open[schema]
        return self._known[key]

    def _said(self, schema: Schema, positive: bool) -> Formula:
        """What a schema says, or the opposite."""
        formula = self._reader.formula(schema)
        if positive:
            return formula
        if schema not in self._negated:
            self._negated[schema] = negate(formula)
        return self._negated[schema]

    # values

    def holds(self, value: Any, formula: Formula) -> bool:
        """Whether a value satisfies a formula."""
        kind = kind_of(value)
        return self._holds(value, self.under(formula, kind))

    def _holds(self, value: Any, formula: Formula) -> bool:
        match formula:
            case And(parts):
                return all(self._holds(value, part) for part in parts)
            case Or(parts):
                return any(self._holds(value, part) for part in parts)
            case OneOf():
                return json_text.equality_key(value) in formula.keys
            case NoneOf(values):
                return not _is_among(value, values)
            case Bound(_, sign, bound, exclusive):
                return (value - bound) * sign > 0 or (value == bound and not exclusive)
            case Multiple(_, step, positive):
                return ((exact(value) / step).denominator == 1) == positive
            case Differs(_, other):
                return bool(value != other)
            case Matches(_, pattern, widest, positive):
                language = pattern if positive else widest
                return automaton.compile(language).matches(value) == positive
            case Size(_, _, is_least, count):
                return len(value) >= count if is_least else len(value) <= count
        return self._holds_inside(value, formula)

    def _holds_inside(self, value: Any, formula: Formula) -> bool:
        match formula:
            case ItemAt(_, index, item):
                return index >= len(value) or self.holds(value[index], item)
            case ItemsFrom(_, start, item):
                return all(self.holds(v, item) for v in value[start:])
            case Contains(_, start, item, least, most):
                found = sum(self.holds(v, item) for v in value[start:])
                return least <= found and (most is None or found <= most)
            case Unique():
                return len(set(map(json_text.equality_key, value))) == len(value)
            case Has(_, name, present):
                return (name in value) == present
            case Property(_, name, inner):
                return name not in value or self.holds(value[name], inner)
            case Properties(_, keys, inner):
                return all(self.holds(v, inner) for k, v in value.items() if self.has_key(keys, k))
            case SomeProperty(_, keys, inner):
                pairs = value.items()
                return any(self.holds(v, inner) for k, v in pairs if self.surely_has(keys, k))
        raise TypeError(f"{formula!r} is not an assertion")

    def has_key(self, keys: Keys, name: str) -> bool:
        """Whether a key is, for some reader, in a set."""
        return self._is_key(keys, name, certain=False)

    def surely_has(self, keys: Keys, name: str) -> bool:
        """Whether a key is, for every reader, in a set."""
        return self._is_key(keys, name, certain=True)

    def _is_key(self, keys: Keys, name: str, *, certain: bool) -> bool:
        if keys.failing is None and not keys.patterns:
            return (name in keys.names) != keys.others
        asked = (keys, name, certain)
        if asked not in self._has_key:
            if keys.failing is None:
                found = _lists(keys, name, certain=certain != keys.others) != keys.others
            elif certain:
                found = self.holds(name, negate(keys.failing))
            else:
                found = not self.holds(name, keys.failing)
            self._has_key[asked] = found
        return self._has_key[asked]


def _lists(keys: Keys, name: str, *, certain: bool) -> bool:
    patterns = (narrow if certain else widest for narrow, widest in keys.patterns)
    return name in keys.names or any(automaton.compile(p).matches(name) for p in patterns)


def _is_among(value: Any, values: Iterable[Any]) -> bool:
    key = json_text.equality_key(value)
    return any(json_text.equality_key(v) == key for v in values)


def _simplify_multiple(formula: Multiple, kind: str) -> Formula:
    numerator, denominator = formula.step.as_integer_ratio()
    if kind == "fraction" and denominator == 1:
        return FALSE if formula.positive else TRUE
    if kind == "integer" and numerator == 1:
        return TRUE if formula.positive else FALSE
    return formula


def _absorb(formula: Formula) -> Formula:
    """Drop alternatives of which one is asserted anyway."""
    if not isinstance(formula, And):
        return formula
    parts = set(formula.parts)
    return both(
        p for p in formula.parts if not (isinstance(p, Or) and not parts.isdisjoint(p.parts))
    )
