"""The contract report: every keyword has a status, every refusal is told, and it is true."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import random_schemas
from grammar_support import compiler

from sgrt.cli import main
from sgrt.core import JsonSchema
from sgrt.errors import ConstraintError, UnsupportedSchema
from sgrt.grammar import json_schema, json_text

_MIXED: dict[str, Any] = {
    "title": "an order",
    "type": "object",
    "properties": {
        "mail": {"type": "string", "format": "e_mail"},
        "tags": {"items": {"type": "number", "multipleOf": 0.5}, "uniqueItems": True},
        "code": {"type": "string", "pattern": "^.+$"},
        "item": {"requierd": []},
        "seen": {"type": "array", "contains": {"const": 1}},
    },
}


def _statuses(node: dict[str, Any]) -> dict[tuple[str, str | None], str]:
    return {(e.pointer, e.keyword): e.status for e in json_schema.report(json_text.dump(node))}


def test_report_of_a_mixed_schema_tells_every_keyword_and_every_refusal() -> None:
    statuses = _statuses(_MIXED)
    assert {key for key, status in statuses.items() if status == "refused"} == {
        ("/properties/tags", "uniqueItems"),
    }
    assert statuses["", "title"] == statuses["/properties/item", "requierd"] == "annotation"
    assert statuses["/properties/mail", "format"] == "annotation"
    assert statuses["", "properties"] == statuses["/properties/tags/items", "type"] == "enforced"
    assert statuses["/properties/code", "pattern"] == "subset"
    assert statuses["/properties/seen", "contains"] == "subset"


def test_report_has_one_entry_for_each_reachable_keyword() -> None:
    for seed in range(80):
        node = random_schemas.schema(random.Random(seed))
        keywords = {("", keyword) for keyword in node}
        reported = set(_statuses(node))
        assert keywords <= reported, (seed, keywords - reported)


def test_report_of_schemas_that_say_the_same_tells_of_each_at_its_place() -> None:
    for seed in range(40):
        node = {k: v for k, v in random_schemas.schema(random.Random(seed)).items() if k != "$defs"}
        again = {"title": "again", **node}
        root = {"properties": {"a": node, "b": again, "c": {"not": {"anyOf": [node, again]}}}}
        statuses = _statuses(root)
        for place in ("/properties/b", "/properties/c/not/anyOf/0", "/properties/c/not/anyOf/1"):
            alike = {
                (key[0].removeprefix(place), key[1]): status
                for key, status in statuses.items()
                if f"{key[0]}/".startswith(f"{place}/") and key[1] != "title"
            }
            assert alike == {
                (key[0].removeprefix("/properties/a"), key[1]): status
                for key, status in statuses.items()
                if f"{key[0]}/".startswith("/properties/a/")
            }, (seed, place)
        assert statuses["/properties/b", "title"] == "annotation"
        assert ("/properties/a", "title") not in statuses


def test_report_refuses_exactly_what_normalise_refuses() -> None:
    num_refused = 0
    for seed in range(300):
        text = json_text.dump(random_schemas.schema(random.Random(seed)))
        refused = [e for e in json_schema.report(text) if e.status == "refused"]
        try:
            json_schema.normalise(text, compares_items=True)
        except ConstraintError as error:
            num_refused += 1
            assert refused, (text, error)
        else:
            assert not refused, (text, refused)
    assert num_refused > 20


def test_report_pointer_of_a_refusal_is_where_compile_points() -> None:
    for node in ({"items": {"minItems": -1}}, {"allOf": [{"$ref": "#/x"}]}, {"minimum": "a"}):
        with pytest.raises(UnsupportedSchema) as caught:
            compiler().compile(JsonSchema(json_text.dump(node)))
        assert _statuses(node)[caught.value.pointer, caught.value.keyword] == "refused"


def _check(tmp_path: Path, node: dict[str, Any], *options: str) -> int:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(node))
    return main.main(["schema", "check", str(path), *options])


def test_schema_check_exits_1_where_something_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _check(tmp_path, _MIXED) == 1
    table = capsys.readouterr().out
    assert "uniqueItems" in table and "refused" in table
    assert _check(tmp_path, {"type": "integer"}) == 0


def test_schema_check_json_is_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _check(tmp_path, _MIXED, "--json") == 1
    entries = json.loads(capsys.readouterr().out)
    assert [json_schema.Entry(**e) for e in entries] == json_schema.report(json.dumps(_MIXED))


def test_schema_check_of_no_file_or_no_json_is_one_line_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["schema", "check", str(tmp_path / "none")]) == 2
    (tmp_path / "bad.json").write_text("{")
    assert main.main(["schema", "check", str(tmp_path / "bad.json")]) == 2
    assert capsys.readouterr().err.count("sgrt: error:") == 2
