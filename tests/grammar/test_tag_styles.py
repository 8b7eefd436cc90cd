"""Arguments in the styles of models: which texts they are, and that readers find the values."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from grammar_support import accepts, grammar

from sgrt.core import StructuralFormat
from sgrt.errors import ConstraintError, UnsupportedSchema
from sgrt.grammar import tag_styles
from sgrt.grammar.matcher import Grammar


def _format(schema: Any, style: str) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": schema, "style": style}


def _compiled(schema: Any, style: str) -> Grammar:
    return grammar(StructuralFormat(json.dumps(_format(schema, style))))


def _kind(value: Any) -> str:
    """A value's type as JSON Schema has it."""
    kinds = ((bool, "boolean"), (str, "string"), (dict, "object"), (list, "array"))
    known = next((name for kind, name in kinds if isinstance(value, kind)), "number")
    return "null" if value is None else known


def _cohere(begin: str, value: Any, white: str) -> str:
    kinds = ((str, "raw"), (dict, "dict"), (list, "list"))
    kind = next((name for type_, name in kinds if isinstance(value, type_)), "json")
    body = value if kind == "raw" else white + json.dumps(value) + white
    if kind == "dict":
        body = _written("cohere_xml", value, white) or white
    if kind == "list":
        body = white + "".join(_cohere("<cofl:value", item, white) for item in value) + white
    return f'{begin} type="{kind}">{body}</cofl:value>'


def _written(style: str, arguments: dict[str, Any], white: str = "") -> str:
    """Arguments as the chat template of a model of that style writes them."""
    texts = []
    for name, value in arguments.items():
        is_text = isinstance(value, str)
        body = value if is_text else white + json.dumps(value, separators=(",", ":")) + white
        texts.append(
            {
                "qwen_xml": f"<parameter={name}>{body}</parameter>",
                "minimax_xml": f'<parameter name="{name}">{body}</parameter>',
                "deepseek_xml": f'<｜DSML｜parameter name="{name}" string="{str(is_text).lower()}">'
                f"{body}</｜DSML｜parameter>",
                "cohere_xml": _cohere(f'<cofl:value name="{name}"', value, white),
                "glm_xml": f"<arg_key>{name}</arg_key>{white}<arg_value>{body}</arg_value>",
                "kimi_k3_xml": f'<|open|>argument key="{name}" type="{_kind(value)}"<|sep|>'
                f"{body}<|close|>argument<|sep|>",
            }[style]
        )
    return white.join(["", *texts, ""])


CALL = {
    "type": "object",
    "description": "a call",
    "$defs": {"unit": {"enum": ["C", "F"]}},
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 1},
        "unit": {"$ref": "#/$defs/unit"},
        "code": {"type": "string", "pattern": "^[a-z<]{2,3}$", "title": "Code"},
        "note": {"anyOf": [{"type": "string", "maxLength": 4}, {"type": "null"}], "default": None},
        "tags": {"type": "array", "items": {"type": "string"}},
        "when": {"type": "object", "properties": {"h": {"type": "number"}}, "required": ["h"]},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
GOOD: list[dict[str, Any]] = [
    {"city": "Oslo", "days": 3},
    {"city": "", "days": 1, "unit": "F"},
    {"city": 'a\n<b> "</param', "days": 12, "code": "a<", "note": None},
    {"city": "12", "days": 1, "note": "nul", "tags": []},
    {"city": "null", "days": 1, "note": "</p", "tags": ["<", "x"], "when": {"h": 1.5}},
]
BAD: list[dict[str, Any]] = [
    {},
    {"days": 1, "city": "Oslo"},
    {"city": "Oslo", "days": 0},
    {"city": "Oslo", "days": "three"},
    {"city": 3, "days": 3, "unit": "K"},
    {"city": "x", "days": 3, "code": "a"},
    {"city": "x", "days": 3, "note": "12345"},
    {"city": "x", "days": 3, "tags": [1]},
    {"city": "x", "days": 3, "tags": None},
    {"city": "x", "days": 3, "other": "1"},
    {"city": "x", "days": 3, "when": {}},
]


@pytest.mark.parametrize("style", tag_styles.STYLES)
def test_style_writes_exactly_the_arguments_that_the_schema_allows(style: str) -> None:
    compiled = _compiled(CALL, style)
    for arguments in GOOD:
        for white in ("", "\n"):
            assert accepts(compiled, _written(style, arguments, white)), arguments
        text = _written(style, arguments)
        for other in (text[:-1], text + "x", text.replace("city", "town"), " " + text):
            assert not accepts(compiled, other), other
    for arguments in BAD:
        assert not accepts(compiled, _written(style, arguments)), arguments


