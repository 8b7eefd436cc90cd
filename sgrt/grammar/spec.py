"""From what users write to constraints."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from sgrt.core import Choices, JsonSchema, Regex
from sgrt.errors import UnsupportedSchema
from sgrt.grammar import json_text


@runtime_checkable
class HasJsonSchema(Protocol):
    """A pydantic model, or anything else that can state its schema."""

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]: ...


def json_schema(
    schema: str | dict[str, Any] | type[HasJsonSchema], *, closed: bool | None = None
) -> JsonSchema:
    """A JSON Schema constraint.

    Args:
        schema: JSON text, a dict, or a pydantic model.
        closed: give every object schema that lists `properties` and says nothing about others
            ``additionalProperties: false``. JSON Schema itself allows other keys there; a typed
            reader drops them. None: closed for a model, as written for the rest.

    Raises:
        UnsupportedSchema: not JSON.
        GrammarBudgetExceeded: too long or too deep.
    """
    if isinstance(schema, str):
        value = json_text.parse(schema)
    elif isinstance(schema, dict):
        value = json_text.parse(_dump_untrusted(schema))
    else:
        value = json_text.parse(_dump_untrusted(schema.model_json_schema()))
        closed = True if closed is None else closed
    if closed:
        _close_inplace(value)
    return JsonSchema(json_text.dump(value))


def regex(pattern: str) -> Regex:
    """A constraint by a regular expression; see `sgrt.grammar.regex` for the dialect."""
    return Regex(pattern)


def choices(options: Iterable[str]) -> Choices:
    """A constraint to one of these texts."""
    return Choices(tuple(options))


def _dump_untrusted(schema: dict[str, Any]) -> str:
    try:
        return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise UnsupportedSchema(f"is not JSON: {error}") from error


_CONDITIONS = ("not", "if", "then", "else", "dependentSchemas", "dependencies")
"""Closing a schema in one of these would change when it holds, not what is generated."""
_COMBINED = (
    "$ref", "allOf", "unevaluatedProperties", "patternProperties", "propertyNames",
    "if", "then", "else", "dependentSchemas", "dependencies",
)  # fmt: skip


def _close_inplace(schema: Any) -> None:
    """Close object schemas that stand alone; parts of an `allOf` are left open, since closing
    one would forbid the properties of the others."""
    todo = [schema]
    while todo:
        node = todo.pop()
        if isinstance(node, list):
            todo += node
        elif isinstance(node, dict):
            if isinstance(node.get("properties"), dict) and not any(k in node for k in _COMBINED):
                node.setdefault("additionalProperties", False)
            parts = node.get("allOf")
            alone = isinstance(parts, list) and len(parts) == 1
            left = _DATA.union(_CONDITIONS, () if alone else ("allOf",))
            for keyword, value in node.items():
                if keyword in _MAPS and isinstance(value, dict):
                    todo += value.values()
                elif keyword not in left:
                    todo.append(value)


_MAPS = frozenset(("properties", "patternProperties", "$defs", "definitions"))
_DATA = frozenset(("default", "example", "examples", "const", "enum"))
