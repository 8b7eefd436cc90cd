"""``sgrt schema check FILE``: what of a JSON Schema is enforced, and what is refused."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from sgrt.errors import RequestError
from sgrt.grammar import json_schema


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One action, one file."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    text = "tell for each keyword whether it is enforced; exit 1 where one is refused"
    check = actions.add_parser("check", help=text, description=text)
    check.add_argument("file", help="a JSON Schema; - reads standard input")
    check.add_argument("--json", action="store_true", help="print a JSON list of entries")


def run(args: argparse.Namespace) -> int:
    """Print the contract report: 0 all is enforced, 1 something is refused."""
    entries = json_schema.report(_read(args.file))
    if args.json:
        print(json.dumps([dataclasses.asdict(entry) for entry in entries], indent=1))
    else:
        _print_table(entries)
    return int(any(entry.status == "refused" for entry in entries))


def _read(name: str) -> str:
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot read {name}: {error}") from error


def _print_table(entries: list[json_schema.Entry]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("place", "keyword", "status")
    table.add_column("why", overflow="fold")
    for entry in entries:
        why = f"{entry.why} (hint: {entry.hint})" if entry.hint else entry.why
        table.add_row(entry.pointer or "/", entry.keyword or "-", entry.status, why)
    Console(soft_wrap=True, markup=False).print(table)
