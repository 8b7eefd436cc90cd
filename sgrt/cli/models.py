"""``sgrt models``: what can be run by name, and what is here already."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb has none."""


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    from sgrt.models import hub

    table = Table("name", "size", "licence", "state")
    table.add_column("where", overflow="fold")
    for known in hub.KNOWN.values():
        status = hub.status(known)
        names = ", ".join((known.name, *known.aliases))
        size = f"{known.num_bytes / 1e6:.0f} MB"
        table.add_row(names, size, known.license, status.state, str(status.path or "-"))
    Console(soft_wrap=True).print(table)
    return 0
