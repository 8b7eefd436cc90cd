"""Assertions about an object as a list of properties and disjoint patterns for the rest."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property, lru_cache, reduce
from operator import or_
from typing import Any

from sgrt.errors import GrammarBudgetExceeded, UnsupportedSchema
from sgrt.grammar import automaton, json_text, limits, unparse
from sgrt.grammar.automaton import Automaton
from sgrt.grammar.schema import strings
from sgrt.grammar.schema.arrays import Child
from sgrt.grammar.schema.clauses import Clause, check_clauses
from sgrt.grammar.schema.expand import Expander
from sgrt.grammar.schema.formula import (
    FALSE,
    STRING,
    TRUE,
    And,
    Formula,
    Has,
    IsKind,
    Keys,
    Matches,
    OneOf,
    Properties,
    Property,
    Size,
    SomeProperty,
    both,
    either,
    negate,
)
from sgrt.grammar.schema.strings import lengths

Unnamed = tuple[dict[str, Formula], Formula]
"""What the values of keys that are not named satisfy: by pattern, and all the others."""


class Object:
    """One clause about objects.

    Attributes:
        properties: formula by key, for all keys that the clause names.
        low, high: how many keys there may be; no upper limit where `high` is None.
    """

    def __init__(self, clause: Clause, expander: Expander) -> None:
        self._expander = expander
        self._rules: list[Properties] = []
        self._searches: list[SomeProperty] = []
        self.required: dict[str, Has] = {}
        self._absent: set[str] = set()
        self._values: dict[str, list[Formula]] = {}
        self._sizes: list[Size] = []
        for atom in _listed(clause, expander):
            if isinstance(atom, Property):
                self._values.setdefault(atom.name, []).append(atom.value)
            elif isinstance(atom, Has):
                self._note_presence(atom)
            elif isinstance(atom, Properties):
                self._rules.append(atom)
            elif isinstance(atom, SomeProperty):
                self._searches.append(atom)
            elif isinstance(atom, Size):
                self._sizes.append(atom)
        self.low, self.high = lengths(self._sizes)
        self.properties = {name: self._value(name) for name in self._names()}

    def _note_presence(self, atom: Has) -> None:
        if atom.present:
            self.required[atom.name] = atom
        else:
            self._absent.add(atom.name)

    def _names(self) -> list[str]:
        names = dict.fromkeys(self._values) | dict.fromkeys(self.required)
        for search in self._searches:
            names |= dict.fromkeys(sorted(search.keys.names))
        for rule in self._rules:
            if not rule.keys.names <= names.keys():
                names |= dict.fromkeys(sorted(rule.keys.names))
        if self._names_all():
            names |= dict.fromkeys(self._few())
        return list(names | dict.fromkeys(sorted(self._absent)))

    def _names_all(self) -> bool:
        """Whether keys have to be told apart, to count them or to choose one."""
        return self.low > len(self.required) + 1 or bool(self._searches)

    def _few(self) -> Iterator[str]:
        """All keys of patterns that match only a few: those can be counted."""
        for rule in self._rules:
            for _, widest in () if rule.keys.others else rule.keys.patterns:
                texts = automaton.compile(widest).texts(limits.MAX_COUNTED_KEYS)
                yield from (t for t in texts or () if json_text.unwritable(t) is None)

    def _value(self, name: str) -> Formula:
        if name in self._absent:
            return FALSE
        found = list(self._values.get(name, ()))
        found += [r.value for r in self._rules if self._expander.has_key(r.keys, name)]
        return self._expander.joins(found)

    def having(self, name: str, present: bool) -> Object:
        """The same with a key that it names there, or not there."""
        other = copy.copy(self)
        if present:
            other.required = {**self.required, name: Has("", name)}
        else:
            other._absent = self._absent | {name}
            other.properties = {**self.properties, name: FALSE}
        if other._names_all() != self._names_all():
            other.properties = {key: other._value(key) for key in other._names()}
            other.__dict__.pop("_unnamed", None)
            other.__dict__.pop("is_closed", None)
        return other

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
        patterns, rest = self._by_rules()
        if self._names_all():
            for pattern in list(patterns):
                texts = automaton.compile(pattern).texts(limits.MAX_COUNTED_KEYS)
                if texts is not None and self.properties.keys() >= set(texts):
                    del patterns[pattern]
        return patterns, rest

    def _by_rules(self) -> Unnamed:
        rules = [r for r in self._rules if r.keys.others or r.keys.patterns or r.keys.failing]
        pairs = tuple(dict.fromkeys(pair for rule in rules for pair in rule.keys.patterns))
        rest = both(r.value for r in rules if r.keys.others)
        if not pairs and not any(rule.keys.failing for rule in rules):
            return {}, rest
        if any(rule.keys.failing for rule in rules) or not self._is_plain(rules, pairs):
            return self._cells(rules)
        if rest == TRUE or all(narrow == widest for narrow, widest in pairs):
            return {pair[1]: _value_of(pair, rules) for pair in pairs}, rest
        if rest == FALSE:  # also for keys that only some reader finds
            return {pair[0]: _value_of(pair, rules) for pair in pairs}, rest
        return self._cells(rules)

    def _is_plain(self, rules: list[Properties], pairs: tuple[tuple[str, str], ...]) -> bool:
        """Whether the patterns can stand as they are: no key matches two of them, and what is said
        of the keys of one is said of the named ones among them too (the engine holds them to it).
        """
        if not _are_disjoint(pairs):
            return False
        said_of_unnamed = [r for r in rules if r.keys.others]
        applied = [
            w for n, w in pairs if any((n, w) not in r.keys.patterns for r in said_of_unnamed)
        ]
        return not any(automaton.compile(w).matches(n) for w in applied for n in self.properties)

    def _cells(self, rules: list[Properties]) -> Unnamed:
        """All keys split into disjoint sets, one for each formula. Clauses of one schema mostly
        ask for the same split again."""
        key = (frozenset(self.properties), tuple(rules))
        known = self._expander.cells
        if key not in known:
            known[key] = self._split(rules)
        return known[key]

    def _split(self, rules: list[Properties]) -> Unnamed:
        """The set that likely takes most to write is not written: it is what the others leave."""
        pairs = tuple(pair for rule in rules for pair in rule.keys.patterns)
        languages: list[tuple[Automaton, Formula | None]] = [(_doubtful_keys(pairs), FALSE)]
        languages += ((self._language(rule.keys), rule.value) for rule in rules)
        languages.append((automaton.of_texts(self.properties), None))
        found = automaton.cells(languages, _and_also, TRUE)
        cells = [(keys, formula) for formula, keys in found.items() if formula is not None]
        limits.check_limit("sets of keys", len(cells), limits.MAX_KEY_SETS)
        known = dict.fromkeys(text for pair in pairs for text in pair)
        known |= dict.fromkeys(p for rule in rules for p in self._asked_for(rule.keys))
        if not cells:
            return {}, FALSE
        cells.sort(key=lambda cell: len(cell[0].live))
        *few, (most, rest) = cells
        written = [(_written(keys, known), formula) for keys, formula in few]
        if any(pattern is None for pattern, _ in written):
            written.append((_written(most, known), rest))
            written.sort(key=lambda pair: len(pair[0]) if pair[0] is not None else math.inf)
            rest = written.pop()[1]
        patterns = {}
        for pattern, formula in written:
            size = len(pattern or "") or limits.MAX_WRITTEN_REGEX_BYTES + 1
            limits.check_limit("bytes of a pattern for keys", size, limits.MAX_WRITTEN_REGEX_BYTES)
            patterns[pattern or ""] = formula
        return patterns, rest

    def _asked_for(self, keys: Keys) -> Iterator[str]:
        """Patterns that all keys out of a set match."""
        failing = TRUE if keys.failing is None else self._expander.under(keys.failing, "string")
        for part in failing.parts if isinstance(failing, And) else (failing,):
            if isinstance(part, Matches) and part.positive:
                yield part.pattern

    def _language(self, keys: Keys) -> Automaton:
        """All keys that some reader counts into a set; named ones do not matter."""
        known = self._expander.languages
        if keys not in known:
            known[keys] = self._find_language(keys)
        return known[keys]

    def _find_language(self, keys: Keys) -> Automaton:
        if keys.failing is not None:
            return ~strings.language(self._expander.under(keys.failing, "string"))
        patterns = (narrow if keys.others else widest for narrow, widest in keys.patterns)
        listed = reduce(or_, map(automaton.compile, patterns), automaton.NOTHING)
        return ~listed if keys.others else listed

    # as a schema

    @cached_property
    def is_closed(self) -> bool:
        """Whether no key but the named ones is allowed."""
        barred = [rule.keys for rule in self._rules if rule.value == FALSE]
        if not barred:
            return False
        if any(k.others and not k.patterns and k.names <= self.properties.keys() for k in barred):
            return True  # mostly; patterns need not be looked at
        return self.rest == FALSE and all(f == FALSE for f in self.patterns.values())

    def shape(self, child: Child) -> dict[str, Any] | None:
        """As a schema without `type`; None where nothing satisfies it."""
        low, high = self.low, self.high
        if any(self.properties[name] == FALSE for name in self.required):
            return None
        if high is not None and max(low, len(self.required)) > high:
            return None
        shape: dict[str, Any] = {}
        # The engine counts keys only where all that are named may be there.
        is_closed = self.is_closed
        left_out = (FALSE,) if is_closed else ()
        properties = {n: f for n, f in self.properties.items() if f not in left_out}
        patterns = {} if is_closed else self.patterns
        if properties:
            shape["properties"] = {n: child(f, 1) for n, f in properties.items()}
        if patterns:
            shape["patternProperties"] = {
                strings.whole(p): child(f, 1) for p, f in patterns.items()
            }
        rest = FALSE if is_closed else self.rest
        if rest != TRUE:
            shape["additionalProperties"] = child(rest, 1)
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
                pointer=self._sizes[0].pointer,
                keyword="minProperties",
                hint="set additionalProperties: false",
            )


_LINE_ENDS = r"[^\x{A}\x{D}\x{2028}\x{2029}]*"
_PRINTABLE = r"[\x{20}-\x{7E}]*"


def _value_of(pair: tuple[str, str], rules: list[Properties]) -> Formula:
    """What the values of the keys that match a pattern satisfy."""
    return both(r.value for r in rules if r.keys.others != (pair in r.keys.patterns))


@lru_cache(maxsize=64)
def _are_disjoint(pairs: tuple[tuple[str, str], ...]) -> bool:
    """Whether no key matches two of the patterns, whoever reads them."""
    found = [automaton.compile(widest) for _, widest in pairs] if len(pairs) > 1 else []
    return not any(a.meets(b) for a, b in itertools.combinations(found, 2))


@lru_cache(maxsize=64)
def _doubtful_keys(pairs: tuple[tuple[str, str], ...]) -> Automaton:
    """Keys not to be written: where readers of the patterns disagree, those with the cause.

    Telling the doubtful keys apart one by one makes patterns too large for the engine.
    """
    for clear in (automaton.of_length(0, None), *map(automaton.compile, (_LINE_ENDS, _PRINTABLE))):
        if all(_agree(clear, *pair) for pair in pairs):
            return ~clear
    return automaton.NOTHING


def _agree(keys: Automaton, narrow: str, widest: str) -> bool:
    doubtful = automaton.compile(widest) & ~automaton.compile(narrow)
    return (keys & doubtful).is_empty()


def _and_also(one: Formula | None, other: Formula | None) -> Formula | None:
    """Both hold for the values of a key; None where it has a name and is not asked for."""
    return None if one is None or other is None else both((one, other))


def _listed(clause: Clause, expander: Expander) -> Clause:
    """The same, with keys that an enumeration tells named."""
    failing = [
        isinstance(a, (Properties, SomeProperty)) and a.keys.failing is not None for a in clause
    ]
    if not any(failing):
        return clause
    return tuple(
        replace(a, keys=_listed_keys(a.keys, expander))
        if isinstance(a, (Properties, SomeProperty)) and a.keys.failing is not None
        else a
        for a in clause
    )


def _listed_keys(keys: Keys, expander: Expander) -> Keys:
    known = expander.listed
    if keys not in known:
        assert keys.failing is not None
        satisfying = _enumerated(keys.failing, expander)
        failing = None if satisfying is not None else _enumerated(negate(keys.failing), expander)
        if satisfying is not None:
            known[keys] = Keys(satisfying, others=True)
        else:
            known[keys] = keys if failing is None else Keys(failing)
    return known[keys]


def _enumerated(formula: Formula, expander: Expander) -> frozenset[str] | None:
    """All strings that satisfy a formula, where an enumeration says which; else None."""
    names: set[str] = set()
    for clause in expander.clauses(formula, "string"):
        values = next((a.values for a in clause if isinstance(a, OneOf)), None)
        if values is None:
            return None
        names |= {v for v in values if all(expander.holds(v, a) for a in clause)}
    return frozenset(names)


def _written(keys: Automaton, known: Iterable[str]) -> str | None:
    """A pattern for keys, one that is known if it can be; None where it gets too long.

    The engine holds a named key to the patterns it matches as well: they leave it out.
    """
    for pattern in known:
        if keys.is_same(automaton.compile(pattern)):
            return pattern
    try:
        return unparse.to_pattern(keys)
    except GrammarBudgetExceeded:
        return None


_MAX_BESIDE = 6
"""Named keys that may be there or not beside a required one of any name; more are left out."""


def is_whole(clause: Clause, expander: Expander) -> bool:
    """Whether `choose` leaves nothing out."""
    clause = _listed(clause, expander)
    searches = [a.keys for a in clause if isinstance(a, SomeProperty)]
    if all(not k.patterns and not k.others and k.failing is None for k in searches):
        return True
    return lengths(clause)[1] == 1 or Object(clause, expander).is_closed


def choose(clause: Clause, expander: Expander) -> Iterator[Clause]:
    """Clauses without `SomeProperty` that together are a clause, as far as `is_whole` says."""
    clause = _listed(clause, expander)
    searched = next((a for a in clause if isinstance(a, SomeProperty)), None)
    if searched is None:
        yield clause
        return
    others = tuple(a for a in clause if a is not searched)
    keys, at = searched.keys, searched.pointer
    if lengths(clause)[1] == 1:  # what is searched for is all there is
        only = Properties(at, _other_than(keys), FALSE)
        each = Properties(at, keys, searched.value)
        yield from choose((*others, Size(at, "object", True, 1), each, only), expander)
        return
    whole = Object(clause, expander)
    names = [
        name
        for name, known in whole.properties.items()
        if expander.surely_has(keys, name) and expander.joins([known, searched.value]) != FALSE
    ]
    check_clauses(len(names))
    for name in names:
        yield from choose((*others, Has(at, name), Property(at, name, searched.value)), expander)
    if (keys.others or keys.patterns or keys.failing is not None) and not whole.is_closed:
        for found in _unnamed_only(searched, others, whole):
            yield from choose(found, expander)


def _unnamed_only(searched: SomeProperty, others: Clause, whole: Object) -> Iterator[Clause]:
    """Clauses in which what is searched for has a name that the schema does not give, and so have
    all other keys without one: those the engine can count.
    """
    at = searched.pointer
    named = OneOf(tuple(whole.properties)) if whole.properties else FALSE
    optional = [n for n, f in whole.properties.items() if n not in whole.required and f != FALSE]
    inside = _is_in(searched)
    only = Properties(at, Keys(failing=either((inside, named))), FALSE)
    each = Properties(at, Keys(failing=either((negate(inside), named))), searched.value)
    required = {a.name for a in others if isinstance(a, Has) and a.present}
    choices = (True, False) if len(optional) <= _MAX_BESIDE else (False,)
    for present in itertools.product(choices, repeat=len(optional)):
        has = [Has(at, name, p) for name, p in zip(optional, present, strict=True)]
        low = len(required) + sum(present) + 1
        yield (*others, *has, only, each, Size(at, "object", True, low))


def _is_in(searched: SomeProperty) -> Formula:
    """A key is for sure in the set that is searched."""
    keys = searched.keys
    if keys.failing is not None:
        return both((IsKind(STRING), negate(keys.failing)))
    listed: list[Formula] = [OneOf(tuple(keys.names))] if keys.names else []
    listed += (Matches(searched.pointer, *pair) for pair in keys.patterns)
    inside = either(listed)
    return both((IsKind(STRING), negate(inside) if keys.others else inside))


def _other_than(keys: Keys) -> Keys:
    """All keys that are not in a set for sure."""
    if keys.failing is not None:
        return Keys(failing=negate(keys.failing))
    return Keys(keys.names, keys.patterns, not keys.others)


def count(clause: Clause, expander: Expander) -> Iterator[Object]:
    """Clauses that together are a clause, each of which the engine can count the keys of; as far as
    `counts_all` says.

    It counts where all keys that a schema names are there for sure; and, where no others are
    allowed, at least one of those that may be there, or one of them at most. Keys without a name may
    repeat, so one of those is counted.
    """
    whole = Object(clause, expander)
    found = _counted(whole)
    if _is_short_of_names(whole) and _optional(whole):
        return (part for part in found if not _is_short_of_names(part))
    return found


def counts_all(clause: Clause, expander: Expander) -> bool:
    """Whether `count` leaves nothing out."""
    return lengths(clause)[0] < 2 or not _is_short_of_names(Object(clause, expander))


def _is_short_of_names(whole: Object) -> bool:
    return whole.low > len(whole.required) + 1 and not whole.is_closed


def _optional(whole: Object) -> list[str]:
    return [n for n, f in whole.properties.items() if n not in whole.required and f != FALSE]


def _counted(whole: Object) -> Iterator[Object]:
    low, high = whole.low, whole.high
    names = _optional(whole)
    missing = low - len(whole.required)
    room = None if high is None else high - len(whole.required)
    if (room is not None and room < max(missing, 0)) or (whole.is_closed and missing > len(names)):
        return
    is_counted = missing > 0 or room is not None
    is_simple = whole.is_closed and missing <= 1 and room in (None, 1)
    if not names or not is_counted or is_simple:
        yield whole
        return
    if room == 0:
        for name in names:
            whole = whole.having(name, False)
        yield from _counted(whole)
        return
    if not whole.is_closed and high is None:  # so many names more are enough
        ways = math.comb(len(names) + missing, missing)
        limits.check_limit("ways to count optional properties", ways, limits.MAX_ARRANGEMENTS)
    elif not whole.is_closed:
        most = limits.MAX_OPTIONAL_COUNTED
        limits.check_limit("optional properties that are counted", len(names), most)
    for present in (True, False):
        yield from _counted(whole.having(names[0], present))
