"""`gen(output=T)`: the grammar comes from the type, and the value is an object of it."""

import dataclasses
import enum
import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, Optional, TypedDict

import pydantic
import pytest

import sgrt
from sgrt.core import Choices, JsonSchema, Regex
from sgrt.errors import UnsupportedSchema
from sgrt.lang.outputs import output_of
from sgrt.lang.plain import PLAIN


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.0


class Movie(TypedDict):
    title: str
    year: int


class Seen(TypedDict):
    movie: Movie
    stars: NotRequired[int]


class Pair(NamedTuple):
    left: int
    right: str


class Person(pydantic.BaseModel):
    name: str
    born: date
    friends: list["Person"] = []
    worth: Decimal = Decimal(0)


GOOD = [
    (int, "-12", -12),
    (float, "2", 2.0),
    (float, "-0.5e-3", -0.0005),
    (bool, "True", True),
    (bool, "false", False),
    (str, "any \n text", "any \n text"),
    (Decimal, "1.10", Decimal("1.10")),
    (date, "2024-02-29", date(2024, 2, 29)),
    (time, "08:30:00", time(8, 30)),
    (datetime, "2026-11-22T08:30:00", datetime(2026, 11, 22, 8, 30)),
    (Literal["a", "b"], "b", "b"),
    (Literal[1, 2], "2", 2),
    (Colour, "blue", Colour.BLUE),
    (Level, "2", Level.HIGH),
    (Optional[int], "null", None),  # noqa: UP045
    (int | str, '"3"', "3"),
    (Literal["a", 1], '"a"', "a"),
    (list[int], "[1,2]", [1, 2]),
    (list[Colour], '["red"]', [Colour.RED]),
    (dict[str, float], '{"a":1.5}', {"a": 1.5}),
    (tuple[int, str], '[1,"a"]', (1, "a")),
    (Point, '{"x":1,"y":2.5}', Point(1, 2.5)),
    (Movie, '{"title":"M","year":1931}', {"title": "M", "year": 1931}),
    (Pair, '[1,"a"]', Pair(1, "a")),
    (list[Movie], '[{"title":"M","year":1931}]', [{"title": "M", "year": 1931}]),
    (dict[str, list[Movie]] | None, "null", None),
    (Seen, '{"movie":{"title":"M","year":1931}}', {"movie": {"title": "M", "year": 1931}}),
    (list[date], '["2024-02-29"]', [date(2024, 2, 29)]),
    (
        Person,
        '{"name":"A","born":"1815-12-10","friends":[],"worth":"1.5"}',
        Person(name="A", born=date(1815, 12, 10), worth=Decimal("1.5")),
    ),
    (Annotated[int, pydantic.Field(ge=0, le=9)], "7", 7),
]


def run(kind, text, *, argument="output", **options):
    @sgrt.function
    def program(s):
        s += sgrt.gen("x", **{argument: kind}, **options)

    return program.run(backend=sgrt.ScriptedBackend([text]), max_tokens=500)


@pytest.mark.parametrize("argument", ["output", "dtype"])
@pytest.mark.parametrize(("kind", "text", "value"), GOOD)
def test_value_is_an_object_of_the_type(kind, text, value, argument):
    if argument == "dtype" and kind in PLAIN:
        return  # spelled as in running text
    found = run(kind, text, argument=argument)["x"]
    assert found == value
    assert type(found) is type(value)


BAD = [
    (int, ["", "+1", "007", "1.0", " 1", "1e3", "x"]),
    (float, [".5", "1.", "inf", "nan", "1e", "01"]),
    (bool, ["TRUE", "yes", "1"]),
    (Decimal, ["1e5", "NaN", ".5"]),
    (date, ["2023-02-29", "0000-01-01", "1900-02-29", "2024-13-01", "2024-1-1", "2024-04-31"]),
    (time, ["24:00:00", "8:30:00", "08:60:00"]),
    (datetime, ["2024-02-29", "2024-02-29 08:30:00"]),
    (Colour, ["RED", "green", '"red"']),
    (Literal["a", "b"], ["c", ""]),
]


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in BAD for text in texts])
def test_text_that_is_no_value_of_the_type_never_passes(kind, text):
    constraint = output_of(kind).constraint
    if isinstance(constraint, Regex):
        assert not re.fullmatch(constraint.pattern, text)
    else:
        assert text not in constraint.options
    with pytest.raises(sgrt.ProgramError):
        run(kind, text)["x"]


