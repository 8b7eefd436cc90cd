"""Regular parts of grammars: patterns as nodes, nodes as patterns, and their automata.

Architecture invariant: patterns here are what `regex.rewrite` wrote, nothing else.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from sgrt.grammar import charset, limits
from sgrt.grammar.charset import Charset
from sgrt.grammar.rules import ANY_CHAR, NOTHING, Alt, Chars, Lexeme, Node, Rep, Seq, children

_TOKEN = re.compile(
    r"(?P<any>\(\?s:\.\))|(?P<open>\(\?:)|(?P<close>\))|(?P<bar>\|)"
    r"|(?P<nothing>\[\^\\x\{0\}-\\x\{10FFFF\}\])|\[(?P<set>[^\]]*)\]"
    r"|\\x\{(?P<hex>[0-9A-F]+)\}|(?P<char>[0-9A-Za-z])"
    r"|(?P<op>[*+?])|\{(?P<low>\d+)(?P<comma>,?)(?P<high>\d*)\}"
)
_RANGE = re.compile(r"\\x\{([0-9A-F]+)\}(?:-\\x\{([0-9A-F]+)\})?")
_OPS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


def parse(pattern: str) -> Node:
    """The nodes of a rewritten pattern."""
    groups: list[list[list[Node]]] = [[[]]]
    for found in _TOKEN.finditer(pattern):
        parts = groups[-1][-1]
        kind = found.lastgroup if found["low"] is None else "count"
        if kind == "open":
            groups.append([[]])
        elif kind == "close":
            group = groups.pop()
            groups[-1][-1].append(_alternatives(group))
        elif kind == "bar":
            groups[-1].append([])
        elif kind == "op":
            parts[-1] = Rep(parts[-1], *_OPS[found[0]])
        elif kind == "count":
            parts[-1] = _counted(parts[-1], found)
        else:
            parts.append(_one(found))
    return _alternatives(groups[0])


def _alternatives(group: list[list[Node]]) -> Node:
    options = [parts[0] if len(parts) == 1 else Seq(tuple(parts)) for parts in group]
    return options[0] if len(options) == 1 else Alt(tuple(options))


def _counted(body: Node, found: re.Match[str]) -> Node:
    low = int(found["low"])
    high = (int(found["high"]) if found["high"] else None) if found["comma"] else low
    return Rep(body, low, high)


def _one(found: re.Match[str]) -> Node:
    if found["any"]:
        return ANY_CHAR
    if found["nothing"]:
        return NOTHING
    if found["set"] is not None:
        ranges = _RANGE.findall(found["set"])
        return Chars(charset.charset((int(a, 16), int(b or a, 16)) for a, b in ranges))
    return Chars(charset.of(found["char"] or chr(int(found["hex"], 16))))


def to_pattern(node: Node) -> str:
    """A node without references and terminals, in the engine's syntax."""
    match node:
        case Chars(chars):
            return charset.to_regex(chars)
        case Seq(parts):
            return "(?:" + "".join(map(to_pattern, parts)) + ")"
        case Alt(options):
            return "(?:" + "|".join(map(to_pattern, options)) + ")"
        case Rep(body, low, high):
            upper = "" if high is None else str(high)
            return f"(?:{to_pattern(body)}){{{low},{upper}}}"
    raise TypeError(f"{node!r:.80} is no pattern")


@dataclass(slots=True)
class _Nfa:
    """Places joined by characters, terminals (by their source) and nothing at all."""

    empty: list[list[int]] = field(default_factory=list)
    by_chars: list[list[tuple[Charset, int]]] = field(default_factory=list)
    by_lexeme: list[list[tuple[str, int]]] = field(default_factory=list)

    def place(self) -> int:
        limits.check_limit("places of a composition", len(self.empty), limits.MAX_COMPOSED_PLACES)
        self.empty.append([])
        self.by_chars.append([])
        self.by_lexeme.append([])
        return len(self.empty) - 1

    def build(self, node: Node, start: int) -> int:
        """Add a node after a place; the place where it ends."""
        if isinstance(node, Seq):
            for part in node.parts:
                start = self.build(part, start)
            return start
        if isinstance(node, Rep):
            return self._repeat(node, start)
        end = self.place()
        if isinstance(node, Chars):
            self.by_chars[start].append((node.chars, end))
        elif isinstance(node, Lexeme):
            self.by_lexeme[start].append((node.source, end))
        for option in children(node):
            self.empty[self.build(option, start)].append(end)
        return end

    def _repeat(self, node: Rep, start: int) -> int:
        for _ in range(node.low):
            start = self.build(node.body, start)
        if node.high is None:
            loop, end = self.place(), self.place()
            self.empty[start].append(loop)
            self.empty[self.build(node.body, loop)].append(loop)
            self.empty[loop].append(end)
            return end
        skips = [start]
        for _ in range(node.high - node.low):
            start = self.build(node.body, start)
            skips.append(start)
        end = self.place()
        for skip in skips:
            self.empty[skip].append(end)
        return end

    def closure(self, places: Iterator[int]) -> frozenset[int]:
        seen = set(places)
        todo = list(seen)
        while todo:
            for place in self.empty[todo.pop()]:
                if place not in seen:
                    seen.add(place)
                    todo.append(place)
        return frozenset(seen)


def states(node: Node) -> Iterator[tuple[Charset, dict[str, tuple[Charset, set[str]]]]]:
    """Every situation a text of the node can be in.

    Yields:
        characters that may follow, and terminals that may follow, each with the characters and
        the terminals that may follow it in turn.

    Cost: exponential in the worst case; bounded.
    """
    nfa = _Nfa()
    start = nfa.place()
    nfa.build(node, start)
    first = nfa.closure(iter([start]))
    seen, todo = {first}, [first]
    while todo:
        places = todo.pop()
        lexemes: dict[str, tuple[Charset, set[str]]] = {}
        targets = [*_by_char(nfa, places)]
        for source in {source for p in places for source, _ in nfa.by_lexeme[p]}:
            after = nfa.closure(t for p in places for s, t in nfa.by_lexeme[p] if s == source)
            lexemes[source] = _following(nfa, after)
            targets.append(after)
        yield _following(nfa, places)[0], lexemes
        for target in targets:
            if target not in seen:
                seen.add(target)
                todo.append(target)
                limits.check_limit("states of a composition", len(seen), limits.MAX_COMPOSED_STATES)


def _following(nfa: _Nfa, places: frozenset[int]) -> tuple[Charset, set[str]]:
    chars = charset.union(*(chars for p in places for chars, _ in nfa.by_chars[p]))
    return chars, {source for p in places for source, _ in nfa.by_lexeme[p]}


def _by_char(nfa: _Nfa, places: frozenset[int]) -> Iterator[frozenset[int]]:
    """The places after each character, one set per group of characters that lead alike."""
    edges = [edge for p in places for edge in nfa.by_chars[p]]
    cuts = sorted({cut for chars, _ in edges for low, high in chars for cut in (low, high + 1)})
    targets: list[set[int]] = [set() for _ in cuts]
    for chars, target in edges:
        for low, high in chars:
            for i in range(bisect.bisect_left(cuts, low), bisect.bisect_left(cuts, high + 1)):
                targets[i].add(target)
    for group in {frozenset(group) for group in targets if group}:
        yield nfa.closure(iter(group))
