"""Formulas about one kind of value as alternatives, each a list of assertions that all hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import reduce
from itertools import chain
from operator import and_, or_

from sgrt.grammar import limits
from sgrt.grammar.schema.formula import (
    FALSE,
    TRUE,
    And,
    Formula,
    Has,
    OneOf,
    Or,
    Properties,
    Property,
    Satisfies,
)
from sgrt.grammar.schema.outline import Sketch

Clause = tuple[Formula, ...]
"""Assertions (atoms, `OneOf`, `NoneOf`) about values of one kind."""

_Numbered = tuple[int, tuple[int, ...]]
"""A clause as bits and in order: one number for each assertion."""


def distributed(formula: Formula, sketch: Callable[[Formula], Sketch]) -> list[Clause]:
    """Alternatives that together are a formula without schemas, about values of one kind.

    Those that plainly contradict themselves, or say no more than another one, are left out.

    Args:
        sketch: what is plain of a formula.

    Raises:
        GrammarBudgetExceeded: too many alternatives, or too many that had to be tried.
    """
    distributor = _Distributor(sketch)
    found = distributor.distribute(formula)
    atoms = list(distributor.numbers)
    return [tuple(map(atoms.__getitem__, order)) for _, order in found]


def check_clauses(count: int) -> None:
    """Bound the alternatives of one place."""
    limits.check_limit(
        "alternatives of one schema",
        count,
        limits.MAX_CLAUSES,
        "fewer anyOf, oneOf, if or dependent... that meet in one value",
    )


class _Distributor:
    """Alternatives of one formula, whose assertions get numbers: sets of them are bits."""

    def __init__(self, sketch: Callable[[Formula], Sketch]) -> None:
        self._sketch = sketch
        self.numbers: dict[Formula, int] = {}
        self._atoms: list[Formula] = []
        self._subjects: list[Hashable] = []
        """What each assertion is about; None where it contradicts no other one plainly."""
        self._about: dict[Hashable, int] = {}
        """All assertions about a subject."""
        self._closed_by: dict[int, frozenset[str]] = {}
        """Assertions that there are no other keys than these; about all others that are met."""
        self._compared: list[int] = []
        self._against: list[int] = []
        self._implied: list[int] = []
        """By assertion: with which others it was compared, which of them it contradicts, and which
        hold where it does."""
        self._sketches: dict[int, tuple[Sketch, Sketch | None]] = {}
        """Of what an assertion says of a value, and of the opposite."""
        self._impossible: dict[int, bool] = {}
        self._closed: dict[tuple[int, int], int] = {}

    def distribute(self, formula: Formula) -> list[_Numbered]:
        match formula:
            case Or(parts):
                found = [clause for part in parts for clause in self.distribute(part)]
            case And(parts):
                plain = [self._number(part) for part in parts if not isinstance(part, Or)]
                found = [_numbered(plain)]
                ways = sorted((self.distribute(p) for p in parts if isinstance(p, Or)), key=len)
                if ways:
                    found = self._possible(found)
                for options in ways:
                    found = self._kept(self._joined(found, self._possible(options)))
            case _:
                return [_numbered([self._number(formula)])]
        found = self._kept(found)
        check_clauses(len(found))
        return found

    def _number(self, atom: Formula) -> int:
        number = self.numbers.setdefault(atom, len(self.numbers))
        if number == len(self._atoms):
            subject = _subject(atom)
            self._atoms.append(atom)
            self._subjects.append(subject)
            self._compared.append(1 << number)
            self._against.append(0)
            self._implied.append(0)
            if subject is not None:
                self._about[subject] = (
                    self._about.get(subject, self._barring(subject)) | 1 << number
                )
            elif isinstance(atom, Properties) and _closes(atom):
                self._bar(number, atom.keys.names)
        return number

    def _bar(self, number: int, names: frozenset[str]) -> None:
        """Take in that there are no other keys than these."""
        self._closed_by[number] = names
        for subject in self._about:
            if subject is not OneOf and subject not in names:
                self._about[subject] |= 1 << number

    def _barring(self, subject: Hashable) -> int:
        """What says that a key is not there."""
        if subject is OneOf:
            return 0
        return sum(1 << number for number, names in self._closed_by.items() if subject not in names)

    def _joined(self, found: list[_Numbered], options: list[_Numbered]) -> Iterator[_Numbered]:
        """Every clause with every option, as far as they go together.

        Raises:
            GrammarBudgetExceeded: there are too many of them to try.
        """
        masks = [bits for bits, _ in options]
        subjects = [self._subjects_of(order) for _, order in options]
        asked = self._by_subject(reduce(or_, masks, 0))
        num_tried = 0
        for left, order in found:
            closed = self._closure(left, asked)
            if any(bits & closed == bits for bits in masks):
                yield left, order  # an option holds anyway: with another one it says only more
                continue
            num_tried += len(options)
            limits.check_limit("alternatives tried", num_tried, limits.MAX_CLAUSES_TRIED)
            for (right, more), about in zip(options, subjects, strict=True):
                bits = left | right
                if not any(self._is_impossible(bits & subject) for subject in about):
                    yield bits, order + (more if not left & right else _without(more, left))

    def _subjects_of(self, order: tuple[int, ...]) -> list[int]:
        """All assertions about each subject of a clause."""
        found = {self._subjects[number]: None for number in order}
        for number in self._closed_by.keys() & order:
            names = self._closed_by[number]
            found |= {s: None for s in self._about if s is not OneOf and s not in names}
        return [self._about[subject] for subject in found if subject is not None]

    def _possible(self, clauses: list[_Numbered]) -> list[_Numbered]:
        return [
            (bits, order)
            for bits, order in clauses
            if not any(self._is_impossible(bits & s) for s in self._subjects_of(order))
        ]

    def _is_impossible(self, bits: int) -> bool:
        """Whether assertions about one subject contradict each other."""
        if not bits & (bits - 1):
            return False
        known = self._impossible.get(bits)
        if known is None:
            known = self._impossible[bits] = self._contradict(bits)
        return known

    def _contradict(self, bits: int) -> bool:
        """Whether two of some assertions plainly hold for nothing. Those about the value of a key
        do so only where it is there."""
        numbers = list(_numbers(bits))
        atoms = [self._atoms[number] for number in numbers]
        presence = {atom.present for atom in atoms if isinstance(atom, Has)}
        if presence != {True} and not isinstance(atoms[0], OneOf):
            return len(presence) == 2
        for number in numbers:
            self._compare(number, bits)
        return any(self._against[number] & bits for number in numbers)

    def _closure(self, bits: int, asked: list[tuple[int, int]]) -> int:
        """Assertions with those that they plainly imply.

        Args:
            asked: for each subject, all assertions and those of which it is asked whether they
                are implied.
        """
        closed = bits
        for subject, wanted in asked:
            said = bits & subject
            if said and said & wanted != wanted:
                known = self._closed.get((said, wanted))
                if known is None:
                    known = self._closed[said, wanted] = self._implied_by(said, wanted)
                closed |= known
        return closed

    def _implied_by(self, said: int, wanted: int) -> int:
        implied = 0
        for number in _numbers(said):
            self._compare(number, wanted)
            implied |= self._implied[number]
        return implied & wanted

    def _by_subject(self, bits: int) -> list[tuple[int, int]]:
        """All assertions about each subject, and those of them that are given."""
        return [(s, bits & s) for s in self._subjects_of(tuple(_numbers(bits)))]

    def _compare(self, number: int, others: int) -> None:
        """Find out what an assertion says of others about the same subject."""
        others &= ~self._compared[number]
        if not others:
            return
        self._compared[number] |= others
        one, not_one = self._sketches_of(number)
        for other in _numbers(others):
            self._compared[other] |= 1 << number
            two, not_two = self._sketches_of(other)
            if one.excludes(two):
                self._against[number] |= 1 << other
                self._against[other] |= 1 << number
                continue
            if not_two is not None and one.excludes(not_two):
                self._implied[number] |= 1 << other
            if not_one is not None and two.excludes(not_one):
                self._implied[other] |= 1 << number

    def _sketches_of(self, number: int) -> tuple[Sketch, Sketch | None]:
        known = self._sketches.get(number)
        if known is None:
            atom = self._atoms[number]
            said = TRUE if isinstance(atom, Has) else atom
            if isinstance(atom, (Property, Properties)):
                said = atom.value
            opposite = None
            if isinstance(said, Satisfies):
                opposite = self._sketch(Satisfies(said.schema, not said.positive))
            known = self._sketches[number] = self._sketch(said), opposite
        return known

    def _kept(self, clauses: Iterable[_Numbered]) -> list[_Numbered]:
        """Clauses without those that say the same as another one and more.

        A weaker clause is looked up by its rarest assertion only.
        """
        found: dict[int, tuple[int, ...]] = {}
        for bits, order in clauses:
            found.setdefault(bits, order)
        if len(found) < 2 or len(found) > limits.MAX_CLAUSES_COMPARED:
            return list(found.items())
        if 0 in found:
            return [(0, ())]
        common = reduce(and_, found)
        asked = self._by_subject(reduce(or_, found) & ~common)
        count = Counter(chain.from_iterable(found.values()))
        weakest: dict[int, list[int]] = {}
        rarest = 0
        dropped = set()
        for bits, order in sorted(found.items(), key=lambda clause: len(clause[1])):
            closed = self._closure(bits, asked)
            near = (weaker for n in _numbers(closed & rarest) for weaker in weakest[n])
            if any(weaker & closed == weaker for weaker in near):
                dropped.add(bits)
            else:
                name = min(order, key=count.__getitem__)
                weakest.setdefault(name, []).append(bits)
                rarest |= 1 << name
        return [clause for clause in found.items() if clause[0] not in dropped]


def _numbers(bits: int) -> Iterator[int]:
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low


def _numbered(order: Iterable[int]) -> _Numbered:
    once = tuple(dict.fromkeys(order))
    bits = 0
    for number in once:
        bits |= 1 << number
    return bits, once


def _without(order: tuple[int, ...], bits: int) -> tuple[int, ...]:
    return tuple(number for number in order if not bits >> number & 1)


def _closes(atom: Properties) -> bool:
    """Whether it says that there are no other keys than those of a list."""
    keys = atom.keys
    return atom.value == FALSE and keys.others and not keys.patterns and keys.failing is None


def _subject(atom: Formula) -> Hashable:
    match atom:
        case Has(_, name) | Property(_, name):
            return name
        case OneOf():
            return OneOf
    return None
