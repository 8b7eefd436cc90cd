"""The ``sgrt`` command: one module per verb, imported when it is called."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from sgrt.errors import SgrtError

VERBS = {
    "serve": "serve a model to clients of OpenAI, SGLang and vLLM",
    "batch": "answer a file of requests, whatever interrupts it",
    "chat": "talk to a model in the terminal",
    "doctor": "tell what works on this machine, and what to do about the rest",
    "pull": "fetch a model into the cache",
    "models": "list models: size, where they are, state",
    "schema": "check what of a JSON Schema is enforced",
}
"""Verbs with their one-line help; each is a module here with `add_arguments` and `run`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        Exit status: 0 done, 2 an error that was told in one line on stderr, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = _parser(arguments).parse_args(arguments)
    if args.verb is None:
        _parser(arguments).print_help()
        return 0
    try:
        return int(importlib.import_module(f"sgrt.cli.{args.verb}").run(args))
    except SgrtError as error:
        hint = f" ({error.hint})" if error.hint else ""
        print(f"sgrt: error: {error.message}{hint}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sgrt: interrupted", file=sys.stderr)
        return 130


def _parser(arguments: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sgrt", description="A structured-generation language and the runtime under it."
    )
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    for verb, text in VERBS.items():
        verb_parser = verbs.add_parser(verb, help=text, description=text, allow_abbrev=False)
        if verb in arguments:  # the others' modules are not needed to parse this line
            importlib.import_module(f"sgrt.cli.{verb}").add_arguments(verb_parser)
    return parser


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib import metadata

        try:
            version = metadata.version("sgrt")
        except metadata.PackageNotFoundError:
            version = "(not installed)"
        print(f"sgrt {version}")
        parser.exit()


if __name__ == "__main__":
    raise SystemExit(main())
