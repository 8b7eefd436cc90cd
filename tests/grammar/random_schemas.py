"""Random JSON schemas and values over every enforced keyword, and an independent judge."""

from __future__ import annotations

import datetime
import json
import random
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import jsonschema

PATTERNS = [
    "a", "^a+$", "b$", "[^a]", "^.{1,3}$", "a|^b$", r"\d", r"^\w+$", r"\s", "^[a-c]{2,}$", "x?y*",
    r"\.", "^$", r"^\S*$", "(ab)+", "(^a|b$)", "^(?:a|bc)*$", r'["\\]', r"^\D+$", r"^\W",
]  # fmt: skip
FORMATS = ["date", "time", "date-time", "uuid", "ipv4", "email", "duration", "ipv6"]
TYPES = ["null", "boolean", "integer", "number", "string", "array", "object"]
NAMES = ["a", "b", "c", 'q"\n']
NUMBERS = [0.1, 1e-7, 12345678.9, 2**53, -0.0, 0.5, -(2**53), 1.5]


def number(rng: random.Random) -> float:
    kind = rng.random()
    if kind < 0.6:
        return rng.randint(-20, 20)
    if kind < 0.85:
        return round(rng.uniform(-5, 5), rng.randint(1, 4))
    return rng.choice(NUMBERS)


def value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randint(0, 6 if depth < 2 else 4)
    if kind < 3:
        return [None, rng.random() < 0.5, number(rng)][kind]
    if kind < 5:
        return "".join(rng.choice('ab"\\/\n\té😀1. ') for _ in range(rng.randint(0, 4)))
    if kind == 5:
        return [value(rng, depth + 1) for _ in range(rng.randint(0, 2))]
    return {rng.choice("abc"): value(rng, depth + 1) for _ in range(rng.randint(0, 2))}


def schema(rng: random.Random) -> dict[str, Any]:
    """A schema, some with definitions that refer to each other and to the root."""
    names = [f"D{i}" for i in range(rng.randint(0, 2))]
    refs = ["#/$defs/" + name for name in names] + (["#"] if rng.random() < 0.2 else [])
    root = _schema(rng, 0, refs)
    if not isinstance(root, dict):
        root = {}
    if names:
        root["$defs"] = {name: _schema(rng, 1, refs) for name in names}
    return root


def _schema(rng: random.Random, depth: int, refs: list[str]) -> Any:
    if rng.random() < 0.04:
        return rng.random() < 0.7
    kind = rng.random()
    if kind < 0.1:
        extra = {"type": rng.choice(TYPES)} if rng.random() < 0.2 else {}
        return {"enum": [value(rng) for _ in range(rng.randint(1, 4))], **extra}
    if kind < 0.15:
        return {"const": value(rng)}
    node: dict[str, Any] = {}
    if refs and kind < 0.25:
        node["$ref"] = rng.choice(refs)
    elif depth < 3 and kind < 0.4:
        keyword = rng.choice(["anyOf", "allOf", "oneOf"])
        node[keyword] = [_schema(rng, depth + 1, refs) for _ in range(rng.randint(1, 3))]
    if depth < 3 and rng.random() < 0.25:
        _logic(rng, node, depth + 1, refs)
    if node and rng.random() < 0.5:
        return node
    main = rng.choice(TYPES if depth < 3 else TYPES[:5])
    types = [main] if rng.random() < 0.8 else rng.sample(TYPES, 2)
    if rng.random() < 0.85:
        node["type"] = types[0] if len(types) == 1 else types
    for name in types:
        _KEYWORDS_OF.get(name, _plain)(rng, node, depth + 1, refs)
    return node


def _logic(rng: random.Random, node: dict[str, Any], depth: int, refs: list[str]) -> None:
    """Keywords that say when another schema holds."""
    if rng.random() < 0.5:
        node["not"] = _schema(rng, depth, refs)
        return
    for keyword, share in (("if", 1.0), ("then", 0.7), ("else", 0.7)):
        if rng.random() < share:
            node[keyword] = _schema(rng, depth, refs)


def _plain(rng: random.Random, node: dict[str, Any], depth: int, refs: list[str]) -> None:
    """Types without keywords of their own."""


def _number(rng: random.Random, node: dict[str, Any], depth: int, refs: list[str]) -> None:
    for keyword in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
        if rng.random() < 0.25:
            node[keyword] = number(rng)
    if rng.random() < 0.2:
        node["multipleOf"] = rng.choice([1, 2, 3, 7, 0.5, 0.1, 0.01, 2.5, 10, 0.3])


