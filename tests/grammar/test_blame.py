"""Which keyword forbids a byte: a table, and the law that the text goes on without it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from grammar_support import byte_vocabulary

from sgrt.core import JsonSchema
from sgrt.grammar.compiler import build

_CLOSED = {"type": "object", "properties": {"a": {}, "b": {}}, "additionalProperties": False}
_REF = {"$ref": "#/$defs/n", "$defs": {"n": {"type": "array", "items": {"type": "boolean"}}}}
_DRAFT_7 = {"items": [{"const": 1}], "additionalItems": {"type": "null"}}

# schema, text that is allowed, byte that is not, what forbids it
CASES: list[tuple[Any, str, str, str | None]] = [
    ({"type": "integer"}, "", '"', "'type' at /"),
    ({"enum": ["red", "green"]}, '"r', "x", "'enum' at /"),
    ({"const": {"a": 1}}, '{"a":', "2", "'const' at /"),
    ({"maximum": 30}, "3", "1", "'maximum' at /"),
    ({"type": "integer", "minimum": 5}, "", "-", "'minimum' at /"),
    ({"type": "integer", "multipleOf": 10}, "13", ",", None),
    ({"type": "string", "maxLength": 2}, '"ab', "c", "'maxLength' at /"),
    ({"type": "string", "minLength": 2}, '"a', '"', "'minLength' at /"),
    ({"type": "string", "pattern": "^[a-c]+$"}, '"ab', "x", "'pattern' at /"),
    ({"type": "string", "format": "date"}, '"2024-', "2", "'format' at /"),
    (_CLOSED, '{"', "c", "'additionalProperties' at /"),
    ({"properties": {"a": {"maxItems": 1}}}, '{"a":[1', ",", "'maxItems' at /properties/a"),
    ({"properties": {"a": {"minItems": 1}}}, '{"a":[', "]", "'minItems' at /properties/a"),
    ({"type": "object", "required": ["a"]}, "{", "}", "'required' at /"),
    ({"items": {"properties": {"x/y": {"type": "null"}}}}, '[{},{"x/y":', "1", "'type' at /items/properties/x~1y"),
    (_REF, "[true,", "1", "'type' at /$defs/n/items"),
    (_DRAFT_7, "[1,", "2", "'type' at /additionalItems"),
    ({"allOf": [{"maxLength": 3}, {"minLength": 3}]}, '"ab', '"', "'minLength' at /allOf/1"),
    ({"not": {"type": "string"}}, "", '"', "'not' at /"),
    ({"patternProperties": {"^k": {"type": "null"}}}, '{"k1":', "1", "'type' at /patternProperties/^k"),
    ({"type": "integer", "enum": [1, 2]}, "", "t", "'type' and 'enum' at /"),
    ({"anyOf": [{"type": "null"}, {"maxLength": 1}], "type": ["null", "string"]}, '"a', "c", "'type' at /anyOf/0 and 'maxLength' at /anyOf/1"),
    ({}, "[1", "}", None),
]  # fmt: skip


def _explain(schema: Any, text: str, byte: str) -> str:
    matcher = build(JsonSchema(json.dumps(schema)), byte_vocabulary()).matcher()
    matcher.accept(list(text.encode()))
    return matcher.explain(ord(byte)) or ""


@pytest.mark.parametrize(("schema", "text", "byte", "who"), CASES)
def test_explain_of_a_schema_names_the_keyword_that_forbids_it(
    schema: Any, text: str, byte: str, who: str | None
) -> None:
    why = _explain(schema, text, byte)
    assert why.endswith(f"; forbidden by {who}") if who else "; forbidden" not in why, why


def test_explain_of_a_costly_schema_ends_soon() -> None:
    many = {
        f"p{i}": {"type": "string", "pattern": f"^(a|b)*a(a|b){{{i % 9}}}$"} for i in range(300)
    }
    schema = {"type": "object", "properties": many, "additionalProperties": False}
    start = time.process_time()
    assert "cannot follow" in _explain(schema, '{"', "q")
    assert time.process_time() - start < 5
