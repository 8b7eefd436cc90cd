"""Lark text as tokens, and where they stand."""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass
from typing import NoReturn

from sgrt.errors import GrammarSyntaxError

TOKENS = re.compile(
    r"""(?P<newline>\n[ \t\r\n]*)|(?P<space>[ \t\r]+|(?:\#|//)[^\n]*)
    |(?P<rule>!?[_?]?[a-z](?:[_a-z0-9]|-(?=[_a-z0-9]))*)
    |(?P<terminal>_?[A-Z](?:[_A-Z0-9]|-(?=[_A-Z0-9]))*)
    |(?P<string>"(?:[^"\\\n]|\\.)*"i?)|(?P<regexp>/(?:[^/\\\n]|\\.)+/[a-z]*)
    |(?P<keyword>%[a-z_]+)|(?P<number>[0-9]+)
    |(?P<op>->|\.\.|[|()\[\]{}*+?~:,.=&])""",
    re.VERBOSE,
)
_JSON_MARKS = re.compile(r'"(?:[^"\\]|\\.)*"|[{}]|[^\s{}"]+')


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    text: str
    pos: int


class Place:
    """Lines and columns of a text."""

    def __init__(self, text: str) -> None:
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def of(self, pos: int) -> tuple[int, int]:
        """1-based line and column of an offset."""
        line = bisect.bisect_right(self._starts, pos)
        return line, pos - self._starts[line - 1] + 1

    def fail(self, reason: str, pos: int, hint: str | None = None) -> NoReturn:
        line, column = self.of(pos)
        raise GrammarSyntaxError(reason, line=line, column=column, hint=hint)


def plain(name: str) -> str:
    """A name without the prefixes that shape Lark's trees."""
    return name.lstrip("!?")


def is_terminal(name: str) -> bool:
    return name.rpartition(".")[2].lstrip("_")[0].isupper()


def json_end(text: str) -> int:
    """Where the JSON object that the text begins with ends; 0 where there is none."""
    depth = 0
    for found in _JSON_MARKS.finditer(text):
        mark = found[0]
        depth += {"{": 1, "}": -1}.get(mark, 0)
        if depth == 0:
            return found.end() if mark == "}" else 0
    return 0
