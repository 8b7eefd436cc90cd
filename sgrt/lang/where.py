"""The line of the user's program that is running."""

from __future__ import annotations

import contextlib
import functools
import sys
from pathlib import Path

# `with s.user():` passes through contextlib on the way here.
_NOT_THE_USERS = (str(Path(__file__).parent), contextlib.__file__)


def here(num_ours: int = 0) -> str:
    """``file:line`` of the nearest caller outside the language.

    Args:
        num_ours: so many callers are known to be the language's own.

    Cost: a walk over the other frames, each of which becomes an object.
    """
    frame = sys._getframe(1 + num_ours)
    while frame.f_back is not None and _is_ours(frame.f_code.co_filename):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


@functools.cache
def _is_ours(filename: str) -> bool:
    return filename.startswith(_NOT_THE_USERS)
