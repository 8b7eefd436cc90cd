"""What is plain to see of a formula without unfolding it: kinds, values, and that it says nothing
satisfies it."""

from __future__ import annotations

from dataclasses import dataclass

from sgrt.grammar import limits
from sgrt.grammar.schema.document import Schema
from sgrt.grammar.schema.formula import (
    FALSE,
    KINDS,
    And,
    Atom,
    Formula,
    IsKind,
    NoneOf,
    OneOf,
    Or,
    Satisfies,
    both,
)
from sgrt.grammar.schema.reader import Reader

_ALL_KINDS = frozenset(KINDS)


@dataclass(frozen=True, slots=True)
class Sketch:
    """What is plain of one formula.

    Attributes:
        kinds: that a value of it can have.
        values: keys of all values that can satisfy it; None where it lists none.
        excluded: keys of values that do not satisfy it, as far as it lists them.
        holding, failing: schemas that hold, and that do not.
    """

    kinds: frozenset[str]
    values: frozenset[str] | None
    excluded: frozenset[str]
    holding: frozenset[Schema]
    failing: frozenset[Schema]

    def excludes(self, other: Sketch) -> bool:
        """Whether plainly no value satisfies both."""
        if self.kinds.isdisjoint(other.kinds):
            return True
        if not (self.holding.isdisjoint(other.failing) and self.failing.isdisjoint(other.holding)):
            return True
        values, others = self.values, other.values
        if values is None or others is None:
            values = others if values is None else values
        else:
            values &= others
        return values is not None and values <= (self.excluded | other.excluded)


class Outline:
    """Outlines of the formulas of one document, remembered by schema and formula."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._kinds: dict[tuple[Schema, bool], frozenset[str]] = {}
        self._values: dict[Schema, frozenset[str] | None] = {}
        self._is_nothing: dict[Formula, bool] = {}
        self._sketches: dict[Formula, Sketch] = {}

    def kinds(self, formula: Formula, is_positive: bool = True, depth: int = 0) -> frozenset[str]:
        """Kinds that a value of a formula, or of its opposite, can have; and perhaps more."""
        match formula:
            case And(parts) | Or(parts):
                found = [self.kinds(part, is_positive, depth) for part in parts]
                if isinstance(formula, And) == is_positive:
                    return _ALL_KINDS.intersection(*found)
                return frozenset().union(*found)
            case IsKind(kinds):
                return kinds if is_positive else _ALL_KINDS - kinds
            case OneOf() | NoneOf():
                return formula.kinds if isinstance(formula, OneOf) == is_positive else _ALL_KINDS
            case Satisfies(schema, holds) if depth < limits.MAX_REF_CHAIN:
                key = schema, holds == is_positive
                if key not in self._kinds:
                    inside = self._reader.formula(schema)
                    self._kinds[key] = self.kinds(inside, key[1], depth + 1)
                return self._kinds[key]
            case Atom() if not is_positive:
                return formula.kinds
        return _ALL_KINDS

    def is_nothing(self, formula: Formula) -> bool:
        """Whether plainly no value satisfies a formula."""
        known = self._is_nothing.get(formula)
        if known is None:
            known = self._is_nothing[formula] = self._finds_nothing(formula)
        return known

    def simplified(self, formula: Formula) -> Formula:
        """The same without what the rest of it plainly implies; FALSE where nothing satisfies it."""
        if self.is_nothing(formula):
            return FALSE
        if not isinstance(formula, And):
            return formula
        kept = list(formula.parts)
        for part in reversed(formula.parts):
            if isinstance(part, Satisfies) and len(kept) > 1:
                opposite = self.sketch(Satisfies(part.schema, not part.positive))
                if any(self.sketch(p).excludes(opposite) for p in kept if p is not part):
                    kept.remove(part)
        return formula if len(kept) == len(formula.parts) else both(kept)

    def _finds_nothing(self, formula: Formula) -> bool:
        if isinstance(formula, Or):
            return all(map(self.is_nothing, formula.parts))
        sketch = self.sketch(formula)
        return not sketch.kinds or sketch.excludes(sketch)

    def sketch(self, formula: Formula) -> Sketch:
        known = self._sketches.get(formula)
        if known is None:
            known = self._sketches[formula] = self._sketch_of(formula)
        return known

    def _sketch_of(self, formula: Formula) -> Sketch:
        parts = formula.parts if isinstance(formula, And) else (formula,)
        asked = [part for part in parts if isinstance(part, Satisfies)]
        return Sketch(
            self.kinds(formula),
            self._values_of(formula),
            frozenset().union(*map(self._excluded, parts)),
            frozenset([part.schema for part in asked if part.positive]),
            frozenset([part.schema for part in asked if not part.positive]),
        )

    def _values_of(self, formula: Formula, depth: int = 0) -> frozenset[str] | None:
        """Keys of all values that can satisfy a formula, where it lists them."""
        match formula:
            case OneOf():
                return formula.keys
            case And(parts):
                listed = [v for p in parts if (v := self._values_of(p, depth)) is not None]
                return frozenset.intersection(*listed) if listed else None
            case Satisfies(schema, True) if depth < limits.MAX_REF_CHAIN:
                if schema not in self._values:
                    inside = self._reader.formula(schema)
                    self._values[schema] = self._values_of(inside, depth + 1)
                return self._values[schema]
        return None

    def _excluded(self, formula: Formula) -> frozenset[str]:
        """Keys of values that do not satisfy a formula, as far as it lists them."""
        if isinstance(formula, NoneOf):
            return formula.keys
        if isinstance(formula, Satisfies) and not formula.positive:
            inside = self._reader.formula(formula.schema)
            others = inside.parts if isinstance(inside, And) else (inside,)
            listed = next((part for part in others if isinstance(part, OneOf)), None)
            if listed is not None and all(
                part is listed or (isinstance(part, IsKind) and listed.kinds <= part.kinds)
                for part in others
            ):
                return listed.keys
        return frozenset()
