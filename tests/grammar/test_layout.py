"""How JSON is laid out: the same values under each policy, white space bounded in every place."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest
import random_schemas
from grammar_support import accepts, byte_vocabulary, grammar, walk

from sgrt.core import JsonSchema, OneOf, Separators, SequenceOf
from sgrt.errors import ConstraintError, GrammarBudgetExceeded, GrammarSyntaxError

_PIECE = re.compile(r'"(?:[^"\\]|\\.)*"|[^"\[\]{},:]+|.', re.DOTALL)
_ORDER = JsonSchema(
    '{"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"array","items":'
    '{"enum":[[1,2],{"k":[],"l":{}},"x, y: z"]}}},"required":["a"],"additionalProperties":false}'
)


def _laid_out(compact: str, rng: random.Random | None) -> str:
    """Compact JSON as `json.dumps` spaces it, or with white space anywhere it may stand."""
    pieces = _PIECE.findall(compact)
    if rng is None:
        return "".join(p + " " if p in (",", ":") else p for p in pieces)
    white = ["", " ", "\n", "\n  ", "\n\t\t", "\n" + " " * 32]
    gaps = [rng.choice(white) for _ in pieces[1:]]
    return "".join(p + gap for p, gap in zip(pieces, [*gaps, ""], strict=True))


def _with(constraint: JsonSchema, separators: Separators, white: str | None = None) -> JsonSchema:
    return JsonSchema(constraint.schema, separators, white)


@pytest.mark.parametrize("seed", range(30))
def test_every_policy_writes_the_same_values(seed: int) -> None:
    rng = random.Random(seed)
    node = random_schemas.schema(rng)
    compact = JsonSchema(json.dumps(node))
    fixed, flexible = _with(compact, "fixed"), _with(compact, "flexible")
    try:
        grammars = {c.separators: grammar(c) for c in (compact, fixed, flexible)}
    except ConstraintError:
        return
    for name, compiled in grammars.items():
        ids = walk(compiled.matcher(), byte_vocabulary(), rng)
        if ids is None:
            continue
        text = bytes(ids).decode()
        assert random_schemas.is_valid(random_schemas.load(text), node)
        plain = "".join(re.sub(r"\s", "", p) if p[0] != '"' else p for p in _PIECE.findall(text))
        assert accepts(grammars["compact"], plain), (name, text)
        assert accepts(grammars["fixed"], _laid_out(plain, None)), (name, text)
        assert accepts(grammars["flexible"], _laid_out(plain, rng)), (name, text)
        if name == "fixed":
            assert text == _laid_out(plain, None)


@pytest.mark.parametrize("indent", [None, 0, 2, 4, "\t"])
def test_flexible_takes_what_json_dumps_writes(indent: Any) -> None:
    value = {"a": 1, "b": [[1, 2], {"k": [], "l": {}}, "x, y: z"]}
    for separators in ((",", ":"), (", ", ": "), (",", ": ")):
        text = json.dumps(value, indent=indent, separators=separators)
        spaced = separators[0] == ", " and indent is not None
        assert accepts(grammar(_with(_ORDER, "flexible")), text) != spaced, text


@pytest.mark.parametrize(
    "text",
    [
        ' {"a":1}', '{"a":1} ', '{"a":1}\n', '{  "a":1}', '{\n\n"a":1}', '{ \n"a":1}', '{"a":\t1}',
        '{\r\n"a":1}', '{\n' + " " * 33 + '"a":1}', '{"a"  :1}', '{"a":1  }', '{"a": - 1}',
    ],
)  # fmt: skip
def test_flexible_bounds_white_space_in_each_place(text: str) -> None:
    assert not accepts(grammar(_with(_ORDER, "flexible")), text)


@pytest.mark.parametrize(
    "text", ['{"a":1}', '{"a":  1}', '{ "a": 1}', '{"a": 1,"b": []}', '{"a": 1, "b": [[1,2]]}']
)
def test_fixed_takes_its_own_spacing_only(text: str) -> None:
    compiled = grammar(_with(_ORDER, "fixed"))
    assert not accepts(compiled, text)
    assert accepts(compiled, json.dumps(json.loads(text)))


def test_whitespace_pattern_says_what_may_stand_in_a_place() -> None:
    compiled = grammar(_with(_ORDER, "flexible", "[ \n]{0,2}"))
    for text in ('{"a":1}', '{ \n"a"  :1}', '{\n\n"a":1 }'):
        assert accepts(compiled, text), text
    for text in ('{   "a":1}', '{\t"a":1}', ' {"a":1}'):
        assert not accepts(compiled, text), text
    assert accepts(grammar(_with(_ORDER, "flexible", "")), '{"a":1}')
    assert not accepts(grammar(_with(_ORDER, "flexible", "(?:)")), '{"a": 1}')


@pytest.mark.parametrize(
    ("pattern", "error", "reason"),
    [
        (r"[\n\t ]*", ConstraintError, "has no end"),
        (r" {2,}|", ConstraintError, "has no end"),
        (" ", ConstraintError, "must match the empty text"),
        ("_?", ConstraintError, "no white space in JSON"),
        (r"\s?", ConstraintError, "no white space in JSON"),
        ("\u00a0?", ConstraintError, "no white space in JSON"),
        ("(", GrammarSyntaxError, "never closed"),
        (" {0,9999}", GrammarBudgetExceeded, "white space"),
        (3, ConstraintError, "must be a pattern"),
    ],
)
def test_whitespace_that_cannot_be_kept_is_refused(pattern: Any, error: Any, reason: str) -> None:
    with pytest.raises(error, match=re.escape(reason)):
        grammar(_with(_ORDER, "flexible", pattern))


def test_unknown_policy_or_whitespace_without_flexible_is_refused() -> None:
    with pytest.raises(ConstraintError, match="separators='pretty' must be one of"):
        JsonSchema("{}", "pretty")  # type: ignore[arg-type]
    with pytest.raises(ConstraintError, match="needs separators='flexible'"):
        JsonSchema("{}", "fixed", " ?")


def test_layout_inside_a_composition_ends_with_the_value() -> None:
    flexible = _with(_ORDER, "flexible")
    number = JsonSchema('{"type":"integer"}', "flexible")
    compiled = grammar(SequenceOf(("A:", flexible, "E")))
    assert accepts(compiled, 'A:{ "a": 1 }E')
    for text in ('A: {"a":1}E', 'A:{"a":1} E', 'A:{"a":1}\nE', ' A:{"a":1}E'):
        assert not accepts(compiled, text), text
    compiled = grammar(SequenceOf((number, OneOf((" x", "y")))))
    assert [accepts(compiled, t) for t in ("1 x", "1y", "1  x", "1 y")] == [
        True,
        True,
        False,
        False,
    ]


def test_layout_closes_in_time() -> None:
    for policy in ("fixed", "flexible"):
        matcher = grammar(_with(_ORDER, policy)).matcher()
        matcher.accept(list(b'{"a": 1, '))
        rest = matcher.shortest_completion()
        assert rest is not None
        text = '{"a": 1, ' + bytes(rest).decode()
        assert accepts(grammar(_with(_ORDER, policy)), text)


def test_fixed_forces_the_spaces() -> None:
    matcher = grammar(_with(_ORDER, "fixed")).matcher()
    assert bytes(matcher.forced()) == b'{"a": '
