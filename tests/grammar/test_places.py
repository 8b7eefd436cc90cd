"""Places: texts said to have the same future have the same masks."""

from __future__ import annotations

import json
import random
from collections.abc import Hashable
from typing import Any

import pytest
from grammar_support import bpe_vocabulary, byte_vocabulary, compiler, mask_of, walk
from random_schemas import schema as random_schema

from sgrt.core import JsonSchema
from sgrt.errors import ConstraintError
from sgrt.grammar.engines.places import where
from sgrt.grammar.vocabulary import Vocabulary

BOOL: dict[str, Any] = {"type": "boolean"}
TEXT: dict[str, Any] = {"type": "string"}
NODE = {
    "type": "object",
    "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
    "required": ["v", "next"],
}
SCHEMAS: dict[str, Any] = {
    "record": {
        "type": "object",
        "properties": {
            "s": {"type": "string", "maxLength": 4},
            "n": {"type": "integer", "minimum": -20, "maximum": 120},
            "e": {"enum": ["a", "ab", 1, [1, {"x": "]}"}]]},
            "l": {"type": "array", "items": TEXT, "minItems": 1, "maxItems": 3},
        },
        "required": ["s", "l"],
        "additionalProperties": False,
    },
    "open object": {"type": "object", "properties": {"a": BOOL, "b": TEXT}, "required": ["b"]},
    "map of numbers": {"type": "object", "additionalProperties": {"type": "number"}},
    "required, not named": {"type": "object", "properties": {"a": BOOL}, "required": ["z"]},
    "counted keys": {"type": "object", "properties": {"a": BOOL, "b": BOOL}, "maxProperties": 1},
    "anything": {"type": "object", "properties": {"x": {}, "y": BOOL}, "additionalProperties": {}},
    "tuple": {"type": "array", "prefixItems": [BOOL, TEXT], "items": {"type": "null"}},
    "tuple of three": {"type": "array", "prefixItems": [BOOL, TEXT, BOOL], "items": False},
    "lists of lists": {"type": "array", "items": {"type": "array", "items": BOOL, "maxItems": 2}},
    "alternatives": {
        "anyOf": [
            {
                "type": "object",
                "properties": {"k": {"const": "a"}, "v": BOOL},
                "required": ["k", "v"],
            },
            {
                "type": "object",
                "properties": {"k": {"const": "b"}, "v": TEXT},
                "required": ["k", "v"],
            },
        ]
    },
    "patterns": {
        "type": "object",
        "properties": {"d": {"type": "string", "pattern": "^[ab]*c$"}, "t": TEXT},
        "patternProperties": {"^x": BOOL},
    },
    "recursive": NODE,
    "long texts": {"type": "string", "minLength": 3},
    "text": {"type": "string", "minLength": 2, "maxLength": 3},
    "number": {"type": "number"},
    "nullable": {"type": ["object", "null", "string"], "properties": {"a": TEXT}},
}
CLOSERS = (b'"', b"}", b"]", b",", b":", b'",', b'"}', b'":"', b'":', b'","')


def check(schema: str, vocabulary: Vocabulary, name: str, walks: int, **options: Any) -> int:
    """Walk at random and compare the masks of equal places; how often a place came again."""
    grammar = compiler(name).compile(JsonSchema(schema, **options))
    seen: dict[Hashable, tuple[bytes, bytes, bool]] = {}
    again = 0
    for seed in range(walks):
        ids = walk(grammar.matcher(), vocabulary, random.Random(seed), 60, CLOSERS)
        matcher = grammar.matcher()
        for token_id in ids or ():
            place = matcher.place
            if place is not None:
                found = (mask_of(matcher, vocabulary).tobytes(), matcher.is_complete)
                text = vocabulary.bytes_of(matcher._token_ids)  # type: ignore[attr-defined]
                first = seen.setdefault(place, (text, *found))
                again += first[0] != text
                assert found == first[1:], (first[0], text)
            matcher.accept([token_id])
    return again


@pytest.mark.parametrize("name", ["bytes", "bpe"])
@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_texts_at_one_place_have_one_mask(schema: Any, name: str) -> None:
    vocabulary = byte_vocabulary() if name == "bytes" else bpe_vocabulary()
    check(json.dumps(schema), vocabulary, name, 8)


@pytest.mark.parametrize("separators", ["compact", "fixed", "flexible"])
def test_places_come_again_in_every_layout(separators: str) -> None:
    schema = json.dumps(SCHEMAS["record"])
    assert check(schema, bpe_vocabulary(), "bpe", 16, separators=separators) > 40


@pytest.mark.parametrize("seed", range(16))
def test_texts_of_random_schemas_at_one_place_have_one_mask(seed: int) -> None:
    try:
        check(json.dumps(random_schema(random.Random(seed))), bpe_vocabulary(), "bpe", 4)
    except ConstraintError:
        pytest.skip("refused")


def test_place_after_rollback_and_fork_is_that_of_the_text() -> None:
    vocabulary = bpe_vocabulary()
    grammar = compiler("bpe").compile(JsonSchema(json.dumps(SCHEMAS["record"])))
    ids = vocabulary.encode('{"s":"ab","l":["x","y"]}')
    for cut in range(len(ids)):
        fresh, matcher = grammar.matcher(), grammar.matcher()
        fresh.accept(ids[:cut])
        matcher.accept(ids)
        _ = matcher.place
        matcher.rollback(len(ids) - cut)
        other = matcher.fork()
        assert fresh.place == matcher.place == other.place
        other.accept(ids[cut : cut + 1])
        assert fresh.place == matcher.place  # a copy's steps are its own
        fresh.accept(ids[cut : cut + 1])
        assert fresh.place == other.place


def test_long_value_that_is_not_understood_has_no_place_until_it_ends() -> None:
    vocabulary = byte_vocabulary()
    grammar = compiler().compile(JsonSchema('{"type":"object","properties":{"x":{},"y":{}}}'))
    places = []
    for value in ("[" + "1," * 50 + "1]", '{"a":"' + "b" * 80 + '\\"}"}'):
        matcher = grammar.matcher()
        matcher.accept(list(f'{{"x":{value[:-1]}'.encode()))
        assert matcher.place is None
        matcher.accept(list(value[-1:].encode()))
        places.append(matcher.place)
    assert places[0] == places[1] is not None
    assert len(vocabulary) == 257


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "in the value at the root"),
        ("12", "in the value at the root"),
        ("{", "in a key of the root"),
        ('{"a', "in a key of the root"),
        ('{"a"', "in the value at /a"),
        ('{"a":[1,{"b', "in a key of /a/1"),
        ('{"a":[1,{"b":2},"x]', "in the value at /a/2"),
        ('{"a":"{[\\"","":[[],[', "in the value at //1/0"),
        ('{"a/b~":tru', "in the value at /a~1b~0"),
        ('{"a":1,', "in a key of the root"),
        ('{"a":1}', "in the value at the root"),
    ],
)
def test_where_a_json_text_stands_is_said_as_a_pointer(text: str, place: str) -> None:
    assert where(text.encode()) == place
