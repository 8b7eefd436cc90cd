"""Names in schemas: what was probably meant."""

from __future__ import annotations

import difflib
import functools

from sgrt.grammar.schema.contract import ANNOTATIONS, DEPENDENT


@functools.lru_cache(maxsize=256)
def closest(name: str, known: tuple[str, ...]) -> str | None:
    """The known name that this one was probably meant to be."""
    lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), lower, 1, 0.85)
    return lower[close[0]] if close else None


def did_you_mean(name: str | None) -> str:
    """The end of a message; nothing where there is no such name."""
    return "" if name is None else f"; did you mean {name!r}?"


def why_annotation(keyword: str, known: tuple[str, ...]) -> str:
    """Why an unknown keyword is one: the standard says so, also where it looks like a slip.

    A sign in front (x-, _, a $ of one's own) says that a name is meant to be another one.

    Args:
        known: keywords that are enforced.
    """
    if keyword in ANNOTATIONS:
        return ""
    why = "not a keyword of JSON Schema, so it allows every value"
    if keyword.startswith(("x-", "_")):
        return why
    close = closest(keyword, (*known, *DEPENDENT, *ANNOTATIONS))
    if close in ANNOTATIONS or (keyword.startswith("$") and close and not close.startswith("$")):
        return why
    return why + did_you_mean(close)
