"""JSON Schema checked keyword by keyword and rewritten into what the engine enforces exactly.

Every keyword is *enforced*, an *annotation* that allows every value, or *refused* with its JSON
pointer before any engine sees the schema (`KEYWORDS` is the table; `report` says which for one
schema). Only what is reachable from the root is read. What comes out is a schema in a small,
unambiguous subset of draft 2020-12: alternatives per type, no annotations, every `$ref` to one of
its own `$defs`, every pattern in the engine's regex syntax, tied to both ends.

What is generated is compact JSON: no white space, one spelling per string (no ``\\uXXXX``, so
control characters other than ``\\b \\t \\n \\f \\r`` never appear), integers without fraction or
exponent, keys in the order of `properties`. Every value between two bounds can be written; next
to a bound some spellings of the same value (trailing zeros) cannot.

Everything generated is valid. Where not everything valid is generated, `report` says "subset":
patterns that ECMA-262 and Python read differently, formats (their plain forms; what a format
excludes is not generated), `contains` (what is searched for stands among the first items), numbers
that must be no integers (those near 0 or a bound), and numbers beyond 2**53 but for integers, which
are told by their digits up to 10**40 (`spelled`; not in compositions). Keys that no schema
names come last, those it names in the order it names them.

Arrays of different items (`uniqueItems`) of few values are written out; others are marked, and
held to it beside the engine (`different`).

References stay inside the document: `$id`, `$anchor` and `$dynamicAnchor` name places in it. Those to
the standard's own schemas lead there.
Unknown keywords and formats are annotations, as the standard has it; where one looks like a slip of
the pen, the report and a warning in the log say so (one with x-, _ or a $ of its own in front never
does). Draft 4's boolean `exclusiveMinimum` and `exclusiveMaximum` are understood, and its `id` where
the document says that it is of that draft.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from sgrt.errors import ConstraintError, UnsupportedSchema
from sgrt.grammar import different, json_text
from sgrt.grammar.schema.contract import ANNOTATIONS, DEPENDENT, Entry
from sgrt.grammar.schema.document import Document
from sgrt.grammar.schema.formula import Formula, satisfies
from sgrt.grammar.schema.reader import KEYWORDS, Reader
from sgrt.grammar.schema.writer import Writer

log = logging.getLogger("sgrt.grammar")

__all__ = ["ANNOTATIONS", "DEPENDENT", "KEYWORDS", "Entry", "normalise", "report"]


def normalise(text: str, *, compares_items: bool = False, spells_integers: bool = False) -> str:
    """A user's schema as the engine's.

    Args:
        text: JSON text of a schema, draft 2020-12 (or 7, whose `$ref` siblings count here).
        compares_items: arrays whose items must differ may be marked (see `different`), and the
            matcher holds them to it. Otherwise only arrays of few values are supported.
        spells_integers: those beyond 2**53 may be told by their digits (see `spelled`); otherwise
            bounds out there are moved in.

    Returns:
        JSON text of an equivalent schema that holds only what is enforced exactly.

    Raises:
        UnsupportedSchema: a keyword that is not enforced, a value it cannot have, or a schema
            that nothing satisfies.
        GrammarBudgetExceeded: larger than `sgrt.grammar.limits` allow.
    """
    document = Document(_parse(text), share=True)
    reader = Reader(document, spells_integers=spells_integers)
    reader.read_all()
    for entry in reader.entries.values():
        if "did you mean" in entry.why:
            place = entry.pointer or "/"
            log.warning("schema at %s: %r enforces nothing: %s", place, entry.keyword, entry.why)
    return json_text.dump(_write(reader, satisfies(document.root), compares_items))


def _write(
    reader: Reader, root: Formula, compares_items: bool, *, collect: bool = False
) -> dict[str, Any]:
    writer = Writer(reader, collect=collect, compares_items=compares_items)
    normal = writer.write(root)
    if writer.has_marks:
        for pointer in different.check(normal):
            why = "arrays there have different items whatever other alternatives say"
            reader.note(pointer, different.MARK, "subset", why)
    return normal


def report(text: str) -> list[Entry]:
    """What becomes of each keyword of a schema; all refusals, not only the first.

    Args:
        text: JSON text of a schema.

    Returns:
        One entry per schema and keyword, in the order of their pointers; one without keyword for
        what concerns a schema as a whole.

    Raises:
        UnsupportedSchema: it is not JSON, or no schema.
        GrammarBudgetExceeded: too long or too deep to be read.
    """
    document = Document(_parse(text), share=True)
    reader = Reader(document, collect=True, spells_integers=True)
    try:
        reader.read_all()
        _write(reader, satisfies(document.root), compares_items=True, collect=True)
    except ConstraintError as error:
        reader.note_error(error)
    entries = [*reader.entries.values(), *_entries_of_repeated(document, reader)]
    return sorted(entries, key=lambda e: (e.pointer, e.keyword or ""))


def _entries_of_repeated(document: Document, reader: Reader) -> Iterator[Entry]:
    """What is said of a schema holds wherever the same one stands, annotations apart."""
    said: dict[str, list[Entry]] = {}
    for entry in reader.entries.values():
        said.setdefault(entry.pointer, []).append(entry)
    for pointer, first, node in document.repeated():
        own = node if isinstance(node, dict) else {}
        for entry in said.get(first, ()):
            if entry.keyword not in ANNOTATIONS:
                yield replace(entry, pointer=pointer)
        for keyword in ANNOTATIONS & own.keys():
            yield Entry(pointer, keyword, "annotation")


def _parse(text: str) -> Any:
    root = json_text.parse(text)
    if not isinstance(root, (dict, bool)):
        raise UnsupportedSchema(f"a schema is an object, not {json_text.type_of(root)}")
    return root
