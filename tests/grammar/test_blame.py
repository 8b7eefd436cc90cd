"""What forbids a byte: tables, and the law that the text goes on where that is changed."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from typing import Any

import pytest
from grammar_support import byte_vocabulary

from sgrt.core import (
    AnyText,
    Choices,
    Constraint,
    Ebnf,
    JsonSchema,
    Lark,
    Regex,
    SequenceOf,
    StructuralFormat,
    StructuralTag,
    Structure,
    Substring,
)
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


# ---------------------------------------------------------------- patterns, grammars, compositions

_PAIRS = """start: pair ("," pair)*
pair: KEY ":" value
KEY: /[a-c]+/
value: KEY | "[" value "]" | %json {"type": "integer", "maximum": 30}
"""
_POINT = JsonSchema(
    '{"properties": {"x": {"type": "integer"}}, "required": ["x"], "type": "object"}'
)
_EITHER = "Answer: " + (Regex("yes|no") | _POINT)
_TAGS = StructuralTag((Structure("<f>", _POINT, "</f>"),), ("<f",))
_FORMAT = StructuralFormat(
    '{"type": "tag", "begin": "<a>", "end": "</a>", "content": {"type": "sequence", "elements":'
    ' [{"type": "regex", "pattern": "[0-9]+x"}, {"type": "const_string", "value": "y"}]}}'
)

# constraint, text that is allowed, byte that is not, places where it stands
PLACES: list[tuple[Constraint, str, str, list[str]]] = [
    (Regex(r"[a-c]+-\d{2,3}"), "ab-1", "x", ["'\\\\d' at 1:8"]),
    (Regex(r"[a-c]+-\d{2,3}"), "ab", "x", ["'[a-c]' at 1:1", "'-' at 1:7"]),
    (Regex("(?s)(?P<n>a)\n|b{2}"), "b", "x", ["'b' at 2:2"]),
    (Regex("é+ü"), "é", "a", ["'é' at 1:1", "'ü' at 1:3"]),
    (Regex(r"(?:\x41|B)C"), "", "x", ["'\\\\x41' at 1:4", "'B' at 1:9"]),
    (Lark(_PAIRS), "ab", "x", ["KEY at 3:6 in pair at 2:7", "pair at 2:11"]),
    (Lark(_PAIRS), "a:3", "1", ["start at 1:14", "value at 4:30 ('maximum' at /)"]),
    (Lark('start: A B\n%ignore " "\nA: "x"\nB: "y" "z"'), "x ", "z", ["B at 4:4 in start at 1:10", "%ignore at 2:9 in start at 2:1"]),
    (Lark('start: t "b"\nt[lazy]: /a*,/'), "a,", ",", ["start at 1:10"]),
    (Lark("iso_date"), "2023-02-2", "9", ["MONTH_DAY at 5:12 in start at 2:8"]),
    (Ebnf('root ::= "(" root ")" | item\nitem ::= [0-9]+'), "((4", "x", ["item at 2:10", "root at 1:19"]),
    (Ebnf('root ::= start ";"\nstart ::= [0-9]{1,3}'), "123", "4", ["root at 1:16"]),
    (Ebnf('root ::= "" a* "."\na ::= "b"? "c"?'), "bc", "x", ["a at 2:7", "a at 2:12", "root at 1:16"]),
    (Ebnf('root ::= Regex("a.")', "xgrammar"), "", "x", ["root at 1:16"]),
    (_EITHER, "Ans", "x", ["parts[0]"]),
    (_EITHER, 'Answer: {"x":', "t", ["parts[1].options[1] ('type' at /properties/x)"]),
    (_EITHER, "Answer: y", "x", ["parts[1].options[0] 'e' at 1:2"]),
    ("<t>" + AnyText(until="</t>") + "\n" + _POINT, "<t>a</t>", "x", ["parts[2]"]),
    (Lark("csv_row").repeat(2, 4, separator="\n"), '"a"', "x", ["part QUOTED at 5:9 in field at 3:17", "part start at 2:15", "separator"]),
    (_TAGS, 'Hello <f>{"x":', "t", ["structures[0].schema ('type' at /properties/x)"]),
    (_TAGS, "Hello <f", "x", ["structures[0]"]),
    (_FORMAT, "<a>12x", "x", ["format.content.elements[1]"]),
    (SequenceOf((_FORMAT, "!")), "<a>12xy</a>", "x", ["parts[1]"]),
    (SequenceOf((_FORMAT, "!")), "<a>12", "y", ["parts[0].format.content.elements[0] '[0-9]' at 1:1", "parts[0].format.content.elements[0] 'x' at 1:7"]),
    (Substring("hello"), "hel", "x", []),
    (Choices(("red", "green")), "gr", "x", []),
]  # fmt: skip


def _why(constraint: Constraint, text: str, byte: str) -> str:
    matcher = build(constraint, byte_vocabulary()).matcher()
    matcher.accept(list(text.encode()))
    return matcher.explain(byte.encode()[0]) or ""


@pytest.mark.parametrize(("constraint", "text", "byte", "places"), PLACES)
def test_explain_of_a_grammar_names_the_places_the_text_has_come_to(
    constraint: Constraint, text: str, byte: str, places: list[str]
) -> None:
    why = _why(constraint, text, byte)
    found = why.partition("; expected here: ")[2]
    assert sorted(found.split(" or ")) == sorted(places) or (found, places) == ("", []), why


@pytest.mark.parametrize(
    ("constraint", "text"), [case[:2] for case in PLACES if isinstance(case[0], (Regex, Ebnf))]
)
def test_explain_of_a_grammar_names_symbols_that_could_take_the_byte(
    constraint: Any, text: str
) -> None:
    """With a symbol that is named also taking the byte, the text goes on with it."""
    is_regex = isinstance(constraint, Regex)
    source = constraint.pattern if is_regex else constraint.grammar
    named = re.findall(r" at (\d+):(\d+)", _why(constraint, text, "~"))
    for line, column in named:
        starts = [0, *(m.end() for m in re.finditer("\n", source))]
        at = starts[int(line) - 1] + int(column) - 1
        found = re.compile(r'\[[^]]*\]|"[^"]*"|\\x..|\\.|.').match(source, at)
        assert found is not None
        wider = f"(?:{found[0]}|~)" if is_regex else f'({found[0]} | "~")'
        if 'Regex("a.")' in source:
            found, wider = re.compile(r'.*').match(source, at), '"~a")'  # fmt: skip
        changed = source[:at] + wider + source[at + len(found[0] if found else "") :]
        key = "pattern" if is_regex else "grammar"
        matcher = build(replace(constraint, **{key: changed}), byte_vocabulary()).matcher()
        matcher.accept(list(f"{text}~".encode()))
    assert named


def test_explain_of_a_long_text_ends_soon_and_goes_on_where_it_was() -> None:
    matcher = build(Ebnf('root ::= "a" root | "b"'), byte_vocabulary()).matcher()
    start = time.process_time()
    for _ in range(6):
        matcher.accept(list(b"a" * 50))
        assert "expected here: root at 1:10 or root at 1:21" in (matcher.explain(ord("x")) or "")
    matcher.accept(list(b"a" * 20_000))
    assert "cannot follow" in (matcher.explain(ord("x")) or "")
    assert time.process_time() - start < 10
