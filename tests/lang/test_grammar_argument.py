"""`gen(grammar=…, ebnf=…, substring_of=…, structural_tag=…)`: what they become, what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

import sgrt
from sgrt.core import Constraint, Ebnf, JsonSchema, Lark, Regex, StructuralTag, Structure, Substring
from sgrt.errors import ConstraintError, RequestError


@pytest.mark.parametrize(
    ("grammar", "constraint"),
    [
        ('start: "a"', Lark('start: "a"')),
        ("sql_select", Lark("sql_select")),
        (Regex("a"), Regex("a")),
    ],
)
def test_gen_grammar_becomes_the_constraint(
    grammar: str | Constraint, constraint: Constraint
) -> None:
    assert sgrt.gen("x", grammar=grammar).constraint == constraint


def test_gen_grammar_beside_another_constraint_is_refused_with_both_names() -> None:
    with pytest.raises(RequestError, match="regex and grammar"):
        sgrt.gen("x", regex="a", grammar="iso_date")


def test_gen_grammar_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match="grammar must be Lark text"):
        sgrt.gen("x", grammar=3)  # type: ignore[arg-type]


TAG = {
    "type": "structural_tag",
    "structures": [{"begin": "<f=a>", "schema": {"type": "object"}, "end": "</f>"}],
    "triggers": ["<f"],
}


@pytest.mark.parametrize(
    ("arguments", "constraint"),
    [
        ({"ebnf": 'root ::= "a"'}, Ebnf('root ::= "a"')),
        ({"substring_of": "to be"}, Substring("to be")),
        (
            {"structural_tag": TAG},
            StructuralTag((Structure("<f=a>", JsonSchema('{"type": "object"}'), "</f>"),), ("<f",)),
        ),
    ],
)
def test_gen_argument_becomes_the_constraint(
    arguments: dict[str, Any], constraint: Constraint
) -> None:
    assert sgrt.gen("x", **arguments).constraint == constraint
    with pytest.raises(RequestError, match=f"regex and {next(iter(arguments))}"):
        sgrt.gen("x", regex="a", **arguments)


@pytest.mark.parametrize("name", ["ebnf", "substring_of", "regex"])
def test_gen_argument_that_is_no_text_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a string"):
        sgrt.gen("x", **{name: 3})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"triggers": None}, "'triggers' cannot be None"),
        ({"format": {}}, "has no key 'structures'"),
        ({"type": "json"}, "type='json'"),
        ({"structures": [3]}, r"structures\[0\] must be an object"),
        ({"structures": [{"begin": "<f", "schema": {}}]}, r"structures\[0\] lacks 'end'"),
        (
            {"structures": [{"begin": "<f", "schema": {"x": {1}}, "end": ""}]},
            "schema is not JSON",
        ),
        ({"structures": [{"begin": 1, "schema": {}, "end": ""}]}, "'begin' cannot be 1"),
    ],
)
def test_gen_structural_tag_of_another_form_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConstraintError, match=reason):
        sgrt.gen("x", structural_tag={**TAG, **change})


def test_gen_structural_tag_without_triggers_is_refused() -> None:
    with pytest.raises(ConstraintError, match="lacks 'triggers'"):
        sgrt.gen("x", structural_tag={"structures": []})


def test_scripted_answer_is_believed_for_a_grammar_and_checked_for_a_quotation() -> None:
    @sgrt.function
    def program(s: Any, text: str) -> None:
        s += sgrt.gen("date", grammar="iso_date") + " " + sgrt.gen("quote", substring_of=text)

    backend = sgrt.ScriptedBackend(["2024-02-29", "to be"])
    state = program.run(text="or not to be", backend=backend)
    assert (state["date"], state["quote"]) == ("2024-02-29", "to be")
    with pytest.raises(sgrt.ProgramError, match="breaks Substring"):
        program.run(text="or not", backend=sgrt.ScriptedBackend(["x", "to be"]))["quote"]


def test_gen_separators_reach_the_constraint_of_json_and_belong_to_nothing_else() -> None:
    assert sgrt.gen(json_schema={"type": "null"}, separators="fixed").constraint == JsonSchema(
        '{"type":"null"}', "fixed"
    )
    with pytest.raises(RequestError, match="separators belongs to"):
        sgrt.gen(regex="a", separators="fixed")
    with pytest.raises(ConstraintError, match="separators='wide'"):
        sgrt.gen(json_schema={}, separators="wide")  # type: ignore[arg-type]
