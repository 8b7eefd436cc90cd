"""Lark grammars whose text could never end: a terminal takes all that could follow it.

A terminal takes the longest text it can. Where one repeats a single text (``/a+/``), and all that
may follow begins with that text too, nothing else can ever be read: the engine would look for the
end of a forced text that has none. So such a grammar is refused.
"""

from __future__ import annotations

from collections.abc import Iterator

from sgrt.errors import GrammarSyntaxError
from sgrt.grammar import boxes, limits, regular
from sgrt.grammar.automaton import Automaton
from sgrt.grammar.charset import Charset
from sgrt.grammar.rules import START, Alt, Chars, Lexeme, Node, Ref, Rep, RuleSet, Seq, children

_END = ""
_Follow = frozenset[str]


def check(rule_set: RuleSet) -> None:
    """Refuse a terminal behind which nothing can be read.

    Raises:
        GrammarSyntaxError: there is one.

    Cost: little where no terminal repeats a single text.
    """
    walk = _Walk(rule_set)
    repeating = {key: found for key in walk.terminals if (found := walk.repeated(key))}
    if not repeating:
        return
    walk.follow()
    for key, chars in repeating.items():
        for behind in walk.behind[key]:
            firsts = [() if name == _END else walk.first_of(name) for name in behind]
            for char in chars:
                if _END not in behind and all(_is_only(first, char) for first in firsts):
                    _refuse(walk.terminals[key], key, char)


def _refuse(node: Node, key: str, char: int) -> None:
    origin = getattr(node, "origin", None)
    line, column = (origin.line, origin.column) if origin else (1, None)
    if isinstance(node, Ref):
        line, column = node.line, node.column
    raise GrammarSyntaxError(
        f"what follows can never be read: this takes every {chr(char)!r}",
        line=line,
        column=column,
        hint="a terminal takes the longest text; put both into one terminal",
    )


def _is_only(first: Charset, char: int) -> bool:
    return first == ((char, char),)


