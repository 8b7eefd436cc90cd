"""What each keyword of JSON Schema does here: enforced exactly, an annotation, or refused."""

from __future__ import annotations

import itertools
import json
import random
import time
from typing import Any, Literal

import pydantic
import pytest
import random_schemas
from grammar_support import accepts, allowed_ids, byte_vocabulary, compiler, grammar, walk

from sgrt import schemas
from sgrt.core import JsonSchema
from sgrt.errors import ConstraintError, GrammarBudgetExceeded, UnsupportedSchema
from sgrt.grammar import json_schema, json_text, limits
from sgrt.lang import types

KEYWORDS_OF_THE_DRAFT = """
$schema $vocabulary $id $anchor $dynamicAnchor $ref $dynamicRef $defs $comment
allOf anyOf oneOf not if then else dependentSchemas prefixItems items contains properties
patternProperties additionalProperties propertyNames unevaluatedItems unevaluatedProperties
type enum const multipleOf maximum exclusiveMaximum minimum exclusiveMinimum maxLength minLength
pattern maxItems minItems uniqueItems maxContains minContains maxProperties minProperties required
dependentRequired title description default deprecated readOnly writeOnly examples
format contentEncoding contentMediaType contentSchema
"""


def schema_of(node: dict[str, Any]) -> JsonSchema:
    return JsonSchema(json_text.dump(node))


def test_keywords_of_the_draft_each_stand_in_exactly_one_table() -> None:
    tables = [
        set(table)
        for table in (
            json_schema.KEYWORDS,
            json_schema.DEPENDENT,
            json_schema.ANNOTATIONS,
        )
    ]
    for keyword in KEYWORDS_OF_THE_DRAFT.split():
        assert sum(keyword in table for table in tables) == 1, keyword


@pytest.mark.parametrize(
    ("slip", "meant"),
    [("requierd", "required"), ("Pattern", "pattern"), ("maxlength", "maxLength"), ("mininum", "minimum")]
)  # fmt: skip
def test_keyword_misspelled_is_reported_with_what_was_meant(slip: str, meant: str) -> None:
    text = schema_of({slip: 1, "const": 5})
    assert accepts(grammar(text), "5")
    (entry,) = [e for e in json_schema.report(text.schema) if e.keyword == slip]
    assert entry.status == "annotation" and f"did you mean '{meant}'" in entry.why


def test_keyword_that_no_draft_knows_is_an_annotation() -> None:
    assert accepts(grammar(schema_of({"propertyOrdering": ["a"], "const": 5})), "5")
    assert accepts(grammar(schema_of({"x-order": 1, "const": 5})), "5")
    # The engine would obey this one; nothing of ours hands it on.
    relaxed = {"x-guidance": {"whitespace_flexible": True}, "type": "array"}
    assert not accepts(grammar(schema_of(relaxed)), "[1, 2]")


@pytest.mark.parametrize("keyword", sorted(json_schema.ANNOTATIONS - {"$defs", "definitions"}))
def test_annotation_allows_every_value(keyword: str) -> None:
    compiled = grammar(schema_of({keyword: "x", "type": ["integer", "array"]}))
    assert accepts(compiled, "1") and accepts(compiled, '["x",{}]')


