"""Values told as they end: the same as `json.loads`, however the text is cut."""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgrt.core import JsonReader, ValueEvent
from sgrt.errors import ConstraintError

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
_VALUES = st.recursive(
    _SCALARS,
    lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=4), v, max_size=4),
    max_leaves=12,
)


def _read(reader: JsonReader, text: str, cuts: list[int]) -> list[ValueEvent]:
    edges = [0, *sorted(cuts), len(text)]
    return [e for a, b in itertools.pairwise(edges) for e in reader.feed(text[a:b])]


def _inner_first(value: Any, path: tuple[str | int, ...] = ()) -> list[ValueEvent]:
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    inside = [e for key, item in items for e in _inner_first(item, (*path, key))]
    return [*inside, ValueEvent(path, value)]


@given(
    _VALUES,
    st.lists(st.integers(0, 60), max_size=8),
    st.sampled_from([None, 0, 2]),
    st.booleans(),
)
@settings(max_examples=120, deadline=None)
def test_reader_however_text_is_cut_tells_every_value_once(
    value: Any, cuts: list[int], indent: int | None, ascii_: bool
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_)
    reader = JsonReader()
    events = _read(reader, text, [min(cut, len(text)) for cut in cuts])
    assert events + ([] if reader.is_complete else reader.close()) == _inner_first(value)
    assert reader.is_complete
    assert reader.partial() == value


@given(_VALUES, st.integers(0, 80))
@settings(max_examples=80, deadline=None)
def test_reader_tells_only_what_no_continuation_can_change(value: Any, cut: int) -> None:
    # The same text, cut, then told what it may still become: events so far never differ.
    text = json.dumps(value)
    events = _read(JsonReader(), text[:cut], [])
    assert events == _inner_first(value)[: len(events)]
    for more in ("0", "5", ".5", "e1"):
        if text[:cut][-1:].isdigit():
            longer = text[:cut] + more
            try:
                later = _read(JsonReader(), longer, [])
            except ConstraintError:
                continue
            assert later[: len(events)] == events


@given(_VALUES)
@settings(max_examples=60, deadline=None)
def test_snapshot_at_every_character_holds_all_events_so_far(value: Any) -> None:
    reader, seen = JsonReader(), []
    for char in json.dumps(value):
        seen += reader.feed(char)
        snapshot = reader.partial()
        for event in seen:
            found = snapshot
            for key in event.path:
                found = found[key]
            assert found == event.value


def test_snapshot_is_not_changed_by_what_follows() -> None:
    reader = JsonReader()
    reader.feed('{"a":[1,{"b":')
    before = reader.partial()
    assert before == {"a": [1, {}]}
    reader.feed("2},3]}")
    assert before == {"a": [1, {}]} and reader.partial() == {"a": [1, {"b": 2}, 3]}
    assert JsonReader().partial(default="nothing") == "nothing"


def test_reader_of_a_number_alone_waits_for_the_end() -> None:
    reader = JsonReader()
    assert reader.feed("12") == [] and not reader.is_complete
    assert reader.close() == [ValueEvent((), 12)]
    assert JsonReader().feed("12 ") == [ValueEvent((), 12)]


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("{a", 1), ("[1,]", 3), ("[1 2", 3), ("01,", 2), ("[1.,", 3), ("nulx", 4), ("NaN", 0),
        ("Infinity", 0), ("-Infinity", 1), ('"a\n"', 3), ('"\\x"', 3), ('"\\u12"', 5), ("{}}", 2),
        ("{} 1", 3), ('{"a" 1', 5), ('{"a":}', 5), ("]", 0), ("[}", 1), ('{"a":1]', 6), ("+1", 0),
        ("'a'", 0), ("[" + "1" * 5000 + ",", 5001), ("\ufeff1", 0), ("[1-2,", 4), ("{1:2}", 1),
    ],
)  # fmt: skip
def test_reader_refuses_what_is_not_json_where_it_stands(text: str, at: int) -> None:
    for cuts in ([], list(range(len(text)))):
        with pytest.raises(ConstraintError, match=f"at character {at}$"):
            _read(JsonReader(), text, cuts)


@pytest.mark.parametrize("text", ["", "[1", '"a', "tru", '{"a":', "-", "1e"])
def test_reader_of_an_unfinished_text_refuses_its_end(text: str) -> None:
    reader = JsonReader()
    reader.feed(text)
    with pytest.raises(ConstraintError):
        reader.close()


@pytest.mark.parametrize(
    "text",
    [
        '"' + "a" * 40_000 + '"',
        '{"a":[' * 500 + "1" + "]}" * 500,
        '"' + "\\" * 40_000 + '"',
        "[" + "1," * 20_000 + "1]",
        " " * 40_000 + "1 ",
    ],
)
def test_reader_costs_as_much_as_the_text_is_long(text: str) -> None:
    def seconds(part: str) -> float:
        reader, start = JsonReader(), time.process_time()
        for char in part:
            reader.feed(char)
        return time.process_time() - start

    tenth = min(seconds(text[: len(text) // 10]) for _ in range(3))
    assert seconds(text) < 60 * tenth + 0.05
