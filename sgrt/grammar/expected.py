"""Which symbols of a grammar a text may go on with, and where the user wrote them.

An Earley parser over the rules that a constraint becomes, run for messages only. It follows every
way a text can be derived, where the engine's terminals take the longest text; so it may find a
symbol that the engine has ruled out, never miss one. What would take the forbidden byte is left
out for that reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sgrt.grammar import ignored, limits, regular
from sgrt.grammar.engines.llguidance_ import LLGrammar
from sgrt.grammar.rules import (
    START,
    Alt,
    Chars,
    Lexeme,
    Node,
    Origin,
    Ref,
    Rep,
    RuleSet,
    Seq,
    literal,
    located,
)

_PLAIN = re.compile(r'".*"|/[^/]*/')
_ADDED = re.compile(rf"^\d+\.| of the user$|({'|'.join(ignored.ADDED)})$")
"""What names of rules have where grammars are put together."""

_DONE = 0
"""The end of a rule, as what is left of it."""


@dataclass(frozen=True, slots=True)
class _Item:
    """A rule under way: what is left of it, and at which character it began."""

    rule: str
    start: int
    left: int


@dataclass(slots=True)
class _Leaf:
    """A character or terminal that may come next, and the item behind it.

    Args:
        reader: of a terminal that is not known here; it has read what stands since ``begin``.
    """

    node: Chars | Lexeme
    after: _Item
    begin: int
    reader: Any = None

    def takes(self, char: str) -> bool:
        """Whether this character may come next; a character beyond ASCII counts as one that does."""
        if self.reader is not None:
            return int(self.reader.validate_tokens(list(char.encode()))) == len(char.encode())
        assert isinstance(self.node, Chars)
        return any(low <= ord(char) <= high for low, high in self.node.chars)


@dataclass(slots=True)
class _Column:
    """All that is under way behind some character of the text."""

    seen: set[_Item] = field(default_factory=set)
    leaves: list[_Leaf] = field(default_factory=list)
    waiting: dict[str, list[tuple[_Item, Ref]]] = field(default_factory=dict)
    """By the rule that has to end first."""
    empty: set[str] = field(default_factory=set)
    """Rules that an empty text here satisfies."""


class Expected:
    """The symbols that texts of a grammar go on with.

    Args:
        rule_set: its leaves know their origins.

    Raises:
        ConstraintError: no text can be written.
    """

    def __init__(self, rule_set: RuleSet) -> None:
        self._rules = rule_set.finite()
        self._terminals = {*rule_set.terminals, *rule_set.options}
        self._lazy = rule_set.options.keys()
        self._nodes: dict[int, Node] = {}
        self._known: dict[tuple[int, int, int], int] = {}
        self._lefts: list[tuple[Node, int, int]] = [(Seq(()), 0, 0)]  # node, repeats, what is left
        self._text = ""
        self._columns: list[_Column] = []

    def after(
        self, text: bytes, byte: int, inside: Callable[[Origin, bytes], str | None]
    ) -> Iterator[str]:
        """What the text may go on with instead of a byte, those under way first.

        Args:
            inside: says more of what stands in a schema, given its text and the byte.
        """
        read = text.decode("utf-8", "ignore")
        if not self._columns or not read.startswith(self._text):
            self._columns, self._text = [], ""
            self._close([_Item(START, 0, self._left(self._rules[START], _DONE))])
        for char in read[len(self._text) :]:
            self._read(char)
        here = len(self._text)
        leaves = self._columns[-1].leaves
        if byte < 0x80:
            leaves = [leaf for leaf in leaves if not leaf.takes(chr(byte))]
        for leaf in sorted(leaves, key=lambda leaf: (self._begin(leaf) == here, _order(leaf))):
            said = self._said(leaf)
            part = self._text[leaf.begin :].encode() + bytes((byte,))
            more = inside(leaf.node.origin, part) if leaf.node.origin else None
            if said or more:
                yield f"{said} ({more})" if said and more else said or more or ""

    def _begin(self, leaf: _Leaf) -> int:
        """Where the terminal that a leaf belongs to begins."""
        return leaf.begin if leaf.reader is not None else leaf.after.start

    def _said(self, leaf: _Leaf) -> str:
        """A leaf's place; of a terminal's also that of what asks for it."""
        said = str(leaf.node.origin or "")
        item = leaf.after
        while item.rule in self._terminals:
            callers = self._columns[item.start].waiting.get(item.rule)
            if not callers:
                break
            item, ref = callers[0]
            if item.rule not in self._terminals and ref.column is not None:
                return f"{said} in {_shown(item.rule)} at {ref.line}:{ref.column}"
        return said

    # grammar

    def _left(self, node: Node, then: int, count: int = 0) -> int:
        """The number of a node with what is left behind it."""
        key = (id(node), count, then)
        if key not in self._known:
            limits.check_limit("places of a grammar", len(self._lefts), limits.MAX_SYMBOLS)
            self._known[key] = len(self._lefts)
            self._lefts.append((node, count, then))
        return self._known[key]

    def _plain(self, lexeme: Lexeme) -> Node | None:
        """A terminal as characters; None where that cannot be said."""
        if id(lexeme) not in self._nodes:
            source = lexeme.source
            node: Node = lexeme
            if _PLAIN.fullmatch(source):
                is_text = source.startswith('"')
                node = literal(json.loads(source)) if is_text else regular.parse(source[1:-1])
                node = located(node, lexeme.origin or Origin())
            self._nodes[id(lexeme)] = node
        found = self._nodes[id(lexeme)]
        return None if found is lexeme else found

    # text

    def _read(self, char: str) -> None:
        """Move over a character that the grammar allows."""
        found: list[_Item] = []
        going: list[_Leaf] = []
        for leaf in self._columns[-1].leaves:
            if not leaf.takes(char):
                continue
            if leaf.reader is None:
                found.append(leaf.after)
                continue
            reader = leaf.reader.deep_copy()
            reader.try_consume_tokens(list(char.encode()))
            is_over = reader.is_accepting()
            found += [leaf.after] if is_over else []
            if not (is_over and leaf.after.rule in self._lazy):
                going.append(_Leaf(leaf.node, leaf.after, leaf.begin, reader))
        self._text += char
        self._close(found)
        self._columns[-1].leaves += going

    def _close(self, items: list[_Item]) -> None:
        """A new column with these items and all that follows from them."""
        here, column = len(self._columns), _Column()
        self._columns.append(column)
        todo = items
        while todo:
            item = todo.pop()
            if item not in column.seen:
                column.seen.add(item)
                limits.check_patience()
                todo += self._ended(item, here) if item.left == _DONE else self._next(item, here)

    def _ended(self, item: _Item, here: int) -> list[_Item]:
        if item.start == here:
            self._columns[here].empty.add(item.rule)
        callers = self._columns[item.start].waiting.get(item.rule, ())
        return [caller for caller, _ in callers]

    def _next(self, item: _Item, here: int) -> list[_Item]:
        node, count, then = self._lefts[item.left]

        def go(left: int) -> _Item:
            return _Item(item.rule, item.start, left)

        match node:
            case Seq(parts):
                for part in reversed(parts):
                    then = self._left(part, then)
                return [go(then)]
            case Alt(options):
                return [go(self._left(option, then)) for option in options]
            case Rep(body, low, high):
                found = [go(then)] if count >= low else []
                if high is None or count < high:
                    done = count + 1 if high is not None else min(count + 1, low)
                    found.append(go(self._left(body, self._left(node, then, done))))
                return found
            case Ref():
                return self._call(node, go(then), here)
            case Lexeme():
                plain = None if item.rule in self._lazy else self._plain(node)
                if plain is not None:
                    return [go(self._left(plain, then))]
                return self._open(node, go(then), here)
        self._columns[here].leaves.append(_Leaf(node, go(then), here))
        return []

    def _open(self, node: Lexeme, after: _Item, here: int) -> list[_Item]:
        """A terminal that the engine reads."""
        is_schema = node.source.startswith("%json")
        head = "start: " if is_schema else "start: T\nT: "
        reader = LLGrammar.reader(head + node.source + "\n")
        self._columns[here].leaves.append(_Leaf(node, after, here, reader))
        return [after] if reader.is_accepting() else []

    def _call(self, ref: Ref, after: _Item, here: int) -> list[_Item]:
        column = self._columns[here]
        column.waiting.setdefault(ref.name, []).append((after, ref))
        body = self._left(self._rules[ref.name], _DONE)
        again = [after] if ref.name in column.empty else []
        return [_Item(ref.name, here, body), *again]


def _order(leaf: _Leaf) -> tuple[str, int, int]:
    origin = leaf.node.origin or Origin()
    return origin.part, origin.line, origin.column


def _shown(rule: str) -> str:
    """A rule's name as the user wrote it."""
    return _ADDED.sub("", rule)
