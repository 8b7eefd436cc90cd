"""What a constraint is promised, place by place, for every input language.

A place is a JSON pointer in a schema, ``line:column`` in a pattern or grammar, a path
(``format.elements[1].content``, ``parts[0]``) in structural tags and compositions; what stands
inside of one another is joined by a space. Where parsing stops at an error, what follows is not
looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from sgrt.core import (
    AnyText,
    Choices,
    Constraint,
    Ebnf,
    JsonSchema,
    Lark,
    OneOf,
    Regex,
    RepeatOf,
    SequenceOf,
    StructuralFormat,
    StructuralTag,
    Substring,
)
from sgrt.errors import ConstraintError, GrammarSyntaxError, UnsupportedSchema
from sgrt.grammar import ebnf, json_schema, lark_, lark_text, layout, tag_format
from sgrt.grammar.compiler import GrammarCompiler
from sgrt.grammar.engines.bytewise import byte_vocabulary
from sgrt.grammar.schema.contract import Entry

_PIECES = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|[*+?}]\?|.", re.DOTALL)
_READ_AS = {
    ".": "any character but a line feed",
    r"\d": "ASCII digits",
    r"\w": "ASCII letters, digits and _",
    r"\s": "ASCII white space",
    r"\D": "all but ASCII digits",
    r"\W": "all but ASCII letters, digits and _",
    r"\S": "all but ASCII white space",
}


def report(constraint: Constraint) -> list[Entry]:
    """What becomes of each part of a constraint; "refused" somewhere where it is refused.

    Returns:
        Entries in the order of their places. The last word is that of building it: what is
        refused only there is said for the whole.

    Cost: as compiling it.
    """
    entries = list(_entries(constraint))
    if not any(entry.status == "refused" for entry in entries):
        try:
            GrammarCompiler(byte_vocabulary()).compile(constraint)
        except ConstraintError as error:
            entries = [e for e in entries if e.pointer or e.keyword] + [refusal(error)]
    return entries


def refusal(error: ConstraintError) -> Entry:
    """An error as an entry at its own place."""
    if isinstance(error, UnsupportedSchema):
        return Entry(error.pointer, error.keyword, "refused", error.reason, error.hint)
    if isinstance(error, GrammarSyntaxError):
        place = f"{error.line}:{error.column}" if error.column is not None else ""
        return Entry(place, None, "refused", error.reason, error.hint)
    return Entry("", None, "refused", error.message, error.hint)


def _entries(part: Constraint | str) -> Iterator[Entry]:
    match part:
        case JsonSchema(schema):
            yield from _schema(part, schema)
        case Regex(pattern):
            yield from _regex(part, pattern)
        case Lark(text):
            yield from _definitions(
                part, lambda: lark_.definitions(text), "a terminal: longest match"
            )
        case Ebnf():
            yield from _definitions(part, lambda: ebnf.definitions(part), "")
        case StructuralFormat():
            yield from _format(part)
        case StructuralTag(structures):
            for i, structure in enumerate(structures):
                yield from _inside(f"structures[{i}].schema", structure.schema)
            yield _whole(part)
        case SequenceOf(parts):
            yield from _composed(part, "parts", parts)
        case OneOf(options):
            yield from _composed(part, "options", options)
        case RepeatOf(inner):
            yield from _inside("part", inner)
            yield _whole(part)
        case Choices() | Substring() | AnyText():
            yield _whole(part)
        case str():
            yield Entry("", None, "enforced")
        case _:
            reason = f"{type(part).__name__} is not a constraint"
            yield Entry("", None, "refused", reason)


def _whole(part: Constraint) -> Entry:
    """The entry of a part as it stands alone."""
    try:
        GrammarCompiler(byte_vocabulary()).compile(part)
    except ConstraintError as error:
        return refusal(error)
    return Entry("", None, "enforced")


def _inside(path: str, part: Any) -> Iterator[Entry]:
    for entry in _entries(part):
        yield replace(entry, pointer=f"{path} {entry.pointer}".rstrip())


def _composed(part: Constraint, name: str, parts: tuple[Any, ...]) -> Iterator[Entry]:
    for i, inner in enumerate(parts):
        yield from _inside(f"{name}[{i}]", inner)
    yield _whole(part)


def _schema(part: JsonSchema, schema: str) -> Iterator[Entry]:
    try:
        yield from json_schema.report(schema)
    except ConstraintError as error:
        yield refusal(error)
    if part.whitespace is not None:
        try:
            layout.of(part)
        except ConstraintError as error:
            yield replace(refusal(error), pointer="", keyword="whitespace")


def _regex(part: Regex, pattern: str) -> Iterator[Entry]:
    whole = _whole(part)
    yield replace(whole, why=whole.why or "as re.fullmatch with re.ASCII")
    if whole.status == "refused":
        return
    line, start = 1, 0
    any_char = pattern.startswith("(?") and "s" in pattern[2 : pattern.find(")")]
    for found in _PIECES.finditer(pattern):
        piece = found[0]
        place = f"{line}:{found.start() - start + 1}"
        if piece in _READ_AS and not (piece == "." and any_char):
            yield Entry(place, piece, "enforced", _READ_AS[piece])
        elif len(piece) == 2 and piece[1] == "?" and piece[0] in "*+?}":
            yield Entry(place, piece, "enforced", "the same texts as without '?'")
        elif piece == "\n":
            line, start = line + 1, found.end()


def _definitions(part: Lark | Ebnf, read: Any, of_terminals: str) -> Iterator[Entry]:
    try:
        found = read()
    except ConstraintError as error:
        yield refusal(error)
        return
    for name, line, column in found:
        why = of_terminals if of_terminals and lark_text.is_terminal(name) else ""
        yield Entry(f"{line}:{column}", name, "enforced", why)
    whole = _whole(part)
    if whole.status == "refused":
        yield whole


def _format(part: StructuralFormat) -> Iterator[Entry]:
    try:
        todo = [("format", tag_format.parsed(part))]
    except ConstraintError as error:
        yield refusal(error)
        return
    whole = _whole(part)
    place = ""
    if whole.status == "refused" and (
        found := re.match(r"structural_tag: (format[\w.\[\]]*)", whole.why)
    ):
        place = found[1]
        whole = replace(whole, pointer=place, why=whole.why[found.end() :].removeprefix(": "))
    while todo:
        path, value = todo.pop(0)
        if not isinstance(value, dict):
            continue
        if path != place:
            yield from _format_entry(path, value)
        if tag_format.kind_of(value) in tag_format.FORMATS:
            todo[:0] = tag_format.parts(value, path)
    if whole.status == "refused":
        yield whole


def _format_entry(path: str, value: dict[str, Any]) -> Iterator[Entry]:
    kind = tag_format.kind_of(value)
    name = kind or None
    if kind in tag_format.REFUSED:
        yield Entry(path, name, "refused", tag_format.REFUSED[kind])
    elif "json_schema" in value and isinstance(value["json_schema"], (dict, bool)):
        why = "; ".join(_not_written(value))
        yield Entry(path, name, "subset" if why else "enforced", why)
        schema = tag_format.schema_of(value)
        yield from _inside(f"{path}.json_schema", schema)
    else:
        yield Entry(path, name, "enforced")


def _not_written(value: dict[str, Any]) -> Iterator[str]:
    """What a format that is a schema allows and is never written."""
    if tag_format.style_of(value) != "json":
        yield "white space but a line break, and arguments that the schema does not speak of"
    elif value.get("max_whitespace_cnt") != 0:
        yield "compact JSON: white space is allowed and not written"
    if value.get("any_order"):
        yield "keys stand in the order of the schema"
