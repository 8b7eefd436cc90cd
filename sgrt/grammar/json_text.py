"""JSON text from users: bounded, strict, and compared the way JSON Schema compares."""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from typing import Any, NoReturn

from sgrt.errors import UnsupportedSchema
from sgrt.grammar import limits

MAX_EXACT_INT = 2**53
"""Beyond this the engine's numbers (64-bit floats) are no longer exact."""
MAX_EXACT_DIGITS, MAX_EXACT_SCALE = 15, 22
"""Digits of a number that is no integer, and digits behind its point."""
MIN_EXACT_FRACTION = 1e-15
"""Smallest step or bound that the engine writes out in decimals."""
_MAX_DIGITS = 400
_sorted_text = json.JSONEncoder(sort_keys=True).encode
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)
_UNWRITABLE = re.compile("[\x00-\x07\x0b\x0e-\x1f\x7f\ud800-\udfff]")
"""Characters whose only JSON spelling would be ``\\uXXXX``, which is never generated."""


def parse(text: str) -> Any:
    """JSON text as Python values.

    Raises:
        UnsupportedSchema: not JSON, a repeated key, NaN, a number beyond a float's range, half a
            surrogate pair.
        GrammarBudgetExceeded: too long or too deep.
    """
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise UnsupportedSchema("holds half a surrogate pair") from error
    limits.check_limit("bytes of schema", size, limits.MAX_SCHEMA_BYTES)
    _check_depth(text)
    try:
        return json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_int=_parse_int,
            parse_float=_parse_float,
        )
    except json.JSONDecodeError as error:
        reason = f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise UnsupportedSchema(reason) from error


def _check_depth(text: str) -> None:
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        char = match.group()
        if char in "{[":
            depth += 1
            limits.check_limit("levels of JSON", depth, limits.MAX_JSON_DEPTH)
        elif char in "}]":
            depth -= 1


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        repeated = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise UnsupportedSchema(f"key {repeated!r} is given twice in one object")
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise UnsupportedSchema(f"{name} is not JSON")


def _parse_int(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise UnsupportedSchema(f"holds an integer of {len(digits)} digits")
    return int(digits)


def _parse_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise UnsupportedSchema(f"number {text[:40]} is beyond the range of floats")
    return value


def dump(value: Any) -> str:
    """Compact JSON text; non-ASCII characters stand for themselves."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def equality_key(value: Any) -> str:
    """Equal exactly where JSON Schema calls two values equal: 1 is 1.0 but not true."""
    if isinstance(value, str):
        return f'"{value}"'  # nothing but a string has such a key
    return _sorted_text(_fold_numbers(value))


def _fold_numbers(value: Any) -> Any:
    # Values were parsed from text whose depth `parse` bounds, so this recursion is bounded too.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_fold_numbers(item) for item in value]
    if isinstance(value, dict):
        return {key: _fold_numbers(item) for key, item in value.items()}
    return value


def type_of(value: Any) -> str:
    """JSON Schema's type; "number" means one that is not an integer."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return "integer"
    if isinstance(value, float):
        return "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def num_parts(value: Any) -> int:
    """Items and members in a value, at any depth."""
    todo = [value] if isinstance(value, (dict, list)) else []
    found = 0
    while todo:
        inside = todo.pop()
        found += len(inside)
        items = inside.values() if isinstance(inside, dict) else inside
        todo += (item for item in items if isinstance(item, (dict, list)))
    return found


def unwritable(value: Any, max_integer: int = MAX_EXACT_INT) -> str | None:
    """Why this value cannot be generated exactly, or None where it can."""
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            todo += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            todo += item
        elif isinstance(item, str):
            if _UNWRITABLE.search(item):
                return f"string {item[:40]!r} holds a control character that is never generated"
        elif isinstance(item, int) and abs(item) > max_integer:
            return f"number {item!r:.40} is larger than what is supported"
        elif isinstance(item, float) and abs(item) > MAX_EXACT_INT:
            return f"number {item!r:.40} is beyond 2**53, where the engine is not exact"
        elif isinstance(item, float) and max_integer == MAX_EXACT_INT and not is_exact(item):
            return f"number {item!r:.40} has too many digits for the engine to be exact"
    return None


def is_exact(value: float) -> bool:
    """Whether the engine, which reads decimals one by one, comes to this very float."""
    _, digits, exponent = Decimal(repr(value)).as_tuple()
    assert isinstance(exponent, int)
    return value.is_integer() or (len(digits) <= MAX_EXACT_DIGITS and exponent >= -MAX_EXACT_SCALE)