_CASES: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({}, ["1", '"a"', "null", '{"a":[1,{}]}'], ["", " 1", "[1, 2]", '{"a": 1}', "nul"]),
    ({"type": "integer"}, ["0", "-7", "12345678901234567890"], ["1.5", "01", "1.0", "-", "+1"]),
    ({"type": "number"}, ["1", "1.5", "-0.1", "1e5", "2E-3"], [".5", "1.", "01", "NaN"]),
    ({"type": ["string", "null"]}, ["null", '"a"'], ["1"]),
    ({"type": "string"}, ['"é😀"', '"\\n\\"\\\\"'], ['"\t"', '"\\u0041"', '"\\x"', '"a']),
    ({"enum": [1, "a", None, {"x": [1.5]}]}, ["1", '"a"', "null", '{"x":[1.5]}'], ["2", "1.0"]),
    ({"const": "a\nb"}, ['"a\\nb"'], ['"a"']),
    ({"type": "integer", "minimum": 3, "maximum": 12}, ["3", "7", "12"], ["2", "13", "30", "0"]),
    ({"type": "integer", "exclusiveMinimum": -1, "exclusiveMaximum": 1.5}, ["0", "1"], ["-1", "2"]),
    ({"type": "number", "minimum": 0.1, "maximum": 0.25}, ["0.1", "0.20", "0.25"], ["0.09", "0.251"]),
    ({"type": "integer", "maximum": 2**70}, ["5"], []),
    ({"type": "integer", "multipleOf": 7}, ["0", "14", "-21"], ["1", "15"]),
    ({"type": "number", "multipleOf": 0.01}, ["0.29", "1.1", "3"], ["0.295"]),
    ({"type": "string", "minLength": 2, "maxLength": 3}, ['"ab"', '"😀é"', '"\\n\\n\\n"'], ['"a"', '"abcd"']),
    ({"type": "string", "pattern": "a\\d"}, ['"a1"', '"xa1x"'], ['"a"', '"a\u0661"']),
    ({"type": "string", "pattern": "^a.b$"}, ['"axb"', '"a\\"b"'], ['"xaxb"', '"a\\nb"', '"a\\rb"']),
    ({"type": "array", "items": {"type": "integer"}}, ["[]", "[1,2]"], ["[1,]", '["a"]', "[1,2"]),
    ({"type": "array", "minItems": 1, "maxItems": 2}, ["[1]", "[1,[]]"], ["[]", "[1,2,3]"]),
    ({"type": "array", "prefixItems": [{"type": "integer"}], "items": False}, ["[]", "[1]"], ['["a"]', "[1,2]"]),
    ({"id": "http://a.org/s", "type": "integer"}, ["1"], ['"a"']),
    ({"type": "array", "items": {"id": "http://a.org/b", "const": 1}}, ["[1]"], ["[2]"]),
    ({"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "array", "items": {"id": "x", "anyOf": [{"$ref": "#"}]}}, ["[[]]"], ["[2]"]),
    ({"$ref": "#/shapes/0/a", "shapes": [{"a": {"const": 1}}]}, ["1"], ["2"]),
    ({"type": "string", "format": "url", "_pattern": "b", "comment": 1, "$default": 2}, ['"a"'], ["1"]),
    ({"type": "integer", "minimum": 1, "exclusiveMinimum": True, "maximum": 3, "exclusiveMaximum": False}, ["2", "3"], ["1", "4"]),
    ({"type": "array", "items": [{"const": 1}], "additionalItems": {"const": 2}}, ["[1,2,2]"], ["[2]", "[1,1]"]),
    ({"type": "array", "uniqueItems": False}, ["[1,1]"], []),
    ({"type": "array", "uniqueItems": True, "maxItems": 1}, ["[]", "[1]"], ["[1,1]"]),
    ({"type": "object", "properties": {"a": {"type": "integer"}}}, ["{}", '{"a":1}', '{"a":1,"b":2}'], ['{"a":"x"}', '{"a":1,"a":"x"}', '{"a":1,"\\u0061":"x"}']),
    ({"type": "object", "required": ["a"]}, ['{"a":1}'], ["{}", '{"b":1}']),
    ({"type": "object", "additionalProperties": {"type": "null"}}, ["{}", '{"x":null}'], ['{"x":1}']),
    ({"type": "object", "properties": {"a": {}, "b": {}}, "additionalProperties": False}, ['{"a":1,"b":2}'], ['{"c":1}']),
    ({"type": "object", "patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": False}, ['{"xa":1}'], ['{"xa":"1"}', '{"a":1}']),
    ({"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "integer"}}, ["{}", '{"a":1,"b":2}'], ['{"c":1}', '{"a":"x"}']),
    ({"type": "object", "minProperties": 1}, ['{"a":1}'], ["{}"]),
    ({"type": "object", "minProperties": 2, "required": ["a", "b"]}, ['{"a":1,"b":2}'], ['{"a":1}']),
    ({"type": "object", "maxProperties": 1}, ["{}", '{"a":1}'], ['{"a":1,"b":1}']),
    ({"anyOf": [{"type": "integer"}, {"type": "string"}], "minimum": 3}, ["3", '"a"'], ["2", "null"]),
    ({"allOf": [{"minimum": 3}, {"maximum": 5}], "type": "integer"}, ["4"], ["2", "6"]),
    ({"allOf": [{"type": "object", "properties": {"a": {}}, "additionalProperties": False}, {"properties": {"b": {}}}]}, ['{"a":1}', "{}"], ['{"b":1}']),
    ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, ["1", '"a"'], ["null"]),
    ({"oneOf": [{"const": 1}, {"enum": [2, 3]}]}, ["1", "3"], ["4"]),
    ({"anyOf": [{"const": 1}, {"const": 2}], "oneOf": [{"const": 2}, {"const": 3}]}, ["2"], ["1", "3"]),
    ({"$ref": "#/$defs/a", "minimum": 3, "$defs": {"a": {"type": "integer"}}}, ["3"], ["2", '"a"']),
    ({"$ref": "#/definitions/a~1b%20c", "definitions": {"a/b c": {"const": 1}}}, ["1"], ["2"]),
    ({"properties": {"a": {"const": 1}, "b": {"$ref": "#/properties/a"}}, "type": "object"}, ['{"b":1}'], ['{"b":2}']),
    ({"type": "array", "items": {"$ref": "#"}}, ["[]", "[[],[[]]]"], ["[1]"]),
    ({"type": "string", "format": "date", "pattern": "^2024"}, ['"2024-02-29"'], ['"2023-01-01"', '"2024-02-30"']),
    ({"type": "string", "format": "password"}, ['"x"'], []),
]  # fmt: skip


_LOGIC: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({"not": {"type": ["string", "number"]}}, ["null", "[]", "{}"], ["1", "1.5", '"a"']),
    ({"not": {"enum": [1, "a", None, [1], {"b": 2}]}, "type": ["number", "string", "null", "array"]}, ["2", '"b"', '""', "1.5", "[]", "[2]", "[1,1]"], ["1", "1.0", '"a"', "null", "[1]"]),
    ({"type": "string", "not": {"pattern": "^a|b$"}}, ['"ca"', '""', '"bc"'], ['"ab"', '"a"', '"b"', '"cb"']),
    ({"type": "string", "not": {"anyOf": [{"minLength": 3}, {"const": "x"}]}}, ['"xy"', '""', '"y"'], ['"xyz"', '"x"']),
    ({"type": "number", "not": {"minimum": 3, "maximum": 5}}, ["2.9", "6"], ["3", "4", "5"]),
    ({"type": "object", "not": {"required": ["a"], "properties": {"a": {"const": 1}}}}, ["{}", '{"a":2}', '{"b":1}'], ['{"a":1}']),
    ({"type": "object", "properties": {"a": {}, "b": {}}, "additionalProperties": False, "not": {"properties": {"a": {}}, "additionalProperties": False}}, ['{"b":1}', '{"a":1,"b":1}'], ["{}", '{"a":1}']),
    ({"type": "array", "items": {"type": "integer"}, "not": {"items": {"minimum": 3}}}, ["[1]", "[5,2]"], ["[]", "[3]"]),
    ({"if": {"type": "integer"}, "then": {"minimum": 3}, "else": {"type": "null"}}, ["3", "null"], ["2", '"a"']),
    ({"type": "object", "properties": {"k": {"enum": ["a", "b"]}, "v": {}}, "required": ["k", "v"], "if": {"properties": {"k": {"const": "a"}}}, "then": {"properties": {"v": {"type": "integer"}}}}, ['{"k":"a","v":1}', '{"k":"b","v":""}'], ['{"k":"a","v":""}']),
    ({"type": "object", "dependentRequired": {"a": ["b"]}}, ["{}", '{"b":1}', '{"b":1,"a":1}'], ['{"a":1}']),
    ({"type": "object", "dependentSchemas": {"a": {"properties": {"b": {"type": "integer"}}}}}, ['{"b":""}', '{"b":1,"a":1}'], ['{"b":"","a":1}', '{"a":1,"b":""}']),
    ({"type": "object", "dependencies": {"a": ["b"], "c": {"maxProperties": 1}}}, ['{"b":1,"a":1}', '{"c":1}'], ['{"a":1}', '{"c":1,"b":1}']),
    ({"type": "array", "contains": {"const": 5}}, ["[5]", "[1,5,2]"], ["[]", "[1]"]),
    ({"type": "array", "contains": {"type": "null"}, "minContains": 2, "maxContains": 2}, ["[null,null]", "[null,1,null]"], ["[null]", "[null,null,null]"]),
    ({"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": True}, ["[]", "[2]", "[2,1]"], ["[1,1]", "[2,1,2]"]),
    ({"type": "object", "propertyNames": {"pattern": "^a", "maxLength": 2}}, ["{}", '{"ab":1}'], ['{"b":1}', '{"abc":1}']),
    ({"type": "object", "propertyNames": {"not": {"const": "a"}}}, ['{"b":1}'], ['{"a":1}']),
    ({"type": "object", "patternProperties": {"^a": {"type": "integer"}, "b$": {"minimum": 3}}}, ['{"a":1}', '{"ab":3}', '{"b":""}'], ['{"ab":1}', '{"ab":""}']),
    ({"allOf": [{"properties": {"ab": {}}, "additionalProperties": {"type": "integer"}}, {"patternProperties": {"^a.$": {"minLength": 1}}}]}, ['{"ab":"x","ac":1}'], ['{"ab":"","ac":1}', '{"ac":"x"}']),
    ({"patternProperties": {"^a.$": {"type": "integer"}, "^b.$": {"type": "null"}}, "additionalProperties": False, "properties": {"b": True, "ax": {"minimum": 2}}}, ['{"b":"","ax":2,"ay":1,"bx":null}'], ['{"ax":1}', '{"ay":null}', '{"c":1}']),
    ({"type": "object", "patternProperties": {"^a.$": {"type": "integer"}}, "additionalProperties": {"type": "null"}, "properties": {"b": {}}}, ['{"ax":1}', '{"b":1}', '{"c":null}'], ['{"ax":null}', '{"c":1}']),
    ({"type": "object", "minProperties": 2, "required": ["a"]}, ['{"a":1,"b":1}'], ['{"a":1}', "{}"]),
    ({"type": "object", "properties": {"a": {}, "b": {}}, "minProperties": 1}, ['{"a":1}', '{"b":1}', '{"c":1}', '{"a":1,"c":2}'], ["{}"]),
    ({"type": "object", "properties": {"a": {}, "b": {}, "c": {}, "d": {}}, "minProperties": 2}, ['{"a":1,"d":2}', '{"b":1,"x":2}', '{"a":1,"b":2,"c":3}'], ["{}", '{"a":1}', '{"x":1}', '{"x":1,"x":2}']),
    ({"type": "object", "properties": {"a": {}, "b": {}}, "required": ["b"], "minProperties": 3}, ['{"a":1,"b":2,"x":3}'], ['{"a":1,"b":2}', '{"b":1,"x":2,"x":3}']),
    ({"type": "array", "prefixItems": [], "items": {"const": 1}}, ["[1]"], ["[2]"]),
    ({"type": "object", "properties": {"a": {"type": "integer"}, "b": {}}, "maxProperties": 1}, ["{}", '{"a":1}', '{"c":1}'], ['{"a":""}', '{"a":1,"b":1}', '{"b":1,"c":1}']),
    ({"oneOf": [{"type": "number"}, {"type": "integer", "minimum": 3}]}, ["2", "-1"], ["3", "4"]),
    ({"type": "string", "oneOf": [{"minLength": 2}, {"maxLength": 3}]}, ['"a"', '"abcd"'], ['"ab"', '"abc"']),
    ({"type": "object", "properties": {"a": {}}, "anyOf": [{"properties": {"b": {"const": 1}}, "required": ["b"]}, {}], "unevaluatedProperties": False}, ['{"a":1}', '{"a":1,"b":1}'], ['{"b":2}', '{"c":1}']),
    ({"type": "array", "prefixItems": [{}], "allOf": [{"prefixItems": [{}, {"type": "integer"}]}], "unevaluatedItems": {"type": "null"}}, ["[1,2,null]", "[]"], ["[1,2,3]", "[1,null]"]),
    ({"$id": "http://a.org/s", "$ref": "t#x", "$defs": {"t": {"$id": "t", "$defs": {"u": {"$anchor": "x", "const": 1}}}, "v": {"$anchor": "x"}}}, ["1"], ["2"]),
    ({"$id": "http://a.org/tree", "$ref": "list", "$defs": {"i": {"$dynamicAnchor": "item", "type": "null"}, "list": {"$id": "list", "type": "array", "items": {"$dynamicRef": "#item"}, "$defs": {"j": {"$dynamicAnchor": "item"}}}}}, ["[null]"], ["[1]"]),
    ({"type": "array", "items": {"$dynamicRef": "#n"}, "$defs": {"n": {"$dynamicAnchor": "n", "type": "array", "items": {"$dynamicRef": "#n"}}}}, ["[[],[[]]]"], ["[1]"]),
    ({"$ref": "http://json-schema.org/draft-07/schema#"}, ['{"minLength":1,"items":{"type":["null","array"]}}', "true"], ['{"minLength":-1}', '{"items":{"type":"x"}}', "1"]),
    ({"$ref": "https://json-schema.org/draft/2020-12/schema"}, ['{"$ref":"#/a","items":{"type":"null"},"minLength":1}', "false"], ['{"minLength":-1}', '{"items":{"type":"x"}}', '{"$id":"#a"}']),
    ({"$schema": "https://json-schema.org/draft/2019-09/schema", "$id": "http://a.org/tree", "$recursiveAnchor": True, "type": "object", "properties": {"v": {"$ref": "node"}}, "$defs": {"n": {"$id": "node", "$recursiveAnchor": True, "type": ["object", "null"], "properties": {"w": {"$recursiveRef": "#"}}}}}, ['{"v":{"w":{}}}', '{"v":null}'], ['{"v":{"w":null}}']),
    ({"$schema": "http://json-schema.org/draft-04/schema#", "type": "object", "properties": {"a": {"$ref": "#x"}, "b": {"$ref": "http://a.org/b#/items"}}, "definitions": {"x": {"id": "#x", "type": "null"}, "b": {"id": "http://a.org/b", "items": {"enum": [2]}}}}, ['{"a":null,"b":2}'], ['{"a":1}', '{"b":1}']),
    ({"items": [{"$anchor": "a", "type": "null"}, {"$anchor": "a"}], "type": "array"}, ["[null,1]"], ["[1]"]),
    ({"type": "array", "items": [{"const": 1}], "additionalItems": {"const": 2}}, ["[1,2,2]", "[]"], ["[2]", "[1,1]"]),
    ({"anyOf": [{"type": "null"}, {"type": "array", "items": {"not": {"$ref": "#"}}}]}, ["null", "[]", "[1,[null]]"], ["1", "[null]", "[[]]"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("node", "valid", "invalid"), [*_CASES, *_LOGIC], ids=lambda c: json.dumps(c)[:60]
)
def test_keyword_enforced_accepts_valid_and_rejects_invalid(
    node: dict[str, Any], valid: list[str], invalid: list[str]
) -> None:
    compiled = grammar(schema_of(node))
    assert [t for t in valid if not accepts(compiled, t)] == []
    assert [t for t in invalid if accepts(compiled, t)] == []


def test_keyword_tables_every_enforced_keyword_has_a_case() -> None:
    text = json.dumps([node for node, _, _ in [*_CASES, *_LOGIC]])
    wanted = {*json_schema.KEYWORDS, *json_schema.DEPENDENT}
    seen = {keyword for keyword in wanted if f'"{keyword}":' in text}
    assert wanted - {"discriminator"} <= seen


def check_random_schemas(seeds: range) -> tuple[int, int]:
    """Texts drawn under uniform masks validate; valid values in our spelling are accepted."""
    num_texts = num_schemas = 0
    for seed in seeds:
        rng = random.Random(seed)
        node = random_schemas.schema(rng)
        try:
            compiled = compiler().compile(schema_of(node))
        except ConstraintError:
            continue
        num_schemas += 1
        for _ in range(4):
            ids = walk(compiled.matcher(), byte_vocabulary(), rng, 60)
            if ids is not None:
                num_texts += 1
                text = bytes(ids)
                assert random_schemas.is_valid(random_schemas.load(text), node), (text, node)
    return num_schemas, num_texts


def test_schema_random_drawn_uniformly_always_validates() -> None:
    num_schemas, num_texts = check_random_schemas(range(150))
    assert num_schemas > 90 and num_texts > 300


@pytest.mark.slow
def test_schema_random_many_drawn_uniformly_always_validates() -> None:
    check_random_schemas(range(10_000, 16_000))


def test_schema_random_valid_values_are_accepted() -> None:
    """Spellings of numbers aside, what is valid can be generated, unless the report says not."""
    num_accepted = 0
    for seed in range(300):
        rng = random.Random(seed)
        node = random_schemas.schema(rng)
        if any(e.status == "subset" for e in json_schema.report(json_text.dump(node))):
            continue
        try:
            compiled = compiler().compile(schema_of(node))
        except ConstraintError:
            continue
        for _ in range(4):
            value = random_schemas.value(rng)
            text = json_text.dump(value)
            if "e-" in text or "-0.0" in text or ".0" in text or not _is_ordered(value, node):
                continue
            if random_schemas.is_valid(value, node):
                assert accepts(compiled, text), (text, node)
                num_accepted += 1
    assert num_accepted > 150


def _is_ordered(value: Any, node: dict[str, Any]) -> bool:
    """Values without two keys in any object: order is then no question."""
    if isinstance(value, dict):
        return len(value) < 2 and all(_is_ordered(v, node) for v in value.values())
    return not isinstance(value, list) or all(_is_ordered(v, node) for v in value)


@pytest.mark.parametrize(
    "node",
    [
        {"type": "integer", "minimum": 5, "maximum": 3},
        {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2},
        {"enum": []},
        {"type": "string", "enum": [1, 2]},
        {"type": "object", "properties": {"a": False}, "required": ["a"]},
        {"type": "object", "required": ["a"], "additionalProperties": False},
        {"type": "string", "pattern": "^abcd$", "maxLength": 3},
        {"type": "string", "minLength": 3, "maxLength": 2},
        {"type": "array", "minItems": 2, "maxItems": 1},
        {"type": "array", "minItems": 1, "items": False},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"type": "object", "properties": {"n": {"$ref": "#"}}, "required": ["n"]},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
        {"anyOf": [False, {"enum": []}]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}]}, "b": {"type": ["object", "array"], "minItems": 1, "items": {"$ref": "#/$defs/a"}, "required": ["x"], "properties": {"x": {"$ref": "#/$defs/b"}}}}},
    ],
)  # fmt: skip
def test_schema_that_nothing_satisfies_is_refused(node: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedSchema):
        grammar(schema_of(node))


