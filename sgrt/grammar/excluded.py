"""Schemas of values that spell some texts nowhere: in no string and in no key.

Said in JSON Schema itself, and so enforced as any schema is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sgrt.errors import UnsupportedSchema
from sgrt.grammar import json_text

WRAPPED = "sgrt:wrapped"
"""The name in `$defs` of a user's schema, in one that says more of it."""
_FREE = "sgrt:free"
_OWN_ID = "urn:sgrt:value"
_ESCAPES = frozenset('"\\bfnrt')


def is_plain(text: str) -> bool:
    """Whether a text stands in JSON where, and only where, it stands in a string: no part of it is
    written as an escape, and none of it is part of one."""
    return text[0] not in _ESCAPES and text.isprintable() and not set(text) & {'"', "\\"}


def whole(schema: dict[str, Any], texts: Sequence[str]) -> str:
    """The schema of what a schema allows and spells none of some texts, as JSON.

    Args:
        schema: what it refers to stays where it is.
        texts: each `is_plain`.
    """
    own = {"$id": _OWN_ID, **schema}
    return json_text.dump(
        head(schema)
        | {
            "allOf": [{"$ref": own["$id"]}, *refs(texts)],
            "$defs": {WRAPPED: own, **definitions(texts)},
        }
    )


def head(schema: dict[str, Any]) -> dict[str, Any]:
    """What a schema says of the draft it is of, for one that it is part of."""
    draft = str(schema.get("$schema", ""))
    return {"$schema": draft} if draft and "draft-04" not in draft else {}  # there `$id` is no name


def refs(texts: Sequence[str]) -> list[dict[str, Any]]:
    """What to add to an `allOf`."""
    return [{"$ref": f"#/$defs/{_FREE}"}] if texts else []


def definitions(texts: Sequence[str]) -> dict[str, Any]:
    """What `refs` refer to in `$defs`."""
    if not texts:
        return {}
    other = {"not": {"pattern": "|".join(map(_escaped, texts))}}
    (ref,) = refs(texts)
    return {
        _FREE: {
            "anyOf": [
                {"type": ["null", "boolean", "number"]},
                {"type": "string", **other},
                {"type": "array", "items": ref},
                {"type": "object", "propertyNames": other, "additionalProperties": ref},
            ]
        }
    }


def placed(error: UnsupportedSchema) -> UnsupportedSchema:
    """The error with its place in the user's schema."""
    return UnsupportedSchema(
        error.reason, pointer=unwrapped(error.pointer), keyword=error.keyword, hint=error.hint
    )


def unwrapped(pointer: str) -> str:
    """A pointer into a user's schema, of one into a schema that wraps it."""
    return pointer.removeprefix(f"/$defs/{WRAPPED}")


def _escaped(text: str) -> str:
    """A text as a pattern."""
    return "".join(c if c.isalnum() or ord(c) > 0xFFFF else f"\\u{ord(c):04x}" for c in text)
