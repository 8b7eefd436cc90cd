"""``sgrt pull [NAME]``: have a model here, fetched once and checked."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "name", nargs="?", help="a name that `sgrt models` lists (default: its first)"
    )


def run(args: argparse.Namespace) -> int:
    """Fetch and print where the model lies."""
    from sgrt.models import hub
    from sgrt.models.progress import progress_bar

    with progress_bar() as progress:
        files = hub.resolve(args.name, progress=progress)
    print(f"{files.name}: {files.path}")
    return 0