def test_schema_with_one_endless_branch_never_enters_it() -> None:
    endless = {"type": "object", "properties": {"n": {"$ref": "#/$defs/e"}}, "required": ["n"]}
    node = {"anyOf": [{"$ref": "#/$defs/e"}, {"type": "integer"}], "$defs": {"e": endless}}
    compiled = grammar(schema_of(node))
    assert accepts(compiled, "1")
    with pytest.raises(ConstraintError):
        compiled.matcher().accept(list(b"{"))


@pytest.mark.parametrize(
    ("node", "pointer", "keyword"),
    [
        ({"$ref": "http://x.org/y"}, "", "$ref"),
        ({"$ref": "#/$defs/none"}, "", "$ref"),
        ({"$ref": "#/enum/0", "enum": [{"type": "string"}]}, "", "$ref"),
        ({"$ref": "#/$defs", "$defs": {"type": {}}}, "", "$ref"),
        ({"items": {"$ref": "#none"}}, "/items", "$ref"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "items": {"$ref": "https://json-schema.org/draft/2020-12/schema"}}, "/items", "$ref"),
        ({"items": {"$ref": "http://json-schema.org/draft-99/schema"}}, "/items", "$ref"),
        ({"items": {"$recursiveRef": "#/$defs/a"}, "$defs": {"a": {}}}, "/items", "$recursiveRef"),
        ({"$ref": "#/x/y", "x": {"$id": "http://a.org/b", "y": {}}}, "", "$ref"),
        ({"$ref": "#/x", "x": [{}]}, "", "$ref"),
        ({"items": [{"$anchor": "a"}, {"$anchor": "a"}, {"$ref": "#a"}]}, "/items/2", "$ref"),
        ({"items": [{"$id": "a"}, {"$id": "a"}, {"$ref": "a"}]}, "/items/2", "$ref"),
        ({"type": "foo"}, "", "type"),
        ({"type": []}, "", "type"),
        ({"type": [{}]}, "", "type"),
        ({"properties": {"a": {"minLength": -1}}}, "/properties/a", "minLength"),
        ({"minLength": True}, "", "minLength"),
        ({"minimum": "3"}, "", "minimum"),
        ({"exclusiveMinimum": True}, "", "exclusiveMinimum"),
        ({"multipleOf": 0}, "", "multipleOf"),
        ({"minimum": 2**200}, "", "minimum"),
        ({"const": 2**200}, "", "const"),
        ({"enum": ["\x01"]}, "", "enum"),
        ({"properties": {"\x7f": {}}}, "", "properties"),
        ({"required": "a"}, "", "required"),
        ({"properties": []}, "", "properties"),
        ({"anyOf": []}, "", "anyOf"),
        ({"items": {"anyOf": [{}, {"pattern": "(?<=a)"}]}}, "/items/anyOf/1", "pattern"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "minimum": 1, "exclusiveMinimum": True}, "", "exclusiveMinimum"),
        ({"uniqueItems": True, "items": {"multipleOf": 0.5}}, "", "uniqueItems"),
        ({"minProperties": 2}, "", "minProperties"),
        ({"type": "array", "not": {"uniqueItems": True}}, "/not", "uniqueItems"),
    ],
)  # fmt: skip
def test_schema_refused_names_pointer_and_keyword(
    node: dict[str, Any], pointer: str, keyword: str
) -> None:
    with pytest.raises(UnsupportedSchema) as caught:
        grammar(schema_of(node))
    assert (caught.value.pointer, caught.value.keyword) == (pointer, keyword)


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]
    lives: int = pydantic.Field(ge=0, le=9)


