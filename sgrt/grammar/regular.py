"""Regular parts of grammars: patterns as nodes, nodes as patterns, and their automata.

Architecture invariant: patterns here are what `regex.rewrite` wrote, nothing else.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sgrt.grammar import charset, limits
from sgrt.grammar.charset import Charset
from sgrt.grammar.rules import ANY_CHAR, NOTHING, Alt, Chars, Node, Origin, Ref, Rep, Seq, children

_TOKEN = re.compile(
    r"(?P<any>\(\?s:\.\))|(?P<open>\(\?:)|(?P<close>\))|(?P<bar>\|)"
    r"|(?P<nothing>\[\^\\x\{0\}-\\x\{10FFFF\}\])|\[(?P<set>[^\]]*)\]"
    r"|\\x\{(?P<hex>[0-9A-F]+)\}|(?P<char>[0-9A-Za-z])"
    r"|(?P<op>[*+?])|\{(?P<low>\d+)(?P<comma>,?)(?P<high>\d*)\}"
)
_RANGE = re.compile(r"\\x\{([0-9A-F]+)\}(?:-\\x\{([0-9A-F]+)\})?")
_MAX_CALLS = 6
"""Depth of rules within rules up to which it is known where each came from."""
_OPS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


def parse(pattern: str, origins: Sequence[Origin] = ()) -> Node:
    """The nodes of a rewritten pattern.

    Args:
        origins: of its characters and classes, in order; none: they are not known.
    """
    groups: list[list[list[Node]]] = [[[]]]
    left = iter(origins)
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
            parts.append(_one(found, next(left, None)))
    return _alternatives(groups[0])


def _alternatives(group: list[list[Node]]) -> Node:
    options = [parts[0] if len(parts) == 1 else Seq(tuple(parts)) for parts in group]
    return options[0] if len(options) == 1 else Alt(tuple(options))


def _counted(body: Node, found: re.Match[str]) -> Node:
    low = int(found["low"])
    high = (int(found["high"]) if found["high"] else None) if found["comma"] else low
    return Rep(body, low, high)


def _one(found: re.Match[str], origin: Origin | None) -> Node:
    if found["any"]:
        return Chars(ANY_CHAR.chars, origin)
    if found["nothing"]:
        return NOTHING
    if found["set"] is not None:
        ranges = _RANGE.findall(found["set"])
        chars = charset.charset((int(a, 16), int(b or a, 16)) for a, b in ranges)
        return Chars(chars, origin)
    return Chars(charset.of(found["char"] or chr(int(found["hex"], 16))), origin)


def to_pattern(node: Node) -> str:
    """A node without references and terminals, in the engine's syntax."""
    match node:
        case Chars(chars):
            return charset.to_regex(chars)
        case Seq(parts):
            return "(?:" + "".join(map(to_pattern, parts)) + ")"
        case Alt(()):
            return charset.to_regex(())
        case Alt(options):
            return "(?:" + "|".join(map(to_pattern, options)) + ")"
        case Rep(body, low, high):
            upper = "" if high is None else str(high)
            return f"(?:{to_pattern(body)}){{{low},{upper}}}"
    raise TypeError(f"{node!r:.80} is no pattern")


