"""Structural tags: free text is free, triggers are where forms begin, forms are kept."""

from __future__ import annotations

import itertools
import json
import random
import re
from typing import Any

import pytest
from grammar_support import accepts, allowed_ids, bpe_vocabulary, byte_vocabulary, grammar, walk

from sgrt.core import Choices, JsonSchema, StructuralTag, Structure
from sgrt.errors import ConstraintError, GrammarBudgetExceeded, UnsupportedSchema

ANY_OBJECT = JsonSchema(
    '{"type":"object","properties":{"x":{"type":"integer"}},"required":["x"],"additionalProperties":false}'
)
EMPTY = JsonSchema('{"type":"object","additionalProperties":false}')
BOOLEAN = JsonSchema('{"type":"boolean"}')

CALLS = StructuralTag(
    (
        Structure("<f=a>", ANY_OBJECT, "</f>"),
        Structure("<f=b>", BOOLEAN, "</f>"),
        Structure("[[", EMPTY, ""),
    ),
    ("<f", "[["),
)


def _reads(text: str, tag: StructuralTag) -> bool:
    """The definition: look for the first trigger, read a form, go on after it."""
    while True:
        places = [(text.find(t), t) for t in tag.triggers if t in text]
        if not places:
            return True
        text = text[min(places)[0] :]
        for structure in tag.structures:
            if text.startswith(structure.begin):
                rest = text[len(structure.begin) :]
                try:
                    value, end = json.JSONDecoder().raw_decode(rest)
                except json.JSONDecodeError:
                    continue
                compact = json.dumps(value, separators=(",", ":")) == rest[:end]
                if compact and _fits(value, structure) and rest[end:].startswith(structure.end):
                    text = rest[end + len(structure.end) :]
                    break
        else:
            return False


def _fits(value: Any, structure: Structure) -> bool:
    if structure.schema == BOOLEAN:
        return isinstance(value, bool)
    if structure.schema == EMPTY:
        return value == {}
    return isinstance(value, dict) and [*value] == ["x"] and type(value["x"]) is int


_PIECES = ["<", "f", "<f=a>", '{"x":1}', "</f>", "[[", "{}", "<f=b>true</f>", "é\n", "["]


@pytest.mark.parametrize("num_pieces", [1, 2, 3, 4])
def test_tag_accepts_exactly_what_its_definition_reads(num_pieces: int) -> None:
    compiled = grammar(CALLS)
    texts = ["".join(p) for p in itertools.product(_PIECES, repeat=num_pieces)]
    sample = texts if len(texts) <= 1000 else random.Random(5).sample(texts, 1000)
    verdicts = [_reads(text, CALLS) for text in sample]
    assert [accepts(compiled, text) for text in sample] == verdicts
    assert any(verdicts) and not all(verdicts)


def test_tag_calls_in_text_are_kept_to_their_schemas() -> None:
    compiled = grammar(CALLS)
    assert accepts(compiled, 'Let me see: <f=a>{"x":12}</f>, then <f=b>false</f> or a<b.\n[[{}]]')
    for bad in (
        '<f=a>{"x":1.5}</f>',
        '<f=a>{"y":1}</f>',
        "<f=c>",
        "<f=a>{}",
        "x [[ y",
        "<f=b>1</f>",
    ):
        assert not accepts(compiled, bad), bad


def test_tag_random_walks_read_as_defined() -> None:
    compiled, rng, ended = grammar(CALLS), random.Random(2), 0
    for _ in range(30):
        matcher = compiled.matcher()
        matcher.accept(list(b"so <f="))
        ids = walk(matcher, byte_vocabulary(), rng, 60)
        if ids is not None:
            text = "so <f=" + bytes(ids).decode()
            ended += 1
            assert re.match(r"so <f=(a>\{\"x\":-?\d+\}|b>(true|false))</f>", text)
            assert _reads(text, CALLS)
    assert ended


