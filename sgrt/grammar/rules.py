"""Grammars as rules over characters and terminals: checked, pruned, written in the engine's syntax.

Lark text, EBNF text and compositions of constraints all become a `RuleSet`. The engine reads a
terminal greedily (it takes the longest text that any terminal allowed there can take), so what
must mean a plain context-free grammar is written with terminals of one character each: none of
them is a prefix of another, and greed has no effect.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from sgrt.core import JsonSchema
from sgrt.errors import ConstraintError, GrammarSyntaxError
from sgrt.grammar import charset, limits
from sgrt.grammar.charset import Charset

START = "start"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a symbol stands in what the user wrote; for messages only.

    Args:
        name: of the rule or terminal that it stands in, or its own text in a pattern.
        line, column: 1-based; 0 where there are no lines.
        part: path of the part of a composition or structural tag.
        schema: as the user wrote it, where it is one.
    """

    name: str = ""
    line: int = 0
    column: int = 0
    part: str = ""
    schema: JsonSchema | None = None

    def __str__(self) -> str:
        place = f"{self.name} at {self.line}:{self.column}" if self.line else ""
        return f"{self.part} {place}".strip()


@dataclass(frozen=True, slots=True)
class Chars:
    """One character of a set."""

    chars: Charset
    origin: Origin | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Lexeme:
    """A terminal in the engine's own syntax: a string, a pattern, a schema.

    Args:
        size: characters of regex with repeats written out, or bytes of schema.
    """

    source: str
    size: int
    origin: Origin | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Ref:
    """The rule or terminal of this name; where it stands in the user's text."""

    name: str
    line: int = 1
    column: int | None = None


@dataclass(frozen=True, slots=True)
class Seq:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Alt:
    options: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Rep:
    """``low`` to ``high`` times; None is no upper bound."""

    body: Node
    low: int
    high: int | None


Node = Chars | Lexeme | Ref | Seq | Alt | Rep

EMPTY = Seq(())
NOTHING = Alt(())
ANY_CHAR = Chars(charset.complement(()))


def literal(text: str, origin: Origin | None = None) -> Node:
    """A text, one character after the other."""
    return Seq(tuple(Chars(charset.of(char), origin) for char in text))


def quoted(text: str, origin: Origin | None = None) -> Lexeme:
    """A text as one terminal."""
    return Lexeme(json.dumps(text).replace("\x7f", "\\u007f"), len(text), origin)


def pattern(rewritten: str, origin: Origin | None = None) -> Lexeme:
    """A pattern that `regex.rewrite` wrote, as one terminal."""
    return Lexeme(f"/{rewritten}/", len(rewritten), origin)


def located(node: Node, origin: Origin) -> Node:
    """The node with an origin for its leaves; what they know of it already stays."""

    def leaf(node: Node) -> Node:
        if not isinstance(node, (Chars, Lexeme)):
            return node
        known = node.origin
        if known is None:
            return replace(node, origin=origin)
        return node if known.part else replace(node, origin=replace(known, part=origin.part))

    return mapped(node, leaf)


