"""JSON Schema audited keyword by keyword and rewritten into what the engine enforces exactly.

Every keyword is *enforced*, an *annotation* that allows every value, or *refused* with its JSON
pointer before any engine sees the schema (`KEYWORDS` is the table). Only what is reachable from
the root is read. What comes out is a schema in a small, unambiguous subset of draft 2020-12: no
annotations, every `$ref` to one of its own `$defs`, every pattern in the engine's regex syntax,
tied to both ends.

What is generated is compact JSON: no white space, one spelling per string (no ``\\uXXXX``, so
control characters other than ``\\b \\t \\n \\f \\r`` never appear), integers without fraction or
exponent, keys in the order of `properties`. Every value between two bounds can be written; next
to a bound some spellings of the same value (trailing zeros) cannot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import unquote

from sgrt.errors import ConstraintError, GrammarBudgetExceeded, UnsupportedSchema
from sgrt.grammar import formats, json_text, limits, productive, regex
from sgrt.grammar.disjoint import Facts, are_disjoint

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
_BIGGEST_COUNT = 10**9

Node = dict[str, Any]


@dataclass(slots=True)
class _Place:
    """A schema in the user's text and the normal schema it becomes."""

    node: Node
    pointer: str
    out: Node
    depth: int

    def refuse(self, reason: str, keyword: str | None, hint: str | None = None) -> NoReturn:
        raise UnsupportedSchema(reason, pointer=self.pointer, keyword=keyword, hint=hint)


def normalise(text: str) -> str:
    """A user's schema as the engine's.

    Args:
        text: JSON text of a schema, draft 2020-12 (or draft 7 without `definitions` by `$id`).

    Returns:
        JSON text of an equivalent schema that holds only what is enforced exactly.

    Raises:
        UnsupportedSchema: a keyword that is not enforced, a value it cannot have, or a schema
            that nothing satisfies.
        GrammarBudgetExceeded: larger than `sgrt.grammar.limits` allow.
    """
    root = json_text.parse(text)
    if isinstance(root, bool):
        root = {} if root else {"enum": []}
    if not isinstance(root, dict):
        raise UnsupportedSchema(f"a schema is an object, not {json_text.type_of(root)}")
    return json_text.dump(_Normaliser(root).run())


