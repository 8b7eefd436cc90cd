"""`gen(grammar=…)`: what it becomes, what it refuses."""

from __future__ import annotations

import pytest

import sgrt
from sgrt.core import Constraint, Lark, Regex
from sgrt.errors import RequestError


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