def test_kinds_of_values_are_told_apart_where_a_style_names_them() -> None:
    schema = {"properties": {"v": {"type": ["string", "integer", "null"]}}, "required": ["v"]}
    for style in ("deepseek_xml", "kimi_k3_xml"):
        compiled = _compiled(schema, style)
        for value in ("1", 1, None, "x"):
            text = _written(style, {"v": value})
            assert accepts(compiled, text)
            if value is not None and value != "x":
                continue
            swapped = text.replace('"true"', '"false"') if value else text.replace("null<", "nul<")
            assert not accepts(compiled, swapped.replace('type="string"', 'type="number"'))


@pytest.mark.parametrize("style", tag_styles.STYLES)
def test_values_end_with_the_first_end_of_their_argument(style: str) -> None:
    end = tag_styles.STYLES[style].end
    values = {"enum": ["a", f"a{end}b"]}
    strings: list[dict[str, Any]] = [
        {},
        {"maxLength": 99},
        {"minLength": 1, "maxLength": 9_000},
        {"pattern": "^a"},
        {"pattern": "^[a-z]{1,9}$", "maxLength": 9_000},
        {"anyOf": [{"const": "a"}, {"pattern": "a.*b$"}, {"minLength": 40}]},
    ]
    for value in (values, *({"type": "string", **more} for more in strings)):
        compiled = _compiled({"properties": {"v": value}, "required": ["v"]}, style)
        assert accepts(compiled, _written(style, {"v": "a"}))
        assert not accepts(compiled, _written(style, {"v": f"a{end}b"}))


@pytest.mark.parametrize("style", tag_styles.STYLES)
def test_a_schema_that_names_no_argument_takes_any(style: str) -> None:
    for schema in (True, {}, {"type": "object"}):
        compiled = _compiled(schema, style)
        for arguments in ({}, {"a_1": "x"}, {"a": 1 if style == "cohere_xml" else [1], "B": None}):
            assert accepts(compiled, _written(style, arguments))
        assert not accepts(compiled, _written(style, {"1a": "x"}))
    open_ = {"properties": {"ab": {"type": "integer"}}, "additionalProperties": {"type": "null"}}
    compiled = _compiled(open_, style)
    for arguments in ({}, {"ab": 1, "b": None, "abc": None}, {"a": None}, {"Ab": None, "b": None}):
        assert accepts(compiled, _written(style, arguments)), arguments
    for arguments in ({"ab": None}, {"a": 1}, {"b": None, "ab": 1}):
        assert not accepts(compiled, _written(style, arguments)), arguments
    for schema in ({"properties": {}}, {"additionalProperties": False}):
        compiled = _compiled(schema, style)
        assert accepts(compiled, "")
        assert accepts(compiled, "\n")
        assert not accepts(compiled, _written(style, {"a": "x"}))


NODE = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]+$"},
        "kids": {"type": ["array", "null"], "items": {"$ref": "#/$defs/leaf"}, "maxItems": 2.0},
        "any": {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/leaf"}, {"$ref": "#/$defs/pair"}]},
    },
    "required": ["name"],
    "additionalProperties": False,
    "$defs": {
        "leaf": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]},
        "pair": {"type": "object", "properties": {"y": {"type": "array", "minItems": 1}}},
    },
}


@pytest.mark.parametrize(
    ("arguments", "is_right"),
    [
        ({"name": "a"}, True),
        ({"name": "a", "kids": None}, True),
        ({"name": "a", "kids": []}, True),
        ({"name": "a", "kids": [{"x": 1}, {"x": 2}]}, True),
        ({"name": "a", "kids": [{"x": 1}] * 3}, False),
        ({"name": "a", "kids": [{}]}, False),
        ({"name": "a", "kids": [{"x": "1"}]}, False),
        ({"name": "a", "kids": {"x": 1}}, False),
        ({"name": "a", "any": "text"}, True),
        ({"name": "a", "any": {"x": 1}}, True),
        ({"name": "a", "any": {"y": ["s", 1, None]}}, True),
        ({"name": "a", "any": {"y": []}}, False),
        ({"name": "a", "any": {"z": 1}}, False),
        ({"name": "A"}, False),
    ],
)
def test_objects_and_arrays_of_cohere_hold_what_their_schemas_say(
    arguments: dict[str, Any], is_right: bool
) -> None:
    compiled = _compiled(NODE, "cohere_xml")
    for white in ("", "\n"):
        assert accepts(compiled, _written("cohere_xml", arguments, white)) is is_right


