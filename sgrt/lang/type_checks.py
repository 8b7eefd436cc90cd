"""Types of pydantic that promise what no text can be held to, refused by name before anything is
generated."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from sgrt.errors import UnsupportedSchema
from sgrt.lang import decimals, moments

Schema = dict[str, Any]
KEYS = {
    "int": {"pattern": f"^{decimals.INT}$"},
    "float": {"pattern": f"^{decimals.FLOAT}$"},
    "decimal": {"pattern": f"^{decimals.NUMBER}$"},
    "bool": {"enum": ["true", "false"]},
}
_TEXT_KEYS = (
    *("str", "any", "date", "datetime", "time", "timedelta", "uuid", "url", "bytes", "literal"),
    *("enum", "union", "nullable", "function-after", "function-before", "function-wrap"),
    *("function-plain", "definition-ref", "lax-or-strict", "json-or-python", "multi-host-url"),
    *("chain", "custom-error", "default"),
)

_FUNCTIONS = {
    **{f"PathType.validate_{kind}": "whether it holds depends on the files that are there"
       for kind in ("file", "directory", "socket", "new")},
    "PaymentCardNumber.validate": "no grammar computes check digits",
    "import_string": "whether it holds depends on the modules that are there",
}  # fmt: skip
_NO_SCHEMAS = ("serialization", "metadata", "config", "default", "expected", "cls", "function")


def check(schema: Any, name: str) -> None:
    """Refuse a type that promises what no text can be held to.

    Args:
        schema: pydantic's core schema of the type.

    Raises:
        UnsupportedSchema: what, and why.
    """
    for part in _parts(schema, set()):
        if (why := _why_not(part)) is not None:
            raise UnsupportedSchema(f"the type {name!r} checks more than a grammar can: {why}")


def _parts(schema: Any, seen: set[int]) -> Iterator[Schema]:
    """Core schemas inside of one, itself first."""
    if isinstance(schema, dict) and id(schema) not in seen:
        seen.add(id(schema))
        if isinstance(schema.get("type"), str):
            yield schema
        for key, value in schema.items():
            if key not in _NO_SCHEMAS:
                yield from _parts(value, seen)
    elif isinstance(schema, (list, tuple)):
        for value in schema:
            yield from _parts(value, seen)


def _why_not(part: Schema) -> str | None:
    match part:
        case {"type": "json"}:
            return "JSON inside of a string is not checked; give the type itself"
        case {"type": "is-subclass"}:
            return "classes have no JSON"
        case {"type": "literal", "expected": list(values)} if any(
            isinstance(value, bytes) for value in values
        ):
            return "JSON has no bytes to compare"
        case {"type": "custom-error", "custom_error_type": "is_hashable"}:
            return "say of which type"
        case {"type": "dict", "keys_schema": {"type": kind}} if kind not in (*_TEXT_KEYS, *KEYS):
            return f"a key cannot be a {kind}"
        case {"type": "decimal", "multiple_of": _, **rest} if {"max_digits", "decimal_places"} & {
            *rest
        }:
            return "a multiple with its digits bounded is not computed"
        case {"type": "date" | "datetime" | "time" | "timedelta"} if moments.bounded(part):
            try:
                moments.patterns(part)
            except ValueError as error:
                return str(error)
    found = _function_of(part)
    if isinstance(found, functools.partial) and _is_pydantics(found.func):
        inner = _function_of(part["schema"])
        if _is_pydantics(inner) and not isinstance(inner, functools.partial):
            return "bounds of what another validator makes of the text are not computed"
    return _FUNCTIONS.get(getattr(found, "__qualname__", "")) if _is_pydantics(found) else None


def _function_of(part: Schema) -> Any:
    """The validator that a core schema calls, or None."""
    function = part.get("function")
    return function.get("function") if isinstance(function, dict) else function


def _is_pydantics(function: Any) -> bool:
    return str(getattr(function, "__module__", "")).startswith("pydantic.")
