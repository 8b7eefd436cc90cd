"""What is plain to see of formulas holds for every value."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from typing import Any

import random_schemas
from random_schemas import is_valid

from sgrt.errors import ConstraintError
from sgrt.grammar import json_schema
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
