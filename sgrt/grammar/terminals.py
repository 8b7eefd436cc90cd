"""Terminals of Lark text that are put together by ``&`` (both), ``~`` (any text but these), and
``%regex {"substring_…": …}`` (a part of a list of chunks, or nothing).

While the text is read, each is a terminal of its own, under a name that users cannot write. Once
all definitions are known, what ``&`` and ``~`` say is worked out and written as one pattern.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import reduce
from operator import and_

from sgrt.errors import GrammarSyntaxError, UnsupportedSchema
from sgrt.grammar import automaton, boxes, charset, json_text, limits, regular, unparse
from sgrt.grammar.automaton import Automaton
from sgrt.grammar.rules import (
    EMPTY,
    NOTHING,
    Alt,
    Lexeme,
    Node,
    Origin,
    Ref,
    Rep,
    RuleSet,
    Seq,
    inner_first,
    pattern,
)

_ANYTHING = charset.to_regex(charset.complement(())) + "*"
_SUBSTRINGS = {"substring_words": str, "substring_chars": str, "substring_chunks": list}


@dataclass(frozen=True)
class _Operation:
    parts: tuple[Node, ...]
    is_not: bool
    origin: Origin


class Algebra:
    """The operations of one grammar.

    Attributes:
        terminals: to be added to those of the grammar.
    """

    def __init__(self) -> None:
        self.terminals: dict[str, Node] = {}
        self._operations: dict[str, _Operation] = {}

    def both(self, parts: tuple[Node, ...], origin: Origin) -> Ref:
        """Texts of all of these terminals."""
        return self._operation(parts, origin, is_not=False)

    def other(self, part: Node, origin: Origin) -> Ref:
        """Every text but those of a terminal."""
        return self._operation((part,), origin, is_not=True)

    def substring(self, written: str, origin: Origin) -> Ref:
        """A part of a list of chunks, of a text's words or characters; or nothing.

        Args:
            written: the JSON object behind ``%regex``.

        Raises:
            GrammarSyntaxError: it says anything else.
            GrammarBudgetExceeded: longer than `limits.MAX_SUBSTRING_BYTES`.
        """
        size = len(written.encode("utf-8"))
        limits.check_limit("bytes of quoted text", size, limits.MAX_SUBSTRING_BYTES)
        try:
            value = json_text.parse(written)
        except UnsupportedSchema as error:
            raise _refused(f"%regex {error.reason}", origin) from None
        kind = next(iter(value), "")
        chunks = value.get(kind)
        is_known = len(value) == 1 and isinstance(chunks, _SUBSTRINGS.get(kind, ()))
        if not is_known or not all(isinstance(chunk, str) for chunk in chunks):
            raise _refused(f"%regex takes one of {', '.join(_SUBSTRINGS)}", origin)
        if any("\ud800" <= char <= "\udfff" for char in "".join(chunks)):
            raise _refused("%regex: half a surrogate pair is not a character", origin)
        source = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        return self._added(Lexeme(f"%regex {source}", size, origin), origin)

    def _operation(self, parts: tuple[Node, ...], origin: Origin, *, is_not: bool) -> Ref:
        ref = self._added(Alt(parts), origin)  # names what it is made of, until it is worked out
        self._operations[ref.name] = _Operation(parts, is_not, origin)
        return ref

    def _added(self, node: Node, origin: Origin) -> Ref:
        name = f"T {len(self.terminals)}"
        self.terminals[name] = node
        return Ref(name, origin.line, origin.column)

    def resolve(self, rule_set: RuleSet) -> None:
        """Work the operations out; `RuleSet.check` has found nothing wrong.

        Raises:
            GrammarSyntaxError: one that holds a ``%regex``.
            GrammarBudgetExceeded: one that needs too many states.
        """
        for name in [*inner_first(rule_set.terminals)] if self._operations else ():
            operation = self._operations.get(name)
            if operation is not None:
                found = reduce(and_, (_compiled(p, rule_set, operation) for p in operation.parts))
                if operation.is_not:
                    found = automaton.compile(_ANYTHING) & ~found  # half surrogates are no text
                rule_set.terminals[name] = (
                    NOTHING
                    if found.is_empty()
                    else pattern(unparse.to_pattern(found), operation.origin)
                )


def end_lazy(rule_set: RuleSet) -> None:
    """Write rules that take as little text as possible, and may take none, as none: engines go on
    without end there."""
    for name in [*rule_set.options]:
        if _may_be_empty(rule_set.rules[name], rule_set.terminals):
            rule_set.rules[name] = EMPTY
            del rule_set.options[name]


def _may_be_empty(node: Node, terminals: dict[str, Node]) -> bool:
    match node:
        case Ref(name):
            return _may_be_empty(terminals[name], terminals)
        case Lexeme(source) if source.startswith("/"):
            return _may_be_empty(regular.parse(source[1:-1]), terminals)
        case Lexeme(source):
            return source.startswith("%regex")
        case Alt(options):
            return any(_may_be_empty(option, terminals) for option in options)
        case Rep(body, low):
            return low == 0 or _may_be_empty(body, terminals)
        case Seq(parts):
            return all(_may_be_empty(part, terminals) for part in parts)
    return False


def _compiled(node: Node, rule_set: RuleSet, operation: _Operation) -> Automaton:
    plain = boxes.written_out(node, rule_set.terminals)
    if plain is None:
        raise _refused("%regex is not supported inside of & and ~", operation.origin)
    return automaton.compile(regular.to_pattern(plain))


def _refused(reason: str, origin: Origin) -> GrammarSyntaxError:
    return GrammarSyntaxError(reason, line=origin.line, column=origin.column)
