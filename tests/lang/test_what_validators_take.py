"""What pydantic's validators take, where its schemas allow more: decimals, addresses, dates, keys."""

import itertools
import json
import random
import re
from datetime import timedelta
from decimal import Decimal
from typing import Annotated

import pydantic
import pytest
from jsonschema import Draft202012Validator

import sgrt
from sgrt.lang import decimals, type_schemas

WHOLES = ("0", "1", "9", "10", "12", "13", "99", "100", "120")
FRACTIONS = [
    "",
    *("." + "".join(d) for k in (1, 2, 3) for d in itertools.product("0159", repeat=k)),
]
SPELLINGS = [sign + whole + part for sign in ("", "-") for whole in WHOLES for part in FRACTIONS]
EDGES = [
    "0",
    "1",
    "-1",
    "12",
    "12.5",
    "-12.5",
    "0.15",
    "-0.05",
    "99",
    "-100",
    "1E+1",
    "0.50",
    "1.05",
]


def _bounds(chance):
    found = {name: Decimal(chance.choice(EDGES)) for name in ("ge", "gt", "le", "lt")}
    found = {name: value for name, value in found.items() if chance.random() < 0.35}
    if chance.random() < 0.5:
        found["max_digits"] = chance.randint(1, 4)
    if chance.random() < 0.5:
        found["decimal_places"] = chance.randint(0, min(3, found.get("max_digits", 3)))
    return found


def _is_spelled_long(text):
    """A zero with a sign, or zeros at the end: other spellings of a value are enough."""
    return Decimal(text) == 0 or ("." in text and text.endswith("0"))


@pytest.mark.parametrize("seed", range(24))
def test_decimal_within_bounds_is_what_pydantic_accepts(seed):
    bounds = _bounds(random.Random(seed))
    valid = pydantic.TypeAdapter(Annotated[Decimal, pydantic.Field(**bounds)])
    found = [re.compile(pattern) for pattern in decimals.patterns(bounds)]
    for text in SPELLINGS:
        try:
            is_valid = valid.validate_python(text) is not None
        except pydantic.ValidationError:
            is_valid = False
        is_written = all(pattern.fullmatch(text) for pattern in found)
        assert is_written == is_valid or (is_valid and _is_spelled_long(text)), (bounds, text)


def test_bound_that_is_infinite_bounds_nothing():
    infinite = {"ge": Decimal("-Infinity"), "lt": Decimal("Infinity")}
    assert decimals.patterns(infinite) == decimals.patterns({})


@pytest.mark.parametrize(
    "text, is_url",
    [
        *[(text, True) for text in ("http://a", "https://a.de:65/x?y#z", "http://127.0.0.1/")],
        *[(text, True) for text in ("http://3com.b-c.co.uk/", "https://localhost:8000")],
        *[(text, False) for text in ("aa://a", "http://", "http://a.1", "http://256.1.1.1")],
        *[
            (text, False)
            for text in ("http://a:70000", "http://u@a", "http://xn--a", "http:///x", "http://a..b")
        ],
    ],
)
def test_address_of_a_scheme_is_one_that_pydantic_accepts(text, is_url):
    pattern = type_schemas._url(["http", "https"])["pattern"]
    assert bool(re.search(pattern, text)) is is_url
    if is_url:
        pydantic.TypeAdapter(pydantic.HttpUrl).validate_python(text)


@pytest.mark.parametrize(
    "kind, good, bad",
    [
        (pydantic.NaiveDatetime, '"2024-02-29T10:00:00"', '"2024-02-29T10:00:00Z"'),
        (dict[int, bool], '{"-12":true}', '{"a":true}'),
        (timedelta, '"P3DT4H"', '"P9999999999D"'),
    ],
)
def test_text_that_a_validator_would_refuse_is_not_written(kind, good, bad):
    schema = json.loads(sgrt.gen("x", output=kind).constraint.schema)
    valid = Draft202012Validator(schema)
    assert pydantic.TypeAdapter(kind).validate_json(good) is not None
    with pytest.raises(pydantic.ValidationError):
        pydantic.TypeAdapter(kind).validate_json(bad)
    assert valid.is_valid(json.loads(good)) and not valid.is_valid(json.loads(bad))


def test_bounds_reach_the_schema_of_a_model():
    class Order(pydantic.BaseModel):
        price: Annotated[Decimal, pydantic.Field(ge=0, max_digits=8, decimal_places=2)]
        site: pydantic.HttpUrl

    schema = sgrt.gen("x", output=Order).constraint.schema
    assert "[0-9]{0,5}" in schema and "^(http|https)://" in schema and '"uri"' not in schema
