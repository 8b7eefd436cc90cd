"""JSON Schema keyword by keyword: into a formula, taken as an annotation, or refused by name.

`KEYWORDS` is the table of what is enforced. Every schema that can be reached from the root is
read, also where no value can ever lead there.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from typing import Any

from sgrt.errors import ConstraintError, GrammarBudgetExceeded, UnsupportedSchema
from sgrt.grammar import ahead, automaton, formats, json_text, limits, productive, regex
from sgrt.grammar.schema import digits, strings
from sgrt.grammar.schema.contract import ANNOTATIONS, DEPENDENT, Entry, Status
from sgrt.grammar.schema.disjoint import Facts, are_disjoint, kinds_of
from sgrt.grammar.schema.document import Document, Schema
from sgrt.grammar.schema.evaluated import Evaluation
from sgrt.grammar.schema.formula import (
    FALSE,
    STRING,
    TRUE,
    Bound,
    Contains,
    Formula,
    Has,
    IsKind,
    ItemAt,
    ItemsFrom,
    Keys,
    Matches,
    Multiple,
    Properties,
    Property,
    Size,
    Unique,
    both,
    either,
    negate,
    one_of,
    satisfies,
)
from sgrt.grammar.schema.names import closest, did_you_mean, why_annotation

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")

_SAME_VALUE = frozenset(
    ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependencies")
)
"""Keywords whose schemas are about the same value as the schema they stand in."""


class Reader:
    """Formulas of the schemas of one document.

    Args:
        collect: note what is refused in `entries` and go on as if it were not there, instead of
            raising.
        spells_integers: those beyond 2**53 may be written by their digits (see `digits`).
    """

    def __init__(
        self, document: Document, *, collect: bool = False, spells_integers: bool = False
    ) -> None:
        self.spells_integers = spells_integers
        self._max_integer = digits.MAX if spells_integers else json_text.MAX_EXACT_INT
        self.document = document
        self.entries: dict[tuple[str, str | None], Entry] = {}
        self._collect = collect
        self._formulas: dict[Schema, Formula] = {}
        self._todo = [document.root]
        self._same_value: dict[int, set[int]] = {}
        self._schema_of: dict[int, Schema] = {}
        self._facts_of: dict[tuple[Schema, str], Facts] = {}
        self._num_properties = 0
        self._num_values = 0
        self._evaluation = Evaluation(self)

    def read_all(self) -> None:
        """Read every schema that can be reached.

        Raises:
            UnsupportedSchema: a keyword that is not enforced, or a value it cannot have.
            GrammarBudgetExceeded: the schema is larger than allowed.
        """
        while self._todo:
            self.formula(self._todo.pop())
        for group in productive.components(self._same_value):
            first = next(iter(group))
            if len(group) > 1 or first in self._same_value.get(first, ()):
                self._schema_of[first].refuse(
                    "leads back to itself without a value in between", "$ref"
                )

    def formula(self, schema: Schema) -> Formula:
        """What a schema says."""
        if schema not in self._formulas:
            limits.check_limit("schemas", len(self._formulas), limits.MAX_UNFOLDED)
            self._formulas[schema] = self._read(schema)
        return self._formulas[schema]

    def _read(self, schema: Schema) -> Formula:
        if isinstance(schema.node, bool):
            return TRUE if schema.node else FALSE
        if "$ref" in schema.node and self.document.is_up_to_draft(7):
            for keyword in schema.node.keys() - {"$ref"}:
                why = "" if keyword in ANNOTATIONS else "up to draft 7 nothing counts beside $ref"
                self.note(schema.pointer, keyword, "annotation", why)
            return self._keyword(schema, "$ref", schema.node["$ref"])
        return both(self._keyword(schema, *pair) for pair in schema.node.items())

    def _keyword(self, schema: Schema, keyword: str, value: Any) -> Formula:
        try:
            formula = self._enforce(schema, keyword, value)
        except (ConstraintError, GrammarBudgetExceeded) as error:
            if not self._collect:
                raise
            self.note_error(error, schema, keyword)
            return TRUE
        if keyword in KEYWORDS or keyword in DEPENDENT:
            self.note(schema.pointer, keyword, "enforced")
        else:
            self.note(
                schema.pointer, keyword, "annotation", why_annotation(keyword, tuple(KEYWORDS))
            )
        return formula

    def _enforce(self, schema: Schema, keyword: str, value: Any) -> Formula:
        handler = KEYWORDS.get(keyword)
        return TRUE if handler is None else handler(self, schema, value)

    # what is told about it

    def note(self, pointer: str, keyword: str | None, status: Status, why: str = "") -> None:
        """Remember what became of a keyword; "enforced" never hides what was said before."""
        key = (pointer, keyword)
        if status != "enforced" or key not in self.entries:
            self.entries[key] = Entry(pointer, keyword, status, why)

    def note_error(
        self, error: ConstraintError, schema: Schema | None = None, keyword: str | None = None
    ) -> None:
        """Remember a refusal with the place it names."""
        pointer = schema.pointer if schema else ""
        reason = error.message
        if isinstance(error, UnsupportedSchema):
            pointer, reason = error.pointer, error.reason
            keyword = error.keyword or keyword
        self.entries[(pointer, keyword)] = Entry(pointer, keyword, "refused", reason, error.hint)

    # sub-schemas

    def child(self, schema: Schema, value: Any, *path: str) -> Schema:
        child = self.document.child(schema, value, *path)
        if path[0] in _SAME_VALUE:
            self._meets(schema, child)
        if child not in self._formulas:
            self._todo.append(child)
        return child

    def target(self, schema: Schema, keyword: str) -> Schema:
        """What a reference leads to."""
        target = self.document.refer(schema, keyword, schema.node[keyword])
        self._meets(schema, target)
        if target not in self._formulas:
            self._todo.append(target)
        return target

    def _meets(self, schema: Schema, other: Schema) -> None:
        """Note that a schema asks another one about the same value."""
        self._same_value.setdefault(id(schema), set()).add(id(other))
        self._schema_of |= {id(schema): schema, id(other): other}

    def _sub(self, schema: Schema, value: Any, *path: str) -> Formula:
        return satisfies(self.child(schema, value, *path))

    def list_of(self, schema: Schema, keyword: str) -> list[Schema]:
        """The schemas of a keyword that holds at least one."""
        value = schema.node[keyword]
        if not isinstance(value, list) or not value:
            schema.refuse("must be a list of at least one schema", keyword)
        limits.check_limit(f"schemas of one {keyword}", len(value), limits.MAX_ALTERNATIVES)
        return [self.child(schema, sub, keyword, str(i)) for i, sub in enumerate(value)]

    def map_of(self, schema: Schema, keyword: str) -> dict[str, Any]:
        """The value of a keyword that holds something by name."""
        value = schema.node.get(keyword, {})
        if not isinstance(value, dict):
            schema.refuse("must be an object", keyword)
        return value

    # any kind

    def _type(self, schema: Schema, value: Any) -> Formula:
        names = value if isinstance(value, list) else [value]
        if not names or len(set(map(str, names))) < len(names):
            schema.refuse("must name one type, or a list of different ones", "type")
        for name in names:
            if name not in TYPES:
                schema.refuse(f"has no type {name!r:.40}", "type", "one of " + ", ".join(TYPES))
        return IsKind(kinds_of(value))

    def _enum(self, schema: Schema, value: Any) -> Formula:
        if not isinstance(value, list):
            schema.refuse("must be a list of values", "enum")
        if not value:
            schema.refuse("allows no value", "enum")
        return self._values(schema, "enum", value)

    def _const(self, schema: Schema, value: Any) -> Formula:
        return self._values(schema, "const", [value])

    def _values(self, schema: Schema, keyword: str, values: list[Any]) -> Formula:
        self._num_values += len(values)
        limits.check_limit("enum values", self._num_values, limits.MAX_ENUM_VALUES)
        longest = max((len(value) for value in values if isinstance(value, str)), default=0)
        limits.check_limit("characters of one value", longest, limits.MAX_VALUE_CHARS)
        for value in values:
            if not isinstance(value, str):
                size = len(json_text.dump(value))
                limits.check_limit("characters of one value", size, limits.MAX_VALUE_CHARS)
                parts = json_text.num_parts(value)
                limits.check_limit("parts of one value", parts, limits.MAX_VALUE_PARTS)
        reason = json_text.unwritable(values, self._max_integer)
        if reason:
            schema.refuse(f"has a value that is not supported: {reason}", keyword)
        return one_of(values)

    # numbers

    def _bound(self, schema: Schema, keyword: str, value: Any) -> Formula:
        plain = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}.get(keyword)
        if (
            isinstance(value, bool)
            and plain in schema.node
            and not self.document.is_after_draft_4()
        ):
            # Draft 4: whether the bound beside it is itself excluded.
            return self._bound(schema, keyword, schema.node[plain]) if value else TRUE
        if not json_text.is_number(value):
            schema.refuse(f"must be a number, not {value!r:.40}", keyword)
        if 0 < abs(value) < json_text.MIN_EXACT_FRACTION:
            schema.refuse(f"{value!r:.40} is too close to 0 for the engine to be exact", keyword)
        sign = 1 if keyword.endswith("inimum") else -1
        most = self._max_integer if isinstance(value, int) else json_text.MAX_EXACT_INT
        if value * sign > most:
            schema.refuse(f"{value!r:.40} is beyond 2**53, where the engine is not exact", keyword)
        return Bound(schema.pointer, sign, value, keyword.startswith("exclusive"))

    def _multiple_of(self, schema: Schema, value: Any) -> Formula:
        low, high = json_text.MIN_EXACT_FRACTION, json_text.MAX_EXACT_INT
        if not json_text.is_number(value) or not low <= value <= high:
            reason = f"must be a number from {low:g} to 2**53, not {value!r:.40}"
            schema.refuse(reason, "multipleOf")
        return Multiple(schema.pointer, Fraction(str(value)))

    # sizes

    def count(self, schema: Schema, keyword: str, value: Any) -> int:
        """A size as an integer."""
        if not json_text.is_number(value) or value < 0 or value != int(value):
            schema.refuse(f"must be an integer >= 0, not {value!r:.40}", keyword)
        return int(value)

    def _size(self, schema: Schema, keyword: str, value: Any) -> Formula:
        count = self.count(schema, keyword, value)
        kind = {"h": "string", "s": "array"}[keyword[-1]] if keyword[3:] != "Properties" else ""
        is_least = keyword.startswith("min")
        most = limits.MAX_UPPER_BOUND
        if is_least and kind:
            most = limits.MAX_ITEMS if kind == "array" else limits.MAX_STRING_LEN
        limits.check_limit(keyword, count, most)
        return Size(schema.pointer, kind or "object", is_least, count)

    # strings

    def _pattern(self, schema: Schema, value: Any) -> Formula:
        if not isinstance(value, str):
            schema.refuse("must be a string", "pattern")
        parts = ((*self.patterns(schema, "pattern", p), held) for p, held in ahead.split(value))
        return both(Matches(schema.pointer, *part) for part in parts)

    def patterns(self, schema: Schema, keyword: str, pattern: str) -> tuple[str, str]:
        """A pattern as every reader, and as some reader understands it."""
        try:
            narrow = regex.rewrite(pattern, regex.JSON_PATTERN)
            widest = regex.rewrite(pattern, regex.JSON_PATTERN_WIDEST)
        except GrammarBudgetExceeded:
            raise
        except ConstraintError as error:
            schema.refuse(f"{pattern!r:.80} is not supported: {error}", keyword)
        narrow, widest = strings.shortened(narrow), strings.shortened(widest)
        if narrow != widest:
            why = "only texts that ECMA-262 and Python both match are generated"
            self.note(schema.pointer, keyword, "subset", why)
        return narrow, widest

    def _format(self, schema: Schema, value: Any) -> Formula:
        if not isinstance(value, str):
            schema.refuse("must be a string", "format")
        if value in formats.REGULAR_FORMATS:
            self.note(schema.pointer, "format", "subset", "the plain forms of " + value)
            # Many readers take every text: what is not of a format is so for none of them.
            pattern = f"(?:{formats.REGULAR_FORMATS[value]})"
            return Matches(schema.pointer, pattern, regex.ANYTHING)
        why = f"{value!r:.40} is not of the standard"
        if value not in formats.ANNOTATION_FORMATS:
            why += did_you_mean(closest(value, tuple(formats.REGULAR_FORMATS)))
        self.note(schema.pointer, "format", "annotation", why)
        return TRUE

    # arrays

    def _items(self, schema: Schema, value: Any) -> Formula:
        if isinstance(value, list):  # drafts before 2020-12 said prefixItems this way
            if "draft/2020-12" in self.document.draft:
                schema.refuse("is one schema in this draft", "items", "prefixItems takes a list")
            parts = self._tuple(schema, "items", value)
            rest = schema.node.get("additionalItems", True)
            item = self._sub(schema, rest, "additionalItems")
            return both((*parts, ItemsFrom(schema.pointer, len(value), item)))
        prefix = schema.node.get("prefixItems", [])
        start = len(prefix) if isinstance(prefix, list) else 0
        return ItemsFrom(schema.pointer, start, self._sub(schema, value, "items"))

    def _prefix_items(self, schema: Schema, value: Any) -> Formula:
        if isinstance(schema.node.get("items"), list):
            schema.refuse("cannot stand beside a list of items", "prefixItems")
        if not isinstance(value, list):
            schema.refuse("must be a list of schemas", "prefixItems")
        return both(self._tuple(schema, "prefixItems", value))

    def _tuple(self, schema: Schema, keyword: str, value: list[Any]) -> list[Formula]:
        subs = [self._sub(schema, sub, keyword, str(i)) for i, sub in enumerate(value)]
        return [ItemAt(schema.pointer, i, sub) for i, sub in enumerate(subs)]

    def _unique_items(self, schema: Schema, value: Any) -> Formula:
        if not isinstance(value, bool):
            schema.refuse("must be true or false", "uniqueItems")
        return Unique(schema.pointer) if value else TRUE

    def _contains(self, schema: Schema, value: Any) -> Formula:
        item = self._sub(schema, value, "contains")
        least = self.count(schema, "minContains", schema.node.get("minContains", 1))
        most = schema.node.get("maxContains")
        most = None if most is None else self.count(schema, "maxContains", most)
        if least == 0 and most is None:
            return TRUE
        return Contains(schema.pointer, 0, item, least, most)

    def _unevaluated_items(self, schema: Schema, value: Any) -> Formula:
        rest = self._sub(schema, value, "unevaluatedItems")
        return self._evaluation.rest_of_items(schema, rest)

    # objects

    def _properties(self, schema: Schema, value: Any) -> Formula:
        self._count_properties(schema, self.map_of(schema, "properties"))
        if len(value) > 1:
            self.note(schema.pointer, "properties", "enforced", "keys come in this order")
        at = schema.pointer
        subs = ((name, self._sub(schema, sub, "properties", name)) for name, sub in value.items())
        return both(Property(at, name, sub) for name, sub in subs)

    def _count_properties(self, schema: Schema, names: dict[str, Any]) -> None:
        self._num_properties += len(names)
        limits.check_limit("properties", self._num_properties, limits.MAX_PROPERTIES)
        required = schema.node.get("required")
        listed = required if isinstance(required, list) else []  # what is none is told by `_names`
        num_optional = len(names.keys() - {r for r in listed if isinstance(r, str)})
        limits.check_limit(
            "optional properties of one object", num_optional, limits.MAX_OPTIONAL_PROPERTIES
        )
        self._check_names(schema, "properties", list(names))

    def _check_names(self, schema: Schema, keyword: str, names: list[str]) -> None:
        reason = json_text.unwritable(names)
        if reason:
            schema.refuse(f"has a name that is not supported: {reason}", keyword)

    def _names(self, schema: Schema, keyword: str, value: Any) -> list[str]:
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            schema.refuse("must be a list of strings", keyword)
        self._check_names(schema, keyword, value)
        return value

    def _required(self, schema: Schema, value: Any) -> Formula:
        return both(Has(schema.pointer, n) for n in self._names(schema, "required", value))

    def _additional(self, schema: Schema, value: Any) -> Formula:
        names = frozenset(self.map_of(schema, "properties"))
        patterns = (
            self.patterns(schema, "patternProperties", p)
            for p in self.map_of(schema, "patternProperties")
        )
        keys = Keys(names, tuple(patterns), others=True)
        return Properties(schema.pointer, keys, self._sub(schema, value, "additionalProperties"))

    def _pattern_properties(self, schema: Schema, value: Any) -> Formula:
        limits.check_limit(
            "patternProperties", len(self.map_of(schema, "patternProperties")), limits.MAX_KEY_SETS
        )
        parts = []
        for pattern, sub in value.items():
            keys = Keys(patterns=(self.patterns(schema, "patternProperties", pattern),))
            child = self._sub(schema, sub, "patternProperties", pattern)
            parts.append(Properties(schema.pointer, keys, child))
        return both(parts)

    def _property_names(self, schema: Schema, value: Any) -> Formula:
        name = both((IsKind(frozenset(("string",))), self._sub(schema, value, "propertyNames")))
        keys = Keys(others=True) if name == FALSE else Keys(failing=name)
        return Properties(schema.pointer, keys, FALSE)

    def _dependent_required(self, schema: Schema, value: Any) -> Formula:
        return both(
            self._depends(schema, name, self._needed(schema, "dependentRequired", names))
            for name, names in self.map_of(schema, "dependentRequired").items()
        )

    def _needed(self, schema: Schema, keyword: str, names: Any) -> Formula:
        return both(Has(schema.pointer, name) for name in self._names(schema, keyword, names))

    def _depends(self, schema: Schema, name: str, formula: Formula) -> Formula:
        self._check_names(schema, "properties", [name])
        return either((Has(schema.pointer, name, present=False), formula))

    def _dependent_schemas(self, schema: Schema, value: Any) -> Formula:
        return both(
            self._depends(schema, name, self._sub(schema, sub, "dependentSchemas", name))
            for name, sub in self.map_of(schema, "dependentSchemas").items()
        )

    def _dependencies(self, schema: Schema, value: Any) -> Formula:
        parts = []
        for name, sub in self.map_of(schema, "dependencies").items():
            if isinstance(sub, list):
                needed = self._needed(schema, "dependencies", sub)
            else:
                needed = self._sub(schema, sub, "dependencies", name)
            parts.append(self._depends(schema, name, needed))
        return both(parts)

    def _unevaluated_properties(self, schema: Schema, value: Any) -> Formula:
        rest = self._sub(schema, value, "unevaluatedProperties")
        return self._evaluation.rest_of_properties(schema, rest)

    # composition

    def _all_of(self, schema: Schema, value: Any) -> Formula:
        return both(satisfies(sub) for sub in self.list_of(schema, "allOf"))

    def _any_of(self, schema: Schema, value: Any) -> Formula:
        return either(satisfies(sub) for sub in self.list_of(schema, "anyOf"))

    def _not(self, schema: Schema, value: Any) -> Formula:
        return negate(self._sub(schema, value, "not"))

    def _if(self, schema: Schema, value: Any) -> Formula:
        condition = self._sub(schema, value, "if")
        then = self._sub(schema, schema.node.get("then", True), "then")
        other = self._sub(schema, schema.node.get("else", True), "else")
        return either((both((condition, then)), both((negate(condition), other))))

    def _one_of(self, schema: Schema, value: Any) -> Formula:
        """Exclusive alternatives: plain ones where no value satisfies two of them."""
        subs = self.list_of(schema, "oneOf")
        tag = self._discriminator_name(schema)
        needed: Formula = TRUE if tag is None else Has(schema.pointer, tag)
        facts = [self._facts(sub) for sub in subs]
        for fact in facts:
            fact.required |= set() if tag is None else {tag}
            fact.kinds &= kinds_of(schema.node.get("type", list(TYPES)))
        overlaps: list[list[Formula]] = [[] for _ in subs]
        for i, left in enumerate(facts):
            for j in range(i):
                if not are_disjoint(facts[j], left, self._facts_below):
                    overlaps[i].append(satisfies(subs[j], False))
                    overlaps[j].append(satisfies(subs[i], False))
        limits.check_limit(
            "alternatives of one oneOf that may both hold",
            sum(map(len, overlaps)) // 2,
            limits.MAX_CLAUSES,
            "use anyOf, or a required const that tells them apart",
        )
        branches = zip(subs, overlaps, strict=True)
        return either(both((satisfies(sub), needed, *others)) for sub, others in branches)

    def _facts_below(self, schema: Schema, value: Any, name: str) -> Facts:
        if not isinstance(value, (dict, bool)):
            return Facts()
        if (schema, name) not in self._facts_of:
            found = self._facts(self.child(schema, value, "properties", name))
            self._facts_of[schema, name] = found
        return self._facts_of[schema, name]

    def _facts(self, schema: Schema) -> Facts:
        """What holds for every value of a schema, seen through its references and allOf."""
        facts = Facts()
        todo = [schema]
        for _ in range(limits.MAX_REF_CHAIN):
            if not todo:
                return facts
            schema = todo.pop()
            facts.add(schema)
            if isinstance(schema.node, dict) and "$ref" in schema.node:
                todo.append(self.target(schema, "$ref"))
            if isinstance(schema.node, dict) and "allOf" in schema.node:
                todo += reversed(self.list_of(schema, "allOf"))
            if facts.kinds == STRING and isinstance(schema.node, dict) and "pattern" in schema.node:
                facts.add_texts(self._few_texts(schema))
        return facts

    def _few_texts(self, schema: Schema) -> list[str] | None:
        """What the pattern of a schema matches, where that is little."""
        pattern = schema.node["pattern"]
        if not isinstance(pattern, str) or len(pattern) > 100:
            return None
        with suppress(GrammarBudgetExceeded):
            widest = self.patterns(schema, "pattern", pattern)[1]
            return automaton.compile(widest, 200).texts(16)
        return None

    def _discriminator_name(self, schema: Schema) -> str | None:
        """A discriminator (OpenAPI; pydantic writes it) means that its property is there."""
        value = schema.node.get("discriminator")
        name = value.get("propertyName") if isinstance(value, dict) else None
        return name if isinstance(name, str) else None

    def _discriminator(self, schema: Schema, value: Any) -> Formula:
        if self._discriminator_name(schema) is None:
            schema.refuse("must be an object with a propertyName", "discriminator")
        return TRUE

    # references

    def _reference(self, schema: Schema, keyword: str, value: Any) -> Formula:
        return satisfies(self.target(schema, keyword))

    def _recursive_anchor(self, schema: Schema, value: Any) -> Formula:
        if not isinstance(value, bool):
            schema.refuse("must be true or false", "$recursiveAnchor")
        return TRUE

    def _name(self, schema: Schema, value: Any) -> Formula:
        return TRUE


Handler = Callable[[Reader, Schema, Any], Formula]


def _named(method: Callable[[Reader, Schema, str, Any], Formula], keyword: str) -> Handler:
    return lambda reader, schema, value: method(reader, schema, keyword, value)


REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_SIZES = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")

KEYWORDS: dict[str, Handler] = {
    "$id": Reader._name,
    "id": Reader._name,
    "$anchor": Reader._name,
    "$dynamicAnchor": Reader._name,
    **{keyword: _named(Reader._reference, keyword) for keyword in REFERENCES},
    "$recursiveAnchor": Reader._recursive_anchor,
    "type": Reader._type,
    "enum": Reader._enum,
    "const": Reader._const,
    "allOf": Reader._all_of,
    "anyOf": Reader._any_of,
    "oneOf": Reader._one_of,
    "not": Reader._not,
    "if": Reader._if,
    "discriminator": Reader._discriminator,
    **{keyword: _named(Reader._bound, keyword) for keyword in _BOUNDS},
    "multipleOf": Reader._multiple_of,
    **{keyword: _named(Reader._size, keyword) for keyword in _SIZES},
    "pattern": Reader._pattern,
    "format": Reader._format,
    "items": Reader._items,
    "prefixItems": Reader._prefix_items,
    "contains": Reader._contains,
    "uniqueItems": Reader._unique_items,
    "unevaluatedItems": Reader._unevaluated_items,
    "properties": Reader._properties,
    "required": Reader._required,
    "additionalProperties": Reader._additional,
    "patternProperties": Reader._pattern_properties,
    "propertyNames": Reader._property_names,
    "dependentRequired": Reader._dependent_required,
    "dependentSchemas": Reader._dependent_schemas,
    "dependencies": Reader._dependencies,
    "unevaluatedProperties": Reader._unevaluated_properties,
}
"""Keywords that are enforced, each by what it means; the writer refuses what it cannot write."""
