"""What in a constraint forbids what a model wanted to write.

Of a schema, the keywords. They are found by trial: a keyword is to blame where the same schema
without it allows the text. So what is said is true, whatever the keywords do to each other; where
no single keyword is to blame, the whole schema of the place is tried, and nothing is said where
that is not to blame either. Of a pattern, grammar or composition, the places that the text has
come to (see `expected`).
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from sgrt.core import Choices, Constraint, Ebnf, JsonSchema, Lark
from sgrt.errors import ConstraintError
from sgrt.grammar import automaton, compose, ebnf, excluded, json_text, lark_, limits, regex
from sgrt.grammar.engines.llguidance_ import LLGrammar
from sgrt.grammar.engines.places import path_of
from sgrt.grammar.expected import Expected
from sgrt.grammar.risk import risk
from sgrt.grammar.rules import START, Origin, Ref, RuleSet
from sgrt.grammar.schema.document import SCHEMA_MAPS, Document, Schema
from sgrt.grammar.schema.reader import KEYWORDS
from sgrt.grammar.sources import source_of

_PATIENCE = 0.5
"""Seconds of CPU; a trial takes milliseconds."""
_MAX_TRIALS = 64
_MAX_NAMED = 3
_NAMES = frozenset(
    ("$id", "id", "$anchor", "$dynamicAnchor", "$ref", "$dynamicRef", "discriminator")
)
_SAME_VALUE = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else")
_WHOLE = frozenset((*_SAME_VALUE, *SCHEMA_MAPS, "prefixItems", "items"))
"""Keywords that hold schemas: to blame only where nothing in them is."""


def of(constraint: Constraint) -> Callable[[bytes], str | None] | None:
    """Says of a text whose last byte is forbidden what forbids it; None where matchers do."""
    if isinstance(constraint, JsonSchema):
        return partial(_by_keyword, constraint)
    return None if isinstance(constraint, Choices) else _Places(constraint)


def _by_keyword(constraint: JsonSchema, text: bytes) -> str | None:
    found = keyword(constraint, text)
    return found and f"forbidden by {found}"


class _Places:
    """Where a text stands in a grammar. The way to it is kept for the next, longer text."""

    def __init__(self, constraint: Constraint) -> None:
        self._constraint = constraint
        self._expected: list[Expected] = []  # taken out while it is used: any thread may ask

    def __call__(self, text: bytes) -> str | None:
        with suppress(ConstraintError, limits.OutOfPatience), limits.patience(_PATIENCE):
            known = self._expected.pop() if self._expected else self._read()
            found = dict.fromkeys(known.after(text[:-1], text[-1], _in_schema))
            self._expected[:] = [known]
            more = " or more" if len(found) > _MAX_NAMED else ""
            places = " or ".join([*found][:_MAX_NAMED])
            return f"expected here: {places}{more}" if found else None
        return None

    def _read(self) -> Expected:
        """The constraint's rules, their leaves with where they stand."""
        constraint = self._constraint
        if isinstance(constraint, Lark):
            return Expected(lark_.rules_of(constraint.grammar))
        if isinstance(constraint, Ebnf):
            return Expected(RuleSet({START: Ref(ebnf.ROOT), **ebnf.parse(constraint)}))
        composer = compose.Composer(is_located=True)
        node = composer.node(constraint)
        rules = {START: node, **composer.rules}
        return Expected(RuleSet(rules, composer.terminals, options=composer.options))


def _in_schema(origin: Origin, text: bytes) -> str | None:
    return None if origin.schema is None else keyword(origin.schema, text)


def keyword(constraint: JsonSchema, text: bytes) -> str | None:
    """What forbids the last byte of a text: "'maxLength' at /properties/name".

    Args:
        text: JSON as far as it is written; all but its last byte is allowed.

    Returns:
        the keywords and the JSON pointers of their schemas; None where they are not known.

    Cost: a compilation for each keyword that may be to blame.
    """
    found: list[str] = []
    if risk(constraint) is None:
        with suppress(ConstraintError, limits.OutOfPatience), limits.patience(_PATIENCE):
            found += itertools.islice(_found(constraint, text), _MAX_NAMED)
    return " and ".join(found) or None


def _found(constraint: JsonSchema, text: bytes) -> Iterator[str]:
    root = json_text.parse(constraint.schema)
    path, in_key = path_of(text[:-1])
    schemas = dict.fromkeys(_at(Document(root), path))
    if not in_key and path:  # behind a value, the container around it decides
        schemas |= dict.fromkeys(_at(Document(root), path[:-1]))
    pointers = list(dict.fromkeys(s.pointer for s in schemas if isinstance(s.node, dict)))
    left = _MAX_TRIALS
    for trials in (
        _without_one(root, pointers, False),
        _without_one(root, pointers, True),
        _without_all(root, pointers),
    ):
        has_found = False
        for said, schema in itertools.islice(trials, left):
            left -= 1
            if _allows(replace(constraint, schema=json.dumps(schema)), text):
                has_found = True
                yield said
        if has_found:
            return


