"""Integers beyond what a 64-bit float tells apart: by their digits, wherever they stand."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import pytest
from grammar_support import accepts, byte_vocabulary, grammar, walk

from sgrt.core import JsonSchema
from sgrt.errors import ConstraintError, UnsupportedSchema
from sgrt.grammar import automaton, json_schema, json_text, sources
from sgrt.grammar.compiler import build
from sgrt.grammar.matcher import Grammar
from sgrt.grammar.schema import digits, numbers
from tests.grammar import random_schemas

BIG = 2**60
U64 = 2**64 - 1
UNSIGNED = {"type": "integer", "minimum": 0, "maximum": U64}
SIGNED = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
ONLY = {
    "type": "object",
    "properties": {"a": {"const": BIG}},
    "required": ["a"],
    "additionalProperties": False,
}
OBJECT = {
    "type": "object",
    "properties": {"a": UNSIGNED, "b": {"type": "string"}, "c": {"$ref": "#/$defs/c"}},
    "required": ["a"],
    "$defs": {"c": {"type": "array", "items": {"maximum": U64, "type": "integer"}, "minItems": 1, "maxItems": 3}},
}  # fmt: skip
TREE = {
    "type": "object",
    "properties": {"v": UNSIGNED, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
    "required": ["v", "next"],
    "additionalProperties": False,
}

CASES: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({"const": 12345678901234567890}, ["12345678901234567890"], ["12345678901234567891", "1", "12345678901234567168"]),
    ({"enum": [BIG, "a", 3]}, [f"{BIG}", '"a"', "3"], [f"{BIG + 1}"]),
    ({"const": [BIG, {"b": -BIG, "a": "x"}]}, [f'[{BIG},{{"b":-{BIG},"a":"x"}}]'], [f"[{BIG}]", f'[{BIG},{{"b":1,"a":"x"}}]']),
    ({"enum": [{"a": BIG}, {"a": 1}, 5]}, [f'{{"a":{BIG}}}', '{"a":1}', "5"], ['{"a":2}', "{}"]),
    (UNSIGNED, ["0", "17", f"{U64}", f"{2**63}"], ["-1", f"{U64 + 1}", "9" * 20, "00", "1.0"]),
    (SIGNED, ["0", "-1", f"{-(2**63)}", f"{2**63 - 1}"], [f"{-(2**63) - 1}", f"{2**63}"]),
    ({"type": "integer", "exclusiveMinimum": BIG}, [f"{BIG + 1}", "9" * 30], [f"{BIG}", "1"]),
    ({"type": "integer", "maximum": U64, "not": {"const": BIG}}, [f"{BIG + 1}", f"{BIG - 1}", "-5"], [f"{BIG}"]),
    ({"type": "number", "minimum": BIG}, [f"{BIG}", f"{BIG + 7}"], ["1", f"{BIG - 1}"]),
    ({"type": "number", "maximum": U64}, ["0.5", f"{U64}", "-3.25"], [f"{U64 + 1}"]),
    ({"type": "integer", "maximum": 1.8446744073709552e19}, [f"{2**64}"], [f"{2**64 + 1}"]),
    ({"type": ["integer", "null", "string"], "minimum": BIG}, ["null", '"a"', f"{BIG}"], ["1"]),
    (OBJECT, [f'{{"a":{U64}}}', '{"a":1,"b":"","c":[1,2,3],"d":null}', '{"a":1,"x":{"y":[1]},"z":2}'],
     [f'{{"a":{U64 + 1}}}', "{}", '{"a":1,}', '{"a":1,"c":[]}', '{"a":1,"c":[1,2,3,4]}', '{"a":1,"a":2}', '{"a":1,"b":2}', f'{{"a":1,"c":[{U64 + 1}]}}', '{"a":1 }', '{"a":1,"d":1,"a":2}']),
    (TREE, [f'{{"v":{U64},"next":{{"v":1,"next":null}}}}'], [f'{{"v":{U64 + 1},"next":null}}', '{"v":1}']),
    ({"type": "object", "patternProperties": {"^x": {"type": "integer", "minimum": BIG}}, "properties": {"a": {}}, "additionalProperties": {"type": "null"}},
     [f'{{"a":1,"x1":{BIG},"y":null}}', f'{{"y":null,"x":{BIG}}}'], ['{"x":1}', '{"y":1}', f'{{"y":{BIG}}}']),
    ({"type": "object", "properties": {"a": {"const": BIG}, "b": {"const": 1}}, "minProperties": 1, "additionalProperties": False}, [f'{{"a":{BIG}}}', '{"b":1}', f'{{"a":{BIG},"b":1}}'], ["{}", '{"a":1}']),
    ({"type": "object", "additionalProperties": UNSIGNED, "maxProperties": 2}, ["{}", '{"a":1}', f'{{"a":1,"b":{U64}}}'], ['{"a":1,"b":2,"c":3}', f'{{"a":{U64 + 1}}}']),
    ({"type": "array", "prefixItems": [{"const": BIG}, {"type": "string"}], "items": {"type": "null"}, "minItems": 2}, [f'[{BIG},"a"]', f'[{BIG},"a",null,null]'], [f"[{BIG}]", '[1,"a"]', f'[{BIG},"a",1]']),
    # what is spelled beside what is not, where both begin alike
    ({"anyOf": [ONLY, {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}]}, [f'{{"a":{BIG}}}', '{"a":"x","b":1}'], ['{"a":1}', f'{{"a":{BIG},"b":1}}']),
    ({"anyOf": [ONLY, {"type": "object", "additionalProperties": {"type": "boolean"}}]}, [f'{{"a":{BIG}}}', '{"a":true,"c":false}', "{}"], ['{"a":2}']),
    ({"anyOf": [ONLY, {"type": "object", "patternProperties": {"^a": {"type": "null"}}}]}, [f'{{"a":{BIG}}}', '{"a":null,"c":1}'], ['{"a":2}']),
    ({"anyOf": [{"type": "array", "items": {"const": BIG}}, {"type": "array", "items": {"type": "string"}}, {"const": [BIG, "a"]}]}, [f"[{BIG}]", '["a"]', "[]", f'[{BIG},"a"]'], ["[1]", f'[{BIG},"b"]', f'["a",{BIG}]']),
]  # fmt: skip


@pytest.mark.parametrize(("node", "valid", "invalid"), CASES, ids=lambda c: json.dumps(c)[:60])
def test_integer_beyond_floats_is_told_from_its_neighbours(
    node: dict[str, Any], valid: list[str], invalid: list[str]
) -> None:
    compiled = grammar(JsonSchema(json.dumps(node)))
    assert [text for text in valid if not accepts(compiled, text)] == []
    assert [text for text in invalid if accepts(compiled, text)] == []


def test_spelled_object_in_fixed_layout_has_its_separators() -> None:
    compiled = grammar(JsonSchema(json.dumps(OBJECT), "fixed"))
    assert accepts(compiled, f'{{"a": {U64}, "b": "x", "c": [1, 2], "d": {{"e": 1}}}}')
    assert not accepts(compiled, f'{{"a":{U64}}}')


@pytest.mark.parametrize(
    ("node", "keyword"),
    [({"type": "integer", "minimum": 10**41}, "minimum"), ({"const": [10**41]}, "const"), ({"enum": [1e300]}, "enum")],
)  # fmt: skip
def test_integer_of_too_many_digits_is_refused(node: dict[str, Any], keyword: str) -> None:
    with pytest.raises(UnsupportedSchema) as caught:
        grammar(JsonSchema(json.dumps(node)))
    assert caught.value.keyword == keyword


def test_bounds_beside_too_many_properties_are_moved_in() -> None:
    many = {f"p{i}": {"type": "string", "maxLength": i} for i in range(700)}
    node = {"type": "object", "properties": {"a": UNSIGNED, **many}}
    compiled = grammar(JsonSchema(json.dumps(node)))
    assert accepts(compiled, f'{{"a":{2**53},"p7":"x"}}')
    assert not accepts(compiled, f'{{"a":{U64 + 1}}}')


def test_spelled_integer_completes_and_says_what_forbids_a_digit() -> None:
    matcher = grammar(JsonSchema(json.dumps(OBJECT))).matcher()
    matcher.accept(list(f'{{"a":{U64}'[:-1].encode()))
    assert "'maximum' at /properties/a" in str(matcher.explain(ord("6")))
    completion = matcher.shortest_completion()
    assert completion is not None and matcher.completes(completion)


_EDGES = [-1001, -1000, -999, -100, -11, -10, -9, -1, 0, 1, 9, 10, 11, 99, 100, 999, 1000, 1234]


def test_digits_of_a_range_match_the_integers_in_it() -> None:
    rng = random.Random(0)
    pairs = list(itertools.combinations_with_replacement([None, *_EDGES], 2))
    for low, high in rng.sample(pairs, 60):
        machine = automaton.compile(digits.of_range(low, high))
        for value in {*_EDGES, *range(-30, 31), *(rng.randint(-1500, 1500) for _ in range(40))}:
            inside = (low is None or value >= low) and (high is None or value <= high)
            assert machine.matches(str(value)) == inside, (low, high, value)
        assert not any(map(machine.matches, ("", "-", "-0", "00", "01", "+1", "1.0")))


def _build(node: dict[str, Any]) -> tuple[Grammar, bool, bool]:
    """The grammar, whether all valid texts are in it, and whether integers are spelled."""
    text = json.dumps(node)
    is_whole = all(e.status != "subset" for e in json_schema.report(text))
    source = sources.source_of(JsonSchema(text))
    return build(JsonSchema(text), byte_vocabulary()), is_whole, not source.startswith("{")


def check_spelled_alike(seeds: range, patch: pytest.MonkeyPatch) -> int:
    """Schemas mean the same whether integers are the engine's or spelled from 3 on."""
    num_spelled = 0
    for seed in seeds:
        rng = random.Random(seed)
        node = random_schemas.schema(rng)
        try:
            plain, is_whole, _ = _build(node)
            with patch.context() as patched:
                patched.setattr(numbers, "_TOP", 2)
                patched.setattr(json_text, "MAX_EXACT_INT", 2)
                patched.setattr(json_text.unwritable, "__defaults__", (2,))
                spelled, is_whole_spelled, is_spelled = _build(node)
        except ConstraintError:
            continue
        num_spelled += is_spelled
        for one, other, is_all in ((plain, spelled, is_whole_spelled), (spelled, plain, is_whole)):
            for _ in range(3 * is_spelled):
                ids = walk(one.matcher(), byte_vocabulary(), rng, 60)
                if ids is not None and is_all and b"-0" not in bytes(ids):
                    assert accepts(other, bytes(ids)), (bytes(ids), node)
    return num_spelled


def test_schema_random_means_the_same_with_integers_spelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert check_spelled_alike(range(150), monkeypatch) > 10


@pytest.mark.slow
def test_schema_random_many_mean_the_same_with_integers_spelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_spelled_alike(range(10_000, 14_000), monkeypatch)