@pytest.mark.parametrize(
    ("value", "pointer", "reason"),
    [
        ({"$ref": "#"}, "", "arguments in arguments"),
        ({"type": "array", "items": {"$ref": "#/properties/a"}}, "", "arguments in arguments"),
        ({"type": "array", "prefixItems": [{}]}, "/properties/a", "'prefixItems' is not supported"),
        ({"type": "object", "minProperties": 1}, "/properties/a", "'minProperties' is not supp"),
        ({"type": "array", "items": {"items": 3}}, "/properties/a/items/items", "must be a schema"),
        ({"allOf": [{"type": "object"}]}, "/properties/a", "has to say by 'type'"),
        ({"$id": "http://x/y", "$ref": "#/$defs/b", "$defs": {"b": {"type": "object"}}}, "/properties/a", "by 'type'"),
        ({"oneOf": [{"type": "object", "required": ["x"]}, {"type": "object", "maxProperties": 1}]}, "/properties/a", "'oneOf' is only supp"),
        ({"type": "array", "items": {"type": "object", "properties": {"b": {"const": "\0"}}}},
         "/properties/a/items/properties/b", "control character"),
    ],
)  # fmt: skip
def test_objects_and_arrays_that_cohere_cannot_write_are_refused_with_their_place(
    value: Any, pointer: str, reason: str
) -> None:
    with pytest.raises(ConstraintError, match=reason) as caught:
        _compiled({"type": "object", "properties": {"a": value}}, "cohere_xml")
    if isinstance(caught.value, UnsupportedSchema):
        assert caught.value.pointer == pointer


def test_references_mean_what_they_mean_in_the_schema() -> None:
    schema = {
        "properties": {
            "a/~ %": {"type": "object", "properties": {"b": {"$ref": "#/properties/c"}}},
            "c": {"type": "integer"},
            "d": {"type": "object", "properties": {"again": {"$ref": "#"}}},
            "e": {"type": "array", "items": {"$recursiveRef": "#"}},
        },
    }
    for own in (
        {},
        {"$id": "https://a.org/s"},
        {"$schema": "http://json-schema.org/draft-07/schema#"},
        {"$schema": "http://json-schema.org/draft-04/schema#"},
    ):
        compiled = _compiled({**own, **schema}, "qwen_xml")
        for value, is_right in (({"b": 1}, True), ({"b": "1"}, False)):
            assert accepts(compiled, _written("qwen_xml", {"a/~ %": value})) is is_right
        for value, is_right in (({"again": {"c": 1}}, True), ({"again": {"c": "1"}}, False)):
            assert accepts(compiled, _written("qwen_xml", {"d": value})) is is_right
            if "$schema" not in own:
                written = _written("qwen_xml", {"e": [value["again"]]})
                assert accepts(compiled, written) is is_right


@pytest.mark.parametrize("style", tag_styles.STYLES)
def test_what_is_excluded_stands_in_no_name_and_no_value(style: str) -> None:
    form = {**_format(CALL, style), "excludes": ["<|x|>", "zz"]}
    compiled = grammar(StructuralFormat(json.dumps(form)))
    for arguments in GOOD:
        assert accepts(compiled, _written(style, arguments)), arguments
    for text in ("<|x|>", "a<|x|>b", "<|x|<|x|>", "zz"):
        for arguments in (
            {"city": text, "days": 1},
            {"city": "a", "days": 1, "note": text[:4]},
            {"city": "a", "days": 1, "tags": ["a", text]},
        ):
            is_left = not any(mark in json.dumps(arguments) for mark in ("<|x|>", "zz"))
            assert accepts(compiled, _written(style, arguments)) is is_left
    names = {"properties": {"zz": {}, "a": {}}, "additionalProperties": {}}
    form = {**form, "json_schema": names}
    compiled = grammar(StructuralFormat(json.dumps(form)))
    for name, is_left in (("a", True), ("zy", True), ("zz", False), ("azzb", False)):
        assert accepts(compiled, _written(style, {name: "1"})) is is_left