class _Nfa:
    """Places joined by characters, boxes (by their names) and nothing at all.

    A rule stands here once for each depth of calls, and once for all greater ones: its end leads
    back to all of its calls. What is found is too much rather than too little.

    Args:
        rules: of the names that nodes refer to.
        boxes: names that are read by others, each with whether it may be empty.
    """

    def __init__(self, rules: Mapping[str, Node], boxes: Mapping[str, bool]) -> None:
        self.empty: list[list[int]] = []
        self.by_chars: list[list[tuple[Charset, int]]] = []
        self.by_box: list[list[tuple[str, int]]] = []
        self._rules = rules
        self._boxes = boxes
        self._calls: dict[tuple[str, int], tuple[int, int]] = {}
        self._todo: list[tuple[str, int]] = []
        self._depth = 0  # of the calls that lead to what is built

    def place(self) -> int:
        limits.check_limit("places of a composition", len(self.empty), limits.MAX_COMPOSED_PLACES)
        self.empty.append([])
        self.by_chars.append([])
        self.by_box.append([])
        return len(self.empty) - 1

    def add(self, node: Node) -> tuple[int, int]:
        """The places where a text of the node begins and ends."""
        start = self.place()
        end = self._build(node, start)
        while self._todo:
            call = self._todo.pop()
            first, last = self._calls[call]
            self._depth = call[1]
            self.empty[self._build(self._rules[call[0]], first)].append(last)
        return start, end

    def _build(self, node: Node, start: int) -> int:
        """Add a node after a place; the place where it ends."""
        if isinstance(node, Seq):
            for part in node.parts:
                start = self._build(part, start)
            return start
        if isinstance(node, Rep):
            return self._repeat(node, start)
        end = self.place()
        if isinstance(node, Chars):
            self.by_chars[start].append((node.chars, end))
        elif isinstance(node, Ref):
            self._refer(node.name, start, end)
        for option in children(node):
            self.empty[self._build(option, start)].append(end)
        return end

    def _refer(self, name: str, start: int, end: int) -> None:
        if name in self._boxes:
            self.by_box[start].append((name, end))
            self.empty[start] += [end] if self._boxes[name] else []
            return
        call = name, min(self._depth + 1, _MAX_CALLS)
        if call not in self._calls:
            self._calls[call] = (self.place(), self.place())
            self._todo.append(call)
        first, last = self._calls[call]
        self.empty[start].append(first)
        self.empty[last].append(end)

    def _repeat(self, node: Rep, start: int) -> int:
        for _ in range(node.low):
            start = self._build(node.body, start)
        if node.high is None:
            loop, end = self.place(), self.place()
            self.empty[start].append(loop)
            self.empty[self._build(node.body, loop)].append(loop)
            self.empty[loop].append(end)
            return end
        skips = [start]
        for _ in range(node.high - node.low):
            start = self._build(node.body, start)
            skips.append(start)
        end = self.place()
        for skip in skips:
            self.empty[skip].append(end)
        return end

    def chars(self, places: frozenset[int]) -> Charset:
        return charset.union(*(chars for p in places for chars, _ in self.by_chars[p]))

    def following(self, places: frozenset[int]) -> tuple[Charset, set[str]]:
        """Characters and boxes that may follow."""
        return self.chars(places), {box for p in places for box, _ in self.by_box[p]}

    def after_boxes(self, places: frozenset[int]) -> dict[str, frozenset[int]]:
        """Where each box that may follow leads."""
        targets: dict[str, list[int]] = {}
        for place in places:
            for box, target in self.by_box[place]:
                targets.setdefault(box, []).append(target)
        return {box: self.closure(found) for box, found in targets.items()}

    def closure(self, places: Iterable[int]) -> frozenset[int]:
        seen = set(places)
        todo = list(seen)
        while todo:
            for place in self.empty[todo.pop()]:
                if place not in seen:
                    seen.add(place)
                    todo.append(place)
        return frozenset(seen)


@dataclass(frozen=True, slots=True)
class Situation:
    """What a text may go on with at some place.

    Attributes:
        chars: characters that may follow.
        boxes: boxes that may follow, each with the characters and boxes that may follow it.
    """

    chars: Charset
    boxes: dict[str, tuple[Charset, set[str]]]


def situations(
    node: Node, rules: Mapping[str, Node], boxes: Mapping[str, bool]
) -> Iterator[Situation]:
    """Every situation a text of the node can be in, and some more where rules are recursive.

    Args:
        rules: of the names that the node refers to.
        boxes: names that are read by others, each with whether it may be empty.

    Cost: exponential in the worst case; bounded.
    """
    nfa = _Nfa(rules, boxes)
    start, _ = nfa.add(node)
    first = nfa.closure([start])
    seen, todo = {first}, [first]
    while todo:
        places = todo.pop()
        after = nfa.after_boxes(places)
        yield Situation(nfa.chars(places), {b: nfa.following(p) for b, p in after.items()})
        for target in (*_by_char(nfa, places), *after.values()):
            if target not in seen:
                seen.add(target)
                todo.append(target)
                limits.check_limit("states of a composition", len(seen), limits.MAX_COMPOSED_STATES)


@dataclass(frozen=True, slots=True)
class Edges:
    """How texts of boxes alone begin and end.

    Attributes:
        first: boxes that may come first.
        last: boxes that may come last.
        beyond: boxes that may follow where the text may end.
        nullable: whether the text may be empty.
    """

    first: set[str]
    last: set[str]
    beyond: set[str]
    nullable: bool


def edges(node: Node, rules: Mapping[str, Node], boxes: Mapping[str, bool]) -> Edges:
    """The edges of a node without characters, or more; arguments as of `situations`."""
    nfa = _Nfa(rules, boxes)
    start, end = nfa.add(node)
    first = nfa.closure([start])
    last: set[str] = set()
    beyond: set[str] = set()
    for place in range(len(nfa.empty)):
        for box, target in nfa.by_box[place]:
            places = nfa.closure([target])
            if end in places:
                last.add(box)
                beyond |= nfa.following(places)[1]
    if end in first:
        beyond |= nfa.following(first)[1]
    return Edges(nfa.following(first)[1], last, beyond, end in first)


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
        yield nfa.closure(group)
