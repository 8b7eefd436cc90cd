"""Tools and a response format together: one constraint (peers drop one of the two)."""

from __future__ import annotations

from sgrt.errors import SgrtError
from sgrt.server.failures import from_error
from sgrt.server.service import Service
from sgrt.server.tools import ToolUse
from sgrt.server.wanted import Wanted


def held_to(service: Service, asked: Wanted | None, use: ToolUse) -> Wanted | None:
    """What the text of an answer is held to, or None.

    Args:
        asked: by the response format.

    Raises:
        ApiError: the arguments of a tool cannot be enforced; names the tool.
    """
    if not use.active:
        return asked
    for tool in use.tools:
        try:
            service.engine.compile(tool.schema)
        except SgrtError as error:
            raise from_error(error, param=tool.at) from error
    answer = None if asked is None else asked.constraint
    return Wanted(use.constraint(answer), "tools" if asked is None else asked.at)
