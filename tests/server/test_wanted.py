"""Every spelling of a constraint comes to the same constraint, or is refused by its place."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from sgrt.core import Choices, Ebnf, JsonSchema, Lark, Regex, StructuralFormat, StructuralTag
from sgrt.server.failures import ApiError
from sgrt.server.wanted import wanted
from sgrt.server.wire import Constrained

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
CLOSED = json.dumps({**SCHEMA, "additionalProperties": False}, separators=(",", ":"))
GBNF = 'root ::= "a" [0-9]{2}'
LARK = 'start: "a" | "b"'
TAG = {
    "type": "structural_tag",
    "structures": [{"begin": "<f>", "schema": SCHEMA, "end": "</f>"}],
    "triggers": ["<f>"],
}
FORMAT = {"type": "structural_tag", "format": {"type": "const_string", "value": "a"}}


def _read(body: dict[str, Any]) -> Any:
    found = wanted(msgspec.convert(body, Constrained))
    return None if found is None else found.constraint


@pytest.mark.parametrize(
    "body",
    [
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": SCHEMA},
            }
        },
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        {"structured_outputs": {"json": SCHEMA}},
        {"structured_outputs": {"json": json.dumps(SCHEMA), "regex": None}},
        {"guided_json": SCHEMA},
        {"json_schema": json.dumps(SCHEMA)},
    ],
)
def test_schema_in_every_spelling_is_one_constraint(body: dict[str, Any]) -> None:
    assert _read(body) == JsonSchema(CLOSED)


@pytest.mark.parametrize(
    ("body", "constraint"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"structured_outputs": {"regex": "a+"}}, Regex("a+")),
        ({"guided_regex": "a+"}, Regex("a+")),
        ({"regex": "a+"}, Regex("a+")),
        ({"guided_choice": ["x", "y", "x"]}, Choices(("x", "y"))),
        ({"structured_outputs": {"choice": ["x"]}}, Choices(("x",))),
        ({"guided_grammar": LARK}, Lark(LARK)),
        ({"guided_grammar": GBNF}, Ebnf(GBNF)),
        ({"ebnf": GBNF}, Ebnf(GBNF, "xgrammar")),
        ({"regex": "a", "guided_decoding_backend": "lm-format-enforcer"}, Regex("a")),
        (
            {
                "regex": "a",
                "guided_decoding_backend": "xgrammar:no-fallback,disable-any-whitespace",
            },
            Regex("a"),
        ),
        ({"guided_grammar": LARK, "structured_outputs": {"grammar": LARK}}, Lark(LARK)),
        ({"structural_tag": json.dumps(TAG)}, StructuralTag.from_dict(TAG)),
        ({"response_format": TAG}, StructuralTag.from_dict(TAG)),
        ({"response_format": FORMAT}, StructuralFormat.from_dict(FORMAT)),
        ({"structured_outputs": {"structural_tag": FORMAT}}, StructuralFormat.from_dict(FORMAT)),
    ],
)
def test_constraint_is_read_as_its_server_means_it(body: dict[str, Any], constraint: Any) -> None:
    assert _read(body) == constraint


@pytest.mark.parametrize(
    "body",
    [
        {"structured_outputs": {"json": SCHEMA, "whitespace_pattern": "[ ]?"}},
        {"guided_json": SCHEMA, "guided_whitespace_pattern": "[ ]?"},
    ],
)
def test_white_space_that_is_asked_for_is_allowed(body: dict[str, Any]) -> None:
    assert _read(body) == JsonSchema(CLOSED, "flexible", "[ ]?")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"regex": "a", "ebnf": GBNF}, "ebnf"),
        ({"regex": "a", "guided_regex": "b"}, "regex"),
        ({"guided_decoding_backend": "none"}, "guided_decoding_backend"),
        ({"guided_decoding_backend": "xgrammar:fast"}, "guided_decoding_backend"),
        ({"guided_decoding_backend": "xgrammar:"}, "guided_decoding_backend"),
        (
            {
                "guided_json": SCHEMA,
                "guided_whitespace_pattern": " ?",
                "guided_decoding_backend": "xgrammar:disable-any-whitespace",
            },
            "guided_whitespace_pattern",
        ),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_grammar": "start: ("}, "guided_grammar"),
        ({"ebnf": "root ::= ("}, "ebnf"),
        ({"ebnf": "start: 'a'"}, "ebnf"),
        ({"json_schema": "{"}, "json_schema"),
        ({"response_format": {"type": "json"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regx": "a"}}, "structured_outputs.regx"),
        ({"structured_outputs": {"json": SCHEMA, "regex": "a"}}, "structured_outputs"),
        ({"guided_whitespace_pattern": " ?"}, "guided_whitespace_pattern"),
        ({"regex": "a", "guided_whitespace_pattern": " ?"}, "guided_whitespace_pattern"),
        ({"guided_json": SCHEMA, "guided_whitespace_pattern": " *"}, "guided_whitespace_pattern"),
        ({"guided_json": SCHEMA, "guided_whitespace_pattern": "("}, "guided_whitespace_pattern"),
        (
            {
                "structured_outputs": {
                    "json": SCHEMA, "whitespace_pattern": " ?", "disable_any_whitespace": True
                }
            },
            "structured_outputs.whitespace_pattern",
        ),
        ({"structural_tag": {"type": "structural_tag", "triggers": []}}, "structural_tag"),
    ],
)  # fmt: skip
def test_what_means_nothing_names_its_place(body: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        _read(body)
    assert (caught.value.status, caught.value.param) == (400, param)
