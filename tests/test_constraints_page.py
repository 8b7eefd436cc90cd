"""The page on constraints says what the code does: its tables are written from it, its examples
run. ``python tests/test_constraints_page.py`` writes the tables anew."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest

import sgrt
from sgrt.core import Constraint, JsonSchema
from sgrt.errors import ConstraintError
from sgrt.grammar import ebnf, json_schema, library, limits, tag_format, worker
from sgrt.grammar.formats import REGULAR_FORMATS
from sgrt.grammar.report import report

PAGE = Path(__file__).resolve().parents[1] / "docs" / "constraints.md"
_TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(?=<!-- end -->)", re.DOTALL)
_EXAMPLE = re.compile(r"```python\n(.*?)```", re.DOTALL)

# A schema for each keyword, and more where it depends on what stands beside it.
_PROBES: dict[str, list[Any]] = {
    "$id": [{"$id": "https://a.org/s"}],
    "id": [{"id": "https://a.org/s"}],
    "$anchor": [{"$ref": "#x", "$defs": {"a": {"$anchor": "x"}}}],
    "$dynamicAnchor": [{"$ref": "#x", "$defs": {"a": {"$dynamicAnchor": "x"}}}],
    "$ref": [
        {"$ref": "#/$defs/a", "$defs": {"a": {}}},
        {"$ref": "https://a.org/s"},
        {"$ref": "http://json-schema.org/draft-07/schema"},
    ],
    "$dynamicRef": [{"$dynamicRef": "#x", "$defs": {"a": {"$dynamicAnchor": "x"}}}],
    "type": [{"type": "integer"}, {"type": ["string", "number"], "not": {"type": "integer"}}],
    "enum": [{"enum": [1, "a", [2], {"b": None}]}],
    "const": [{"const": {"a": [1]}}, {"const": 2**64 - 1}, {"const": "\x00"}],
    "allOf": [{"allOf": [{"minimum": 1}, {"maximum": 3}]}],
    "anyOf": [{"anyOf": [{"type": "null"}, {"minimum": 3}]}],
    "oneOf": [{"oneOf": [{"type": "number"}, {"type": "integer", "minimum": 3}]}],
    "not": [{"not": {"type": "string"}}, {"type": "string", "not": {"pattern": "^a"}}],
    "if": [{"if": {"type": "integer"}, "then": {"minimum": 0}}],
    "then": [{"if": {"type": "integer"}, "then": {"minimum": 0}}],
    "else": [{"if": {"type": "integer"}, "else": {"type": "null"}}],
    "minimum": [{"type": "number", "minimum": 0.5}],
    "maximum": [
        {"type": "integer", "maximum": 2**64 - 1},
        {"type": "number", "maximum": 2**64 - 1},
    ],
    "exclusiveMinimum": [{"exclusiveMinimum": 0}, {"minimum": 0, "exclusiveMinimum": True}],
    "exclusiveMaximum": [{"exclusiveMaximum": 9}],
    "multipleOf": [{"type": "integer", "multipleOf": 3}],
    "minLength": [{"type": "string", "minLength": 2}],
    "maxLength": [{"type": "string", "maxLength": 1000}],
    "pattern": [{"type": "string", "pattern": "^[a-z]+$"}, {"type": "string", "pattern": "\\d"}],
    "format": [{"format": "date"}, {"format": "made-up"}],
    "minItems": [{"minItems": 1}],
    "maxItems": [{"maxItems": 3}],
    "items": [{"items": {"type": "integer"}}, {"items": [{"const": 1}]}],
    "prefixItems": [{"prefixItems": [{"const": 1}], "items": False}],
    "additionalItems": [{"items": [{"const": 1}], "additionalItems": False}],
    "contains": [{"contains": {"const": 1}}, {"contains": {"const": 1}, "maxItems": 3}],
    "minContains": [{"contains": {"const": 1}, "minContains": 2}],
    "maxContains": [{"contains": {"const": 1}, "maxContains": 2}],
    "uniqueItems": [
        {"items": {"enum": [1, 2, 3]}, "uniqueItems": True},
        {"items": {"type": "string"}, "uniqueItems": True},
        {"items": {"multipleOf": 0.1}, "uniqueItems": True},
    ],
    "unevaluatedItems": [{"prefixItems": [{}], "unevaluatedItems": False}],
    "properties": [{"properties": {"a": {"type": "integer"}}}],
    "required": [{"properties": {"a": {}}, "required": ["a", "b"]}],
    "additionalProperties": [{"additionalProperties": {"type": "integer"}}],
    "patternProperties": [{"patternProperties": {"^a": {"type": "integer"}}}],
    "propertyNames": [{"propertyNames": {"maxLength": 3}}],
    "minProperties": [{"minProperties": 1}],
    "maxProperties": [{"maxProperties": 2}],
    "dependentRequired": [{"dependentRequired": {"a": ["b"]}}],
    "dependentSchemas": [{"dependentSchemas": {"a": {"required": ["b"]}}}],
    "dependencies": [{"dependencies": {"a": ["b"]}}],
    "unevaluatedProperties": [{"properties": {"a": {}}, "unevaluatedProperties": False}],
    "$recursiveRef": [{"items": {"$recursiveRef": "#"}}],
    "$recursiveAnchor": [{"$recursiveAnchor": True}],
    "discriminator": [{"anyOf": [{}], "discriminator": {"propertyName": "a"}}],
}


def _keywords() -> list[str]:
    tables = (json_schema.KEYWORDS, json_schema.DEPENDENT)
    known = [keyword for table in tables for keyword in table]
    return [*known, *sorted(json_schema.ANNOTATIONS)]


def _keyword_rows() -> list[tuple[str, ...]]:
    rows = []
    for keyword in _keywords():
        for node in _PROBES.get(keyword, [{keyword: {}}]):
            entries = report(JsonSchema(json.dumps(node)))
            found = [e for e in entries if e.keyword == keyword or e.status == "refused"]
            worst = max(found, key=lambda e: _STATUS.index(e.status))
            rows.append((f"`{keyword}`", f"`{json.dumps(node)}`", worst.status, worst.why))
    return rows


_STATUS = ("annotation", "enforced", "subset", "refused")


def _limit_rows() -> list[tuple[str, ...]]:
    """The constants of `limits`, each with the text below it."""
    body = ast.parse(Path(limits.__file__).read_text(encoding="utf-8")).body
    rows = []
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name.startswith("MAX_"):
                is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                text = str(after.value.value) if is_text else ""  # type: ignore[union-attr]
                words = name.removeprefix("MAX_").lower().replace("_", " ")
                rows.append((words, f"{getattr(limits, name):,}", " ".join(text.split())))
    budget = worker.Budget()
    why = "a constraint that may be costly is built in a process of its own, which is killed"
    rows.append(("seconds of one build", f"{budget.seconds:g}", why))
    rows.append(("bytes of memory of one build", f"{budget.memory:,}", why))
    return rows


def _format_rows() -> list[tuple[str, ...]]:
    rows = []
    for name, (needed, optional) in tag_format.FORMATS.items():
        rows.append((f"`{name}`", "read", ", ".join(f"`{key}`" for key in [*needed, *optional])))
    return rows + [(f"`{name}`", "refused", why) for name, why in tag_format.REFUSED.items()]


def _grammar_rows() -> list[tuple[str, ...]]:
    rows = []
    for name in library.names():
        line = library.text(name).splitlines()[0].removeprefix("// ")
        rows.append((f"`{name}`", line.split(" Written for sgrt")[0]))
    return rows


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )


TABLES = {
    "keywords": lambda: _table(("keyword", "in", "status", "why"), _keyword_rows()),
    "limits": lambda: _table(("what", "at most", ""), _limit_rows()),
    "formats": lambda: _table(("type", "", "keys, or why"), _format_rows()),
    "grammars": lambda: _table(("name", "texts"), _grammar_rows()),
}


def written(page: str) -> str:
    """The page with its tables as the code has them."""
    return _TABLE.sub(lambda found: found[1] + TABLES[found[2]](), page)


def test_page_tables_are_what_the_code_says() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert {found[2] for found in _TABLE.finditer(page)} == set(TABLES)
    message = "write them anew: python tests/test_constraints_page.py"
    assert written(page) == page, message


def test_page_has_a_row_for_each_keyword_and_each_probe_is_one() -> None:
    assert set(_PROBES) <= set(_keywords())
    missing = {*json_schema.KEYWORDS, *json_schema.DEPENDENT} - set(_PROBES)
    assert missing == set()


def test_page_names_every_constraint_dialect_and_format() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for kind in get_args(Constraint):
        assert f"`{kind.__name__}`" in page, kind
        assert kind.__name__ in sgrt.__all__
    for dialect in ebnf.DIALECTS:
        assert f'"{dialect}"' in page
    for name in REGULAR_FORMATS:
        assert f"`{name}`" in page, name


@pytest.mark.parametrize("number", range(len(_EXAMPLE.findall(PAGE.read_text(encoding="utf-8")))))
def test_page_example_runs(number: int) -> None:
    exec(_EXAMPLE.findall(PAGE.read_text(encoding="utf-8"))[number], {})


def test_page_defaults_are_the_code_s() -> None:
    assert JsonSchema("{}").separators == "compact"
    with pytest.raises(ConstraintError):
        JsonSchema("{}", whitespace=" ?")


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