class Dog(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"
    tricks: list[str] = []


class Zoo(pydantic.BaseModel):
    star: Cat | Dog = pydantic.Field(discriminator="kind")
    by_size: dict[Literal["small", "large"], int] = {}
    note: str | None = None


def test_pydantic_union_with_discriminator_is_exclusive_and_parses() -> None:
    compiled = grammar(types.json_schema(Zoo))
    assert accepts(compiled, '{"star":{"kind":"cat","lives":3},"note":null}')
    assert accepts(compiled, '{"star":{"kind":"dog"},"by_size":{"small":1}}')
    assert not accepts(compiled, '{"star":{"tricks":[]}}')  # which of the two would it be?
    assert not accepts(compiled, '{"star":{"kind":"cat","lives":3},"other":1}')  # closed
    rng = random.Random(1)
    texts = [walk(compiled.matcher(), byte_vocabulary(), rng, 120) for _ in range(40)]
    done = [Zoo.model_validate_json(bytes(t)) for t in texts if t is not None]
    assert len(done) > 10


def _nested(keyword: str, depth: int, **beside: Any) -> dict[str, Any]:
    node: dict[str, Any] = {}
    for _ in range(depth):
        node = {keyword: node, **beside}
    return node


def test_schema_closed_leaves_conditions_as_written() -> None:
    part = {"type": "object", "properties": {"k": {"const": 1}}}
    for keyword in ("if", "not", "then", "else", "dependentSchemas"):
        assert "additionalProperties" not in str(schemas.closed({keyword: part}))
        named = {"type": "object", "properties": {keyword: part}}
        assert str(schemas.closed(named)).count("additionalProperties") == 2


@pytest.mark.parametrize(
    "text",
    [
        "", "nope", "[1]", "3", "null", "'a'", '{"a":1', '{"type":"string",}', '{"const":NaN}',
        '{"const":1e999}', '{"const":' + "9" * 500 + "}", '{"type":"null","type":"string"}',
        '{"const":"\\ud800"}', "\ud800", "{}" + "\x00", "[" * 100_000, '{"items":' * 200 + "{}" + "}" * 200,
        '{"items":' * 31 + '{"items":' * 40, '{"$ref":"#"}', '{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}}',
        '{"allOf":[{"$ref":"#"}]}', '{"anyOf":[{"$ref":"#"},{"type":"null"}]}',
        json.dumps({"enum": list(range(20_000))}), json.dumps({"enum": ["x" * 1_100_000]}),
        json.dumps({"type": "object", "properties": {f"p{i}": {} for i in range(6_000)}}),
        json.dumps({"type": "object", "properties": {f"p{i}": {} for i in range(1_500)}}),
        json.dumps({"minItems": 10**9}), json.dumps({"minLength": 10**12}),
        json.dumps({"pattern": "a{1000000000}"}), json.dumps({"pattern": "(" * 500}),
        json.dumps({"allOf": [{"pattern": f"a.{{{i},}}b"} for i in range(30)]}),
        json.dumps({"allOf": [{"anyOf": [{"minimum": i * 10 + j} for j in range(6)]} for i in range(7)], "type": "integer"}),
        json.dumps({"oneOf": [{"type": "string"}] * 2_000}),
        json.dumps({"$ref": "#/$defs/a0", "$defs": {f"a{i}": {"type": "array", "items": {"$ref": f"#/$defs/a{i + 1}"}} for i in range(2_000)} | {"a2000": {}}}),
        json.dumps({"oneOf": [{"$ref": "#/$defs/a0"}, {"type": "null"}], "$defs": {f"a{i}": {"$ref": f"#/$defs/a{i + 1}"} for i in range(500)} | {"a500": {}}}),
        json.dumps({"patternProperties": {f"a{i}": {} for i in range(100)}}),
        json.dumps({"discriminator": "k", "oneOf": [{}, {}]}), json.dumps({"oneOf": [{"required": 3}, {"required": 3}], "discriminator": {"propertyName": "k"}}),
        json.dumps(_nested("if", 25, then={"required": ["a"]}, **{"else": {"required": ["b"]}})), json.dumps({"dependentRequired": {f"a{i}": [f"b{i}"] for i in range(30)}}),
        json.dumps({"anyOf": [{"properties": {f"a{i}": {}}} for i in range(20)], "unevaluatedProperties": False}),
        json.dumps({"contains": {"const": 1}, "minContains": 1_000, "maxContains": 10**9}), json.dumps({"allOf": [{"contains": {"const": i}} for i in range(10)]}),
        json.dumps({"items": {"enum": list(range(700))}, "uniqueItems": True, "contains": {"const": 1}}), json.dumps({"type": "integer", "not": {"enum": list(range(5_000))}}),
        json.dumps({"type": "string", "not": {"pattern": "a.{12}b"}}), json.dumps({"type": "string", "not": {"pattern": "(a{100}){30}"}}),
        json.dumps({"propertyNames": {"maxLength": 100_000}}), json.dumps({"patternProperties": {f"a.*{c}.*{c}{c}": {"minimum": i} for i, c in enumerate("bcdefgh")}, "additionalProperties": False}),
        json.dumps({"oneOf": [{"properties": {f"a{i}": {"const": i}}} for i in range(200)]}), json.dumps({"not": {"$ref": "#"}}), json.dumps({"$dynamicRef": "#a", "$dynamicAnchor": "a"}),
        json.dumps({"properties": {f"a{i}": {} for i in range(100)}, "maxProperties": 9}),
        json.dumps({"type": "object", "properties": {"a": 3}}), json.dumps({"enum": 3}), json.dumps({"propertyNames": 3}),
    ],
    ids=lambda t: t[:40].encode("ascii", "replace").decode(),
)  # fmt: skip
def test_schema_hostile_is_refused_before_it_costs_much(text: str) -> None:
    start = time.process_time()
    with pytest.raises((UnsupportedSchema, GrammarBudgetExceeded)):
        grammar(JsonSchema(text))
    assert time.process_time() - start < 10


def test_schema_large_but_legal_compiles_before_it_costs_much() -> None:
    start = time.process_time()
    for node in [
        {"enum": [f"value {i}" for i in range(10_000)]},
        {"type": "object", "properties": {f"p{i}": {} for i in range(900)}},
        {"type": "array", "items": {"type": "integer"}, "maxItems": 10**9},
        {"type": "string", "maxLength": 10**9},
        {"$ref": "#/$defs/a0", "$defs": {f"a{i}": {"type": "array", "items": {"$ref": f"#/$defs/a{i + 1}"}} for i in range(200)} | {"a200": {}}},
    ]:  # fmt: skip
        grammar(schema_of(node))
    assert time.process_time() - start < 20


@pytest.mark.parametrize("is_closed", [True, False])
def test_schema_with_as_many_optional_properties_as_allowed_is_served(is_closed: bool) -> None:
    count = limits.MAX_OPTIONAL_PROPERTIES
    node = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(count)}}
    matcher = grammar(schema_of({**node, "additionalProperties": not is_closed})).matcher()
    for text in ('{"', "p1", '":"a"', ',"p7', '0":""', f',"p{count - 1}":"b"'):
        assert allowed_ids(matcher, byte_vocabulary())
        matcher.accept(list(text.encode()))
    assert ord("}") in allowed_ids(matcher, byte_vocabulary())


