"""Formulas about one kind of value as alternatives, each a list of assertions that all hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from itertools import chain

from sgrt.grammar import limits
from sgrt.grammar.schema.formula import And, Formula, Has, OneOf, Or, Property

Clause = tuple[Formula, ...]
"""Assertions (atoms, `OneOf`, `NoneOf`) about values of one kind."""

_Numbered = tuple[int, tuple[int, ...]]
"""A clause as bits and in order: one number for each assertion."""


def distributed(formula: Formula) -> list[Clause]:
    """Alternatives that together are a formula without schemas, about values of one kind.

    Those that plainly contradict themselves, or say no more than another one, are left out.

    Raises:
        GrammarBudgetExceeded: too many alternatives, or too many that had to be tried.
    """
    distributor = _Distributor()
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

    def __init__(self) -> None:
        self.numbers: dict[Formula, int] = {}
        self._subjects: list[Hashable] = []
        """What each assertion is about; None where it contradicts no other one plainly."""
        self._about: dict[Hashable, int] = {}
        """All assertions about a subject."""
        self._impossible: dict[int, bool] = {}

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
                    found = _kept(self._joined(found, self._possible(options)))
            case _:
                return [_numbered([self._number(formula)])]
        found = _kept(found)
        check_clauses(len(found))
        return found

    def _number(self, atom: Formula) -> int:
        number = self.numbers.setdefault(atom, len(self.numbers))
        if number == len(self._subjects):
            subject = _subject(atom)
            self._subjects.append(subject)
            if subject is not None:
                self._about[subject] = self._about.get(subject, 0) | 1 << number
        return number

    def _joined(self, found: list[_Numbered], options: list[_Numbered]) -> Iterator[_Numbered]:
        """Every clause with every option, as far as they go together.

        Raises:
            GrammarBudgetExceeded: there are too many of them to try.
        """
        masks = [bits for bits, _ in options]
        subjects = [self._subjects_of(order) for _, order in options]
        num_tried = 0
        for left, order in found:
            if any(bits & left == bits for bits in masks):
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
        return [self._about[subject] for subject in found if subject is not None]

    def _possible(self, clauses: list[_Numbered]) -> list[_Numbered]:
        return [
            (bits, order)
            for bits, order in clauses
            if not any(self._is_impossible(bits & s) for s in self._subjects_of(order))
        ]

    def _is_impossible(self, bits: int) -> bool:
        """Whether assertions about one subject contradict each other."""
        if bits not in self._impossible:
            atoms = [atom for atom, number in self.numbers.items() if bits >> number & 1]
            self._impossible[bits] = _contradict(atoms)
        return self._impossible[bits]


def _numbered(order: Iterable[int]) -> _Numbered:
    once = tuple(dict.fromkeys(order))
    bits = 0
    for number in once:
        bits |= 1 << number
    return bits, once


def _without(order: tuple[int, ...], bits: int) -> tuple[int, ...]:
    return tuple(number for number in order if not bits >> number & 1)


def _subject(atom: Formula) -> Hashable:
    match atom:
        case Has(_, name):
            return name
        case OneOf():
            return OneOf
        case Property(_, name, OneOf() | Or(())):
            return name
    return None


def _contradict(atoms: list[Formula]) -> bool:
    """Whether assertions about one subject plainly hold for nothing: a key there and not there,
    two constants."""
    presence: set[bool] = set()
    values: list[frozenset[str]] = []
    is_property = True
    for atom in atoms:
        match atom:
            case Has(_, _, present):
                presence.add(present)
            case OneOf():
                values.append(atom.keys)
                is_property = False
            case Property(_, _, OneOf() as listed):
                values.append(listed.keys)
            case Property():
                values.append(frozenset())
    is_nothing = bool(values) and not frozenset.intersection(*values)
    return len(presence) == 2 or (is_nothing and (True in presence or not is_property))


def _kept(clauses: Iterable[_Numbered]) -> list[_Numbered]:
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
    count = Counter(chain.from_iterable(found.values()))
    weakest: dict[int, list[int]] = {}
    dropped = set()
    for bits, order in sorted(found.items(), key=lambda clause: len(clause[1])):
        if any(weaker & bits == weaker for n in order for weaker in weakest.get(n, ())):
            dropped.add(bits)
        else:
            weakest.setdefault(min(order, key=count.__getitem__), []).append(bits)
    return [clause for clause in found.items() if clause[0] not in dropped]
