"""``sgrt schema check FILE``: what of a constraint is enforced, and what is refused."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sgrt.core import Constraint, Ebnf, JsonSchema, Lark, Regex, StructuralTag
from sgrt.errors import ConstraintError, RequestError
from sgrt.grammar.detect import detect_grammar
from sgrt.grammar.report import refusal, report
from sgrt.grammar.schema.contract import Entry


def _schema(text: str) -> Constraint:
    _json(text)
    return JsonSchema(text)


def _tag(text: str) -> Constraint:
    return StructuralTag.from_dict(_json(text))


def _json(text: str) -> Any:
    """JSON text read; what is not JSON is a wrong file, not a refused constraint."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the file is not JSON: {error}") from error


_LANGUAGES: dict[str, tuple[str, Callable[[str], Constraint]]] = {
    "regex": ("a pattern; a line break at its end is left out", lambda t: Regex(_line(t))),
    "lark": ("Lark text", Lark),
    "ebnf": ("EBNF of llama.cpp (GBNF)", Ebnf),
    "xgrammar": ("EBNF of xgrammar", lambda t: Ebnf(t, "xgrammar")),
    "grammar": ("Lark or EBNF, whatever it is", detect_grammar),
    "tag": ("a structural tag, as servers take it", _tag),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One action, one file, one language."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    text = "tell for each part whether it is enforced; exit 1 where one is refused"
    check = actions.add_parser("check", help=text, description=text)
    check.add_argument("file", help="a JSON Schema, or what is said below; - reads standard input")
    kinds = check.add_mutually_exclusive_group()
    for name, (help_text, _) in _LANGUAGES.items():
        kinds.add_argument(
            f"--{name}", dest="language", action="store_const", const=name, help=help_text
        )
    check.add_argument("--json", action="store_true", help="print a JSON list of entries")


def run(args: argparse.Namespace) -> int:
    """Print the contract report: 0 all is enforced, 1 something is refused."""
    text = _read(args.file)
    try:
        read = _LANGUAGES[args.language][1] if args.language else _schema
        entries = report(read(text))
    except ConstraintError as error:  # of reading it; what building it says is in the report
        entries = [refusal(error)]
    if args.json:
        print(json.dumps([dataclasses.asdict(entry) for entry in entries], indent=1))
    else:
        _print_table(entries)
    return int(any(entry.status == "refused" for entry in entries))


def _line(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")


def _read(name: str) -> str:
    try:
        if name == "-":
            return sys.stdin.read()
        return Path(name).read_bytes().decode("utf-8")  # line breaks as they are
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot read {name}: {error}") from error


def _print_table(entries: list[Entry]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for name in ("place", "part", "status", "why"):
        table.add_column(name, overflow="fold", no_wrap=name == "status")
    for entry in entries:
        why = f"{entry.why} (hint: {entry.hint})" if entry.hint else entry.why
        table.add_row(entry.pointer or "/", entry.keyword or "-", entry.status, why)
    Console(soft_wrap=True, markup=False).print(table)
