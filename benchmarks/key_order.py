"""Instances with their keys in another order: the schema's, or one that a matcher takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sgrt.errors import ConstraintError
from sgrt.grammar.matcher import Matcher

_MAX_TRIED = 5_000
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
    named = dict.fromkeys(name for node in schemas for name in _named(node, root, set()))
    for node in nodes:
        required = node.get("required")
        named |= dict.fromkeys(required if isinstance(required, list) else ())
    keys = [name for name in named if name in value]
    keys += [name for name in value if name not in named]
    return {key: _order(value[key], list(_of_key(nodes, key)), root) for key in keys}


def _named(node: Any, root: Any, seen: set[int]) -> Iterator[str]:
    """Properties that a schema and those it leads to name, keyword by keyword."""
    if not isinstance(node, dict) or id(node) in seen or len(seen) > _MAX_SCHEMAS:
        return
    seen.add(id(node))
    for keyword, held in node.items():
        if keyword == "properties" and isinstance(held, dict):
            yield from held
        elif keyword == "$ref" and isinstance(held, str):
            yield from _named(_follow(root, held), root, seen)
        elif keyword in _SAME_VALUE:
            for other in held if isinstance(held, list) else [held]:
                yield from _named(other, root, seen)


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


def accepted_order(value: Any, matcher: Matcher) -> Any:
    """The value with keys in an order that a matcher over bytes takes; None where none was found.

    Tries at most some thousand keys, those first that come first in the value.
    """
    for end, found in _written(value, matcher, iter(range(_MAX_TRIED))):
        if end.is_complete:
            return found
    return None


def _written(value: Any, at: Matcher, fuel: Iterator[int]) -> Iterator[tuple[Matcher, Any]]:
    """Where a matcher stands after the value, for each order that it takes."""
    if isinstance(value, list):
        yield from _items_written(value, at, fuel)
    elif isinstance(value, dict):
        yield from _keys_written(list(value.items()), {}, at, fuel)
    else:
        end = _moved(at, json.dumps(value, ensure_ascii=False))
        if end is not None:
            yield end, value


def _items_written(
    items: list[Any], at: Matcher, fuel: Iterator[int]
) -> Iterator[tuple[Matcher, Any]]:
    ends: list[tuple[Matcher, list[Any]]] = [(at, [])]
    for i, item in enumerate(items):
        end = _moved(ends[0][0], "," if i else "[")
        written = next(_written(item, end, fuel), None) if end is not None else None
        if written is None:
            return
        ends = [(written[0], [*ends[0][1], written[1]])]
    end = _moved(ends[0][0], "]" if items else "[]")
    if end is not None:
        yield end, ends[0][1]


def _keys_written(
    left: list[tuple[str, Any]], done: dict[str, Any], at: Matcher, fuel: Iterator[int]
) -> Iterator[tuple[Matcher, Any]]:
    if not left:
        end = _moved(at, "}" if done else "{}")
        if end is not None:
            yield end, done
        return
    for i, (key, value) in enumerate(left):
        if next(fuel, None) is None:
            return
        text = ("," if done else "{") + json.dumps(key, ensure_ascii=False) + ":"
        start = _moved(at, text)
        if start is None:
            continue
        # The first order taken of each value is kept: keys do not depend on those inside others.
        found = next(_written(value, start, fuel), None)
        if found is not None:
            rest = left[:i] + left[i + 1 :]
            yield from _keys_written(rest, {**done, key: found[1]}, found[0], fuel)


def _moved(matcher: Matcher, text: str) -> Matcher | None:
    moved = matcher.fork()
    try:
        moved.accept(list(text.encode()))
    except ConstraintError:
        return None
    return moved
