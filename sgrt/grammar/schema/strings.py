"""Assertions about a string as patterns and lengths the engine enforces exactly."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache, reduce
from operator import and_, or_
from typing import Any

from sgrt.errors import GrammarBudgetExceeded
from sgrt.grammar import automaton, charset, json_text, limits, regex, unparse
from sgrt.grammar.automaton import Automaton
from sgrt.grammar.schema.formula import And, Formula, Matches, NoneOf, OneOf, Or, Size

_MAX_LISTED = 1_000
"""Texts that are listed instead of described by several patterns."""


def shape(formula: Formula) -> dict[str, Any] | None:
    """A schema (without `type`) for a formula about strings, None where no text is left.

    Where patterns meet or are excluded, they are made one here: the engine has no complement, and
    little patience to find out whether an intersection is empty. Lengths that bound it all are
    left to the engine: they would multiply the states.

    Raises:
        GrammarBudgetExceeded: it needs too many states, or gets too long.
    """
    parts = formula.parts if isinstance(formula, And) else (formula,)
    low, high = lengths(parts)
    if high is not None and low > high:
        return None
    parts = tuple(part for part in parts if not isinstance(part, Size))
    if not parts:
        return _described(low, high, [])
    if len(parts) == 1 and isinstance(parts[0], Matches) and parts[0].positive:
        return _described(low, high, [parts[0].pattern])
    texts = None
    with suppress(GrammarBudgetExceeded):
        texts = _all(map(language, parts))
        if texts.num_texts(low, high, _MAX_LISTED) <= _MAX_LISTED:
            every = (texts & _of_length(low, high)).texts(_MAX_LISTED) or ()
            listed = [text for text in every if json_text.unwritable(text) is None]
            return {"enum": listed} if listed else None
    ways = []
    if texts is not None:
        with suppress(GrammarBudgetExceeded):
            ways.append(_described(low, high, [unparse.to_pattern(texts)]))
    if ways and all(map(_is_excluded, parts)):
        return ways[0]  # the other way is the same
    try:
        ways.append(_described(low, high, _one_by_one(parts)))
    except GrammarBudgetExceeded:
        if not ways:
            raise
    return None if None in ways else min(ways, key=lambda way: len(str(way)))


def _one_by_one(parts: Iterable[Formula]) -> list[str]:
    """A pattern for each part, and one for all that is excluded."""
    patterns = []
    excluded = []
    for part in parts:
        if _is_excluded(part):
            excluded.append(language(part))
        else:
            patterns.append(_written(part))
    return patterns + ([unparse.to_pattern(_all(excluded))] if excluded else [])


def _is_excluded(formula: Formula) -> bool:
    """Whether it says what a text is not."""
    return isinstance(formula, NoneOf) or (isinstance(formula, Matches) and not formula.positive)


def _written(formula: Formula) -> str:
    if isinstance(formula, Or) and formula.parts:
        return f"(?:{'|'.join(map(_written, formula.parts))})"
    if isinstance(formula, Matches) and formula.positive:
        return formula.pattern
    return unparse.to_pattern(language(formula))


def num_open(formula: Formula) -> int:
    """Clauses that a formula would come to without those that list their texts."""
    match formula:
        case And(parts):
            return math.prod(map(num_open, parts))
        case Or(parts):
            return sum(map(num_open, parts))
    return int(not isinstance(formula, OneOf))


def language(formula: Formula) -> Automaton:
    """The texts of a formula about strings.

    Raises:
        GrammarBudgetExceeded: it needs too many states.
    """
    match formula:
        case And(parts):
            found = [language(part) for part in parts if not isinstance(part, Size)]
            return _all([*found, _of_length(*lengths(parts))])
        case Or(parts):
            return reduce(or_, map(language, parts), automaton.NOTHING)
        case OneOf(values):
            return automaton.of_texts(values)
        case NoneOf(values):
            return ~automaton.of_texts(values)
        case Matches(_, pattern, widest, positive):
            return automaton.compile(pattern) if positive else ~automaton.compile(widest)
        case Size():
            return _of_length(*lengths([formula]))
    raise TypeError(f"{formula!r} is not about strings")


def _of_length(low: int, high: int | None) -> Automaton:
    is_empty = high is not None and low > high
    return automaton.NOTHING if is_empty else automaton.of_length(low, high)


def _all(languages: Iterable[Automaton]) -> Automaton:
    return reduce(and_, sorted(languages, key=lambda a: len(a.table)))


def _described(low: int, high: int | None, patterns: list[str]) -> dict[str, Any] | None:
    shape: dict[str, Any] = {}
    if low:
        shape["minLength"] = low
    if high is not None:
        shape["maxLength"] = high
    limits.check_limit("patterns on one string", len(patterns), limits.MAX_PATTERNS)
    if high is not None:
        patterns = [rotated(pattern) for pattern in patterns]
    written = [{"pattern": whole(pattern)} for pattern in patterns]
    if any(_is_nothing(part["pattern"]) for part in written):
        return None
    if len(written) == 1:
        shape |= written[0]
    elif written:
        shape["allOf"] = written
    return shape


def whole(pattern: str) -> str:
    """A pattern for whole strings or keys, as the engine is given it.

    Its faults are kept out. It takes a class of all control characters for one that holds the
    quotation mark and the backslash too: NUL is never generated, so classes are written without it.
    Where other characters that are never generated stand between literal ones, it leaves them out.
    """
    return f"^{_CLASS_OR_NEVER.sub(_kept, pattern.replace(_FROM_NUL, _FROM_ONE))}$"


def _kept(found: re.Match[str]) -> str:
    if not found["never"]:
        return found[0]
    codes = [int(code, 16) for code in re.findall(r"\{(\w+)\}", found[0])]
    chars = map(chr, range(min(codes), max(codes) + 1))
    return found[0] if any(json_text.unwritable(char) is None for char in chars) else _NOTHING


def _is_nothing(pattern: str) -> bool:
    """Whether a pattern as the engine is given it matches no text, as far as that is told easily."""
    with suppress(GrammarBudgetExceeded):
        return _NOTHING in pattern and automaton.compile(pattern[1:-1]).is_empty()
    return False


_ATOM = r"(?:\[[^\]]*\]|\\x\{[0-9A-F]+\}|[0-9A-Za-z])(?:[*+?]|\{\d+,?\d*\})?"
_REPEAT_AND_FIRST = re.compile(
    rf"\(\?:(?P<first>{_ATOM})(?P<others>(?:{_ATOM})+)\)(?P<count>\{{\d+,\d*\}}|[*+])"
    r"(?P=first)(?![*+?{])"
)


def rotated(pattern: str) -> str:
    """The same texts with ``(?:AB){0,9}A`` written as ``A(?:BA){0,9}``: held to a length, the engine
    finds an end of the latter at once and spends its budget on the former (words and spaces)."""
    return _REPEAT_AND_FIRST.sub(r"\g<first>(?:\g<others>\g<first>)\g<count>", pattern)


_CLASS_OR_NEVER = re.compile(
    r"(?P<never>\\x\{(?:[0-7]|B|E|F|1[0-9A-F]|7F)\}|\[(?:\\x\{1?[0-9A-F]\}-?|\\x\{7F\})+\])|\[[^\]]*\]"
)
_NOTHING = charset.to_regex(())
_FROM_NUL, _FROM_ONE = r"[\x{0}-", r"[\x{1}-"


def lengths(clause: Iterable[Formula]) -> tuple[int, int | None]:
    """The sizes (of any kind) that a clause allows."""
    sizes = [atom for atom in clause if isinstance(atom, Size)]
    low = max((s.count for s in sizes if s.is_least), default=0)
    high = min((s.count for s in sizes if not s.is_least), default=None)
    return low, high


_LONG_REPEAT = re.compile(r"(?<!\\x)\{\d*,?\d{2,}\}")


@lru_cache(maxsize=256)
def shortened(pattern: str) -> str:
    """A pattern without long repeats that do not matter, as often in a search: `a{1,99}` is `a`."""
    if regex.ANYTHING not in pattern or not _LONG_REPEAT.search(pattern):
        return pattern
    with suppress(GrammarBudgetExceeded):
        found = automaton.compile(pattern)
        if len(found.table) <= _FEW_STATES:
            return unparse.to_pattern(found)
    return pattern


_FEW_STATES = 4