def _without_one(root: Any, pointers: list[str], is_whole: bool) -> Iterator[tuple[str, Any]]:
    """The schema without one keyword, each with its name."""
    for pointer in pointers:
        for name in _keywords(root, pointer):
            if (name in _WHOLE) == is_whole:
                changed = copy.deepcopy(root)
                del _node(changed, pointer)[name]
                yield f"{name!r} at {excluded.unwrapped(pointer) or '/'}", changed


def _without_all(root: Any, pointers: list[str]) -> Iterator[tuple[str, Any]]:
    """The schema without all keywords of one place: several of them forbid it."""
    for pointer in pointers:
        names = _keywords(root, pointer)
        if len(names) > 1:
            changed = copy.deepcopy(root)
            for name in names:
                del _node(changed, pointer)[name]
            said = " and ".join(map(repr, names))
            yield f"{said} at {excluded.unwrapped(pointer) or '/'}", changed


def _keywords(root: Any, pointer: str) -> list[str]:
    return [name for name in _node(root, pointer) if name in KEYWORDS and name not in _NAMES]


def _node(root: Any, pointer: str) -> Any:
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        root = root[int(name)] if isinstance(root, list) else root[name]
    return root


def _allows(constraint: JsonSchema, text: bytes) -> bool:
    with suppress(ConstraintError):
        return LLGrammar.allows_bytes(source_of(constraint), text)
    return False


# the schemas of a place


def _at(document: Document, path: Iterable[str | int]) -> list[Schema]:
    """The schemas that say something of the value at a path, those it meets first in front."""
    found = _with_others(document, [document.root])
    for part in path:
        below = [child for schema in found for child in _below(document, schema, part)]
        found = _with_others(document, below)
    return found


def _with_others(document: Document, schemas: list[Schema]) -> list[Schema]:
    """Schemas with those that they ask about the same value."""
    found = dict.fromkeys(schemas)
    todo = list(found)
    for schema in todo:
        limits.check_limit("schemas of one place", len(todo), limits.MAX_UNFOLDED)
        for other in _same_value(document, schema):
            if other not in found:
                found[other] = None
                todo.append(other)
    return todo


def _same_value(document: Document, schema: Schema) -> Iterator[Schema]:
    node = schema.node if isinstance(schema.node, dict) else {}
    for name in ("$ref", "$dynamicRef"):
        if name in node:
            yield document.refer(schema, name, node[name])
    for name in _SAME_VALUE:
        value = node.get(name)
        if isinstance(value, list):
            for i, sub in enumerate(value):
                yield document.child(schema, sub, name, str(i))
        elif value is not None:
            yield document.child(schema, value, name)
    for name in ("dependentSchemas", "dependencies"):
        for key, sub in node.get(name, {}).items():
            if not isinstance(sub, list):
                yield document.child(schema, sub, name, key)


def _below(document: Document, schema: Schema, part: str | int) -> Iterator[Schema]:
    node = schema.node if isinstance(schema.node, dict) else {}
    if isinstance(part, int):
        yield from _items(document, schema, node, part)
        return
    is_known = part in node.get("properties", {})
    if is_known:
        yield document.child(schema, node["properties"][part], "properties", part)
    for pattern, sub in node.get("patternProperties", {}).items():
        if automaton.compile(regex.rewrite(pattern, regex.JSON_PATTERN)).matches(part):
            is_known = True
            yield document.child(schema, sub, "patternProperties", pattern)
    if not is_known and "additionalProperties" in node:
        yield document.child(schema, node["additionalProperties"], "additionalProperties")
    if "unevaluatedProperties" in node:
        yield document.child(schema, node["unevaluatedProperties"], "unevaluatedProperties")


def _items(
    document: Document, schema: Schema, node: dict[str, Any], index: int
) -> Iterator[Schema]:
    in_order = "prefixItems" if "prefixItems" in node else "items"
    first = node.get(in_order, [])
    rest = "items" if in_order == "prefixItems" else "additionalItems"
    if not isinstance(first, list):
        first, rest = [], "items"
    if index < len(first):
        yield document.child(schema, first[index], in_order, str(index))
    elif rest in node:
        yield document.child(schema, node[rest], rest)
    if "contains" in node:
        yield document.child(schema, node["contains"], "contains")
