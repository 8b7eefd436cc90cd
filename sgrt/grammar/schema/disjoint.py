"""Whether two schemas can hold for one value: where not, `oneOf` is no more than `anyOf`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sgrt.grammar import json_text
from sgrt.grammar.schema.document import Schema
from sgrt.grammar.schema.formula import KINDS


class Facts:
    """Necessary conditions on the values of a schema; adding a schema narrows them.

    Attributes:
        kinds: kinds that a value can have.
        values: keys (`json_text.equality_key`) of all values where they are finitely many.
        required: names of properties that an object must have.
        properties: (schema, value, path) of properties by name.
    """

    def __init__(self) -> None:
        self.kinds = frozenset(KINDS)
        self.values: frozenset[str] | None = None
        self.required: set[str] = set()
        self.properties: dict[str, tuple[Schema, Any]] = {}

    def add(self, schema: Schema) -> None:
        """Take in the keywords of one schema; malformed ones are left to its own audit."""
        node = schema.node
        if isinstance(node, bool):
            self.kinds = self.kinds if node else frozenset()
            return
        if "type" in node:
            self.kinds &= kinds_of(node["type"])
        if "const" in node:
            self._add_values([node["const"]])
        if isinstance(node.get("enum"), list):
            self._add_values(node["enum"])
        if isinstance(node.get("required"), list):
            self.required |= {name for name in node["required"] if isinstance(name, str)}
        if isinstance(node.get("properties"), dict):
            own = {name: (schema, value) for name, value in node["properties"].items()}
            self.properties = {**own, **self.properties}

    def add_texts(self, texts: list[str] | None) -> None:
        """Take in that the value is one of these."""
        if texts is not None:
            self._add_values(texts)

    def _add_values(self, values: list[Any]) -> None:
        keys = frozenset(map(json_text.equality_key, values))
        self.values = keys if self.values is None else self.values & keys
        names = frozenset(map(json_text.type_of, values))
        self.kinds &= frozenset("fraction" if name == "number" else name for name in names)


def kinds_of(types: Any) -> frozenset[str]:
    """Kinds of values that a `type` keyword allows."""
    names = {n for n in (types if isinstance(types, list) else [types]) if isinstance(n, str)}
    return frozenset(names - {"number"} | ({"integer", "fraction"} if "number" in names else set()))


def are_disjoint(a: Facts, b: Facts, facts_of: Callable[[Schema, Any, str], Facts]) -> bool:
    """Whether no value satisfies both; False where that is not certain.

    Args:
        facts_of: what is known of a property (schema that lists it, its schema, its name).
    """
    common = a.kinds & b.kinds
    if not common or _differ(a, b):
        return True
    if common != {"object"}:
        return False
    names = a.required & b.required & a.properties.keys() & b.properties.keys()
    for name in names:
        left = facts_of(*a.properties[name], name)
        right = facts_of(*b.properties[name], name)
        if not left.kinds & right.kinds or _differ(left, right):
            return True
    return False


def _differ(a: Facts, b: Facts) -> bool:
    return a.values is not None and b.values is not None and not a.values & b.values