def _string(rng: random.Random, node: dict[str, Any], depth: int, refs: list[str]) -> None:
    if rng.random() < 0.3:
        node["minLength"] = rng.randint(0, 3)
    if rng.random() < 0.3:
        node["maxLength"] = rng.randint(0, 5)
    if rng.random() < 0.3:
        node["pattern"] = rng.choice(PATTERNS)
    if rng.random() < 0.15:
        node["format"] = rng.choice(FORMATS)


def _array(rng: random.Random, node: dict[str, Any], depth: int, refs: list[str]) -> None:
    if rng.random() < 0.6:
        node["items"] = _schema(rng, depth, refs)
    if rng.random() < 0.3:
        node["prefixItems"] = [_schema(rng, depth, refs) for _ in range(rng.randint(1, 2))]
    for keyword in ("minItems", "maxItems"):
        if rng.random() < 0.3:
            node[keyword] = rng.randint(0, 3)
    if rng.random() < 0.05:
        node["uniqueItems"] = rng.random() < 0.5
    if rng.random() < 0.15:
        node["contains"] = _schema(rng, depth, refs)
        for keyword in ("minContains", "maxContains"):
            if rng.random() < 0.3:
                node[keyword] = rng.randint(0, 2)
    if rng.random() < 0.15:
        node["unevaluatedItems"] = rng.random() > 0.6 and _schema(rng, depth, refs)


def _object(rng: random.Random, node: dict[str, Any], depth: int, refs: list[str]) -> None:
    if rng.random() < 0.8:
        chosen = rng.sample(NAMES, rng.randint(0, 3))
        node["properties"] = {name: _schema(rng, depth, refs) for name in chosen}
    if rng.random() < 0.5:
        node["required"] = rng.sample(NAMES, rng.randint(0, 2))
    if rng.random() < 0.6:
        node["additionalProperties"] = rng.random() > 0.6 and _schema(rng, depth, refs)
    if rng.random() < 0.2:
        chosen = rng.sample(PATTERNS, rng.choice([1, 1, 2]))
        node["patternProperties"] = {p: _schema(rng, depth, refs) for p in chosen}
    if rng.random() < 0.1:
        node["minProperties"] = rng.randint(0, 2)
    if rng.random() < 0.1:
        node["maxProperties"] = rng.randint(0, 3)
    if rng.random() < 0.1:
        names = [{"enum": ["a", "b"]}, {"maxLength": 2}, {"pattern": rng.choice(PATTERNS)}]
        node["propertyNames"] = rng.choice([*names, {"not": {"const": "b"}}])
    if rng.random() < 0.1:
        node["dependentRequired"] = {rng.choice(NAMES): rng.sample(NAMES, rng.randint(0, 2))}
    if rng.random() < 0.1:
        node["dependentSchemas"] = {rng.choice(NAMES): _schema(rng, depth, refs)}
    if rng.random() < 0.15:
        node["unevaluatedProperties"] = rng.random() > 0.6 and _schema(rng, depth, refs)


_KEYWORDS_OF = {
    "integer": _number,
    "number": _number,
    "string": _string,
    "array": _array,
    "object": _object,
}


class _Exact(float):
    """A float that remembers how it was written, so that decimals stay exact."""

    text: str

    def __new__(cls, text: str) -> _Exact:
        self = float.__new__(cls, text)
        self.text = text
        return self


def load(text: str | bytes) -> Any:
    return json.loads(text, parse_float=_Exact)


def _multiple_of(validator: Any, step: Any, instance: Any, schema: Any) -> Iterator[Any]:
    """Exact, where `jsonschema` divides floats."""
    if isinstance(instance, bool) or not isinstance(instance, (int, float)):
        return
    text = instance.text if isinstance(instance, _Exact) else str(instance)
    exponent = text.lower().partition("e")[2]
    if exponent and abs(int(exponent)) > 3000:
        return  # too large to divide here
    if (Fraction(text) / Fraction(str(step))).denominator != 1:
        yield jsonschema.ValidationError(f"{text} is not a multiple of {step}")


_FORMATS = jsonschema.FormatChecker(["date", "uuid", "ipv4", "ipv6", "email"])


@_FORMATS.checks("time", raises=ValueError)
def _is_time(text: object) -> bool:
    return not isinstance(text, str) or bool(datetime.time.fromisoformat(text).tzinfo)


@_FORMATS.checks("date-time", raises=ValueError)
def _is_date_time(text: object) -> bool:
    return not isinstance(text, str) or bool(datetime.datetime.fromisoformat(text).tzinfo)


_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator, {"multipleOf": _multiple_of}
)


def is_valid(instance: Any, node: dict[str, Any]) -> bool:
    return bool(_Validator(node, format_checker=_FORMATS).is_valid(instance))
