"""Structural tags as formats: what each takes, and what is refused by its path."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from grammar_support import accepts, grammar

from sgrt.core import SequenceOf, StructuralFormat, StructuralTag
from sgrt.errors import (
    ConstraintError,
    GrammarBudgetExceeded,
    GrammarSyntaxError,
    UnsupportedSchema,
)
from sgrt.grammar import tag_format

Format = dict[str, Any]
BOOL: Format = {"type": "json_schema", "json_schema": {"type": "boolean"}}
ANY: Format = {"type": "any_text"}
VALUES: Format = {
    "type": "json_schema",
    "json_schema": {
        "$defs": {"t": {"maxLength": 9}},
        "additionalProperties": {"$ref": "#/$defs/t"},
    },
    "excludes": ["<k>", "</k>"],
}


def _const(value: str) -> Format:
    return {"type": "const_string", "value": value}


def _tag(begin: str, content: Format, end: Any) -> Format:
    return {"type": "tag", "begin": begin, "content": content, "end": end}


CALLS = [_tag("<f=a>", BOOL, "</f>"), _tag("<f=b>", _const("k"), ["</f>", "</g>"])]


def _triggered(**options: Any) -> Format:
    return {"type": "triggered_tags", "triggers": ["<f="], "tags": CALLS, **options}


def _separated(separator: str, **options: Any) -> Format:
    return {"type": "tags_with_separator", "tags": CALLS, "separator": separator, **options}


A, B, G = "<f=a>true</f>", "<f=b>k</f>", "<f=b>k</g>"

_TABLE: list[tuple[Format, list[str], list[str]]] = [
    (_const("<f="), ["<f="], ["", "<f", "<f=a"]),
    (BOOL, ["true", "false"], ["1", " true", ""]),
    ({**BOOL, "style": "json", "any_order": False, "max_whitespace_cnt": 2}, ["true"], [" true"]),
    ({"type": "json_schema", "json_schema": True}, ['{"a":[1]}', "null"], ["a"]),
    ({**BOOL, "any_order": True}, ["true"], ["1"]),
    (
        VALUES,
        ["1", '"<k"', '["</k"]', '{"<k":"k>","a":[{"b":"<"}]}'],
        ['"<k>"', '["</k>"]', '{"<k>":1}', '{"a":[{"</k>x":1}]}', '{"a":"0123456789"}'],
    ),
    (
        {**VALUES, "json_schema": True, "style": "qwen_xml"},
        ["<parameter=a><k</parameter>", "<parameter=a>{}</parameter>"],
        ["<parameter=a><k></parameter>", '<parameter=a>{"</k>":1}</parameter>'],
    ),
    ({"type": "qwen_xml_parameter", "json_schema": {}}, ["", "<parameter=a>1</parameter>"], ["{}"]),
    ({"type": "regex", "pattern": "[A-Z]{3}-[0-9]{2}"}, ["ABC-12"], ["ABC-1", "xABC-12"]),
    ({"type": "grammar", "grammar": 'root ::= "(" root ")" | "k"'}, ["k", "((k))"], ["(k", ""]),
    (ANY, ["", "a\n<f="], []),
    ({"type": "any_text", "excludes": ["<f", "k"]}, ["", "<", "f<"], ["a<f", "k"]),
    ({"type": "any_text", "max_chars": 2, "max_tokens": None}, ["", "é\n"], ["abc"]),
    ({"type": "sequence", "elements": [_const("A: "), BOOL]}, ["A: true"], ["true", "A: "]),
    ({"type": "or", "elements": [_const("no"), BOOL]}, ["no", "true"], ["", "notrue"]),
    ({"type": "optional", "content": CALLS[1]}, ["", B, G], [B + B]),
    ({"type": "plus", "content": CALLS[1]}, [B, B + G], [""]),
    ({"type": "star", "content": CALLS[1]}, ["", B, B + G], ["k"]),
    ({"type": "repeat", "min": 1, "max": 2, "content": _const("k")}, ["k", "kk"], ["", "kkk"]),
    ({"type": "repeat", "min": 2, "max": -1, "content": _const("k")}, ["kk", "kkkk"], ["k"]),
    (_tag("<f>", BOOL, "</f>"), ["<f>true</f>"], ["<f>1</f>", "<f>true", "true</f>"]),
    (_tag("<f>", ANY, "</f>"), ["<f></f>", "<f>a</f</f>"], ["<f></f>x", "<f></f></f>", "<f>"]),
    (_tag("<f>", ANY, ["</f>", "!"]), ["<f>a!", "<f></f>"], ["<f>a!!", "<f>!</f>"]),
    (_tag("<f>", {**ANY, "max_chars": 1}, ">"), ["<f>>", "<f>a>"], ["<f>ab>", "<f>a"]),
    (_tag("k:", ANY, ""), ["k:", "k:any"], ["k"]),
    (_tag("(", _tag("[", ANY, ""), ")"), ["([)", "([a])"], ["([", "([))"]),
    (_triggered(), ["", "a<f", f"so {A} and {G}.", A + A], ["<f=", f"{A}<f=c", "<f=a>1</f>"]),
    (_triggered(at_least_one=True), [A, f"{A} x {B}"], ["", f"x{A}", "x"]),
    (_triggered(stop_after_first=True), ["", "abc", A, f"x{B}"], [A + A, f"{A}x"]),
    (_triggered(at_least_one=True, stop_after_first=True), [A, G], ["", f"x{A}", A + "x"]),
    (_triggered(excludes=["no"]), ["n", f"{A}on"], ["no", f"{A}no"]),
    (
        _tag("(", {**ANY, "excludes": ["<|c|>", "b"]}, ["<|c|>t", "<|c|>b!"]),
        ["(<|c|>t", "(<<|c|>b!", "(a<|c|t<|c|>t"],
        ["(<|c|>", "(<|c|>x<|c|>t", "(b<|c|>t", "(a<|c|>a"],
    ),
    (_tag("(", {**ANY, "excludes": ["ab", "a", "a", "cab"]}, ")"), ["(b)", "()"], ["(a)", "(ab)"]),
    (_tag("<a>", _triggered(), "</a>"), ["<a></a>", f"<a>x{A}y</a>"], ["<a>", f"<a>{A}</a>x"]),
    (_tag("(", _triggered(stop_after_first=True), ")"), ["(x)", f"(x{A})"], [f"({A}x)", "("]),
    (_separated(", "), ["", A, f"{A}, {B}"], [f"{A}, ", f"{A}{A}", "x"]),
    (_separated("", at_least_one=True), [A, A + B], ["", f"{A} {A}"]),
    (_separated(",", stop_after_first=True), ["", A], [f"{A},{A}"]),
    (
        {"type": "dispatch", "rules": [["<f=", BOOL], ["[", _const("]")]]},
        ["", "a[]b<f=true", "<f=true[]"],
        ["[", "a<f=1"],
    ),
    (
        {"type": "dispatch", "rules": [["[", _const("]")]], "loop": False},
        ["", "abc", "a[]"],
        ["a[]b", "["],
    ),
    (
        {
            "type": "sequence",
            "elements": [
                {"type": "dispatch", "rules": [["[", _const("]")]], "excludes": ["</r>"]},
                _const("</r>"),
                _const("!"),
            ],
        },
        ["</r>!", "a[]</r>!"],
        ["</r>", "a</r></r>!", "!"],
    ),
    (
        {"type": "sequence", "elements": [_tag("<t>", ANY, "</t>"), _triggered()]},
        ["<t>hm</t>", f"<t><f=</t>so {A}"],
        ["<t>", "x<t></t>", "<t></t><f="],
    ),
]


def test_format_tags_need_no_type_where_only_tags_stand() -> None:
    bare = [{k: v for k, v in tag.items() if k != "type"} for tag in CALLS]
    for form in (_triggered(tags=bare), _separated(", ", tags=bare)):
        assert accepts(grammar(StructuralFormat(json.dumps(form))), A)
    for form in (
        bare[0],
        {"type": "sequence", "elements": bare},
        _triggered(tags=[{**bare[0], "type": None}]),
    ):
        with pytest.raises(ConstraintError, match=r"type=None is no format"):
            grammar(StructuralFormat(json.dumps(form)))


@pytest.mark.parametrize(("form", "good", "bad"), _TABLE)
def test_format_keeps_its_table(form: Format, good: list[str], bad: list[str]) -> None:
    compiled = grammar(StructuralFormat(json.dumps(form)))
    for text in good:
        assert accepts(compiled, text), text
    for text in bad:
        assert not accepts(compiled, text), text


def test_every_format_is_in_the_table() -> None:
    assert {form["type"] for form, _, _ in _TABLE} == set(tag_format.FORMATS)


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ({}, "format: type=None is no format"),
        ({"type": "json"}, "format: type='json' is no format"),
        ({"type": ["tag"]}, "format: type=['tag'] is no format"),
        ({"type": "sequence", "elements": [{**ANY, "excludes": 3}, _const("x")]}, "excludes: cannot be 3"),
        (
            {"type": "sequence", "elements": [{**ANY, "excludes": ["x"]}, {**_const("x"), "y": 1}]},
            "format.elements[1]: const_string has no key 'y'",
        ),
        ({"type": "const_string"}, "format: lacks 'value'"),
        ({"type": "const_string", "value": "a", "x": 1}, "const_string has no key 'x'"),
        ({"type": "const_string", "value": 1}, "format.value: cannot be 1"),
        ({"type": "repeat", "min": True, "max": 2, "content": ANY}, "format.min: cannot be True"),
        ({"type": "repeat", "min": 3, "max": 2, "content": ANY}, "min=3 and max=2"),
        ({"type": "sequence", "elements": []}, "format.elements: must not be empty"),
        ({"type": "or", "elements": [BOOL, 3]}, "format.elements[1]: must be a format object"),
        ({"type": "token", "token": 3}, "tokens cannot be written"),
        (_tag("a", {"type": "any_tokens"}, "b"), "format.content: type='any_tokens'"),
        ({"type": "tag", "begin": {"type": "token", "token": 1}, "content": ANY, "end": "x"}, "begin: tokens"),
        ({**BOOL, "style": "xml"}, "format.style: 'xml' is not written"),
        ({**BOOL, "any_order": 1}, "format.any_order: cannot be 1"),
        ({**BOOL, "excludes": ["x", "na"]}, "format.excludes[1]: 'na' is not told from an escape"),
        ({**BOOL, "excludes": ['<"']}, "format.excludes[0]: '<\"' is not told"),
        ({**BOOL, "excludes": [""]}, "format.excludes[0]: must be a string that is not empty"),
        ({**VALUES, "json_schema": {"const": "<k>"}}, "schema at /: no value satisfies"),
        ({**VALUES, "json_schema": {"items": {"$ref": "http://x"}}}, "schema at /items: keyword '$ref'"),
        ({"type": "any_text", "max_tokens": 5}, "format.max_tokens: tokens are not counted"),
        ({"type": "any_text", "excludes": [""]}, "format.excludes[0]: must be a string"),
        (_tag("a", ANY, ["", "x"]), "format.content: a until must not be empty"),
        (_tag("a", ANY, ["</a>", ">"]), "format.content: until '</a>' holds until '>'"),
        (_triggered(triggers=[]), "format: a structural tag needs at least one trigger"),
        (_triggered(triggers=["<g"]), "begins with none of the triggers"),
        (_triggered(excludes=["f="]), "trigger '<f=' holds 'f=', which is excluded"),
        (_triggered(tags=[BOOL]), "format.tags[0]: must be a tag"),
        ({"type": "dispatch", "rules": [["a"]]}, "format.rules[0]: must be a list of"),
        ({"type": "dispatch", "rules": [["a", ANY], ["a", ANY]]}, "format.rules[1]: 'a' is given twice"),
        ({"type": "sequence", "elements": [ANY, _const("x")]}, "can both begin"),
        ([], "must be an object"),
    ],
)  # fmt: skip
def test_format_that_cannot_be_kept_is_refused_with_its_path(form: Any, reason: str) -> None:
    with pytest.raises(ConstraintError, match=re.escape(reason)):
        grammar(StructuralFormat(json.dumps(form)))


def test_format_refuses_what_its_parts_are_refused_for_with_their_place() -> None:
    schema = _tag("a", {"type": "json_schema", "json_schema": {"not": {"$ref": "http://x"}}}, "b")
    with pytest.raises(UnsupportedSchema, match=r"schema at /not.*in format.content"):
        grammar(StructuralFormat(json.dumps(schema)))
    with pytest.raises(GrammarSyntaxError, match=r"column 2: structural_tag: format.elements\[1\]"):
        bad = {"type": "sequence", "elements": [BOOL, {"type": "regex", "pattern": "a(?<=b)"}]}
        grammar(StructuralFormat(json.dumps(bad)))
    for text in ("{", '{"type":"any_text","type":"any_text"}', "NaN"):
        with pytest.raises(ConstraintError, match="structural_tag: format"):
            grammar(StructuralFormat(text))
    deep: Any = ANY
    for _ in range(200):
        deep = {"type": "star", "content": deep}
    with pytest.raises(GrammarBudgetExceeded):
        grammar(StructuralFormat(json.dumps(deep)))


def test_format_is_what_from_dict_reads() -> None:
    form = _tag("<f>", BOOL, "</f>")
    request = {"type": "structural_tag", "format": form}
    constraint = StructuralTag.from_dict(request)
    assert constraint == StructuralFormat(json.dumps(form))
    assert accepts(grammar(SequenceOf((constraint, "."))), "<f>true</f>.")
    for bad, reason in (
        ({**request, "triggers": []}, "no key 'triggers'"),
        ({"format": 3}, "'format' cannot be 3"),
        ({**request, "type": "json"}, "type='json'"),
    ):
        with pytest.raises(ConstraintError, match=reason):
            StructuralTag.from_dict(bad)
