"""Grammars, quotations and tags on the real model: what it writes keeps to them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

import sgrt
from sgrt.backends.local import Engine
from sgrt.core import Constraint, JsonSchema, Regex, SequenceOf, StructuralTag, Structure

pytestmark = pytest.mark.model

PASSAGE = "Ada Lovelace was born on 10 December 1815 in London. She wrote the first program."
CITY = JsonSchema(
    '{"type":"object","properties":{"city":{"type":"string","maxLength":12}},"required":["city"],"additionalProperties":false}'
)


@pytest.fixture(scope="module")
def engine(smollm2: Path) -> Iterator[Engine]:
    with Engine(str(smollm2), device="cpu", kv_tokens=4096, num_threads=1) as engine:
        yield engine


def write(engine: Engine, prompt: str, constraint: Constraint) -> str:
    result = engine.generate(
        prompt, constraint=constraint, max_tokens=60, temperature=1.0, seed=5, finish="close"
    )
    assert result.is_complete
    return result.text


def test_grammars_of_every_kind_hold_on_the_real_model(engine: Engine) -> None:
    @sgrt.function
    def program(s: sgrt.ProgramState) -> None:
        s += PASSAGE + "\nDate of birth: " + sgrt.gen("date", grammar="iso_date", max_tokens=20)
        s += "\nQuote: " + sgrt.gen("quote", substring_of=PASSAGE, max_tokens=20)
        sums = 'root ::= root " + " [1-9] | [1-9]'
        s += "\nSum: " + sgrt.gen("sum", ebnf=sums, max_tokens=20, finish="close")

    state = program.run(backend=engine, temperature=0)
    assert date.fromisoformat(state["date"])
    assert state["quote"] in PASSAGE
    assert re.fullmatch(r"[1-9]( \+ [1-9])*", state["sum"])


def test_library_texts_of_the_real_model_are_read_by_python(engine: Engine) -> None:
    grammar = sgrt.gen("x", grammar="python_literal").constraint
    assert grammar is not None
    ast.literal_eval(write(engine, "xs = ", grammar))


def test_composition_holds_on_the_real_model(engine: Engine) -> None:
    constraint = SequenceOf((Regex("[A-Z][a-z ]{1,30}: "), CITY, "\n"))
    text = write(engine, PASSAGE + "\n", constraint)
    found = re.fullmatch(r"[A-Z][a-z ]{1,30}: (\{.*\})\n", text)
    assert found and [*json.loads(found[1])] == ["city"]


def test_tool_calls_in_free_text_hold_on_the_real_model(engine: Engine) -> None:
    tag = StructuralTag((Structure("<call=city>", CITY, "</call>"),), ("<call",))
    text = write(engine, "Call a function with <call=city>.\nAnswer: <call", tag)
    assert "<call" not in re.sub(r"<call=city>\{\"city\":\".*?\"\}</call>", "", text)