@dataclass(slots=True)
class RuleSet:
    """Rules and terminals by name; text begins with the rule ``start``.

    Args:
        terminals: what is read as one terminal each; they refer to terminals only.
        options: what follows a rule's name in the engine's syntax.
    """

    rules: dict[str, Node]
    terminals: dict[str, Node] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)

    def source(self) -> str:
        """The engine's grammar text.

        Raises:
            GrammarSyntaxError: a name without a definition, or a terminal that contains itself.
            GrammarBudgetExceeded: larger than `sgrt.grammar.limits` allow.
            ConstraintError: no text can be written.
        """
        self.check()
        pruned = _Pruned(self)
        _check_depth(pruned.nodes, START)
        return pruned.write()

    def check(self) -> None:
        """Names and sizes; raises as `source`."""
        limits.check_limit(
            "rules and terminals", len(self.rules) + len(self.terminals), limits.MAX_RULES
        )
        self._check_names()
        self._check_sizes()

    def definitions(self) -> dict[str, Node]:
        return self.rules | self.terminals

    def finite(self) -> dict[str, Node]:
        """The definitions without what no finite text satisfies.

        Raises:
            ConstraintError: no text can be written.
        """
        nodes = self.definitions()
        alive = _finite(nodes)
        if START not in alive:
            raise ConstraintError("no text satisfies this grammar: its rules never end")
        return {name: prune(nodes[name], alive.__contains__) for name in nodes}

    def _check_names(self) -> None:
        nodes = self.definitions()
        if START not in self.rules:
            raise GrammarSyntaxError(f"no rule {START!r}", hint=f"text begins with {START!r}")
        for node in nodes.values():
            for ref in refs(node):
                if ref.name not in nodes:
                    raise GrammarSyntaxError(
                        f"{ref.name!r} is not defined", line=ref.line, column=ref.column
                    )

    def _check_sizes(self) -> None:
        """Bound every terminal with the terminals in it written out, and all rules together."""
        sizes: dict[str, int] = {}
        try:
            for name in inner_first(self.terminals):
                sizes[name] = _size(self.terminals[name], sizes)
                limits.check_limit(
                    "characters of a terminal with repeats written out",
                    sizes[name],
                    limits.MAX_REGEX_SIZE,
                )
        except _Cycle as cycle:
            raise GrammarSyntaxError(
                f"terminal {cycle.ref.name!r} contains itself",
                line=cycle.ref.line,
                column=cycle.ref.column,
                hint="only rules (lower case) may be recursive",
            ) from None
        limits.check_limit(
            "symbols of rules with repeats written out", self.size(), limits.MAX_SYMBOLS
        )

    def size(self) -> int:
        """Symbols of all rules, with counted repeats written out."""
        names = dict.fromkeys(self.definitions(), 1)
        return sum(_size(node, names) for node in self.rules.values())


def refs(node: Node) -> Iterator[Ref]:
    """Every reference below a node, in order."""
    todo = [node]
    while todo:
        node = todo.pop()
        if isinstance(node, Ref):
            yield node
        todo += reversed(children(node))


def children(node: Node) -> tuple[Node, ...]:
    match node:
        case Seq(parts):
            return parts
        case Alt(options):
            return options
        case Rep(body):
            return (body,)
    return ()


def mapped(node: Node, leaf: Callable[[Node], Node]) -> Node:
    """The node with its leaves (characters, terminals, references) replaced."""
    match node:
        case Seq(parts):
            return Seq(tuple(mapped(part, leaf) for part in parts))
        case Alt(options):
            return Alt(tuple(mapped(option, leaf) for option in options))
        case Rep(body, low, high):
            return Rep(mapped(body, leaf), low, high)
    return leaf(node)


def _size(node: Node, sizes: dict[str, int]) -> int:
    """Nodes nest no deeper than `limits.MAX_REGEX_DEPTH`, so recursion is safe."""
    match node:
        case Ref(name):
            return sizes.get(name, 1)
        case Lexeme():
            return node.size
        case Rep(body, low, high):
            return _size(body, sizes) * max(low + 1 if high is None else high, 1)
    return 1 + sum(_size(child, sizes) for child in children(node))


class _Cycle(Exception):
    """A definition that contains itself, at this reference."""

    def __init__(self, ref: Ref) -> None:
        self.ref = ref


def is_recursive(nodes: dict[str, Node]) -> bool:
    """Whether some definition contains itself; names without a definition are no matter."""
    try:
        for _ in inner_first(nodes):
            pass
    except _Cycle:
        return True
    return False


def inner_first(nodes: dict[str, Node]) -> Iterator[str]:
    """Names of definitions, those they refer to before them.

    Raises:
        _Cycle: a definition contains itself.
    """
    done: set[str] = set()
    for start in nodes:
        path: dict[str, Iterator[Ref]] = {}
        entering: Ref | None = Ref(start)
        while entering or path:
            if entering is None:
                name = next(reversed(path))
                entering = next(path[name], None)
                if entering is None:
                    del path[name]
                    done.add(name)
                    yield name
                continue
            if entering.name in path:
                raise _Cycle(entering)
            if entering.name in nodes and entering.name not in done:
                path[entering.name] = refs(nodes[entering.name])
                limits.check_limit("nested definitions", len(path), limits.MAX_RULE_DEPTH)
            entering = None


def _check_depth(nodes: dict[str, Node], start: str) -> None:
    """Bound how deep a walk through the definitions nests: the engine walks them natively."""
    seen = {start}
    path = [(refs(nodes[start]), _height(nodes[start]))]
    depth = path[0][1]
    while path:
        ref = next(path[-1][0], None)
        if ref is None:
            depth -= path.pop()[1]
        elif ref.name not in seen:
            seen.add(ref.name)
            path.append((refs(nodes[ref.name]), _height(nodes[ref.name])))
            depth += path[-1][1]
            limits.check_limit("nested rules and groups", depth, limits.MAX_RULE_DEPTH)


