"""Schemas as people write them: function tools, CRDs, GeoJSON, package.json, workflows, FHIR,
OpenAPI, what pydantic and zod write. Each with instances that are valid and some that are not."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from sgrt.core import JsonSchema
from sgrt.grammar.compiler import build
from tests.grammar.grammar_support import accepts, byte_vocabulary, walk

_FILE = Path(__file__).with_name("real_schemas.jsonl")
CASES: list[dict[str, Any]] = [json.loads(line) for line in _FILE.read_text().splitlines()]


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_real_schema_judges_its_instances_and_generates_valid_ones(case: dict[str, Any]) -> None:
    schema = case["schema"]
    grammar = build(JsonSchema(_compact(schema)), byte_vocabulary())
    for value in case["valid"]:
        assert accepts(grammar, _compact(value)), value
    for value in case["invalid"]:
        assert not accepts(grammar, _compact(value)), value
    kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    bare = {k: v for k, v in schema.items() if k != "multipleOf"}  # which it takes for inexact
    rng = random.Random(case["name"])
    ids = walk(grammar.matcher(), byte_vocabulary(), rng, 60)
    if ids is not None:
        assert kind(bare).is_valid(json.loads(bytes(ids))), bytes(ids)
