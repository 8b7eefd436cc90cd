"""Random compositions of every kind of part: those that are not refused mean what they say."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
from grammar_support import accepts, byte_vocabulary, grammar, walk

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

Judge = Callable[[str], bool]
Part = tuple[Any, Judge]
"""A constraint, and what decides on its own whether a text satisfies it."""

_ALPHABET = "ab1[,]<"
_MAX_REPEATS = 12  # more than any text here has parts
_INTEGER = "-?(?:0|[1-9][0-9]*)"


def _matches(pattern: str) -> Judge:
    return lambda text: re.fullmatch(pattern, text) is not None


def _is_nested(text: str) -> bool:
    """Lists of letters a and of lists."""
    try:
        value = json.loads(re.sub("a+", "null", text))
    except ValueError:
        return False
    return isinstance(value, list) and set(text) <= set("[],a")


def _is_bracket(text: str) -> bool:
    depths = list(itertools.accumulate(1 if c == "[" else -1 for c in text))
    return set(text) <= set("[]") and depths[-1:] == [0] and all(d > 0 for d in depths[:-1])


def _format(begin: str, content: dict[str, Any], end: str) -> StructuralFormat:
    return StructuralFormat(
        json.dumps({"type": "tag", "begin": begin, "content": content, "end": end})
    )


_CALL = {"type": "tag", "begin": "<", "content": {"type": "json_schema", "json_schema": {"type": "integer"}}, "end": ","}  # fmt: skip
_LEAVES: list[Part] = [
    (JsonSchema('{"type":"integer"}'), _matches(_INTEGER)),
    (JsonSchema('{"type":"array","items":{"const":1}}'), _matches(r"\[(1(,1)*)?\]")),
    (Lark('start: "a"+'), _matches("a+")),
    (Lark('start: X ("," X)*\nX: /[ab]+/'), _matches("[ab]+(,[ab]+)*")),
    (Lark('start: ("a" "b")*'), _matches("(ab)*")),
    (Lark('start: l\nl: "[" (x ("," x)*)? "]"\nx: "a" "a"* | l'), _is_nested),
    (Lark("start: h\nh[lazy]: /[ab]*,/"), _matches("[ab]*,")),
    (Lark('start: %json {"const":1} "b"?'), _matches("1b?")),
    (Ebnf('root ::= "a" root? "b"'), lambda t: t != "" and t == "a" * (len(t) // 2) + "b" * (len(t) // 2)),
    (Ebnf('root ::= "[" root* "]"', "xgrammar"), _is_bracket),
    (AnyText("b"), _matches("[^b]*b")),
    (AnyText("<", excludes="ab"), lambda t: t.find("<") == len(t) - 1 >= 0 and "ab" not in t),
    (AnyText(excludes="a"), _matches("[^a]*")),
    (AnyText(max_chars=2), lambda t: len(t) <= 2),
    (Substring("ab1a"), lambda t: t != "" and t in "ab1a"),
    (StructuralTag((Structure("<1", JsonSchema('{"const":1}'), "]"),), ("<",)), _matches(r"([^<]|<11\])*")),
    (_format("[", {"type": "any_text"}, "]"), _matches(r"\[[^\]]*\]")),
    (_format("a", {"type": "triggered_tags", "triggers": ["<"], "tags": [_CALL]}, "b"), _matches(f"a([^<b]|<{_INTEGER},)*b")),
    (Lark('start: "b"*'), _matches("b*")),
    (Regex("[ab]*"), _matches("[ab]*")),
    (Regex("1*"), _matches("1*")),
    (Regex("(,1)?"), _matches("(,1)?")),
    (Choices(("ab", "b", "1")), _matches("ab|b|1")),
    *((text, _matches(re.escape(text))) for text in ("a", "1,", "1<", "<", "]")),
]  # fmt: skip


def _in_order(judges: Sequence[Judge]) -> Judge:
    def judge(text: str) -> bool:
        @cache
        def fits(start: int, i: int) -> bool:
            if i == len(judges):
                return start == len(text)
            ends = range(start, len(text) + 1)
            return any(judges[i](text[start:end]) and fits(end, i + 1) for end in ends)

        return fits(0, 0)

    return judge


def _repeated(part: Judge, low: int, high: int | None, separator: str) -> Judge:
    counts = range(low, (_MAX_REPEATS if high is None else high) + 1)
    between = _matches(re.escape(separator))

    def judge(text: str) -> bool:
        return any(_in_order(([part, between] * n)[:-1])(text) for n in counts)

    return judge


def _random_part(rng: random.Random, depth: int) -> Part:
    kind = rng.random()
    if depth == 0 or kind < 0.25:
        return rng.choice(_LEAVES)
    if kind < 0.85:
        parts = [_random_part(rng, depth - 1) for _ in range(rng.randint(2, 3))]
        judges = [judge for _, judge in parts]
        if kind < 0.7:
            return SequenceOf([part for part, _ in parts]), _in_order(judges)
        return OneOf([part for part, _ in parts]), lambda text: any(j(text) for j in judges)
    part, judge = _random_part(rng, depth - 1)
    low, separator = rng.randint(0, 2), rng.choice(["", ",", "<"])
    high = rng.choice([None, low + 1])
    return RepeatOf(part, low, high, separator), _repeated(judge, low, high, separator)


_TEXTS = ["".join(t) for n in range(5) for t in itertools.product(_ALPHABET, repeat=n)]


def _check(seeds: range) -> tuple[int, int]:
    """How many compositions were judged, and how many texts were generated."""
    num_judged = num_generated = 0
    for seed in seeds:
        rng = random.Random(seed)
        constraint, judge = _random_part(rng, 2)
        if isinstance(constraint, str):
            continue
        try:
            compiled = grammar(constraint)
        except ConstraintError:
            continue
        num_judged += 1
        for text in (*_TEXTS[:57], *rng.sample(_TEXTS[57:], 60)):
            assert accepts(compiled, text) == judge(text), (text, constraint)
        for _ in range(3):
            ids = walk(compiled.matcher(), byte_vocabulary(), rng, 10, [b"]", b",", b"b"])
            if ids is not None:
                text = bytes(ids).decode("utf-8", "ignore")
                assert judge(text), (text, constraint)
                num_generated += 1
    return num_judged, num_generated


def test_composition_that_is_not_refused_takes_exactly_its_texts() -> None:
    num_judged, num_generated = _check(range(90))
    assert num_judged > 25 and num_generated > 40


@pytest.mark.slow
def test_many_compositions_that_are_not_refused_take_exactly_their_texts() -> None:
    assert _check(range(150, 4000))[0] > 1000