class _Normaliser:
    def __init__(self, root: Node) -> None:
        self.root = root
        self.defs: dict[str, str] = {}
        self.out: Node = {"$defs": {}}
        self.graph = productive.Graph(self.out)
        self.work = [_Place(root, "", self.out, 1)]
        self.num_properties = 0
        self.num_values = 0

    def run(self) -> Node:
        while self.work:
            place = self.work.pop()
            self.graph.add(place.out, place.depth)
            self._visit(place)
        self.graph.check_depth()
        self.graph.check_same_value()
        if not self.graph.prune():
            raise UnsupportedSchema(
                "no value satisfies this schema", hint="it requires itself without end"
            )
        return self.out

    def _visit(self, place: _Place) -> None:
        for keyword, value in place.node.items():
            handler = KEYWORDS.get(keyword)
            if handler is not None:
                handler(self, place, value)
            elif keyword in REFUSED:
                place.refuse(f"is not supported: {REFUSED[keyword]}", keyword)
            elif keyword not in ANNOTATIONS and not keyword.startswith("x-"):
                place.refuse(
                    "is not a keyword of JSON Schema", keyword, "prefix annotations with x-"
                )

    def _child(self, value: Any, place: _Place, *path: str) -> Node | bool:
        """The normal form of a sub-schema, to be filled in when its turn comes."""
        pointer = place.pointer + "".join("/" + _escape(part) for part in path)
        if isinstance(value, bool):
            return value
        if not isinstance(value, dict):
            raise UnsupportedSchema("must be a schema (object, true or false)", pointer=pointer)
        out: Node = {}
        self.work.append(_Place(value, pointer, out, place.depth + 1))
        return out

    # any type

    def _type(self, place: _Place, value: Any) -> None:
        names = value if isinstance(value, list) else [value]
        if not names or len(set(map(str, names))) < len(names):
            place.refuse("must name one type, or a list of different ones", "type")
        for name in names:
            if name not in TYPES:
                place.refuse(f"has no type {name!r:.40}", "type", "one of " + ", ".join(TYPES))
        place.out["type"] = names[0] if len(names) == 1 else names

    def _enum(self, place: _Place, value: Any) -> None:
        if not isinstance(value, list):
            place.refuse("must be a list of values", "enum")
        if not value:
            place.refuse("allows no value", "enum")
        self._check_values(place, "enum", value)
        place.out["enum"] = value

    def _const(self, place: _Place, value: Any) -> None:
        self._check_values(place, "const", [value])
        place.out["const"] = value

    def _check_values(self, place: _Place, keyword: str, values: list[Any]) -> None:
        self.num_values += len(values)
        limits.check_limit("enum values", self.num_values, limits.MAX_ENUM_VALUES)
        reason = json_text.unwritable(values)
        if reason:
            place.refuse(f"has a value that is not supported: {reason}", keyword)

    # numbers

    def _bound(self, place: _Place, keyword: str, value: Any) -> None:
        if not _is_number(value):
            place.refuse(f"must be a number, not {value!r:.40}", keyword)
        top = json_text.MAX_EXACT_INT
        outward = value < -top if keyword.endswith("inimum") else value > top
        if abs(value) > top and not outward:
            place.refuse(f"{value!r:.40} is beyond 2**53, where the engine is not exact", keyword)
        if 0 < abs(value) < json_text.MIN_EXACT_FRACTION:
            place.refuse(f"{value!r:.40} is too close to 0 for the engine to be exact", keyword)
        # A bound further out than 2**53 is moved in to it: fewer values, all of them valid.
        place.out[keyword] = max(-top, min(top, value))

    def _multiple_of(self, place: _Place, value: Any) -> None:
        low, high = json_text.MIN_EXACT_FRACTION, json_text.MAX_EXACT_INT
        if not _is_number(value) or not low <= value <= high:
            reason = f"must be a number from {low:g} to 2**53, not {value!r:.40}"
            place.refuse(reason, "multipleOf")
        place.out["multipleOf"] = value

    # counts

    def _count(self, place: _Place, keyword: str, value: Any) -> int:
        if not _is_number(value) or value < 0 or value != int(value):
            place.refuse(f"must be an integer >= 0, not {value!r:.40}", keyword)
        return int(value)

    def _max_count(self, place: _Place, keyword: str, value: Any) -> None:
        place.out[keyword] = min(self._count(place, keyword, value), _BIGGEST_COUNT)

    def _min_count(self, place: _Place, keyword: str, value: Any) -> None:
        count = self._count(place, keyword, value)
        most = limits.MAX_ITEMS if keyword == "minItems" else limits.MAX_STRING_LEN
        limits.check_limit(keyword, count, most)
        place.out[keyword] = count

    def _min_properties(self, place: _Place, value: Any) -> None:
        """Repeated keys are one property, so counting keys is exact only where none can repeat."""
        count = self._count(place, "minProperties", value)
        required = place.node.get("required", ())
        if isinstance(required, list) and count <= len(required):
            return
        closed = place.node.get("additionalProperties") is False
        if count > 1 and not (closed and "patternProperties" not in place.node):
            place.refuse(
                "is not supported where keys are open",
                "minProperties",
                "set additionalProperties: false",
            )
        place.out["minProperties"] = count

    # strings

    def _pattern(self, place: _Place, value: Any) -> None:
        if not isinstance(value, str):
            place.refuse("must be a string", "pattern")
        self._add_pattern(place, self._rewrite(place, "pattern", value))

    def _add_pattern(self, place: _Place, pattern: str) -> None:
        if "pattern" in place.out:
            part = self._wrap(place, {"pattern": pattern})
            place.out.setdefault("allOf", []).append(part)
        else:
            place.out["pattern"] = pattern

    def _rewrite(self, place: _Place, keyword: str, pattern: str) -> str:
        try:
            return f"^{regex.rewrite(pattern, regex.JSON_PATTERN)}$"
        except GrammarBudgetExceeded:
            raise
        except ConstraintError as error:
            place.refuse(f"{pattern!r:.80} is not supported: {error}", keyword)

    def _format(self, place: _Place, value: Any) -> None:
        if not isinstance(value, str):
            place.refuse("must be a string", "format")
        if value in formats.REGULAR_FORMATS:
            self._add_pattern(place, f"^(?:{formats.REGULAR_FORMATS[value]})$")
        elif value not in formats.ANNOTATION_FORMATS:
            known = ", ".join([*formats.REGULAR_FORMATS, *sorted(formats.ANNOTATION_FORMATS)])
            place.refuse(f"{value!r:.40} is not enforced", "format", f"supported: {known}")

    # arrays

    def _items(self, place: _Place, value: Any) -> None:
        if isinstance(value, list):  # drafts before 2020-12 said prefixItems this way
            self._schemas(place, "items", value, into="prefixItems")
            if "additionalItems" in place.node:
                rest = place.node["additionalItems"]
                place.out["items"] = self._child(rest, place, "additionalItems")
        else:
            place.out["items"] = self._child(value, place, "items")

    def _prefix_items(self, place: _Place, value: Any) -> None:
        if isinstance(place.node.get("items"), list):
            place.refuse("cannot stand beside a list of items", "prefixItems")
        self._schemas(place, "prefixItems", value)

    def _unique_items(self, place: _Place, value: Any) -> None:
        if not isinstance(value, bool):
            place.refuse("must be true or false", "uniqueItems")
        most = place.node.get("maxItems")
        if value and not (isinstance(most, (int, float)) and most <= 1):
            place.refuse("is not supported: no engine here compares items", "uniqueItems")

    # objects

    def _properties(self, place: _Place, value: Any) -> None:
        if not isinstance(value, dict):
            place.refuse("must be an object", "properties")
        self._count_properties(place, value)
        place.out["properties"] = {
            name: self._child(sub, place, "properties", name) for name, sub in value.items()
        }

    def _count_properties(self, place: _Place, names: Node) -> None:
        self.num_properties += len(names)
        limits.check_limit("properties", self.num_properties, limits.MAX_PROPERTIES)
        required = place.node.get("required", ())
        num_optional = len(names.keys() - {r for r in required if isinstance(r, str)})
        limits.check_limit(
            "optional properties of one object", num_optional, limits.MAX_OPTIONAL_PROPERTIES
        )
        self._check_names(place, "properties", list(names))

    def _check_names(self, place: _Place, keyword: str, names: list[str]) -> None:
        reason = json_text.unwritable(names)
        if reason:
            place.refuse(f"has a name that is not supported: {reason}", keyword)

    def _required(self, place: _Place, value: Any) -> None:
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            place.refuse("must be a list of strings", "required")
        self._check_names(place, "required", value)
        place.out["required"] = list(dict.fromkeys(value))

    def _additional(self, place: _Place, value: Any) -> None:
        if "propertyNames" not in place.node:
            place.out["additionalProperties"] = self._child(value, place, "additionalProperties")

    def _pattern_properties(self, place: _Place, value: Any) -> None:
        if not isinstance(value, dict):
            place.refuse("must be an object", "patternProperties")
        limits.check_limit("patternProperties", len(value), limits.MAX_PATTERNS)
        place.out["patternProperties"] = {}
        for pattern, sub in value.items():
            key = self._rewrite(place, "patternProperties", pattern)
            if key in place.out["patternProperties"]:
                place.refuse("has two patterns that mean the same", "patternProperties")
            child = self._child(sub, place, "patternProperties", pattern)
            place.out["patternProperties"][key] = child

    def _property_names(self, place: _Place, value: Any) -> None:
        """Finitely many names become optional properties of a closed object."""
        facts = self._facts(value, place.pointer + "/propertyNames")
        if not facts.is_exact or facts.strings is None or "string" not in facts.types:
            place.refuse("is only supported as an enum of names", "propertyNames")
        if place.node.keys() & {"properties", "patternProperties"}:
            place.refuse("is not supported beside other names", "propertyNames")
        self._count_properties(place, dict.fromkeys(facts.strings))
        rest = place.node.get("additionalProperties", True)
        child = self._child(rest, place, "additionalProperties")
        if isinstance(child, dict):
            child = self._define(place, f"d{len(self.out['$defs'])}", child)
        place.out["properties"] = dict.fromkeys(facts.strings, child)
        place.out["additionalProperties"] = False

    def _define(self, place: _Place, name: str, target: Node) -> Node:
        """A reference to a schema that stands in several places."""
        self.out["$defs"][name] = target
        out = self._wrap(place, {"$ref": f"#/$defs/{name}"})
        self.graph.refer(out, target)
        return out

    # composition

    def _schemas(self, place: _Place, keyword: str, value: Any, into: str | None = None) -> None:
        if not isinstance(value, list) or not value:
            place.refuse("must be a list of at least one schema", keyword)
        children = [self._child(sub, place, keyword, str(i)) for i, sub in enumerate(value)]
        place.out.setdefault(into or keyword, []).extend(children)

    def _one_of(self, place: _Place, value: Any) -> None:
        """Exclusive alternatives, which is `anyOf` where no value satisfies two of them."""
        if not isinstance(value, list) or not value:
            place.refuse("must be a list of at least one schema", "oneOf")
        limits.check_limit("alternatives of one oneOf", len(value), limits.MAX_ALTERNATIVES)
        branches = [self._require_discriminator(place, branch) for branch in value]
        facts = [self._facts(b, f"{place.pointer}/oneOf/{i}") for i, b in enumerate(branches)]
        for i, left in enumerate(facts):
            for j in range(i):
                if not are_disjoint(facts[j], left, self._facts):
                    reason = f"has alternatives {j} and {i} that may both hold for one value"
                    place.refuse(
                        reason, "oneOf", "use anyOf, or a required const that tells them apart"
                    )
        children = [self._child(b, place, "oneOf", str(i)) for i, b in enumerate(branches)]
        if "anyOf" in place.node:
            place.out.setdefault("allOf", []).append(self._wrap(place, {"anyOf": children}))
        else:
            place.out["anyOf"] = children

    def _wrap(self, place: _Place, out: Node) -> Node:
        """Take in a schema that nobody wrote, made of parts that are or will be."""
        self.graph.add(out, place.depth + 1)
        return out

    def _require_discriminator(self, place: _Place, branch: Any) -> Any:
        """A discriminator (OpenAPI; pydantic writes it) means that its property is there."""
        discriminator = place.node.get("discriminator")
        name = discriminator.get("propertyName") if isinstance(discriminator, dict) else None
        if not isinstance(branch, dict) or not isinstance(name, str):
            return branch
        required = branch.get("required", [])
        return {**branch, "required": [*required, name]} if isinstance(required, list) else branch

    def _discriminator(self, place: _Place, value: Any) -> None:
        if not isinstance(value, dict) or not isinstance(value.get("propertyName"), str):
            place.refuse("must be an object with a propertyName", "discriminator")

    # references

    def _id(self, place: _Place, value: Any) -> None:
        if not isinstance(value, str) or place.pointer:
            place.refuse("is only supported at the root", "$id", "it changes what '#/...' means")

    def _ref(self, place: _Place, value: Any) -> None:
        path = self._resolve(place.pointer, value)
        if not path:
            place.out["$ref"] = "#"
            self.graph.refer(place.out, self.out)
            return
        pointer = "".join("/" + _escape(part) for part in path)
        name = self.defs.get(pointer)
        if name is None:
            name = self.defs[pointer] = f"d{len(self.out['$defs'])}"
            origin = _Place({}, "", {}, 0)
            target = self._child(self._at(path), origin, *path)
            self.out["$defs"][name] = target
        place.out["$ref"] = f"#/$defs/{name}"
        self.graph.refer(place.out, self.out["$defs"][name])

    def _resolve(self, pointer: str, ref: Any) -> list[str]:
        """Path of a reference inside this document, checked to lead to a schema."""

        def refuse(reason: str) -> NoReturn:
            raise UnsupportedSchema(reason, pointer=pointer, keyword="$ref")

        if not isinstance(ref, str):
            refuse("must be a string")
        if ref != "#" and not ref.startswith("#/"):
            refuse(f"{ref!r:.80} does not point into this schema")
        path = [unquote(p).replace("~1", "/").replace("~0", "~") for p in ref.split("/")[1:]]
        node: Any = self.root
        at = 0
        while at < len(path) and isinstance(node, dict):
            part = path[at]
            indexed = part in _SCHEMA_MAPS or isinstance(node.get(part), list)
            if part not in _SCHEMA_PLACES:
                refuse(f"{ref!r:.80} does not lead to a schema")
            for key in path[at : at + 2] if indexed else [part]:
                node = _step(node, key)
            at += 2 if indexed else 1
        if at != len(path) or not isinstance(node, (dict, bool)):
            refuse(f"{ref!r:.80} leads nowhere")
        return path

    def _at(self, path: list[str]) -> Any:
        node: Any = self.root
        for part in path:
            node = _step(node, part)
        return node

    def _facts(self, node: Any, pointer: str) -> Facts:
        """What holds for every value of a schema, seen through its references."""
        facts = Facts()
        for _ in range(limits.MAX_REF_CHAIN):
            if not isinstance(node, dict):
                return facts if node else facts.never()
            facts.add(node)
            if "$ref" not in node:
                return facts
            node = self._at(self._resolve(pointer, node["$ref"]))
        raise GrammarBudgetExceeded(
            "references in a row", limits.MAX_REF_CHAIN + 1, limits.MAX_REF_CHAIN
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _escape(part: str) -> str:
    return part.replace("~", "~0").replace("/", "~1")


def _step(node: Any, key: str | None) -> Any:
    if isinstance(node, dict) and key is not None:
        return node.get(key)
    if isinstance(node, list) and key is not None and key.isascii() and key.isdigit():
        return node[int(key)] if len(key) < 9 and int(key) < len(node) else None
    return None


def _all_of(self: _Normaliser, place: _Place, value: Any) -> None:
    self._schemas(place, "allOf", value)


def _any_of(self: _Normaliser, place: _Place, value: Any) -> None:
    self._schemas(place, "anyOf", value)


def _nothing(self: _Normaliser, place: _Place, value: Any) -> None:
    """Handled with the keyword it depends on."""


def _named(method: Callable[..., None], keyword: str) -> Callable[[_Normaliser, _Place, Any], None]:
    return lambda self, place, value: method(self, place, keyword, value)


KEYWORDS: dict[str, Callable[[_Normaliser, _Place, Any], None]] = {
    "$id": _Normaliser._id,
    "$ref": _Normaliser._ref,
    "type": _Normaliser._type,
    "enum": _Normaliser._enum,
    "const": _Normaliser._const,
    "allOf": _all_of,
    "anyOf": _any_of,
    "oneOf": _Normaliser._one_of,
    "discriminator": _Normaliser._discriminator,
    "minimum": _named(_Normaliser._bound, "minimum"),
    "maximum": _named(_Normaliser._bound, "maximum"),
    "exclusiveMinimum": _named(_Normaliser._bound, "exclusiveMinimum"),
    "exclusiveMaximum": _named(_Normaliser._bound, "exclusiveMaximum"),
    "multipleOf": _Normaliser._multiple_of,
    "minLength": _named(_Normaliser._min_count, "minLength"),
    "maxLength": _named(_Normaliser._max_count, "maxLength"),
    "pattern": _Normaliser._pattern,
    "format": _Normaliser._format,
    "items": _Normaliser._items,
    "prefixItems": _Normaliser._prefix_items,
    "additionalItems": _nothing,
    "minItems": _named(_Normaliser._min_count, "minItems"),
    "maxItems": _named(_Normaliser._max_count, "maxItems"),
    "uniqueItems": _Normaliser._unique_items,
    "properties": _Normaliser._properties,
    "required": _Normaliser._required,
    "additionalProperties": _Normaliser._additional,
    "patternProperties": _Normaliser._pattern_properties,
    "propertyNames": _Normaliser._property_names,
    "minProperties": _Normaliser._min_properties,
    "maxProperties": _named(_Normaliser._max_count, "maxProperties"),
}
"""Keywords that are enforced exactly, some of them only in the forms their handlers accept."""

ANNOTATIONS = frozenset(
    (
        "$schema", "$comment", "$defs", "definitions", "title", "description", "default",
        "example", "examples", "deprecated", "readOnly", "writeOnly",
        "contentEncoding", "contentMediaType", "contentSchema",
    )
)  # fmt: skip
"""Keywords that allow every value; so do all that start with ``x-``."""

REFUSED = {
    "$anchor": "point with '#/...'",
    "$dynamicAnchor": "point with '$ref'",
    "$dynamicRef": "point with '$ref'",
    "$recursiveAnchor": "point with '$ref'",
    "$recursiveRef": "point with '$ref'",
    "$vocabulary": "only the standard vocabularies are known",
    "not": "no engine here complements a schema",
    "if": "no engine here chooses by a condition",
    "then": "no engine here chooses by a condition",
    "else": "no engine here chooses by a condition",
    "contains": "no engine here searches an array",
    "minContains": "no engine here searches an array",
    "maxContains": "no engine here searches an array",
    "dependencies": "no engine here relates properties",
    "dependentRequired": "no engine here relates properties",
    "dependentSchemas": "no engine here relates properties",
    "unevaluatedItems": "no engine here tracks evaluation",
    "unevaluatedProperties": "no engine here tracks evaluation",
    "id": "it belongs to draft 4",
    "nullable": "use type: [..., 'null']",
}

_SCHEMA_MAPS = frozenset(("$defs", "definitions", "properties", "patternProperties"))
_SCHEMA_PLACES = _SCHEMA_MAPS | {
    "allOf", "anyOf", "oneOf", "prefixItems",
    "items", "additionalItems", "additionalProperties", "propertyNames",
}  # fmt: skip
"""Keywords that hold schemas: by name (maps), by index (lists), or one."""