def test_tag_masks_over_merged_tokens_equal_trying_every_token() -> None:
    vocabulary = bpe_vocabulary()
    compiled, rng = grammar(CALLS, "bpe"), random.Random(9)
    for text in ("", "a <", "a <f", '<f=a>{"x":1', "<f=b>true</f", "[", "[[", "<f=b>true</f>z"):
        matcher = compiled.matcher()
        matcher.accept(vocabulary.try_encode(text.encode()) or [])
        allowed = allowed_ids(matcher, vocabulary)
        for i in [*allowed[:40], *rng.sample(range(len(vocabulary)), 60)]:
            taken = True
            try:
                matcher.fork().accept([i])
            except ConstraintError:
                taken = False
            assert taken == (i in allowed) or len(allowed) == 1, (text, vocabulary.tokens[i])


def test_tag_triggers_that_share_letters_are_told_apart() -> None:
    tag = StructuralTag(
        (Structure("abc", EMPTY, "!"), Structure("bcd", BOOLEAN, "?")), ("abc", "bcd")
    )
    compiled = grammar(tag)
    for text in map("".join, itertools.product("abcd", repeat=5)):
        assert accepts(compiled, text) == _reads(text, tag), text
    assert accepts(compiled, "xabc{}!bcdtrue?") and not accepts(compiled, "abcd")


@pytest.mark.parametrize(
    ("structures", "triggers", "reason"),
    [
        ([("<f>", EMPTY, "")], [], "at least one trigger"),
        ([("<f>", EMPTY, "")], [""], "must not be empty"),
        ([("<f>", EMPTY, "")], ["<f", "<f>"], "holds trigger '<f'"),
        ([("a<f", EMPTY, "")], ["a<f", "<"], "holds trigger '<'"),
        ([("<f>", EMPTY, "")], ["<f", "<f"], "given twice"),
        ([("<f>", EMPTY, "")], ["<f", "["], "no structure begins with the trigger '['"),
        ([("<f>", EMPTY, ""), ("g", EMPTY, "")], ["<f"], "'g' begins with none"),
        ([], ["<f"], "no structure begins"),
        ([("<f>", EMPTY, ""), ("<f>", ANY_OBJECT, "")], ["<f"], "both begin: with '{'"),
        ([("<f>", EMPTY, ""), ("<f>{", EMPTY, "")], ["<f"], "both begin: with '{'"),
        (
            [("<f>", JsonSchema('{"type":"integer"}'), "")],
            ["<f"],
            "free text and other text can both begin: with '0'",
        ),
        (
            [("<f>", JsonSchema('{"type":"integer"}'), "0")],
            ["<f"],
            "free text and other text can both begin: with '0'",
        ),
        ([("<f\ud800", EMPTY, "")], ["<f"], "surrogate"),
        ([("<f>", EMPTY, 3)], ["<f"], "must be a string"),
        ([("<f>", Choices(("a",)), "")], ["<f"], "schema must be a JsonSchema"),
    ],
)
def test_tag_that_cannot_be_read_one_way_is_refused(
    structures: list[tuple[Any, Any, Any]], triggers: list[str], reason: str
) -> None:
    with pytest.raises(ConstraintError, match=re.escape(reason)):
        grammar(StructuralTag(tuple(Structure(*s) for s in structures), tuple(triggers)))


def test_tag_schema_that_cannot_be_enforced_is_refused() -> None:
    with pytest.raises(UnsupportedSchema):
        grammar(StructuralTag((Structure("<f>", JsonSchema('{"pattern":"(?<=a)"}')),), ("<f",)))


def test_tag_too_large_is_refused() -> None:
    long = StructuralTag((Structure("<" + "f" * 2_000, EMPTY),), ("<",))
    many = StructuralTag(tuple(Structure(f"<{i:03}>", EMPTY) for i in range(300)), ("<",))
    for tag in (long, many):
        with pytest.raises(GrammarBudgetExceeded):
            grammar(tag)
