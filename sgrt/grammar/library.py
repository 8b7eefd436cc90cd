"""The grammars shipped with sgrt, by name (package `sgrt_grammars`, one ``.lark`` file each)."""

from __future__ import annotations

import functools
import re
from importlib import resources

_NAME = re.compile(r"[a-z][a-z0-9_]*")


@functools.cache
def names() -> tuple[str, ...]:
    """Names of all shipped grammars, sorted."""
    files = resources.files("sgrt_grammars").iterdir()
    return tuple(sorted(f.name[:-5] for f in files if f.name.endswith(".lark")))


@functools.cache
def text(name: str) -> str:
    """The Lark text of a shipped grammar.

    Raises:
        KeyError: there is none of this name.
    """
    if name not in names():
        raise KeyError(name)
    return resources.files("sgrt_grammars").joinpath(f"{name}.lark").read_text(encoding="utf-8")


def is_name(grammar: str) -> bool:
    """Whether this can only be the name of a grammar: no grammar text is a single word."""
    return _NAME.fullmatch(grammar) is not None
