"""Constraints put together with operators, and what plain values they are."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sgrt
from sgrt.core import (
    AnyText,
    Choices,
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
from sgrt.errors import ConstraintError

_ALL = [
    JsonSchema("{}"),
    Regex("a"),
    Choices(("a", "b")),
    Lark("json"),
    Ebnf('root ::= "a"'),
    StructuralTag((Structure("<f>", JsonSchema("{}")),), ("<f",)),
    StructuralFormat('{"type":"any_text"}'),
    AnyText("\n"),
    Substring("abc"),
    SequenceOf(("a", Regex("b"))),
    OneOf(("a", Regex("b"))),
    RepeatOf("a", 1, 2, ","),
]


def _parts(value: Any, kind: type) -> list[Any]:
    if not isinstance(value, kind):
        return [value]
    return list(value.options if isinstance(value, OneOf) else value.parts)


@pytest.mark.parametrize("one", _ALL)
@pytest.mark.parametrize("other", [*_ALL, "text"])
def test_operators_make_compositions_of_any_two(one: Any, other: Any) -> None:
    assert one | other == OneOf((*_parts(one, OneOf), *_parts(other, OneOf)))
    assert other | one == OneOf((*_parts(other, OneOf), *_parts(one, OneOf)))
    assert one + other == SequenceOf((*_parts(one, SequenceOf), *_parts(other, SequenceOf)))
    assert other + one == SequenceOf((*_parts(other, SequenceOf), *_parts(one, SequenceOf)))
    assert one.repeat(1, 3, ", ") == RepeatOf(one, 1, 3, ", ")
    assert one.repeat() == RepeatOf(one)
    assert len({one | other, one | other}) == 1


@given(st.lists(st.sampled_from([*_ALL[:4], "x"]), min_size=3, max_size=5))
def test_operators_do_not_depend_on_brackets(parts: list[Any]) -> None:
    parts = [Regex("start"), *parts, Regex("end")]
    left, right = parts[0], parts[-1]
    for part in parts[1:]:
        left = left + part
    for part in reversed(parts[:-1]):
        right = part + right
    assert left == right == SequenceOf(tuple(parts))


@pytest.mark.parametrize("other", [3, None, ["a"], b"a"])
def test_operators_refuse_what_is_no_part(other: Any) -> None:
    for make in (lambda: Regex("a") | other, lambda: other | Regex("a"),
                 lambda: Regex("a") + other, lambda: other + Regex("a")):  # fmt: skip
        with pytest.raises(TypeError):
            make()


@pytest.mark.parametrize("value", [3, None, {"a"}, b"a"])
def test_free_text_marks_are_texts(value: Any) -> None:
    with pytest.raises(ConstraintError, match="until="):
        AnyText(until=value)
    with pytest.raises(ConstraintError, match="excludes="):
        AnyText(excludes=value)


def test_every_constraint_is_a_public_name() -> None:
    assert {type(c).__name__ for c in _ALL} <= set(sgrt.__all__)
    assert all(getattr(sgrt, type(c).__name__) is type(c) for c in _ALL)
    assert sgrt.Regex("a") | "b" == OneOf((Regex("a"), "b"))
