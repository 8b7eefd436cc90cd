"""pydantic models become closed schemas and validated objects."""

import json
from collections.abc import Callable
from datetime import date
from enum import Enum
from typing import Literal

import jsonschema
import pytest
from pydantic import BaseModel, ConfigDict, Field

import sgrt
from sgrt.errors import UnsupportedSchema
from sgrt.lang.types import json_schema, model_schema
from sgrt.schemas import closed


class Color(Enum):
    RED = "red"


class Item(BaseModel):
    zebra: str
    apple: int = Field(ge=0, le=9)


class Order(BaseModel):
    when: date
    color: Color
    items: list[Item]
    best: Item | None = None
    kind: Literal["a", "b"] = "a"
    renamed: int = Field(alias="re-named", default=0)


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int
    inner: dict[str, Item]


GOOD = '{"when":"2024-02-29","color":"red","items":[{"zebra":"z","apple":3}],"re-named":4}'


def test_value_is_a_validated_object_and_the_same_at_every_read():
    @sgrt.function
    def program(s):
        s += sgrt.gen("order", output=Order, max_tokens=500)
        return s["order"]

    state = program.run(backend=sgrt.ScriptedBackend([GOOD]))
    assert state["order"] == Order.model_validate_json(GOOD)
    assert state["order"].renamed == 4
    assert state["order"] is state.value
    assert state.text() == GOOD


def test_n_objects_are_a_list_of_objects():
    @sgrt.function
    def program(s):
        s += sgrt.gen("item", output=Item, n=2)

    answer = '{"zebra":"z","apple":3}'
    state = program.run(backend=sgrt.ScriptedBackend([answer, answer]))
    assert state["item"] == [Item(zebra="z", apple=3)] * 2


def test_schema_keeps_the_order_of_fields():
    properties = json.loads(model_schema(Item).schema)["properties"]
    assert list(properties) == ["zebra", "apple"]


def test_closed_schema_takes_a_subset_of_what_the_open_one_takes():
    schema = json.loads(model_schema(Order).schema)
    jsonschema.validate(json.loads(GOOD), schema)
    extra = json.loads(GOOD) | {"more": 1}
    jsonschema.validate(extra, Order.model_json_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(extra, schema)
    nested = json.loads(GOOD)
    nested["items"][0]["more"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(nested, schema)


def test_models_that_allow_more_stay_open():
    schema = json.loads(model_schema(Loose).schema)
    jsonschema.validate({"a": 1, "b": 2, "inner": {"x": {"zebra": "", "apple": 1}}}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"a": 1, "inner": {"x": {"zebra": "", "apple": 1, "q": 1}}}, schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]},
        {"not": {"properties": {"a": {"type": "string"}}}},
        {"if": {"properties": {"a": {"const": 1}}}, "then": {"required": ["b"]}},
        {"const": {"properties": {"a": 1}}},
        {"default": {"properties": {"a": 1}}, "enum": [{"properties": {}}]},
        {"properties": {"a": {}}, "allOf": [{"properties": {"b": {}}}]},
        {"properties": {"a": {}}, "additionalProperties": {"type": "integer"}},
        True,
    ],
)
def test_schemas_that_closing_would_change_are_left_alone(schema):
    assert closed(schema) == schema


def test_schema_given_as_such_is_not_closed():
    assert json_schema({"properties": {"a": {}}}).schema == '{"properties":{"a":{}}}'
    assert json_schema(Item) == model_schema(Item)


class Action(BaseModel):
    run: Callable[[int], int]


class Ahead(BaseModel):
    later: "NotDefinedAnywhere"  # noqa: F821


class Rude(BaseModel):
    @classmethod
    def __get_pydantic_json_schema__(cls, core, handler):
        raise KeyError("mine")


@pytest.mark.parametrize("model", [Action, Ahead, Rude])
@pytest.mark.parametrize("argument", ["output", "json_schema"])
def test_model_without_a_schema_is_refused_with_its_name(model, argument):
    with pytest.raises(UnsupportedSchema, match=f"the type '{model.__name__}' has none") as caught:
        sgrt.gen("x", **{argument: model})
    assert caught.value.__cause__ is not None
