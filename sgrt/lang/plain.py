"""Numbers, truth values and quoted strings inside running text: `gen_int`, ``dtype=float``.

A number has no end of its own: the model ends it by going on with the sentence. So what follows
a number may be anything that begins with a character that ends one, and the text stops there;
only the number stays.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_INT = r"-?(?:0|[1-9][0-9]*)"
_FLOAT = _INT + r"(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_BOOL = r"(?:[Tt]rue|[Ff]alse)"

REGEX_INT = _INT + r"[ \n]?"
"""An integer as JSON writes it, and the space or line break with which a model may end it."""
REGEX_FLOAT = _FLOAT + r"[ \n]?"
"""A number as JSON writes it, and the space or line break with which a model may end it."""
REGEX_BOOL = _BOOL
"""true or false, capitalised or not."""
REGEX_STR = r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"'
"""A string as JSON writes it, quotes included."""

_ENDS = (" ", "\n", "\t", ",", ";", ":", "!", "?", ")", "]", "}", '"', ". ", ".\n")
# What may follow a number: one of these, then anything.
_END = r'(?:(?:[ \n\t,;:!?)\]}"]|\.[ \n])(?:.|\n)*)?'


@dataclass(frozen=True)
class Plain:
    """How a type is written in running text.

    Args:
        pattern: of the value and, where it has no end of its own, of what may follow.
        stop: ends the text, besides what the user gives.
        read: from the value's text to the value.
        read_part: from the beginning of such a text to the value that it has so far; None where a
            beginning has none, as with numbers: 12 is not what 1234 has so far.
    """

    name: str
    pattern: str
    stop: tuple[str, ...]
    read: Callable[[str], Any]
    read_part: Callable[[str], Any] | None = None

    @property
    def __name__(self) -> str:  # for messages, as classes have one
        return self.name

    def model_validate_json(self, text: str) -> Any:
        """The value, as pydantic's models give theirs."""
        return self.read(text)


def _string_so_far(text: str) -> str:
    """What stands in a string that was cut, without an escape that was cut."""
    whole = re.match(REGEX_STR.removesuffix('"'), text)
    value: str = json.loads(whole[0] + '"') if whole else ""
    return value[:-1] if "\ud800" <= value[-1:] <= "\udbff" else value


PLAIN: dict[type, Plain] = {
    int: Plain("int", _INT + _END, _ENDS, int),
    float: Plain("float", _FLOAT + _END, _ENDS, float),
    bool: Plain("bool", REGEX_BOOL, (), lambda text: text.lower() == "true"),
    str: Plain("str", REGEX_STR, (), json.loads, _string_so_far),
}
