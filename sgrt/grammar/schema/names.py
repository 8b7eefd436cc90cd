"""Names in schemas: what was probably meant, and whether one occurs."""

from __future__ import annotations

import difflib
import functools
from typing import Any


def holds_key(node: Any, key: str) -> bool:
    """Whether a key stands anywhere in a JSON value."""
    todo = [node]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            if key in node:
                return True
            todo += node.values()
        elif isinstance(node, list):
            todo += node
    return False


@functools.lru_cache(maxsize=256)
def closest(name: str, known: tuple[str, ...]) -> str | None:
    """The known name that this one was probably meant to be."""
    lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), lower, 1, 0.85)
    return lower[close[0]] if close else None
