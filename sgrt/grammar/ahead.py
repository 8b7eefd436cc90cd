"""Look-aheads at the start of a search as patterns of their own: ``^(?=a)(?!b)c`` holds for what
``^(?:a)`` and ``^c`` match, and ``^(?:b)`` does not.

Apart they stay short; as one pattern they multiply (passwords with a digit, a letter and a sign).
"""

from __future__ import annotations

import re

_PART = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)


def split(pattern: str) -> list[tuple[str, bool]]:
    """Patterns that a text has to match, or must not (False), all together as one that it has to
    match; the pattern itself where nothing can be split off.

    The pattern may be none: whatever does not parse still does not in the last part.
    """
    found: list[tuple[str, bool]] = []
    at = 1 if pattern.startswith("^") else 0
    while at and pattern.startswith(("(?=", "(?!"), at):
        end = _end_of_group(pattern, at)
        if end is None or pattern[end : end + 1] in ("*", "+", "?", "{"):
            break
        found.append((f"^(?:{pattern[at + 3 : end - 1]})", pattern[at + 2] == "="))
        at = end
    rest = f"^{pattern[at:]}"
    if not found or _has_alternatives(rest):
        return [(pattern, True)]
    return [*found, (rest, True)]


def _end_of_group(pattern: str, start: int) -> int | None:
    depth = 0
    for part in _PART.finditer(pattern, start):
        depth += (part[0] == "(") - (part[0] == ")")
        if depth == 0:
            return part.end()
    return None


def _has_alternatives(pattern: str) -> bool:
    """Whether there are some outside of all groups."""
    depth = 0
    for part in _PART.finditer(pattern):
        depth += (part[0] == "(") - (part[0] == ")")
        if part[0] == "|" and depth == 0:
            return True
    return False
