"""What is plain to see of formulas holds for every value."""

from __future__ import annotations

import itertools
import json
import random
from contextlib import suppress
from typing import Any

import pytest
import random_schemas
from random_schemas import is_valid

from sgrt.core import JsonSchema
from sgrt.errors import ConstraintError
from sgrt.grammar import json_schema, sources
from sgrt.grammar.engines.llguidance_ import LLGrammar
from sgrt.grammar.schema.document import Document
from sgrt.grammar.schema.formula import Formula, both, kind_of, satisfies
from sgrt.grammar.schema.outline import Outline
from sgrt.grammar.schema.reader import Reader

_FEW: list[dict[str, Any]] = [
    {"const": "a"}, {"enum": ["a", 1]}, {"enum": ["b", None]}, {"type": "string"},
    {"type": ["string", "null"], "enum": ["a", None]}, {"type": "integer"}, {"type": "number"},
    {"type": "object"}, {"minLength": 1}, {"allOf": [{"const": "a"}, {"type": "integer"}]},
    {"anyOf": [{"const": "a"}, {"const": 1}]}, {"items": {"type": "null"}}, {"title": "any"},
]  # fmt: skip


def _outline(schemas: list[Any]) -> tuple[Outline, list[tuple[Formula, Formula]]]:
    """Each schema and its opposite as formulas of one document."""
    document = Document({"properties": {str(i): s for i, s in enumerate(schemas)}}, share=True)
    reader = Reader(document)
    reader.read_all()
    found = []
    for i, node in enumerate(schemas):
        schema = document.child(document.root, node, "properties", str(i))
        found.append((satisfies(schema), satisfies(schema, False)))
    return Outline(reader), found


def _check(schemas: list[Any], values: list[Any]) -> int:
    """Check every pair of schemas or opposites; how many are nothing."""
    outline, formulas = _outline(schemas)
    valid = [[is_valid(value, schema) for value in values] for schema in schemas]
    sides = [
        (formula, [v == wanted for v in holds])
        for pair, holds in zip(formulas, valid, strict=True)
        for formula, wanted in zip(pair, (True, False), strict=True)
    ]
    num_nothing = 0
    for one, holds in sides:
        kinds = outline.kinds(one)
        assert all(kind_of(v) in kinds for v, ok in zip(values, holds, strict=True) if ok)
        for other, also in sides:
            if outline.is_nothing(both((one, other))):
                num_nothing += 1
                assert not any(a and b for a, b in zip(holds, also, strict=True))
    return num_nothing


def test_outline_of_random_schemas_holds_for_every_value() -> None:
    num_nothing = 0
    for seed in range(40):
        rng = random.Random(seed)
        values = [random_schemas.value(rng) for _ in range(12)]
        schemas = [random_schemas._schema(rng, 1, []) for _ in range(2)] + rng.sample(_FEW, 3)
        with suppress(ConstraintError):
            num_nothing += _check(schemas, values)
    assert num_nothing > 200


def test_outline_of_a_schema_and_its_opposite_is_nothing() -> None:
    outline, formulas = _outline(_FEW)
    assert all(outline.is_nothing(both(pair)) for pair in formulas)


def test_alternatives_that_contradict_themselves_are_not_written() -> None:
    part = {"type": "object", "properties": {"p": {"enum": ["x", "y"]}, "q": {"minLength": 2}}}
    node = {"oneOf": [{**part, "required": ["a"]}, {**part, "required": ["b"]}]}
    normal = json_schema.normalise(str(node).replace("'", '"'))
    assert '"enum":[]' not in normal
    assert normal.count('"required"') == 2  # a without b, b without a


def test_alternatives_that_imply_another_one_are_not_written() -> None:
    """Where every branch of a oneOf tells itself by a constant, none says that it is not another."""
    names = ["p", "q", "r", "s"]
    branches = [{"properties": {"k": {"const": n}, n: {"type": "integer"}}} for n in names]
    node = {"type": "object", "required": ["k"], "oneOf": branches}
    normal = json.loads(json_schema.normalise(json.dumps(node)))
    assert [list(part["properties"]) for part in normal["anyOf"]] == [["k", n] for n in names]


_KEYS = "abc"
_VALUES: list[Any] = ["x", "y", 1, None, {}]
_OBJECTS = [
    {key: value for key, value in zip(_KEYS, values, strict=True) if value != "none"}
    for values in itertools.product(["none", *_VALUES], repeat=len(_KEYS))
]


def _branch(rng: random.Random) -> dict[str, Any]:
    node: dict[str, Any] = {
        "properties": {key: rng.choice(_FEW) for key in rng.sample(_KEYS, rng.randint(1, 3))}
    }
    if rng.random() < 0.5:
        node["required"] = rng.sample(_KEYS, rng.randint(1, 2))
    if rng.random() < 0.4:
        node["additionalProperties"] = rng.choice([False, False, {"type": "string"}])
    if rng.random() < 0.1:
        node[rng.choice(["minProperties", "maxProperties"])] = rng.randint(1, 2)
    return node


def _check_alternatives(seeds: range) -> int:
    """Objects over three keys are accepted, in some order of keys, exactly where they are valid."""
    num_valid = 0
    for seed in seeds:
        rng = random.Random(seed)
        node: dict[str, Any] = {"type": "object"}
        for keyword in rng.sample(["oneOf", "anyOf", "allOf", "anyOf"], rng.randint(1, 2)):
            node[keyword] = [_branch(rng) for _ in range(rng.randint(2, 4))]
        if rng.random() < 0.4:
            node["allOf"] = [{"anyOf": [_branch(rng), _branch(rng)]} for _ in range(2)]
        node |= {"not": _branch(rng)} if rng.random() < 0.3 else {}
        try:
            engine = LLGrammar.reader(sources.source_of(JsonSchema(json.dumps(node))))
        except ConstraintError:
            continue
        if any(entry.status == "subset" for entry in json_schema.report(json.dumps(node))):
            continue
        for value in rng.sample(_OBJECTS, 40):
            found = any(_is_text(engine, dict(p)) for p in itertools.permutations(value.items()))
            assert found == is_valid(value, node), (value, node)
            num_valid += found
    return num_valid


def _is_text(engine: Any, value: dict[str, Any]) -> bool:
    text = list(json.dumps(value, separators=(",", ":")).encode())
    reader = engine.deep_copy()
    return reader.try_consume_tokens(text) == len(text) and bool(reader.is_accepting())


def test_alternatives_of_objects_accept_exactly_what_is_valid() -> None:
    assert _check_alternatives(range(60)) > 120


@pytest.mark.slow
def test_alternatives_of_many_objects_accept_exactly_what_is_valid() -> None:
    _check_alternatives(range(1_000, 3_000))