@pytest.mark.parametrize("low", [0, 1, 2, 3])
@pytest.mark.parametrize("high", [1, 2, 3, None])
def test_different_items_are_all_arrays_without_a_repeat(low: int, high: int | None) -> None:
    node: dict[str, Any] = {"type": "array", "items": {"enum": [1, "1", True]}, "uniqueItems": True}
    node |= {"minItems": low} | ({} if high is None else {"maxItems": high})
    if high is not None and low > high:
        with pytest.raises(UnsupportedSchema):
            grammar(schema_of(node))
        return
    compiled = grammar(schema_of(node))
    for size in range(5):
        for items in itertools.product(["1", '"1"', "true"], repeat=size):
            fits = low <= size <= (high or 3) and len(set(items)) == size
            assert accepts(compiled, "[" + ",".join(items) + "]") == fits, (items, low, high)


OLD = "http://json-schema.org/draft-07/schema#"
NEW = "https://json-schema.org/draft/2020-12/schema"
TWO_KEYS = {"dependentRequired": {"a": ["b"]}, "minProperties": 2, "maxProperties": 3}


@pytest.mark.parametrize(
    ("node", "good", "bad"),
    [
        ({"type": "integer", "not": {"multipleOf": 3}}, ["1", "-2", "500"], ["0", "3", "-999", "1.5"]),
        ({"type": "integer", "minimum": 10, "maximum": 20, "not": {"anyOf": [{"multipleOf": 2}, {"multipleOf": 3}, {"const": 11}]}}, ["13", "17", "19"], ["11", "12", "15", "7", "23"]),
        ({"type": "integer", "multipleOf": 2.5, "not": {"multipleOf": 10}}, ["5", "-15"], ["10", "0", "7", "2.5"]),
        ({"type": ["integer", "null"], "anyOf": [{"multipleOf": 6, "not": {"multipleOf": 3}}, {"type": "null"}]}, ["null"], ["6", "1"]),
        ({"type": "object", "not": {"additionalProperties": {"type": "integer"}}}, ['{"x":null}', '{"x":[],"y":"z"}'], ["{}", '{"x":1}']),
        ({"type": "object", "not": {"propertyNames": {"not": {"pattern": "^a"}}}}, ['{"ab":1}'], ["{}", '{"ba":1}']),
        ({"type": "object", "properties": {"a": {}, "b": {"type": "null"}}, "not": {"patternProperties": {"^[ax]": {"type": "null"}}}}, ['{"a":1}', '{"a":1,"b":null}', '{"b":null,"x":1}', '{"a":null,"x":2}'], ["{}", '{"a":null}', '{"b":1,"x":1}', '{"x":null}', '{"x":1,"x":null}']),
        ({"type": "object", "maxProperties": 1, "not": {"patternProperties": {"^a": {"type": "null"}}}}, ['{"a":1}'], ["{}", '{"a":null}', '{"b":1}', '{"a":1,"b":1}']),
        ({"type": "object", "not": {"propertyNames": {"not": {"enum": ["a", "b"]}}}}, ['{"a":1}', '{"b":1,"c":2}', '{"a":1,"b":2,"c":3}'], ["{}", '{"c":1}']),
        ({"type": "object", "not": {"anyOf": [{"propertyNames": {"not": {"enum": list(names)}}} for names in ("ac", "bc")]}, "minProperties": 2}, ['{"a":1,"b":2,"x":3}', '{"c":1,"x":2}'], ['{"c":1}', '{"a":1,"x":2}', "{}"]),
        ({"type": "object", "not": {"propertyNames": False}}, ['{"x":1}', '{"x":1,"y":2}'], ["{}"]),
        ({"type": "object", "patternProperties": {"^[a-d]$": True}, "additionalProperties": False, **TWO_KEYS}, ['{"b":2,"a":1}', '{"b":1,"c":2,"d":3}'], ['{"a":1}', '{"a":1,"c":2}', '{"a":1,"b":1,"c":1,"d":1}', '{"b":1,"b":1}', '{"c":1,"e":1}']),
        ({"type": "array", "contains": {"const": 1}}, ["[" + "0," * 20 + "1]"], ["[0,0]", "[]"]),
        ({"type": "string", "pattern": "^(?!a)[ab]{2}$"}, ['"ba"', '"bb"'], ['"ab"', '"b"']),
        ({"type": "array", "items": {"enum": list("abcdefgh")}, "uniqueItems": True}, ['["a","h","c"]', "[]"], ['["a","a"]', '["a","b","a"]']),
        ({"$schema": OLD, "$ref": "#/definitions/a", "maximum": 3, "definitions": {"a": {"type": "integer"}}}, ["5"], ['"x"']),
        ({"$schema": NEW, "$ref": "#/definitions/a", "maximum": 3, "definitions": {"a": {"type": "integer"}}}, ["3"], ["5"]),
        ({"$schema": "http://json-schema.org/draft-04/schema#", "items": {"$id": "x", "$ref": "#/definitions/a"}, "definitions": {"a": {"type": "integer"}}}, ["[1]"], ['["x"]']),
        ({"items": {"id": "http://a.org/b", "items": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"type": "null"}}}, ["[[null]]"], ["[[1]]"]),
        ({"oneOf": [{"required": ["t"], "properties": {"t": {"type": "string", "pattern": f"^k{i}$"}, "v": {"minimum": i}}} for i in range(60)], "type": "object"}, ['{"t":"k7","v":7}'], ['{"t":"k7","v":6}', '{"t":"x"}', "{}"]),
    ],
)  # fmt: skip
def test_schema_beyond_the_engine_is_enforced(node: Any, good: list[str], bad: list[str]) -> None:
    compiled = grammar(schema_of(node))
    for text in good:
        assert accepts(compiled, text), text
    for text in bad:
        assert not accepts(compiled, text), text


