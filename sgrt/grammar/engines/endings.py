"""Texts that the patterns of a schema accept: for places where a string cannot end yet.

A search over bytes finds its way where each byte narrows down what may follow. A pattern that
stands anywhere in a text does not: any byte may follow until all of it is there.
"""

from __future__ import annotations

import json
from contextlib import suppress
from functools import reduce
from operator import and_
from typing import Any

from sgrt.errors import GrammarBudgetExceeded
from sgrt.grammar import automaton, limits
from sgrt.grammar.automaton import Automaton
from sgrt.grammar.charset import Charset

_MAX_PATTERNS = 32
_MAX_STATES = 2_000
_MAX_CHARS = 64
_SECONDS = 0.05
"""Of CPU for all patterns of one schema."""
_PLAIN = "0aA- _.,:/@#!?+=*&%$~^|;<>()[]{}'`"
"""Characters that texts are made of first."""


def of_source(source: str) -> tuple[bytes, ...]:
    """Short texts, one for each pattern, the longer ones' ends behind them; as inside of a JSON
    string.

    Args:
        source: the engine's grammar text.
    """
    texts: list[str] = []
    with suppress(limits.OutOfPatience), limits.patience(_SECONDS):
        for patterns in sorted(_patterns(source))[:_MAX_PATTERNS]:
            text = _text_of(patterns)
            texts += [text] if text and len(text) <= _MAX_CHARS else []
    ends = {text[start:] for text in texts for start in range(len(text))}
    longest_first = sorted(ends, key=lambda end: (-len(end), end))
    return tuple(json.dumps(end, ensure_ascii=False)[1:-1].encode() for end in longest_first)


def _patterns(source: str) -> set[tuple[str, ...]]:
    """The patterns of each string and each key, those together that one text has to match."""
    found: set[tuple[str, ...]] = set()
    todo: list[Any] = [json.loads(source) if source.startswith("{") else None]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            pattern, keys = node.get("pattern"), node.get("patternProperties")
            found |= {(pattern,)} if isinstance(pattern, str) else set()
            found |= {(key,) for key in keys} if isinstance(keys, dict) else set()
            if node.get("type") == "string" and isinstance(node.get("allOf"), list):
                found.add(tuple(part["pattern"] for part in node["allOf"]))
            else:
                todo += node.values()
        elif isinstance(node, list):
            todo += node
    return found


def _text_of(patterns: tuple[str, ...]) -> str | None:
    """A shortest text of patterns that are written as ``^…$``, if it is found."""
    try:
        languages = (automaton.compile(pattern[1:-1], _MAX_STATES) for pattern in patterns)
        return shortest(reduce(and_, languages))
    except GrammarBudgetExceeded:
        return None


def shortest(language: Automaton) -> str | None:
    """One of the shortest texts, of plain characters where it can be; None where there is none."""
    chars = [_plain_char(ranges) for ranges in automaton.chars_of(language)]
    texts = {0: ""}
    level = [0]
    while level:
        below: list[int] = []
        for state in level:
            if language.accepting[state]:
                return texts[state]
            for char, target in zip(chars, language.table[state], strict=True):
                if char and target not in texts:
                    texts[target] = texts[state] + char
                    below.append(target)
        level = below
    return None


def _plain_char(ranges: Charset) -> str:
    """A character of a class that can stand in JSON; "" where none can."""
    for char in _PLAIN:
        if any(low <= ord(char) <= high for low, high in ranges):
            return char
    printable = [max(low, 0x20) for low, high in ranges if high >= 0x20]
    return chr(printable[0]) if printable and not 0xD800 <= printable[0] < 0xE000 else ""
