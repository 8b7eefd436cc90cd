"""Assertions about an object as a list of properties and disjoint patterns for the rest."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, lru_cache, reduce
from operator import or_
from typing import Any

from sgrt.errors import UnsupportedSchema
from sgrt.grammar import automaton, limits
from sgrt.grammar.automaton import Automaton
from sgrt.grammar.schema import strings
from sgrt.grammar.schema.arrays import Child
from sgrt.grammar.schema.expand import Clause, Expander, check_clauses
from sgrt.grammar.schema.formula import (
    FALSE,
    TRUE,
    Formula,
    Has,
    Keys,
    OneOf,
    Properties,
    Property,
    Size,
    SomeProperty,
    both,
)
from sgrt.grammar.schema.strings import lengths

Cell = tuple[Automaton, Formula]
"""Keys, and what their values satisfy."""
Unnamed = tuple[dict[str, Formula], Formula]
"""What the values of keys that are not named satisfy: by pattern, and all the others."""


class Object:
    """One clause about objects.

    Attributes:
        properties: formula by key, for all keys that the clause names.
    """

    def __init__(self, clause: Clause, expander: Expander) -> None:
        self._expander = expander
        self._clause = clause
        self._rules = [self._listed(a) for a in clause if isinstance(a, Properties)]
        self.required = {a.name: a for a in clause if isinstance(a, Has) and a.present}
        self._absent = {a.name for a in clause if isinstance(a, Has) and not a.present}
        self._values: dict[str, list[Formula]] = {}
        for atom in clause:
            if isinstance(atom, Property):
                self._values.setdefault(atom.name, []).append(atom.value)
        self.properties = {name: self._value(name) for name in self._names()}

    def _names(self) -> list[str]:
        names = dict.fromkeys(self._values) | dict.fromkeys(self.required)
        for atom in self._clause:
            if isinstance(atom, SomeProperty):
                names |= dict.fromkeys(sorted(atom.keys.names))
        for rule in self._rules:
            names |= dict.fromkeys(sorted(rule.keys.names))
        return list(names | dict.fromkeys(sorted(self._absent)))

    def _value(self, name: str) -> Formula:
        if name in self._absent:
            return FALSE
        found = list(self._values.get(name, ()))
        found += (r.value for r in self._rules if self._expander.has_key(r.keys, name))
        return both(found)

    def _listed(self, rule: Properties) -> Properties:
        """Keys that fail an enumeration are all but those in it."""
        if rule.keys.failing is None:
            return rule
        names: set[str] = set()
        for clause in self._expander.clauses(rule.keys.failing, "string"):
            listed = next((a.values for a in clause if isinstance(a, OneOf)), None)
            if listed is None:
                return rule
            names |= {v for v in listed if all(self._expander.holds(v, a) for a in clause)}
        return Properties(rule.pointer, Keys(frozenset(names), others=True), rule.value)

    # keys that are not named

    @property
    def patterns(self) -> dict[str, Formula]:
        """Formula by pattern, for disjoint sets of keys that are not named."""
        return self._unnamed[0]

    @property
    def rest(self) -> Formula:
        """Formula for all keys left."""
        return self._unnamed[1]

    @cached_property
    def _unnamed(self) -> Unnamed:
        rules = [r for r in self._rules if r.keys.others or r.keys.patterns or r.keys.failing]
        pairs = {pair for rule in rules for pair in rule.keys.patterns}
        rest = both(r.value for r in rules if r.keys.others)
        if any(rule.keys.failing for rule in rules) or len(pairs) > 1:
            return self._cells(rules)
        patterns = {}
        for narrow, widest in pairs:
            if narrow != widest and rest != TRUE:
                return self._cells(rules)
            patterns[widest] = both(
                r.value for r in rules if r.keys.others != bool(r.keys.patterns)
            )
        return patterns, rest

    def _cells(self, rules: list[Properties]) -> Unnamed:
        """All keys split into disjoint sets, one for each formula. Clauses of one schema mostly
        ask for the same split again."""
        key = (frozenset(self.properties), tuple(rules))
        known = self._expander.cells
        if key not in known:
            known[key] = self._split(rules)
        return known[key]

    def _split(self, rules: list[Properties]) -> Unnamed:
        pairs = tuple(pair for rule in rules for pair in rule.keys.patterns)
        # The engine holds a named key to the patterns it matches as well: they leave it out.
        unnamed = ~automaton.of_texts(self.properties)
        cells = _merge([(keys & unnamed, formula) for keys, formula in _clear_keys(pairs)])
        for rule in rules:
            keys = self._language(rule.keys)
            split = []
            for language, formula in cells:
                split.append((language & keys, both((formula, rule.value))))
                split.append((language & ~keys, formula))
            cells = _merge(split)
            limits.check_limit("sets of keys", len(cells), limits.MAX_PATTERNS)
        cells.sort(key=lambda cell: cell[1] == FALSE)
        patterns = {automaton.to_pattern(language): formula for language, formula in cells[:-1]}
        return patterns, cells[-1][1]

    def _language(self, keys: Keys) -> Automaton:
        """All keys that some reader counts into a set; named ones do not matter."""
        if keys.failing is not None:
            clauses = self._expander.clauses(keys.failing, "string")
            return ~reduce(or_, map(self._texts, clauses), automaton.NOTHING)
        patterns = (narrow if keys.others else widest for narrow, widest in keys.patterns)
        listed = reduce(or_, map(automaton.compile, patterns), automaton.NOTHING)
        return ~listed if keys.others else listed

    def _texts(self, clause: Clause) -> Automaton:
        listed = next((a.values for a in clause if isinstance(a, OneOf)), None)
        if listed is None:
            return strings.language(clause)
        holds = self._expander.holds
        return automaton.of_texts(v for v in listed if all(holds(v, a) for a in clause))

    # as a schema

    @property
    def is_closed(self) -> bool:
        """Whether no key but the named ones is allowed."""
        return self.rest == FALSE and all(f == FALSE for f in self.patterns.values())

    def shape(self, child: Child) -> dict[str, Any] | None:
        """As a schema without `type`; None where nothing satisfies it."""
        low, high = lengths(self._clause)
        if any(self.properties[name] == FALSE for name in self.required):
            return None
        if high is not None and max(low, len(self.required)) > high:
            return None
        shape: dict[str, Any] = {}
        if self.properties:
            shape["properties"] = {n: child(f) for n, f in self.properties.items()}
        if self.patterns:
            shape["patternProperties"] = {f"^{p}$": child(f) for p, f in self.patterns.items()}
        if self.rest != TRUE:
            shape["additionalProperties"] = child(self.rest)
        if self.required:
            shape["required"] = list(self.required)
        if low > len(self.required):
            self._check_countable(low)
            shape["minProperties"] = low
        if high is not None:
            shape["maxProperties"] = high
        return shape

    def _check_countable(self, low: int) -> None:
        """Named keys are different, others may repeat: one of those can be counted."""
        if low > len(self.required) + 1 and not self.is_closed:
            raise UnsupportedSchema(
                "is not supported where keys are open",
                pointer=next(a.pointer for a in self._clause if isinstance(a, Size)),
                keyword="minProperties",
                hint="set additionalProperties: false",
            )


_LINE_ENDS = r"[^\x{A}\x{D}\x{2028}\x{2029}]*"
_PRINTABLE = r"[\x{20}-\x{7E}]*"


@lru_cache(maxsize=64)
def _clear_keys(pairs: tuple[tuple[str, str], ...]) -> list[Cell]:
    """The keys to split: where readers of the patterns disagree, only those without the cause.

    Telling the doubtful keys apart one by one makes patterns too large for the engine.
    """
    everything = automaton.of_length(0, None)
    for clear in (everything, automaton.compile(_LINE_ENDS), automaton.compile(_PRINTABLE)):
        if all(_agree(clear, *pair) for pair in pairs):
            return _merge([(clear, TRUE), (~clear, FALSE)])
    return [(everything, TRUE)]


def _agree(keys: Automaton, narrow: str, widest: str) -> bool:
    doubtful = automaton.compile(widest) & ~automaton.compile(narrow)
    return (keys & doubtful).is_empty()


def _merge(cells: list[Cell]) -> list[Cell]:
    """One cell for each formula, none empty."""
    by_formula: dict[Formula, Automaton] = {}
    for language, formula in cells:
        if not language.is_empty():
            known = by_formula.get(formula)
            by_formula[formula] = language if known is None else known | language
    return [(language, formula) for formula, language in by_formula.items()]


def choose(clause: Clause, expander: Expander) -> Iterator[Clause]:
    """Clauses without `SomeProperty` that together are a clause.

    Raises:
        UnsupportedSchema: the property may be one that the schema does not name.
    """
    searched = next((a for a in clause if isinstance(a, SomeProperty)), None)
    if searched is None:
        yield clause
        return
    others = tuple(a for a in clause if a is not searched)
    whole = Object(clause, expander)
    keys = searched.keys
    if (keys.others or keys.patterns or keys.failing is not None) and not whole.is_closed:
        raise UnsupportedSchema(
            "asks for a property that may have any name",
            pointer=searched.pointer,
            hint="set additionalProperties: false where properties are listed",
        )
    names = [name for name in whole.properties if expander.surely_has(keys, name)]
    check_clauses(len(names))
    at = searched.pointer
    for name in names:
        yield from choose((*others, Has(at, name), Property(at, name, searched.value)), expander)


def count(clause: Clause, expander: Expander) -> Iterator[Object]:
    """Clauses that together are a clause, each of which the engine can count the keys of.

    It counts where all keys that a schema names are there for sure, or no others are allowed.
    """
    whole = Object(clause, expander)
    low, high = lengths(clause)
    names = [n for n, f in whole.properties.items() if n not in whole.required and f != FALSE]
    is_counted = low > len(whole.required) or high is not None
    if high is not None and len(whole.required) > high:
        return
    if not names or not is_counted or whole.is_closed:
        yield whole
        return
    is_short = high is None and low == len(whole.required) + 1  # one name more is enough
    most = limits.MAX_OPTIONAL_COUNTED * (10 if is_short else 1)
    limits.check_limit("optional properties that are counted", len(names), most)
    at = next(a.pointer for a in clause if isinstance(a, Size))
    for present in (True, False):
        yield from count((*clause, Has(at, names[0], present)), expander)