class _Walk:
    """What may follow each terminal, in each context it stands in.

    Attributes:
        terminals: by a name of their own, as they stand in rules.
        behind: of each terminal, the sets of terminals that may follow it; `_END` is the end.
    """

    def __init__(self, rule_set: RuleSet) -> None:
        self._nodes = rule_set.definitions()
        self._lazy = rule_set.options.keys()
        self._rules = {n: r for n, r in rule_set.rules.items() if n not in self._lazy}
        self.terminals: dict[str, Node] = {}
        for node in self._rules.values():
            self.terminals.update((self._key(leaf), leaf) for leaf in self._leaves(node))
        self.behind: dict[str, set[_Follow]] = {key: set() for key in self.terminals}
        self._first: dict[str, _Follow] = dict.fromkeys(self._rules, frozenset())
        self._nullable: set[str] = set()
        self._firsts: dict[str, Charset] = {}
        self._contexts: set[tuple[str, _Follow]] = set()
        self._todo: list[tuple[str, _Follow]] = []

    def _leaves(self, node: Node) -> Iterator[Node]:
        todo = [node]
        while todo:
            node = todo.pop()
            if isinstance(node, (Chars, Lexeme)) or self._is_terminal(node):
                yield node
            todo += children(node)

    def _is_terminal(self, node: Node) -> bool:
        return isinstance(node, Ref) and node.name not in self._rules

    def _key(self, leaf: Node) -> str:
        return f"name {leaf.name}" if isinstance(leaf, Ref) else repr(leaf)

    # terminals

    def first_of(self, key: str) -> Charset:
        """Characters that a terminal begins with."""
        if key not in self._firsts:
            node = self.terminals[key]
            self._firsts[key] = boxes.of_terminal(node, self._nodes).first
        return self._firsts[key]

    def repeated(self, key: str) -> list[int]:
        """Characters that a terminal may take for ever, one at a time."""
        node = self.terminals[key]
        if isinstance(node, Ref) and node.name in self._lazy:
            return []  # ends as soon as it may
        if not self._may_repeat(node, set()):
            return []
        pattern = boxes.of_terminal(node, self._nodes).pattern
        return [] if pattern is None else _single_cycles(pattern)

    def _may_repeat(self, node: Node, seen: set[str]) -> bool:
        """Whether something is repeated without end in which a single character stands."""
        match node:
            case Ref(name):
                is_new = name not in seen
                seen.add(name)
                return is_new and self._may_repeat(self._nodes[name], seen)
            case Lexeme(source):
                is_pattern = source.startswith("/")
                return is_pattern and self._may_repeat(regular.parse(source[1:-1]), seen)
            case Rep(body, _, None):
                return self._has_single(body) or self._may_repeat(body, seen)
        return any(self._may_repeat(child, seen) for child in children(node))

    def _has_single(self, node: Node) -> bool:
        match node:
            case Chars(chars):
                return len(chars) == 1 and chars[0][0] == chars[0][1]
            case Seq(parts) | Alt(parts):
                return any(map(self._has_single, parts))
            case Rep(body):
                return self._has_single(body)
        return True  # names and texts: looked at closely

    # what follows

    def follow(self) -> None:
        """Fill `behind`."""
        self._close()
        self._enter(START, frozenset((_END,)))
        while self._todo:
            name, follow = self._todo.pop()
            self._walk(self._rules[name], follow)

    def _close(self) -> None:
        grew, names = True, list(self._rules)
        while grew:
            grew = False
            names.reverse()  # what rules refer to stands behind them, or else before them
            for name in names:
                node = self._rules[name]
                first, nullable = self._begins(node)
                if first != self._first[name] or (nullable and name not in self._nullable):
                    self._first[name] = first
                    self._nullable |= {name} if nullable else set()
                    grew = True
                limits.check_patience()

    def _begins(self, node: Node) -> tuple[_Follow, bool]:
        """Terminals that the node may begin with, and whether it may be empty."""
        match node:
            case Seq(parts):
                first: _Follow = frozenset()
                for part in parts:
                    found, nullable = self._begins(part)
                    first |= found
                    if not nullable:
                        return first, False
                return first, True
            case Alt(options):
                begins = [self._begins(option) for option in options]
                return frozenset().union(*(f for f, _ in begins)), any(n for _, n in begins)
            case Rep(body, low, _):
                first, nullable = self._begins(body)
                return first, nullable or low == 0
            case Ref(name) if name in self._rules:
                return self._first[name], name in self._nullable
        return frozenset((self._key(node),)), False

    def _enter(self, name: str, follow: _Follow) -> None:
        if (name, follow) not in self._contexts:
            self._contexts.add((name, follow))
            limits.check_limit("contexts of rules", len(self._contexts), limits.MAX_COMPOSED_PLACES)
            self._todo.append((name, follow))

    def _walk(self, node: Node, follow: _Follow) -> _Follow:
        """Note what follows each terminal of a node; what the node and that begin with."""
        match node:
            case Seq(parts):
                for part in reversed(parts):
                    follow = self._walk(part, follow)
                return follow
            case Alt(options):
                return frozenset().union(*(self._walk(option, follow) for option in options))
            case Rep(body, low, high):
                first, nullable = self._begins(body)
                if low > 1:
                    self._walk(body, first | follow if nullable else first)
                if high is None or high > max(low, 1):
                    self._walk(body, first | follow)
                if high is not None:
                    self._walk(body, follow)
                return first | follow if nullable or low == 0 else first
            case Ref(name) if name in self._rules:
                self._enter(name, follow)
                first = self._first[name]
                return first | follow if name in self._nullable else first
        key = self._key(node)
        self.behind[key].add(follow)
        return frozenset((key,))


def _single_cycles(a: Automaton) -> list[int]:
    """Characters that lead on from accepting states in which, for ever, only one can."""
    only = {state: boxes.after(a, state) for state in range(len(a.table))}
    single = {s: c[0][0] for s, c in only.items() if len(c) == 1 and c[0][0] == c[0][1]}
    target = {s: boxes.step(a, s, char) for s, char in single.items()}
    found = []
    for state, char in single.items():
        seen, at = {state}, target[state]
        while at in target and at not in seen:
            seen.add(at)
            at = target[at]
        if at in seen and a.accepting[state]:
            found.append(char)
    return list(dict.fromkeys(found))