def test_dates_are_those_of_the_calendar():
    pattern = re.compile(output_of(date).constraint.pattern)
    day = date(1895, 12, 1)
    while day < date(1904, 4, 1):
        assert pattern.fullmatch(day.isoformat())
        day += timedelta(days=1)
    for year in (1, 1900, 1904, 2000, 2100, 9999):
        leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        assert bool(pattern.fullmatch(f"{year:04}-02-29")) == leap


def test_number_beyond_a_float_is_an_error():
    assert run(float, "1e99")["x"] == 1e99
    with pytest.raises(sgrt.ProgramError, match="'1e999' breaks"):
        run(float, "1e999")["x"]


def test_stop_as_text_works_with_a_type():
    assert run(int, "42 and more", stop=" ")["x"] == 42
    assert run(str, "a. b", stop=".")["x"] == "a"


def test_list_of_continuations_holds_values():
    @sgrt.function
    def program(s):
        s += sgrt.gen("x", output=int, n=2)

    assert program.run(backend=sgrt.ScriptedBackend(["1", "2"]))["x"] == [1, 2]


def test_value_that_pydantic_refuses_is_an_error_of_that_variable():
    with pytest.raises(sgrt.ProgramError, match=r"variable 'x'.*not a valid"):
        run(Point, '{"x":"no"}')["x"]


@pytest.mark.parametrize("kind", ["int", 3, b"int", "Person"])
def test_what_is_no_type_is_refused(kind):
    with pytest.raises(TypeError, match="must be a type"):
        sgrt.gen("x", output=kind)


@pytest.mark.parametrize("kind", [type(sgrt), Callable[[], int], list[complex | type(sgrt)]])
def test_type_without_a_schema_is_refused_by_name(kind):
    with pytest.raises(UnsupportedSchema, match="the type"):
        sgrt.gen("x", output=kind)


def test_output_and_dtype_together_are_refused():
    with pytest.raises(sgrt.RequestError, match="dtype"):
        sgrt.gen("x", output=int, dtype=int)
    with pytest.raises(sgrt.RequestError, match="one constraint"):
        sgrt.gen("x", output=int, regex="a")


def test_plain_types_are_no_json_and_the_others_are_closed():
    assert isinstance(output_of(int).constraint, Regex)
    assert isinstance(output_of(Colour).constraint, Choices)
    schema = output_of(Point).constraint
    assert isinstance(schema, JsonSchema) and '"additionalProperties":false' in schema.schema


def test_type_is_read_once():
    assert output_of(list[Point]) is output_of(list[Point])
    assert output_of(Annotated[int, ["unhashable"]]).parse("3") == 3


# ---------------------------------------------------------------- what programs return


def returning(kind, value, *, is_async=False):
    if is_async:

        async def program(s) -> kind:
            return value
    else:

        def program(s) -> kind:
            return value

    return sgrt.function(program).run(backend=sgrt.ScriptedBackend([]))


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *((int, 3), (float, 3), (str, "a"), (None, None), (list[int], [1]), (Colour, Colour.RED)),
        *((int | None, None), (Point, Point(1)), (Literal["a"], "a"), (dict[str, int], {"a": 1})),
        *((Any, object()), (object, 3), (re.Pattern, re.compile("a")), (date, date(1, 1, 1))),
    ],
)
def test_value_that_is_what_the_annotation_says_is_returned_as_it_is(kind, value, is_async):
    assert returning(kind, value, is_async=is_async).value is value


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *((int, "3"), (int, True), (float, "1"), (str, None), (None, 0), (list[int], ["1"])),
        *((Colour, "red"), (int | None, "a"), (Point, {"x": 1}), (Literal["a"], "b")),
        *((date, "2024-01-01"), (bool, 1), (tuple[int, ...], [1])),
    ],
)
def test_value_that_is_not_what_the_annotation_says_is_an_error_of_the_program(
    kind, value, is_async
):
    with pytest.raises(sgrt.ProgramError, match=r"program 'program' \(.*it returned") as caught:
        returning(kind, value, is_async=is_async)
    assert repr(value)[:20] in str(caught.value)


def test_annotation_that_only_type_checkers_can_read_says_nothing():
    def program(s) -> "NotThere":  # noqa: F821
        return 3

    assert sgrt.function(program).run(backend=sgrt.ScriptedBackend([])).value == 3


def test_value_of_a_program_inside_another_is_checked_too():
    @sgrt.function
    def inner(s) -> int:
        return "3"

    @sgrt.function
    def outer(s):
        with pytest.raises(sgrt.ProgramError, match="'inner'"):
            inner(s)
        return "went on"

    assert outer.run(backend=sgrt.ScriptedBackend([])).value == "went on"
