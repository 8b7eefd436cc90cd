"""Formulas written as a schema that holds only what the engine enforces exactly."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from sgrt.errors import ConstraintError, GrammarBudgetExceeded, UnsupportedSchema
from sgrt.grammar import different, json_text, limits, productive
from sgrt.grammar.schema import arrays, digits, numbers, objects, strings
from sgrt.grammar.schema.clauses import Clause, check_clauses
from sgrt.grammar.schema.expand import Expander
from sgrt.grammar.schema.formula import (
    KINDS,
    STRING,
    TRUE,
    And,
    Contains,
    Formula,
    Matches,
    Multiple,
    OneOf,
    Or,
    Size,
    SomeProperty,
    Unique,
    both,
)
from sgrt.grammar.schema.reader import Reader

Node = dict[str, Any]

_MANY_STRINGS = 3
"""Alternatives about strings; more are made one automaton."""
_MAX_INLINE = 12
"""Schemas written inside one another; deeper ones are referred to."""
_MAX_HINTS = 3


class Unsatisfiable(UnsupportedSchema):
    """Nothing that is written satisfies the schema."""


class Writer:
    """Writes the schema of one document, place by place.

    A *place* is what meets in one value: a formula. Each becomes one schema, however many
    others lead to it.
    """

    def __init__(
        self, reader: Reader, *, collect: bool = False, compares_items: bool = False
    ) -> None:
        self._reader = reader
        self._expander = Expander(reader)
        self._collect = collect
        self._compares_items = compares_items
        self.has_marks = False
        """Whether arrays are left to the matcher to hold to different items."""
        self._places: dict[frozenset[Formula], int] = {}
        self._known: dict[int, tuple[Formula, int]] = {}
        """The place of each formula that was met, by identity; kept, so that no other gets it."""
        self._nodes: list[Node] = []
        self._todo: list[tuple[Formula, int]] = []
        self._refs: list[Node] = []
        self._owners: list[list[int]] = []
        """What stands for each place in others, and the places where it stands."""
        self._current = 0

    def write(self, root: Formula) -> Node:
        """The whole schema, what nothing satisfies pruned away.

        Raises:
            UnsupportedSchema: something cannot be enforced, or nothing satisfies the root.
            GrammarBudgetExceeded: it becomes larger than allowed.
        """
        start = self._place(root)
        while self._todo:
            formula, self._current = self._todo.pop()
            self._nodes[self._current].update(self._write_place(formula))
        return self._finish(start)

    # places

    def child(self, formula: Formula, count: int = 1) -> Node | bool:
        """What stands for the values of a formula inside another schema, so many times."""
        if isinstance(formula, (And, Or)) and not formula.parts:
            return formula == TRUE
        known = self._known.get(id(formula))
        if known is None:
            known = self._known[id(formula)] = formula, self._place(formula)
        number = known[1]
        self._owners[number] += [self._current] * count
        return self._refs[number]

    def _place(self, formula: Formula) -> int:
        key = frozenset(formula.parts if isinstance(formula, And) else (formula,))
        number = self._places.setdefault(key, len(self._nodes))
        if number == len(self._nodes):
            limits.check_limit("schemas", number, limits.MAX_UNFOLDED)
            self._nodes.append({})
            self._refs.append({})
            self._owners.append([])
            self._todo.append((formula, number))
        return number

    def _write_place(self, formula: Formula) -> Node:
        clauses: dict[str, list[Clause]] = {}
        possible = self._expander.outline.kinds(formula)
        strings_at_once = self._strings_at_once(formula) if "string" in possible else None
        if strings_at_once is not None:
            possible -= STRING
        for kind in filter(possible.__contains__, KINDS):
            try:
                clauses[kind] = self._expander.clauses(formula, kind)
            except ConstraintError as error:
                self._refuse(error)
                clauses[kind] = [()]
        free = [kind for kind in clauses if () in clauses[kind]]
        if "fraction" in free and "integer" not in free:
            free.remove("fraction")
        values = [v for k in clauses if k not in free for v in self._listed(clauses[k], k)]
        parts: list[Node] = []
        if free:
            parts.append(_of_types(free))
        parts += self._enum(values)
        open_clauses = {
            kind: [c for c in clauses[kind] if not any(isinstance(a, OneOf) for a in c)]
            for kind in clauses
            if kind not in free
        }
        parts += self._numbers(clauses, open_clauses)
        parts += strings_at_once or ()
        parts += self._strings(open_clauses.get("string", ()))
        for kind, write in (
            ("array", self._array),
            ("object", self._object),
        ):
            for clause in open_clauses.get(kind, ()):
                parts += [{"type": kind, **shape} for shape in self._shapes(write, clause)]
                check_clauses(len(parts))
        return _any_of(parts)

    def _shapes(self, write: Any, clause: Clause) -> list[Node]:
        try:
            return list(write(clause))
        except ConstraintError as error:
            self._refuse(error)
            return []

    def _refuse(self, error: ConstraintError) -> None:
        if not self._collect:
            raise error
        self._reader.note_error(error)

    def _listed(self, clauses: Iterable[Clause], kind: str) -> list[Any]:
        """Values that clauses list, or leave where a kind has few."""
        few: dict[str, tuple[Any, ...]] = {"null": (None,), "boolean": (True, False)}
        found: list[Any] = []
        for clause in clauses:
            listed = next((a.values for a in clause if isinstance(a, OneOf)), few.get(kind, ()))
            rest = tuple(a for a in clause if not isinstance(a, OneOf) or a.values is not listed)
            found += (
                [v for v in listed if all(self._expander.holds(v, a) for a in rest)]
                if rest
                else listed
            )
        return found

    # kinds

    def _numbers(
        self, clauses: dict[str, list[Clause]], open_: dict[str, list[Clause]]
    ) -> list[Node]:
        """Numbers: the engine has no type for those that are not integers."""
        spelled = [(c, self._spelled(c)) for c in open_.get("integer", ())]
        told = [c for c, patterns in spelled if patterns is None] + [*open_.get("fraction", ())]
        for pointer, keyword, is_far in numbers.narrowed(a for clause in told for a in clause):
            why = "it is moved in to a number of 15 digits"
            if is_far and all(patterns is None for _, patterns in spelled):
                why = "no number beyond 2**53 is generated"
            elif is_far:
                why = "of the numbers beyond 2**53 only integers are generated"
            self._reader.note(pointer, keyword, "subset", why)
        integers = {frozenset(c) for c in clauses.get("integer", ())}
        parts: list[Node] = []
        listed: list[float] = []
        fractions = [c for c in open_.get("fraction", ()) if not numbers.excluded_steps(c)]
        if len(fractions) < len(open_.get("fraction", ())):
            self._note_fractions()
        for clause in fractions:
            # A number type allows integers too, so they have to be allowed here as well.
            ways = [clause]
            if not any(integer <= frozenset(clause) for integer in integers):
                ways, gaps = numbers.between_integers(clause)
                if gaps is not None:
                    self._note_fractions(gaps)
            for way in ways:
                parts += [{"type": "number", **s} for s in numbers.shapes(way, "fraction")]
            short = (v for v in numbers.cut_short(clause) if not v.is_integer())
            listed += (v for v in short if all(self._expander.holds(v, a) for a in clause))
        parts += self._enum(listed)
        for clause, patterns in spelled:
            if patterns is not None:
                parts += [{"type": "integer", digits.KEY: pattern} for pattern in patterns]
            elif numbers.excluded_steps(clause) or numbers.is_coarse(clause):
                parts += self._numbers_one_by_one(clause)
            elif clause not in fractions:
                parts += [{"type": "integer", **s} for s in numbers.shapes(clause, "integer")]
        return parts

    def _numbers_one_by_one(self, clause: Clause) -> list[Node]:
        try:
            found, window = numbers.listed(clause)
        except ConstraintError as error:
            self._refuse(error)
            return []
        if not self._reader.spells_integers:
            found = [v for v in found if abs(v) <= json_text.MAX_EXACT_INT]
        if window is not None:
            excluded = [a for a in clause if isinstance(a, Multiple) and not a.positive]
            of_what = "of what is no multiple, only integers" if excluded else "multiples"
            at = next(a.pointer for a in excluded or clause if isinstance(a, Multiple))
            why = f"{of_what} from {window[0]} to {window[-1]}"
            self._reader.note(at, "multipleOf", "subset", why)
        return self._enum(found)

    def _spelled(self, clause: Clause) -> list[str] | None:
        return numbers.spelled(clause) if self._reader.spells_integers else None

    def _enum(self, values: list[Any]) -> list[Node]:
        """Listed values, numbers that the engine is not exact at by their digits."""
        unique = {json_text.equality_key(v): v for v in values}.values()
        far = [v for v in unique if isinstance(v, (int, float)) and json_text.unwritable(v)]
        near = [v for v in unique if not any(v is f for f in far)]
        parts: list[Node] = [{"type": "number", digits.KEY: digits.of(v)} for v in far]
        return [{"enum": near}, *parts] if near else parts

    def _note_fractions(self, gaps: range | None = None) -> None:
        """Tell where numbers that are no integers are left out."""
        why = "numbers that are not integers are not generated where integers are not allowed"
        if gaps is not None:
            why += f", but from {gaps.start} to {gaps.stop}"
        self._reader.note("", "type", "subset", why)

    def _strings_at_once(self, formula: Formula) -> list[Node] | None:
        """One schema for many alternatives about strings; None where they are few, or too much
        for one."""
        with suppress(ConstraintError):  # of one alternative: it is refused where that is written
            formula = self._expander.under(formula, "string")
            if strings.num_open(formula) > _MANY_STRINGS:
                shape = strings.shape(formula)
                return [] if shape is None else [{"type": "string", **shape}]
        return None

    def _strings(self, clauses: Iterable[Clause]) -> list[Node]:
        shapes = []
        for clause in clauses:
            try:
                shapes.append(strings.shape(both(clause)))
            except ConstraintError as error:
                if not self._may_leave_out(clause, error):
                    self._refuse(error)
        return [{"type": "string", **shape} for shape in shapes if shape is not None]

    def _may_leave_out(self, clause: Clause, error: ConstraintError) -> bool:
        """Texts that do not match a pattern are left out where they are too much to be said."""
        excluded = next((a for a in clause if isinstance(a, Matches) and not a.positive), None)
        if excluded is None or not isinstance(error, GrammarBudgetExceeded):
            return False
        why = "where it is excluded (not, oneOf), no text is generated: the others are too many to tell"
        self._reader.note(excluded.pointer, "pattern", "subset", why)
        return True

    def _array(self, clause: Clause) -> list[Node]:
        mark: Node = {}
        unique = next((a for a in clause if isinstance(a, Unique)), None)
        if unique is not None and strings.lengths(clause)[1] not in (0, 1):
            found = self._different(clause, unique.pointer)
            if found is not None:
                return [shape for part in found for shape in self._array(part)]
            self.has_marks = True
            mark = {different.MARK: unique.pointer}
        clause = tuple(a for a in clause if not isinstance(a, Unique))
        searched = arrays.searched(clause)
        if searched is not None:
            pointer = next(a.pointer for a in clause if isinstance(a, Contains))
            why = f"what is searched for stands among the first {searched} items"
            self._reader.note(pointer, "contains", "subset", why)
        tuples = (arrays.Tuple.of(part, self._expander.joins) for part in arrays.arrange(clause))
        return [{**array.shape(self.child), **mark} for array in tuples if array is not None]

    def _different(self, clause: Clause, pointer: str) -> list[Clause] | None:
        """The arrays of different items written out; None where they are left to the matcher."""
        compares = self._compares_items and not any(isinstance(a, Contains) for a in clause)
        try:
            found, most = arrays.different(clause, self._values_of)
        except (UnsupportedSchema, GrammarBudgetExceeded):
            if compares:
                return None
            raise
        if most is not None:
            if compares:
                return None
            self._reader.note(pointer, "uniqueItems", "subset", f"at most {most} items")
        return found

    def _values_of(self, formula: Formula) -> list[Any] | None:
        """All values of a formula where they are finitely many scalars."""
        clauses = {kind: self._expander.clauses(formula, kind) for kind in KINDS}
        for kind in KINDS[2:]:
            for clause in clauses[kind]:
                if kind in ("array", "object") or not any(isinstance(a, OneOf) for a in clause):
                    return None
        return [value for kind in KINDS for value in self._listed(clauses[kind], kind)]

    def _object(self, clause: Clause) -> list[Node]:
        found: list[Node] = []
        if not objects.is_whole(clause, self._expander):
            at = next(a.pointer for a in clause if isinstance(a, SomeProperty))
            why = "where a property of any name is asked for, all that no schema names are like it"
            self._reader.note(at, None, "subset", why)
        for chosen in objects.choose(clause, self._expander):
            if not objects.counts_all(chosen, self._expander):
                at = next(a.pointer for a in chosen if isinstance(a, Size) and a.is_least)
                why = "of the keys that are counted all but one have names in the schema"
                self._reader.note(at, "minProperties", "subset", why)
            for counted in objects.count(chosen, self._expander):
                shape = counted.shape(self.child)
                found += [] if shape is None else [shape]
                check_clauses(len(found))
        return found

    # the whole

    def _finish(self, start: int) -> Node:
        """Write places where they are referred to once, name the others, prune."""
        root = self._nodes[start]
        definitions: dict[str, Node] = {}
        targets: list[tuple[Node, Node]] = []
        heights = [1] * len(self._nodes)
        for number in reversed(range(len(self._nodes))):
            node, ref, owners = self._nodes[number], self._refs[number], self._owners[number]
            if len(owners) == 1 and heights[number] < _MAX_INLINE and number != start:
                ref.update(node)
                heights[owners[0]] = max(heights[owners[0]], heights[number] + 1)
            elif owners:
                name = "#" if number == start else f"d{number}"
                definitions |= {} if number == start else {name: node}
                targets.append((ref, node))
                ref["$ref"] = name if name == "#" else f"#/$defs/{name}"
        if not _prune(root, definitions, targets):
            raise self._unsatisfied()
        return {**root, "$defs": definitions} if definitions else root

    def _unsatisfied(self) -> Unsatisfiable:
        """Nothing satisfies what is written; who left some values out cannot say that of all."""
        left_out = [e for e in self._reader.entries.values() if e.status == "subset"]
        if not left_out:
            hint = "something is required of a value that excludes it"
            return Unsatisfiable("no value satisfies this schema", hint=hint)
        why = "nothing that could be generated satisfies this schema"
        hint = "; ".join(f"at {e.pointer or '/'}: {e.why}" for e in left_out[:_MAX_HINTS])
        return Unsatisfiable(why, hint=hint)


def _prune(root: Node, definitions: dict[str, Node], targets: list[tuple[Node, Node]]) -> bool:
    """Bound the nesting, and prune what nothing satisfies; False where that is all."""
    graph = productive.Graph(root, {id(ref): target for ref, target in targets})
    for start in (root, *definitions.values()):
        graph.add_tree(start)
    graph.check_depth()
    return graph.prune()


def _of_types(kinds: list[str]) -> Node:
    names = ["number" if k == "fraction" else k for k in kinds]
    if "number" in names and "integer" in names:
        names.remove("integer")
    if len(kinds) == len(KINDS):
        return {}
    return {"type": names[0] if len(names) == 1 else names}


def _any_of(parts: list[Node]) -> Node:
    if not parts:
        return {"enum": []}
    return parts[0] if len(parts) == 1 else {"anyOf": parts}
