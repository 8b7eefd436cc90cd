"""JSON schemas as values: from Python objects to constraints.

Architecture invariant: this module imports nothing of sgrt but `constraints` and `errors`.
"""

from __future__ import annotations

import json
from typing import Any

from sgrt.constraints import JsonSchema
from sgrt.errors import UnsupportedSchema

_SCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_SCHEMA_LISTS = ("anyOf", "oneOf", "prefixItems")
_SCHEMAS = ("items", "additionalProperties")
_SHARED = ("$ref", "allOf", "patternProperties", "unevaluatedProperties")


def closed(schema: Any) -> Any:
    """A copy whose objects take no undeclared keys, where the schema does not say.

    Every text of the closed schema satisfies the open one; a model asked for fields should not
    invent others. Left open are objects whose properties stand in several places (closing one
    forbids those of the others); never entered are conditions (`not`, `if`, `dependentSchemas`),
    nor data such as `default` and `const`.
    """
    if not isinstance(schema, dict):
        return schema
    out = {key: _closed_keyword(key, value) for key, value in schema.items()}
    if "properties" in out and not any(key in out for key in _SHARED):
        out.setdefault("additionalProperties", False)
    return out


def _closed_keyword(key: str, value: Any) -> Any:
    if key in _SCHEMA_MAPS and isinstance(value, dict):
        return {name: closed(sub) for name, sub in value.items()}
    if key in _SCHEMA_LISTS and isinstance(value, list):
        return [closed(sub) for sub in value]
    return closed(value) if key in _SCHEMAS else value


def schema_constraint(value: Any) -> JsonSchema:
    """A schema as a constraint.

    Raises:
        UnsupportedSchema: it is no JSON, or neither an object nor a boolean.
    """
    if not isinstance(value, (dict, bool)):
        raise UnsupportedSchema(f"must be an object or a boolean, not {type(value).__name__}")
    try:
        # Order is kept: properties are written in the order of the schema.
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UnsupportedSchema(f"is not JSON: {error}") from error
    return JsonSchema(text)
