"""The contract report of every input language: each part has a place, refusals are where they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sgrt.cli import main
from sgrt.core import (
    AnyText,
    Choices,
    Constraint,
    Ebnf,
    JsonSchema,
    Lark,
    OneOf,
    Regex,
    RepeatOf,
    SequenceOf,
    StructuralFormat,
    StructuralTag,
    Structure,
    Substring,
)
from sgrt.errors import ConstraintError, GrammarSyntaxError
from sgrt.grammar.detect import detect_grammar
from sgrt.grammar.report import report

OBJECT = JsonSchema('{"type":"object","properties":{"a":{"format":"date"}}}')
REFUSED = JsonSchema('{"items":{"$ref":"http://x.org/s"}}')
BOOL = {"type": "json_schema", "json_schema": {"type": "boolean"}}


def _format(*elements: Any) -> StructuralFormat:
    return StructuralFormat(json.dumps({"type": "sequence", "elements": list(elements)}))


def _rows(constraint: Constraint) -> list[tuple[str, str | None, str]]:
    return [(e.pointer, e.keyword, e.status) for e in report(constraint)]


@pytest.mark.parametrize(
    ("constraint", "rows"),
    [
        (Regex("a"), [("", None, "enforced")]),
        (
            Regex("[.]\n\\d+?."),
            [("", None, "enforced"), ("2:1", r"\d", "enforced"), ("2:3", "+?", "enforced"), ("2:5", ".", "enforced")],
        ),
        (Lark('start: A b\nA: "a"\n\nb: "b"'), [("1:1", "start", "enforced"), ("2:1", "A", "enforced"), ("4:1", "b", "enforced")]),
        (Ebnf('root ::= a\na ::= "a" root?'), [("1:1", "root", "enforced"), ("2:1", "a", "enforced")]),
        (Ebnf('root ::= x.y x.y ::= "a"', "xgrammar"), [("1:14", None, "refused")]),
        (Choices(("a",)), [("", None, "enforced")]),
        (AnyText("x"), [("", None, "enforced")]),
        (Substring(""), [("", None, "refused")]),
        (JsonSchema("{"), [("", None, "refused")]),
        (JsonSchema('{"type":"integer"}', "flexible", " *"), [("", "type", "enforced"), ("", "whitespace", "refused")]),
        (
            OneOf((Regex("a(?<=b)"), "x", RepeatOf(OBJECT, separator=","))),
            [
                ("options[0] 1:2", None, "refused"), ("options[1]", None, "enforced"),
                ("options[2] part", "properties", "enforced"), ("options[2] part", "type", "enforced"),
                ("options[2] part /properties/a", "format", "subset"), ("options[2]", None, "enforced"),
                ("1:2", None, "refused"),
            ],
        ),
        (
            StructuralTag((Structure("<f>", REFUSED),), ("<f",)),
            [("structures[0].schema", "items", "enforced"), ("structures[0].schema /items", "$ref", "refused"), ("/items", "$ref", "refused")],
        ),
        (
            _format(BOOL, {**BOOL, "max_whitespace_cnt": 0}),
            [
                ("format", "sequence", "enforced"), ("format.elements[0]", "json_schema", "subset"),
                ("format.elements[0].json_schema", "type", "enforced"),
                ("format.elements[1]", "json_schema", "enforced"),
                ("format.elements[1].json_schema", "type", "enforced"),
            ],
        ),
        (
            _format({"type": "regex", "pattern": "a"}, {"type": "tag", "begin": "b", "content": {"type": "token", "token": 1}, "end": "c"}),
            [
                ("format", "sequence", "enforced"), ("format.elements[0]", "regex", "enforced"),
                ("format.elements[1]", "tag", "enforced"), ("format.elements[1].content", None, "refused"),
            ],
        ),
        (_format({"type": "any_text", "x": 1}), [("format", "sequence", "enforced"), ("format.elements[0]", None, "refused")]),
    ],
)  # fmt: skip
def test_report_tells_of_each_part_at_its_place(
    constraint: Constraint, rows: list[tuple[str, str | None, str]]
) -> None:
    assert _rows(constraint) == rows


def test_report_of_what_only_building_refuses_says_so_for_the_whole() -> None:
    rows = _rows(SequenceOf((JsonSchema('{"minimum":3}'), Regex("[0-9]"))))
    assert rows[-1] == ("", None, "refused")
    assert rows[:-1] == [("parts[0]", "minimum", "enforced"), ("parts[1]", None, "enforced")]


# the command


@pytest.mark.parametrize(
    ("option", "text", "status"),
    [
        ("--regex", "a|b\n", 0),
        ("--regex", "a(?<=b)\n", 1),
        ("--lark", 'start: "a"', 0),
        ("--lark", "start: b", 1),
        ("--ebnf", 'root ::= "a" .', 0),
        ("--ebnf", 'root ::= "a" <b>', 1),
        ("--xgrammar", 'root ::= "a" [^]', 0),
        ("--grammar", 'root ::= "a"', 0),
        ("--grammar", 'root ::= "\\x411"', 1),
        ("--tag", json.dumps({"type": "structural_tag", "format": BOOL}), 0),
        ("--tag", json.dumps({"format": {"type": "token", "token": 1}}), 1),
        ("--tag", json.dumps({"x": 1}), 1),
        ("--tag", "{", 2),
    ],
)
def test_schema_check_of_every_language_exits_1_where_something_is_refused(
    option: str, text: str, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "input"
    path.write_bytes(text.encode())
    assert main.main(["schema", "check", option, str(path)]) == status
    shown = capsys.readouterr().out
    assert ("refused" in shown) == (status == 1)
    if status < 2:
        assert main.main(["schema", "check", option, "--json", str(path)]) == status
        entries = json.loads(capsys.readouterr().out)
        assert any(entry["status"] == "refused" for entry in entries) == bool(status)


def test_schema_check_takes_one_language(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main.main(["schema", "check", "--regex", "--lark", str(tmp_path / "x")])


# which language

_LARK = 'start: "::=" /a+/'


@pytest.mark.parametrize(
    ("text", "constraint"),
    [
        ("json", Lark("json")),
        ('start: "a"', Lark('start: "a"')),
        (_LARK, Lark(_LARK)),
        ('root ::= "a" [b-d]+', Ebnf('root ::= "a" [b-d]+')),
        ('root ::= "a" .', Ebnf('root ::= "a" .')),
        ("root ::= [^]", Ebnf("root ::= [^]")),
        (r'root ::= "\e"', Ebnf(r'root ::= "\e"', "xgrammar")),
        ('root ::= a\n  "b"\na ::= "c"', Ebnf('root ::= a\n  "b"\na ::= "c"', "xgrammar")),
        ('root ::= Regex("a")', Ebnf('root ::= Regex("a")', "xgrammar")),
    ],
)
def test_grammar_is_what_its_text_can_only_be(text: str, constraint: Constraint) -> None:
    assert detect_grammar(text) == constraint


@pytest.mark.parametrize(
    ("text", "error", "reason"),
    [
        (r'root ::= "\x411"', ConstraintError, "read this grammar differently"),
        ("nothing", ConstraintError, "no grammar 'nothing' is shipped"),
        ("", GrammarSyntaxError, "no rule 'start'"),
        ("root ::= (", GrammarSyntaxError, "')' expected"),
        ("start: (", GrammarSyntaxError, "expected"),
        ("start: b", GrammarSyntaxError, "'b' is not defined"),
        (3, ConstraintError, "a grammar is a text"),
    ],
)
def test_grammar_that_can_be_nothing_or_two_is_refused(text: Any, error: Any, reason: str) -> None:
    with pytest.raises(error, match=reason.replace("(", r"\(").replace(")", r"\)")):
        detect_grammar(text)
