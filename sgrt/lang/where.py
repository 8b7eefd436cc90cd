"""The line of the user's program that is running."""

from __future__ import annotations

import contextlib
import functools
import sys
from pathlib import Path
from types import CodeType

# `with s.user():` passes through contextlib on the way here.
_NOT_THE_USERS = (str(Path(__file__).parent), contextlib.__file__)

Place = tuple[CodeType, int]
"""Code, and which of its instructions: a statement, as it is cheap to note."""


def place(num_ours: int = 0) -> Place:
    """Where the nearest caller outside the language is.

    Args:
        num_ours: so many callers are known to be the language's own.

    Cost: a walk over the other frames, each of which becomes an object.
    """
    frame = sys._getframe(1 + num_ours)
    while frame.f_back is not None and _is_ours(frame.f_code.co_filename):
        frame = frame.f_back
    return frame.f_code, frame.f_lasti


def spelled(place: Place) -> str:
    """``file:line``."""
    code, instruction = place
    lines = (line for start, end, line in code.co_lines() if start <= instruction < end)
    return f"{code.co_filename}:{next(lines, None) or code.co_firstlineno}"


def here(num_ours: int = 0) -> str:
    """`place`, spelled."""
    return spelled(place(1 + num_ours))


@functools.cache
def _is_ours(filename: str) -> bool:
    return filename.startswith(_NOT_THE_USERS)
