"""Typed values while they are written: fields as they end, validated."""

import dataclasses
import enum
import json
import threading
from datetime import date
from typing import Annotated, NamedTuple

import pydantic
import pytest
from typing_extensions import TypedDict

import sgrt
from sgrt.core import GenerateResult, Handle, TokenEvent, Usage


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    when: date


class Place(TypedDict):
    name: str
    points: list[Point]


class Pair(NamedTuple):
    left: date
    right: int


class Person(pydantic.BaseModel):
    name: str
    born: date
    colour: Colour | None
    places: dict[str, Place]
    pairs: list[Pair]
    aka: Annotated[str, pydantic.Field(alias="also")]
    mixed: int | str


PERSON = {
    "name": 'Ada, "é"',
    "born": "1815-12-10",
    "colour": "red",
    "places": {"home": {"name": "x", "points": [{"x": 1, "when": "2000-01-01"}]}},
    "pairs": [["2000-01-02", 3]],
    "also": "A",
    "mixed": "m",
}
VALUES = {
    ("name",): 'Ada, "é"',
    ("born",): date(1815, 12, 10),
    ("colour",): Colour.RED,
    ("places", "home", "name"): "x",
    ("places", "home", "points", 0, "x"): 1,
    ("places", "home", "points", 0, "when"): date(2000, 1, 1),
    ("places", "home", "points", 0): Point(1, date(2000, 1, 1)),
    ("pairs", 0, 0): date(2000, 1, 2),
    ("pairs", 0): Pair(date(2000, 1, 2), 3),
    ("also",): "A",
    ("mixed",): "m",
}


class Handed(sgrt.ScriptedBackend):
    """Gives a handle that the test fills."""

    def __init__(self):
        super().__init__([])
        self.handle = Handle()

    def open(self, **options):
        session = super().open(**options)
        session.generate = lambda segment: (self.handle,)
        return session


def program_of(**options):
    @sgrt.function
    def program(s):
        s += "a" + sgrt.gen("x", max_tokens=999, **options)

    return program


def scripted(text, **options):
    return program_of(**options).run(backend=sgrt.ScriptedBackend([text]))


def test_each_field_comes_with_its_type_when_it_has_ended():
    partials = list(scripted(json.dumps(PERSON), output=Person).partials("x"))
    found = {partial.path: partial.value for partial in partials}
    for path, value in VALUES.items():
        assert found[path] == value
        assert type(found[path]) is type(value)
    last = partials[-1]
    assert last.path == () and isinstance(last.value, Person)
    assert last.so_far is last.value


def test_what_there_is_so_far_grows_and_earlier_snapshots_stay():
    partials = list(scripted('{"a":[1,[2]],"b":{"c":3}}', output=dict).partials("x"))
    assert [(p.path, p.so_far) for p in partials] == [
        (("a", 0), {"a": [1]}),
        (("a", 1, 0), {"a": [1, [2]]}),
        (("a", 1), {"a": [1, [2]]}),
        (("a",), {"a": [1, [2]]}),
        (("b", "c"), {"a": [1, [2]], "b": {"c": 3}}),
        (("b",), {"a": [1, [2]], "b": {"c": 3}}),
        ((), {"a": [1, [2]], "b": {"c": 3}}),
    ]


def test_field_comes_before_the_model_goes_on(within):
    backend = Handed()
    partials = program_of(output=Point).run(backend=backend).partials("x")
    backend.handle.push(TokenEvent((1,), '{"x":1'))
    backend.handle.push(TokenEvent((1,), "2,"))
    first = within(lambda: next(partials))
    assert (first.path, first.value, first.so_far) == (("x",), 12, {"x": 12})
    text = '{"x":12,"when":"2000-01-01"}'
    threading.Timer(0.02, backend.handle.push, [TokenEvent((1,), text[8:])]).start()
    assert within(lambda: next(partials)).value == date(2000, 1, 1)
    backend.handle.finish(GenerateResult(text, (1, 1, 1), "stop", Usage()))
    assert within(lambda: next(partials)).value == Point(12, date(2000, 1, 1))


@pytest.mark.parametrize("options", [{"json_schema": {}}, {"output": list}, {"output": object}])
def test_values_without_inner_types_are_as_json_gives_them(options):
    partials = list(scripted('[1,{"a":null}]', **options).partials("x"))
    assert [p.path for p in partials] == [(0,), (1, "a"), (1,), ()]
    assert partials[-2].so_far == [1, {"a": None}]


def test_type_that_is_no_json_comes_whole():
    (partial,) = scripted("42", output=int).partials("x")
    assert (partial.path, partial.value) == ((), 42)


async def test_coroutines_see_the_same():
    state = scripted(json.dumps(PERSON), output=Person)
    assert [p async for p in state.apartials("x")] == list(state.partials("x"))


def test_field_of_the_wrong_type_is_an_error_as_soon_as_it_ends():
    partials = scripted('{"x":1,"when":"soon"}', output=Point).partials("x")
    assert next(partials).value == 1
    with pytest.raises(sgrt.ProgramError, match=r"variable 'x'.*at when"):
        next(partials)


def test_model_that_looks_at_raw_values_is_validated_when_it_is_whole():
    class Doubling(pydantic.BaseModel):
        n: int

        @pydantic.field_validator("n", mode="before")
        @classmethod
        def double(cls, value):
            return value * 2

    partials = list(scripted('{"n":2}', output=Doubling).partials("x"))
    assert [p.value for p in partials] == [2, Doubling.model_construct(n=4)]


def test_text_that_was_cut_gives_its_fields_and_then_the_error():
    @sgrt.function
    def program(s):
        s += sgrt.gen("x", output=Point, max_tokens=10)

    state = program.run(backend=sgrt.ScriptedBackend(['{"x":1,"when":"2000-01-01"}']))
    partials = state.partials("x")
    assert next(partials).value == 1
    with pytest.raises(sgrt.ProgramError, match="max_tokens=10"):
        list(partials)


@pytest.mark.parametrize("options", [{}, {"regex": ".*"}, {"output": int, "n": 2}])
def test_text_without_a_type_is_refused(options):
    state = program_of(**options).run(backend=sgrt.ScriptedBackend(["1", "2"]))
    with pytest.raises(sgrt.ProgramError, match="no type"):
        next(state.partials("x"))
    with pytest.raises(sgrt.ProgramError, match="no variable 'y'"):
        next(state.partials("y"))


def test_error_of_the_backend_is_raised_where_it_ends_the_value():
    backend = sgrt.ScriptedBackend(["{}"], fail_on="a")
    with pytest.raises(sgrt.ProgramError, match="scripted failure"):
        list(program_of(output=Point).run(backend=backend).partials("x"))
