"""Instances with their keys in the order of a schema's properties, as sgrt writes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_MAX_SCHEMAS = 200
_SAME_VALUE = ("allOf", "anyOf", "oneOf", "if", "then", "else", "not")


def ordered(value: Any, schema: Any) -> Any:
    """The value with keys in the order of the schema's properties, integers without fraction."""
    return _order(value, [schema], schema)


def _order(value: Any, schemas: list[Any], root: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    nodes = list(_meeting(schemas, root))
    if isinstance(value, list):
        return [_order(item, list(_of_item(nodes, i)), root) for i, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    named: dict[str, None] = {}
    for keyword in ("properties", "required"):
        for node in nodes:
            names = node.get(keyword)
            named |= dict.fromkeys(n for n in names or () if isinstance(names, (dict, list)))
    keys = [name for name in named if name in value]
    keys += [name for name in value if name not in named]
    return {key: _order(value[key], list(_of_key(nodes, key)), root) for key in keys}


def _meeting(schemas: list[Any], root: Any) -> Iterator[dict[str, Any]]:
    """All schemas that may be about the same value, each before those it leads to."""
    seen: set[int] = set()
    todo = list(schemas)
    while todo and len(seen) < _MAX_SCHEMAS:
        node = todo.pop(0)
        if not isinstance(node, dict) or id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if isinstance(node.get("$ref"), str):
            todo.append(_follow(root, node["$ref"]))
        for keyword in _SAME_VALUE:
            held = node.get(keyword)
            todo += held if isinstance(held, list) else [held]
        for keyword in ("dependentSchemas", "dependencies"):
            held = node.get(keyword)
            todo += held.values() if isinstance(held, dict) else ()


def _follow(root: Any, ref: str) -> Any:
    if not ref.startswith("#"):
        return None
    node = root
    for part in ref[1:].split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and name.isdigit() and int(name) < len(node):
            node = node[int(name)]
        else:
            node = node.get(name) if isinstance(node, dict) else None
    return node


def _of_item(nodes: list[dict[str, Any]], index: int) -> Iterator[Any]:
    for node in nodes:
        for keyword in ("prefixItems", "items", "additionalItems", "contains"):
            held = node.get(keyword)
            if not isinstance(held, list):
                yield held
            elif index < len(held):
                yield held[index]


def _of_key(nodes: list[dict[str, Any]], key: str) -> Iterator[Any]:
    for node in nodes:
        properties = node.get("properties")
        if isinstance(properties, dict) and key in properties:
            yield properties[key]
        patterns = node.get("patternProperties")
        yield from patterns.values() if isinstance(patterns, dict) else ()
        yield node.get("additionalProperties")