def test_what_forbids_a_value_is_named_at_its_place_in_the_schema() -> None:
    schema = {"properties": {"a/b": {"type": "array", "items": {"maximum": 3}}}}
    for form, text in (
        (_format(schema, "glm_xml"), "<arg_key>a/b</arg_key><arg_value>[4"),
        ({**_format(schema, "json"), "excludes": ["<x>"]}, '{"a/b":[4'),
    ):
        matcher = grammar(StructuralFormat(json.dumps(form))).matcher()
        matcher.accept(list(text[:-1].encode()))
        said = matcher.explain(ord(text[-1]))
        assert said is not None
        assert "'maximum' at /properties/a~1b/items" in said


def test_arguments_may_be_said_elsewhere_in_the_schema() -> None:
    for schema in (
        {"$ref": "#/$defs/call", "$defs": {"call": CALL}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {**CALL}}, "title": "t"},
    ):
        whole = {**schema, "$defs": {**schema["$defs"], **CALL["$defs"]}}
        compiled = _compiled(whole, "glm_xml")
        for arguments in GOOD:
            assert accepts(compiled, _written("glm_xml", arguments))
        for arguments in BAD:
            assert not accepts(compiled, _written("glm_xml", arguments))
    with pytest.raises(UnsupportedSchema, match="'minProperties'") as caught:
        _compiled(
            {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "minProperties": 1}}}, "glm_xml"
        )
    assert caught.value.pointer == "/$defs/a"


def test_names_are_escaped_or_refused() -> None:
    schema = {"properties": {'a"&<b': {"type": "string"}}}
    text = '<|open|>argument key="a&quot;&amp;&lt;b" type="string"<|sep|>v<|close|>argument<|sep|>'
    assert accepts(_compiled(schema, "kimi_k3_xml"), text)
    for style in tag_styles.STYLES.keys() - {"kimi_k3_xml"}:
        with pytest.raises(UnsupportedSchema, match="cannot be a name") as caught:
            _compiled(schema, style)
        assert caught.value.pointer == '/properties/a"&<b'


@pytest.mark.parametrize(
    ("schema", "pointer", "reason"),
    [
        ({"type": "array"}, "", "must be 'object' here"),
        ({"minProperties": 1}, "", "not supported where arguments are not written as JSON"),
        ({"properties": {"a": {}}, "patternProperties": {"b": {}}}, "", "not written as JSON"),
        ({"properties": {"a": {}}, "required": ["b"]}, "", "names 'b'"),
        ({"properties": {"a": {"pattern": r"(a)\1"}}}, "/properties/a", "not supported"),
        (
            {"properties": {"a": {"items": {"pattern": "(?<=a)"}}}},
            "/properties/a/items",
            "not supp",
        ),
        ({"properties": {"a/~": {"$ref": "#/properties/b"}}}, "/properties/a~1~0", "leads nowhere"),
        ({"properties": {"a": False}, "required": ["a"]}, "/properties/a", "no value satisfies"),
        ({"properties": {"a": 3}}, "/properties/a", "schema"),
        (False, "", "no value satisfies"),
    ],
)
def test_schema_that_cannot_be_kept_is_refused_with_its_place(
    schema: Any, pointer: str, reason: str
) -> None:
    with pytest.raises(UnsupportedSchema, match=reason) as caught:
        _compiled(schema, "glm_xml")
    assert caught.value.pointer == pointer
    assert "in format" in str(caught.value)


def test_restricted_text_beside_an_object_is_refused_where_they_begin_alike() -> None:
    value = {"anyOf": [{"type": "object"}, {"type": "string", "maxLength": 3}]}
    with pytest.raises(ConstraintError, match="can both begin"):
        _compiled({"properties": {"v": value}}, "qwen_xml")
    assert accepts(
        _compiled({"properties": {"v": value}}, "kimi_k3_xml"), _written("kimi_k3_xml", {"v": {}})
    )


@pytest.mark.parametrize("style", tag_styles.STYLES)
def test_what_a_style_writes_is_what_xgrammar_takes(style: str) -> None:
    from xgrammar import Grammar
    from xgrammar.testing import _is_grammar_accept_string

    rng = random.Random(5)
    tag = {"type": "structural_tag", "format": _format(CALL, style)}
    peer = Grammar.from_structural_tag(json.dumps(tag))
    compiled = _compiled(CALL, style)
    texts = [_written(style, arguments, white) for arguments in GOOD + BAD for white in ("", "\n")]
    for text in [*texts]:
        place = rng.randrange(len(text) + 1)
        texts += [text[:place] + piece + text[place + 1 :] for piece in ("", "\n", "<", "1")]
    num_accepted = 0
    for text in texts:
        if accepts(compiled, text):
            num_accepted += 1
            assert _is_grammar_accept_string(peer, text), text
    assert num_accepted > len(GOOD)