def _height(node: Node) -> int:
    return 1 + max(map(_height, children(node)), default=0)


class _Pruned:
    """The definitions that can be finished, and nothing else.

    An alternative that no finite text satisfies would be a way in without a way out.
    """

    def __init__(self, rule_set: RuleSet) -> None:
        self.rule_set = rule_set
        self.nodes = rule_set.finite()
        self.names = _engine_names(rule_set, self.nodes)

    def write(self) -> str:
        lines = [f"{self.names[START]}: {self._text(self.nodes[START])}"]
        for name, engine_name in self.names.items():
            if name != START:
                options = self.rule_set.options.get(name, "")
                lines.append(f"{engine_name}{options}: {self._text(self.nodes[name])}")
        return "\n".join(lines) + "\n"

    def _text(self, node: Node) -> str:
        match node:
            case Chars(chars):
                return f"/{charset.to_regex(chars)}/"
            case Lexeme(source):
                return source
            case Ref(name):
                return self.names[name]
            case Seq(parts):
                return "(" + " ".join(map(self._text, parts)) + ")" if parts else '""'
            case Alt(options):
                return "(" + " | ".join(map(self._text, options)) + ")"
            case Rep(body, low, high):
                return f"({self._text(body)}){_suffix(low, high)}"


def _suffix(low: int, high: int | None) -> str:
    if high is None:
        return {0: "*", 1: "+"}.get(low, f"{{{low},}}")
    return "?" if (low, high) == (0, 1) else f"{{{low},{high}}}"


def _finite(nodes: dict[str, Node]) -> set[str]:
    """Names of definitions that some finite text satisfies.

    Cost: linear; what can be finished tells what waits for it, each counting what it lacks.
    """
    lacks: list[int] = []
    waiting: list[list[int]] = []
    places: dict[str, int] = {}

    def add(lack: int) -> int:
        lacks.append(lack)
        waiting.append([])
        return len(lacks) - 1

    for name in nodes:
        places[name] = add(1)
    todo = [(node, places[name]) for name, node in nodes.items()]
    ready: list[int] = []
    while todo:
        node, parent = todo.pop()
        match node:
            case Ref(name):
                waiting[places[name]].append(parent)
                continue
            case Seq(parts):
                place = add(len(parts))
            case Rep(_, low, high):
                place = add(int(low > 0 and high != 0))
            case Chars(chars):
                place = add(int(not chars))
            case _:
                place = add(int(isinstance(node, Alt)))
        waiting[place].append(parent)
        todo += [(child, place) for child in children(node)]
        if lacks[place] == 0:
            ready.append(place)
    while ready:
        for place in waiting[ready.pop()]:
            lacks[place] -= 1
            if lacks[place] == 0:
                ready.append(place)
    return {name for name, place in places.items() if lacks[place] <= 0}


def prune(node: Node, is_alive: Callable[[str], bool]) -> Node:
    """The node without what cannot be finished; `NOTHING` where that is all of it."""
    match node:
        case Chars(chars):
            return node if chars else NOTHING
        case Ref(name):
            return node if is_alive(name) else NOTHING
        case Seq(parts):
            kept = tuple(prune(part, is_alive) for part in parts)
            return NOTHING if NOTHING in kept else Seq(kept)
        case Alt(options):
            found = tuple(prune(option, is_alive) for option in options)
            return Alt(tuple(option for option in found if option != NOTHING))
        case Rep(body, low, high):
            kept_body = prune(body, is_alive)
            if kept_body == NOTHING or high == 0:
                return EMPTY if low == 0 else NOTHING
            return Rep(kept_body, low, high)
    return node


def _engine_names(rule_set: RuleSet, nodes: dict[str, Node]) -> dict[str, str]:
    """Plain names for all that can be reached, in the order it is met."""
    names = {START: START}
    todo = [nodes[START]]
    while todo:
        for ref in refs(todo.pop()):
            if ref.name not in names:
                kind = "r" if ref.name in rule_set.rules else "T"
                names[ref.name] = f"{kind}{len(names)}"
                todo.append(nodes[ref.name])
    return names