def test_schema_whose_values_are_left_out_is_not_called_unsatisfiable() -> None:
    node = {"type": "string", "format": "date", "pattern": "^0000"}
    with pytest.raises(UnsupportedSchema, match="nothing that could be generated satisfies") as e:
        grammar(schema_of(node))
    assert e.value.hint == "at /: the plain forms of date"


def test_schema_list_of_items_is_refused_where_the_draft_has_none() -> None:
    node = {"type": "array", "items": [{"type": "integer"}]}
    assert accepts(grammar(JsonSchema(json.dumps(node))), "[1]")
    node["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    with pytest.raises(UnsupportedSchema, match="prefixItems"):
        grammar(JsonSchema(json.dumps(node)))


def test_schemas_written_alike_in_two_resources_keep_their_meanings() -> None:
    def resource(name: str, kind: str) -> dict[str, Any]:
        return {"$id": name, "$ref": "#/$defs/t", "$defs": {"t": {"type": kind}}}

    names = {"a": resource("/a", "string"), "b": resource("/b", "integer")}
    schema = schema_of({"prefixItems": list(names.values()), "type": "array", "minItems": 2})
    assert accepts(grammar(schema), '["x",1]')
    assert not accepts(grammar(schema), '["x","x"]')


def test_schema_id_beside_a_ref_of_draft_7_names_nothing() -> None:
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": "http://localhost/base/",
        "definitions": {
            "other": {"$id": "http://localhost/elsewhere/foo.json", "type": "string"},
            "meant": {"$id": "foo.json", "type": "number"},
        },
        "allOf": [{"$id": "http://localhost/elsewhere/", "$ref": "foo.json"}],
    }
    compiled = grammar(schema_of(schema))
    assert accepts(compiled, "1")
    assert not accepts(compiled, '"a"')
