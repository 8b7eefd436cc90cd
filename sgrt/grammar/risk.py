"""Which constraints might cost an engine more than milliseconds, read off their text.

What is harmless by this measure was measured: 20,000 random schemas and patterns up to the sizes
of `limits`, and the largest of each kind below these numbers, took at most 0.3 s to build and
to mask (nearly all under 5 ms); the engine bounds them by fuel. Where it has none, or where
sizes multiply, a constraint is risky and goes to `worker.CompileProcess`. (So does one whose audit
takes long; that shows only as it runs.)
"""

from __future__ import annotations

import math
import re
from dataclasses import fields, is_dataclass
from decimal import Decimal
from typing import Any

from sgrt.core import Choices, JsonSchema, Regex, StructuralFormat, Substring
from sgrt.errors import ConstraintError
from sgrt.grammar import json_text

MAX_BYTES = 64 * 1024
MAX_STEP = 10_000
"""Least common multiple of the digits of all `multipleOf`: the engine builds a state for each way
in which remainders meet, unbounded."""
MAX_REPEATS = 10_000
"""Product of the counted repeats in grammars and compositions."""

_REPEAT = re.compile(r"[{~,.]\s*(\d+)|(\d+)\s*\}")


def risk(constraint: Any) -> str | None:
    """What about a constraint is risky; None where it is harmless.

    Cost: reads the text once.
    """
    if isinstance(constraint, (Choices, Regex)):
        return None  # the audit bounds what is built, to 0.3 s at most
    if isinstance(constraint, JsonSchema):
        return _schema_risk(constraint.schema)
    parts = _parts(constraint)
    num_bytes = sum(_num_bytes(part) for part in parts)
    if num_bytes > MAX_BYTES:
        return f"{num_bytes} bytes"
    for part in parts:
        found = _schema_risk(part.schema) if isinstance(part, JsonSchema) else None
        if found:
            return found
    return _repeats_risk(parts)


def _parts(value: Any) -> list[Any]:
    """Constraints, and what they are made of, as far as that is not made of others."""
    found: list[Any] = []
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, (JsonSchema, Substring, str, int)):
            found.append(item)
        elif isinstance(item, StructuralFormat):
            found.append(JsonSchema(item.format))  # its schemas are looked for as those of one
        elif isinstance(item, tuple):
            todo += item
        elif is_dataclass(item):
            todo += [getattr(item, f.name) for f in fields(item)]
    return found


def _num_bytes(part: Any) -> int:
    text = getattr(part, "schema", None) or getattr(part, "text", part)
    return len(text.encode("utf-8", "surrogatepass")) if isinstance(text, str) else 0


def _schema_risk(text: str) -> str | None:
    if "multiple" not in text and "\\u" not in text:
        return None
    try:
        todo: list[Any] = [json_text.parse(text)]
    except ConstraintError:
        return None  # refused before anything is built
    step = 1
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            step = math.lcm(step, _digits(node.get("multipleOf")))
            if step > MAX_STEP:
                return f"multipleOf of {step} steps"
            todo += node.values()
        elif isinstance(node, list):
            todo += node
    return None


def _digits(value: Any) -> int:
    """A number without its point."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return 1
    digits = Decimal(repr(value)).as_tuple().digits
    size = int("".join(map(str, digits)))
    return max(1, abs(value) if isinstance(value, int) else size)


def _repeats_risk(parts: list[Any]) -> str | None:
    product = 1
    for part in parts:
        counts = [part] if isinstance(part, int) else []
        if isinstance(part, str):
            counts = [int((m[1] or m[2])[:9]) for m in _REPEAT.finditer(part)]
        for count in counts:
            product *= max(1, count)
            if product > MAX_REPEATS:
                return f"repeats of {product}"
    return None
