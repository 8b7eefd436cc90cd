"""Which properties and items a schema has looked at: what `unevaluated...` leaves to a rest.

That depends on which parts of the schema hold for the value. So the ways in which they may hold
or not are written out, each with what is evaluated then.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sgrt.grammar import limits
from sgrt.grammar.schema.document import Schema
from sgrt.grammar.schema.formula import (
    TRUE,
    Formula,
    Has,
    ItemsFrom,
    Keys,
    Properties,
    both,
    either,
    satisfies,
)

if TYPE_CHECKING:
    from sgrt.grammar.schema.reader import Reader


@dataclass(frozen=True)
class Evaluated:
    """Properties and items that were looked at.

    Attributes:
        names, patterns, all_properties: properties by name, by pattern, or all.
        num_items, all_items: items from the first on, or all.
        found: items that satisfy one of these (`contains`).
    """

    names: frozenset[str] = frozenset()
    patterns: tuple[tuple[str, str], ...] = ()
    all_properties: bool = False
    num_items: int = 0
    all_items: bool = False
    found: tuple[Formula, ...] = ()

    def __or__(self, other: Evaluated) -> Evaluated:
        return Evaluated(
            self.names | other.names,
            tuple(dict.fromkeys(self.patterns + other.patterns)),
            self.all_properties or other.all_properties,
            max(self.num_items, other.num_items),
            self.all_items or other.all_items,
            tuple(dict.fromkeys(self.found + other.found)),
        )


NOTHING = Evaluated()

Case = tuple[Formula, Evaluated]
"""A way in which the parts of a schema hold, and what is evaluated then."""


class Evaluation:
    """Reads what schemas evaluate."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._known: dict[tuple[Schema, str | None], list[Case]] = {}

    def rest_of_properties(self, schema: Schema, rest: Formula) -> Formula:
        """Properties that nothing beside the keyword evaluates satisfy a formula."""
        cases = self._cases(schema, "unevaluatedProperties", 0)
        return either(both((when, _rest_of_keys(schema, e, rest))) for when, e in cases)

    def rest_of_items(self, schema: Schema, rest: Formula) -> Formula:
        """Items that nothing beside the keyword evaluates satisfy a formula."""
        cases = self._cases(schema, "unevaluatedItems", 0)
        return either(both((when, _rest_of_items(schema, e, rest))) for when, e in cases)

    def _cases(self, schema: Schema, asking: str | None, depth: int) -> list[Case]:
        """Ways in which a schema that holds can hold.

        Args:
            asking: the keyword at this schema whose own evaluation does not count.
        """
        limits.check_limit("references in a row", depth, limits.MAX_REF_CHAIN)
        key = (schema, asking)
        if key not in self._known:
            self._known[key] = self._find_cases(schema, asking, depth)
        return self._known[key]

    def _find_cases(self, schema: Schema, asking: str | None, depth: int) -> list[Case]:
        if not isinstance(schema.node, dict):
            return [(TRUE, NOTHING)]
        cases: list[Case] = [(TRUE, self._own(schema, asking))]
        for options in self._parts(schema, depth + 1):
            cases = _merge((both((f, g)), seen | more) for f, seen in cases for g, more in options)
        if all(e == cases[0][1] for _, e in cases):
            return [(TRUE, cases[0][1])]
        return cases

    def _own(self, schema: Schema, asking: str | None) -> Evaluated:
        node, reader = schema.node, self._reader
        patterns = [
            reader.patterns(schema, "patternProperties", p)
            for p in reader.map_of(schema, "patternProperties")
        ]
        rests = {"additionalProperties", "unevaluatedProperties"} - {asking}
        items, prefix = node.get("items"), node.get("prefixItems", [])
        is_tuple = isinstance(items, list)
        all_items = "items" in node and (not is_tuple or "additionalItems" in node)
        found: tuple[Formula, ...] = ()
        if "contains" in node:
            found = (satisfies(reader.child(schema, node["contains"], "contains")),)
        return Evaluated(
            frozenset(reader.map_of(schema, "properties")),
            tuple(patterns),
            bool(rests & node.keys()),
            len(items if is_tuple else prefix if isinstance(prefix, list) else []),
            all_items or (asking != "unevaluatedItems" and "unevaluatedItems" in node),
            found,
        )

    def _parts(self, schema: Schema, depth: int) -> Iterable[list[Case]]:
        """The cases of each part that is read in place."""
        node, reader = schema.node, self._reader
        for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
            if keyword in node:
                yield self._cases(reader.target(schema, keyword), None, depth)
        if "allOf" in node:
            for sub in reader.list_of(schema, "allOf"):
                yield self._cases(sub, None, depth)
        for keyword in ("anyOf", "oneOf"):
            if keyword in node:
                for sub in reader.list_of(schema, keyword):
                    yield self._maybe(sub, depth)
        for keyword in ("dependentSchemas", "dependencies"):
            for name, value in reader.map_of(schema, keyword).items():
                if not isinstance(value, list):
                    sub = reader.child(schema, value, keyword, name)
                    yield self._when_there(schema, name, self._cases(sub, None, depth))
        if "if" in node:
            yield self._condition(schema, depth)

    def _maybe(self, sub: Schema, depth: int) -> list[Case]:
        """A part that may hold or not."""
        cases = self._cases(sub, None, depth)
        if cases == [(TRUE, NOTHING)]:
            return cases
        holds = [(both((satisfies(sub), f)), seen) for f, seen in cases]
        return [*holds, (satisfies(sub, False), NOTHING)]

    def _when_there(self, schema: Schema, name: str, cases: list[Case]) -> list[Case]:
        there, absent = (Has(schema.pointer, name, present) for present in (True, False))
        return [*((both((there, f)), seen) for f, seen in cases), (absent, NOTHING)]

    def _condition(self, schema: Schema, depth: int) -> list[Case]:
        node, reader = schema.node, self._reader
        condition = reader.child(schema, node["if"], "if")
        then = reader.child(schema, node.get("then", True), "then")
        other = reader.child(schema, node.get("else", True), "else")
        holds = [
            (both((satisfies(condition), f, g)), seen | more)
            for f, seen in self._cases(condition, None, depth)
            for g, more in self._cases(then, None, depth)
        ]
        fails = [
            (both((satisfies(condition, False), f)), seen)
            for f, seen in self._cases(other, None, depth)
        ]
        return [*holds, *fails]


def _merge(cases: Iterable[Case]) -> list[Case]:
    """One case for each outcome."""
    by_outcome: dict[Evaluated, list[Formula]] = {}
    for formula, seen in cases:
        by_outcome.setdefault(seen, []).append(formula)
        limits.check_limit("ways to evaluate a schema", len(by_outcome), limits.MAX_CASES)
    return [(either(formulas), seen) for seen, formulas in by_outcome.items()]


def _rest_of_keys(schema: Schema, seen: Evaluated, rest: Formula) -> Formula:
    if seen.all_properties:
        return TRUE
    return Properties(schema.pointer, Keys(seen.names, seen.patterns, others=True), rest)


def _rest_of_items(schema: Schema, seen: Evaluated, rest: Formula) -> Formula:
    if seen.all_items:
        return TRUE
    return ItemsFrom(schema.pointer, seen.num_items, either((rest, *seen.found)))
