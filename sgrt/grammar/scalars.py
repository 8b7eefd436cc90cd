"""Schemas of numbers, words and listed values as plain patterns.

The engine reads a number greedily, so what follows one could be read as its continuation (``1``
and then ``END``); of a pattern every way is followed.
"""

from __future__ import annotations

import json
from typing import Any

from sgrt.grammar import regular
from sgrt.grammar.rules import Alt, Node, literal

_INTEGER = r"\x{2D}?(?:0|[\x{31}-\x{39}][\x{30}-\x{39}]*)"
_TYPES = {
    "integer": _INTEGER,
    "number": _INTEGER
    + r"(?:\x{2E}[\x{30}-\x{39}]+)?(?:[\x{45}\x{65}][\x{2B}\x{2D}]?[\x{30}-\x{39}]+)?",
    "boolean": "(?:true|false)",
    "null": "null",
}


def node_of(normal: dict[str, Any]) -> Node | None:
    """The values of a normal schema as characters; None where that is not known."""
    if normal.keys() == {"enum"}:
        texts = [_text(value) for value in normal["enum"]]
        return Alt(tuple(literal(text) for text in texts if text)) if all(texts) else None
    if normal.keys() != {"type"}:
        return None
    kinds = normal["type"] if isinstance(normal["type"], list) else [normal["type"]]
    if not all(kind in _TYPES for kind in kinds):
        return None
    return Alt(tuple(regular.parse(_TYPES[kind]) for kind in kinds))


def _text(value: Any) -> str | None:
    """A value of an enum as the engine writes it, where that is plain."""
    if value is None or isinstance(value, int):  # booleans too
        return json.dumps(value)
    is_plain = isinstance(value, str) and value.isprintable()
    return json.dumps(value, ensure_ascii=False) if is_plain else None
