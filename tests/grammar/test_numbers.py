"""Numbers of schemas: every multiple in a spelling, and what is no integer."""

from __future__ import annotations

import itertools
import json
import math
from fractions import Fraction
from typing import Any

import jsonschema
import pytest

from sgrt.core import JsonSchema
from sgrt.errors import UnsupportedSchema
from sgrt.grammar import json_schema
from tests.grammar.grammar_support import accepts, grammar

NO_INTEGER = {"type": "number", "not": {"type": "integer"}}


@pytest.mark.parametrize(
    ("step", "others"),
    [
        (0.25, {}),
        (0.25, {"minimum": 0, "maximum": 1}),
        (0.25, {"exclusiveMinimum": 0, "exclusiveMaximum": 1}),
        (0.05, {"minimum": -1}),
        (0.01, {"exclusiveMaximum": 1}),
        (1.5, {}),
        (0.75, {"type": "integer"}),
        (None, {"minimum": -0.95, "maximum": 2.75}),
        (None, {"exclusiveMaximum": 2.75, "not": {"const": 1.55}}),
        (0.3, {"exclusiveMinimum": -2.41}),
        (0.1, {"exclusiveMaximum": 2.55, "not": {"const": 1.5}}),
        (0.5, {**NO_INTEGER, "minimum": 0, "maximum": 3}),
        (None, NO_INTEGER),
        (None, {**NO_INTEGER, "exclusiveMinimum": -2}),
        (None, {"oneOf": [{"type": "integer"}, {"minimum": 2}]}),
    ],
)
def test_number_of_few_decimals_is_accepted_exactly_where_it_is_valid(
    step: float | None, others: dict[str, Any]
) -> None:
    """Steps are compared here: `jsonschema` takes 0.15 for no multiple of 0.05."""
    node = others if step is None else {**others, "multipleOf": step}
    compiled = grammar(JsonSchema(json.dumps(node)))
    validator = jsonschema.Draft202012Validator(others)
    for hundredths in range(-320, 321, 5):
        value: Any = Fraction(hundredths, 100)
        is_multiple = step is None or (value / Fraction(str(step))).denominator == 1
        value = int(value) if value.denominator == 1 else float(value)
        assert accepts(compiled, json.dumps(value)) == (is_multiple and validator.is_valid(value))


def test_number_that_is_no_integer_far_from_0_is_told_to_be_left_out() -> None:
    statuses = [(e.status, e.why) for e in json_schema.report(json.dumps(NO_INTEGER))]
    assert any(status == "subset" and "from -16 to 16" in why for status, why in statuses)
    inside = {**NO_INTEGER, "minimum": 0, "maximum": 5}
    assert all(e.status != "subset" for e in json_schema.report(json.dumps(inside)))


def test_bounds_beyond_exact_numbers_are_told_to_be_moved_in_where_digits_do_not_help() -> None:
    node = {"type": "integer", "multipleOf": 3, "minimum": -(2**63), "exclusiveMaximum": 2**64}
    found = {e.keyword: e.status for e in json_schema.report(json.dumps(node))}
    told = {"minimum": "subset", "exclusiveMaximum": "subset"}
    assert found == {"type": "enforced", "multipleOf": "enforced", **told}
    compiled = grammar(JsonSchema(json.dumps(node)))
    assert accepts(compiled, str(2**53 - 2)) and not accepts(compiled, str(2**53 + 1))


@pytest.mark.parametrize(
    "bounds",
    [
        {"exclusiveMinimum": 0, "maximum": 0.5},
        {"exclusiveMinimum": 6, "exclusiveMaximum": 6.5},
        {"exclusiveMinimum": -0.5, "exclusiveMaximum": 0},
        {"minimum": -6.5, "exclusiveMaximum": -6},
        {"minimum": 6, "maximum": 6.5, "not": {"const": 6}},
        {"minimum": -0.5, "maximum": 0.5, "not": {"const": 0}},
        {"exclusiveMinimum": 6.25, "maximum": 6.5},
        {"exclusiveMinimum": 5, "exclusiveMaximum": 7},
    ],
)
def test_number_at_an_excluded_bound_is_never_accepted(bounds: dict[str, Any]) -> None:
    """The engine takes the 6 where 6 < x < 6.5."""
    compiled = grammar(JsonSchema(json.dumps({"type": "number", **bounds})))
    validator = jsonschema.Draft202012Validator(bounds)
    for hundredths in range(-720, 721, 5):
        text = f"{hundredths / 100:.15g}"
        value = json.loads(text)
        spelled = [text, f"{value:.1f}", f"{value:.2f}", f"-{text}" if value == 0 else text]
        spelled = [s for s in spelled if json.loads(s) == value]
        assert any(accepts(compiled, s) for s in spelled) == validator.is_valid(value), text
        assert validator.is_valid(value) or not any(accepts(compiled, s) for s in spelled), text


@pytest.mark.parametrize(
    ("step", "unit"), [(1000003, 1000003), (0.12345, 2469), (0.123456789, 123456789)]
)
def test_integer_that_is_a_multiple_of_a_large_number_is_counted_or_listed(
    step: float, unit: int
) -> None:
    compiled = grammar(JsonSchema(json.dumps({"type": "integer", "multipleOf": step})))
    for value in (0, unit, -2 * unit, 400 * unit):
        assert accepts(compiled, str(value)), value
        assert not accepts(compiled, str(value + 1)), value


@pytest.mark.parametrize("value", [1.9476287699047565, 184975900128.80518, 1000000000000000.5])
def test_number_of_many_digits_is_told_from_its_neighbours(value: float) -> None:
    """The engine reads such a number with an error in its last digit."""
    nearby = [math.nextafter(value, 0), value, math.nextafter(value, math.inf)]
    only = grammar(JsonSchema(json.dumps({"const": value})))
    assert [v for v in nearby if accepts(only, json.dumps(v))] == [value]
    for keyword in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"):
        node = {"type": "number", keyword: value}
        validator = jsonschema.Draft202012Validator(node)
        compiled = grammar(JsonSchema(json.dumps(node)))
        assert not any(accepts(compiled, json.dumps(v)) > validator.is_valid(v) for v in nearby)
        assert accepts(compiled, "1.25" if "ax" in keyword else "1000000000000011.5")
        (entry,) = [e for e in json_schema.report(json.dumps(node)) if e.keyword == keyword]
        assert entry.status == "subset" and "15 digits" in entry.why


@pytest.mark.parametrize("kind", ["integer", "number"])
def test_integers_between_any_two_bounds_are_accepted_exactly(kind: str) -> None:
    for low, high in itertools.product((-1, 0, 0.5, 1), (0, 0.5, 1, 2)):
        for names in itertools.product(
            ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
        ):
            schema = {"type": kind, **dict(zip(names, (low, high), strict=True))}
            validator = jsonschema.Draft202012Validator(schema)
            valid = [value for value in range(-3, 4) if validator.is_valid(value)]
            try:
                compiled = grammar(JsonSchema(json.dumps(schema)))
            except UnsupportedSchema:
                assert not valid and (kind == "integer" or low >= high), schema
                continue
            assert [v for v in range(-3, 4) if accepts(compiled, str(v))] == valid, schema
