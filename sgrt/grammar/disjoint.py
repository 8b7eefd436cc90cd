"""Whether two schemas can hold for one value: what `oneOf` needs to be read as `anyOf`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sgrt.grammar import json_text

_EXACT = frozenset(("type", "const", "enum", "$ref", "title", "description"))
_ALL_TYPES = frozenset(("null", "boolean", "integer", "number", "string", "array", "object"))


class Facts:
    """Necessary conditions on the values of a schema; adding a schema narrows them.

    Attributes:
        types: types a value can have; "number" is one that is not an integer.
        values: keys (`json_text.equality_key`) of all values where they are finitely many.
        strings: the values themselves where all are strings.
        is_exact: whether nothing but types and values was said.
        required: names of properties that an object must have.
        properties: schemas of properties by name.
    """

    def __init__(self) -> None:
        self.types = _ALL_TYPES
        self.values: frozenset[str] | None = None
        self.strings: list[str] | None = None
        self.is_exact = True
        self.required: set[str] = set()
        self.properties: dict[str, Any] = {}

    def never(self) -> Facts:
        self.types = frozenset()
        return self

    def add(self, node: dict[str, Any]) -> None:
        """Take in the keywords of one schema; malformed ones are left to its own audit."""
        self.is_exact &= node.keys() <= _EXACT
        if "type" in node:
            self.types &= _types(node["type"])
        if "const" in node:
            self._add_values([node["const"]])
        if isinstance(node.get("enum"), list):
            self._add_values(node["enum"])
        if isinstance(node.get("required"), list):
            self.required |= {name for name in node["required"] if isinstance(name, str)}
        if isinstance(node.get("properties"), dict):
            self.properties = {**node["properties"], **self.properties}

    def _add_values(self, values: list[Any]) -> None:
        keys = frozenset(map(json_text.equality_key, values))
        self.values = keys if self.values is None else self.values & keys
        self.types &= frozenset(map(json_text.type_of, values))
        if all(isinstance(v, str) for v in values):
            known = self.strings
            self.strings = [v for v in dict.fromkeys(values) if known is None or v in known]


def _types(value: Any) -> frozenset[str]:
    names = {
        name for name in (value if isinstance(value, list) else [value]) if isinstance(name, str)
    }
    if "number" in names:
        names.add("integer")
    return frozenset(names)


def are_disjoint(a: Facts, b: Facts, facts_of: Callable[[Any, str], Facts]) -> bool:
    """Whether no value satisfies both; False where that is not certain.

    Args:
        facts_of: what is known of a property's schema (schema, pointer).
    """
    common = a.types & b.types
    if not common:
        return True
    if a.values is not None and b.values is not None and not a.values & b.values:
        return True
    if common != {"object"}:
        return False
    for name in a.required & b.required & a.properties.keys() & b.properties.keys():
        left = facts_of(a.properties[name], "")
        right = facts_of(b.properties[name], "")
        if not left.types & right.types:
            return True
        if left.values is not None and right.values is not None and not left.values & right.values:
            return True
    return False
