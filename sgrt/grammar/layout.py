"""How JSON is laid out: what stands between its values, and where white space may."""

from __future__ import annotations

from dataclasses import dataclass

from sgrt.core import JsonSchema
from sgrt.errors import ConstraintError
from sgrt.grammar import automaton, charset, limits, regex, regular, unparse
from sgrt.grammar.rules import Alt, Chars, Node, Rep, Seq

_WHITE = charset.of(" \t\n\r")
FLEXIBLE = r"(?: |\n(?: {0,32}|\t{0,8}))?"
"""White space of the policy "flexible": nothing, a space, or a line break and an indent."""


@dataclass(frozen=True)
class Layout:
    """What the engine is told.

    Attributes:
        item, key: what stands behind an item or a field, and behind a key.
        white: pattern, in the engine's syntax, of the white space that may stand beside any
            mark, never empty; None where there is none.
    """

    item: str = ","
    key: str = ":"
    white: str | None = None


COMPACT = Layout()
FIXED = Layout(", ", ": ")


def of(constraint: JsonSchema) -> Layout:
    """The layout of a schema's values.

    Raises:
        ConstraintError: no such policy; a pattern of white space with another policy, of
            something else, without an end, or that wants some everywhere.
        GrammarSyntaxError: a pattern that is none.
    """
    policy, white = constraint.separators, constraint.whitespace
    if policy not in ("compact", "fixed", "flexible"):
        raise ConstraintError(f"separators={policy!r:.80} must be 'compact', 'fixed' or 'flexible'")
    if white is not None and policy != "flexible":
        raise ConstraintError(f"whitespace={white!r:.80} needs separators='flexible'")
    if policy != "flexible":
        return FIXED if policy == "fixed" else COMPACT
    return Layout(white=_white(FLEXIBLE if white is None else white))


def of_guidance(options: object) -> Layout:
    """The layout that ``"x-guidance"`` asks for in a schema; compact where it says nothing.

    Args:
        options: its value; None where there is none.

    Raises:
        ConstraintError: options that change more than the layout, or a layout that is not known.
    """
    if options is None:
        return COMPACT
    if not isinstance(options, dict):
        raise ConstraintError(f"x-guidance={options!r:.80} must be an object")
    # A text that fits exactly one of several schemas also fits one of them at least.
    unread = {"coerce_one_of": options.get("coerce_one_of"), "lenient": False}
    given = {**_GUIDANCE, **unread, **{k: v for k, v in options.items() if v is not None}}
    for key, value in given.items():
        if key not in _GUIDANCE and (key not in unread or value != unread[key]):
            raise ConstraintError(f"x-guidance: {key}={value!r:.80} is not supported")
    if given["whitespace_flexible"]:
        if given["whitespace_pattern"] is None:
            raise ConstraintError("x-guidance: white space without end; give whitespace_pattern")
        return Layout(white=_white(given["whitespace_pattern"]))
    marks = given["item_separator"], given["key_separator"]
    for known in (COMPACT, FIXED):
        if marks == (known.item, known.key):
            return known
    raise ConstraintError(f"x-guidance: separators {marks!r:.80} are neither compact nor fixed")


_GUIDANCE = {
    "whitespace_flexible": True,
    "whitespace_pattern": None,
    "item_separator": ",",
    "key_separator": ":",
}


def _white(pattern: object) -> str | None:
    if not isinstance(pattern, str):
        raise ConstraintError(f"whitespace={pattern!r:.80} must be a pattern")
    rewritten = regex.rewrite(pattern, regex.TERMINAL)
    longest = _longest(regular.parse(rewritten), pattern)
    limits.check_limit("characters of white space in one place", longest, limits.MAX_WHITE)
    found = automaton.compile(rewritten)
    if not found.matches(""):
        raise ConstraintError(
            f"whitespace={pattern!r:.80} must match the empty text",
            hint="white space that has to stand somewhere is what separators='fixed' is for",
        )
    filled = found & automaton.of_length(1, None)
    return None if filled.is_empty() else unparse.to_pattern(filled)


def _longest(node: Node, pattern: str) -> int:
    """Most characters of a text of the node; recursion is bounded as patterns are."""
    match node:
        case Chars(chars):
            if charset.intersection(chars, charset.complement(_WHITE)):
                raise ConstraintError(
                    f"whitespace={pattern!r:.80} matches what is no white space in JSON"
                )
            return 1
        case Seq(parts):
            return sum(_longest(part, pattern) for part in parts)
        case Alt(options):
            return max((_longest(option, pattern) for option in options), default=0)
        case Rep(body, _, high):
            if high is None:
                raise ConstraintError(
                    f"whitespace={pattern!r:.80} has no end",
                    hint="bound it, such as [ ]{0,8}: a model may write white space for ever",
                )
            return _longest(body, pattern) * high
    raise TypeError(f"{node!r:.80} is no pattern")
