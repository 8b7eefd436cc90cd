"""Arrays whose items are compared while they are written."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import jsonschema
import pytest

from sgrt.core import JsonSchema, Regex
from sgrt.errors import ConstraintError, GrammarBudgetExceeded, UnsupportedSchema
from sgrt.grammar import json_schema
from sgrt.grammar.compiler import build
from sgrt.grammar.matcher import Grammar
from sgrt.grammar.vocabulary import Vocabulary
from tests.grammar.grammar_support import (
    accepts,
    allowed_ids,
    bpe_vocabulary,
    byte_vocabulary,
    walk,
)

CLOSED = {"required": ["a"], "additionalProperties": False}
DIGITS = {"type": "string", "pattern": "^[0-9]{2}$"}
AB = {"type": "object", "properties": {"a": {"enum": [1, 2]}, "b": {"type": "boolean"}}}

ITEMS: list[dict[str, Any]] = [
    {"type": "string"},
    {"type": "string", "pattern": "^[ab]{0,2}$"},
    {"type": "string", "minLength": 1, "maxLength": 2},
    {"type": "integer"},
    {"type": "integer", "minimum": -3, "maximum": 20},
    {"type": "number"},
    {"type": "number", "minimum": -0.5, "maximum": 1},
    {"anyOf": [{"enum": ["a", "ab", None]}, {"type": "string", "pattern": "^a*$"}]},
    {**AB, **CLOSED},
    AB,
    {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    {"type": "array", "items": {"type": "boolean"}},
    {"type": "object", "properties": {"t": {"uniqueItems": True, "items": {"type": "string"}}}},
    {"type": "array", "items": {"enum": [*range(60)]}, "uniqueItems": True, "maxItems": 3},
    {"type": "array", "items": {**AB, **CLOSED}, "uniqueItems": True},
    {"properties": {"a": {"type": "array", "items": {"type": "string"}, "uniqueItems": True}}}
    | {**CLOSED, "type": "object"},
    {},
]


def schema_of(item: dict[str, Any], **others: Any) -> dict[str, Any]:
    return {"type": "array", "items": item, "uniqueItems": True, **others}


def compiled(schema: Any, vocabulary: Vocabulary, **options: Any) -> Grammar:
    return build(JsonSchema(json.dumps(schema), **options), vocabulary)


def spanning_vocabulary() -> Vocabulary:
    """Bytes, and tokens that end items, hold whole ones and begin others."""
    more = ['","', '["', '"]', "[1,1", ",1,", "1,", '","a","', 'a"', '"a', '["a","a"', "],[", "}]"]
    more += [
        '{"a":1}',
        '{"a":1',
        ',{"a":',
        "1},{",
        "00",
        "1.0",
        "0,",
        "true",
        "-0",
        "ab",
        ', "',
        '", "',
    ]
    more += ['b","', " b"]
    tokens = [bytes([i]) for i in range(256)] + [text.encode() for text in more] + [b""]
    end = len(tokens) - 1
    return Vocabulary(tokens, [end], end, lambda text: list(text.encode()), "spanning")


@pytest.mark.parametrize("policy", ["fixed", "flexible"])
@pytest.mark.parametrize("item", ITEMS, ids=lambda item: json.dumps(item)[:50])
def test_different_items_drawn_at_random_are_valid_and_never_lead_to_a_dead_end(
    item: dict[str, Any], policy: str
) -> None:
    schema = schema_of(item, minItems=2)
    validator = jsonschema.Draft202012Validator(schema)
    vocabulary = spanning_vocabulary()
    grammar = compiled(schema, vocabulary, separators=policy)
    rng = random.Random(policy)
    for _ in range(2):
        ids = walk(grammar.matcher(), vocabulary, rng, 60)  # asserts that something is allowed
        if ids is not None:
            text = vocabulary.bytes_of(ids).decode()
            assert validator.is_valid(json.loads(text)), text


@pytest.mark.parametrize("item", [{"enum": [*range(40), "a"]}, {"maximum": 3, "minimum": 1}])
def test_different_items_of_finite_sets_accept_exactly_what_a_validator_does(
    item: dict[str, Any],
) -> None:
    schema = schema_of({"type": ["integer", "string"], **item}, maxItems=2)
    grammar = compiled(schema, byte_vocabulary())
    validator = jsonschema.Draft202012Validator(schema)
    for length in range(4):
        for values in itertools.product((1, 2, 3, "a"), repeat=length):
            text = json.dumps(values, separators=(",", ":"))
            assert accepts(grammar, text) == validator.is_valid(list(values)), text


SAME = [
    ('["a","a"]', '["a","A"]'),
    ("[1,1.0]", "[1,1.5]"),
    ("[0,-0.0]", "[0,-0.1]"),
    ("[10,1e1]", "[10,1e2]"),
    ("[1,true,1]", "[1,true]"),
    ('[{"a":1,"b":2},{"b":2,"a":1}]', '[{"a":1,"b":2},{"b":1,"a":1}]'),
    ('[{"a":[1]},{"a":[1.0]}]', '[{"a":[1]},{"a":["1"]}]'),
    ('["é","é"]', '["é","e"]'),
    (r'["\n","\n"]', r'["\n","n"]'),
    ("[[],[]]", "[[],[[]]]"),
    ("[null,null]", "[null,false]"),
]


@pytest.mark.parametrize(("same", "other"), SAME)
def test_different_items_are_told_apart_by_their_values(same: str, other: str) -> None:
    grammar = compiled({"uniqueItems": True}, byte_vocabulary())
    assert accepts(grammar, other)
    assert not accepts(grammar, same)


def test_different_items_mask_allows_exactly_the_tokens_that_are_taken() -> None:
    vocabulary = spanning_vocabulary()
    rng = random.Random(3)
    for item in (ITEMS[1], ITEMS[4], ITEMS[8], ITEMS[13]):
        matcher = compiled(schema_of(item), vocabulary).matcher()
        for _ in range(12):
            allowed = allowed_ids(matcher, vocabulary)
            for token_id in range(len(vocabulary) - 1):
                assert _takes(matcher, token_id) == (token_id in allowed), vocabulary.tokens[
                    token_id
                ]
            if not allowed:
                break
            matcher.accept([rng.choice(allowed)])


def _takes(matcher: Any, token_id: int) -> bool:
    try:
        matcher.accept([token_id])
    except ConstraintError:
        return False
    matcher.rollback(1)
    return True


def test_different_items_rollback_and_fork_equal_a_fresh_matcher() -> None:
    vocabulary = spanning_vocabulary()
    grammar = compiled(schema_of(ITEMS[1], minItems=3), vocabulary)
    ids = list(b'["a","b","aa","')
    matcher, fork_at = grammar.matcher(), 7
    matcher.accept(ids[:fork_at])
    fork = matcher.fork()
    matcher.accept(ids[fork_at:])
    for count in range(len(ids), fork_at, -1):
        fresh = grammar.matcher()
        fresh.accept(ids[:count])
        assert allowed_ids(matcher, vocabulary) == allowed_ids(fresh, vocabulary)
        matcher.rollback(1)
    fork.accept(list(b'a"'))
    assert allowed_ids(matcher, vocabulary) != allowed_ids(fork, vocabulary)
    with pytest.raises(ConstraintError):
        fork.accept(list(b',"ba"'))
    fork.accept(list(b',"b"'))


@pytest.mark.parametrize("item", [ITEMS[i] for i in (1, 8)])
def test_different_items_can_be_completed_from_every_place(item: dict[str, Any]) -> None:
    schema = schema_of(item, minItems=4)
    vocabulary = bpe_vocabulary()
    validator = jsonschema.Draft202012Validator(schema)
    matcher = compiled(schema, vocabulary).matcher()
    rng = random.Random(0)
    ids: list[int] = []
    for _ in range(3):
        rest = matcher.shortest_completion()
        assert rest is not None and matcher.completes(rest)
        assert validator.is_valid(json.loads(vocabulary.bytes_of([*ids, *rest])))
        allowed = allowed_ids(matcher, vocabulary)
        if not allowed:
            break
        ids.append(rng.choice(allowed))
        matcher.accept(ids[-1:])


def test_different_items_token_into_an_array_without_items_left_is_masked() -> None:
    """A token that ends an item is told from its beginning, which only goes on in it."""
    vocabulary = spanning_vocabulary()
    for pattern, first, begun, dead in (
        ("^abc?$", "abc", "a", b'b","'),
        ("^a (b|cc)$", "a b", "a", b" b"),
    ):
        matcher = compiled(schema_of({"type": "string", "pattern": pattern}), vocabulary).matcher()
        matcher.accept(list(f'["{first}","{begun}'.encode()))
        tokens = {vocabulary.tokens[i] for i in allowed_ids(matcher, vocabulary)}
        assert dead not in tokens
        assert tokens & {b"b", b" "}
        assert matcher.explain(vocabulary.tokens.index(dead)) is not None


def test_different_items_have_no_limit_that_python_has() -> None:
    grammar = compiled({"uniqueItems": True}, byte_vocabulary())
    long = "1" * 5_000
    assert accepts(grammar, f"[{long},{long}0,1e400,1e401]") is False  # both beyond floats: equal
    assert accepts(grammar, f"[{long},{long}0,1e400]")
    deep = "[" * 2_000
    matcher = grammar.matcher()
    matcher.accept(list(deep.encode()))
    with pytest.raises(GrammarBudgetExceeded):
        matcher.accept(list(b"]" * 2_000))


def test_different_items_tell_why_one_is_not_allowed() -> None:
    matcher = compiled(schema_of({"type": "string"}), byte_vocabulary()).matcher()
    matcher.accept(list(b'["a","a'))
    assert "'uniqueItems' at /" in str(matcher.explain(ord('"')))
    assert matcher.explain(ord("b")) is None


def test_different_items_of_many_lists_are_compared_each_with_its_own() -> None:
    tags = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
    schema = {"properties": {"x": tags, "y": tags, "z": {"items": tags}, "free": {"type": "array"}}}
    grammar = compiled({**schema, "additionalProperties": False}, byte_vocabulary())
    assert accepts(grammar, '{"x":["a"],"y":["a"],"z":[["a"],["a"]],"free":["a","a"]}')
    for text in ('{"x":["a","a"]}', '{"x":[],"y":["b","b"]}', '{"z":[[],["c","c"]]}'):
        assert not accepts(grammar, text)


REFUSED: list[tuple[dict[str, Any], str]] = [
    (schema_of({"type": "number", "multipleOf": 0.5}), ""),
    (schema_of({"type": "object", "properties": {"a": {"type": "number"}}, **CLOSED}), ""),
    (schema_of({"type": "object", "maxProperties": 2}), ""),
    (schema_of(schema_of(DIGITS, minItems=2, maxItems=2), minItems=9_950), ""),  # of 9,900
    (schema_of({"type": "string", "maxLength": 1, "pattern": "^[ab]"}, minItems=3), ""),
    (
        {"properties": {"p": {**schema_of({"type": "string"}), "contains": {"const": "a"}}}},
        "/properties/p",
    ),
    (
        {"anyOf": [{"enum": [[1, 1], 2]}, schema_of({"type": "string"})]},
        "/anyOf/1",
    ),
]


@pytest.mark.parametrize(("schema", "pointer"), REFUSED, ids=lambda s: json.dumps(s)[:60])
def test_different_items_that_could_lead_to_a_dead_end_are_refused(
    schema: dict[str, Any], pointer: str
) -> None:
    with pytest.raises(UnsupportedSchema) as caught:
        compiled(schema, byte_vocabulary())
    assert (caught.value.pointer, caught.value.keyword) == (pointer, "uniqueItems")


def test_different_items_beside_arrays_without_the_keyword_are_told_as_a_subset() -> None:
    both = {"anyOf": [schema_of({"type": "string"}), {"type": "array", "items": {"type": "null"}}]}
    entry = next(e for e in json_schema.report(json.dumps(both)) if e.keyword == "uniqueItems")
    assert (entry.pointer, entry.status) == ("/anyOf/0", "subset")
    assert not accepts(compiled(both, byte_vocabulary()), "[null,null]")


def test_different_items_inside_a_composition_are_refused() -> None:
    part = JsonSchema(json.dumps(schema_of({"type": "string"})))
    with pytest.raises(UnsupportedSchema, match="few different values"):
        build(Regex("[a-z]+: ") + part, byte_vocabulary())
