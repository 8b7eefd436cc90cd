"""What is known of a part that the engine reads by itself: how it begins, how it could go on."""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sgrt.grammar import automaton, charset, limits, regular
from sgrt.grammar.automaton import Automaton
from sgrt.grammar.charset import Charset
from sgrt.grammar.rules import START, Lexeme, Node, Ref, RuleSet, literal, mapped, refs

ANYTHING: Charset = charset.complement(())
_NUMBER = charset.of("-0123456789")
_DIGITS = charset.of("0123456789")
_IN_NUMBER = charset.of("+-.0123456789Ee")
_FIRST = {
    "object": charset.of("{"),
    "array": charset.of("["),
    "string": charset.of('"'),
    "number": _NUMBER,
    "integer": _NUMBER,
    "boolean": charset.of("tf"),
    "null": charset.of("n"),
}


@dataclass(frozen=True, slots=True)
class Box:
    """A part that the engine reads by itself, greedily: a schema, a quotation, a Lark grammar.

    Attributes:
        what: it is called in messages.
        first: characters that it may begin with.
        extends: characters that could be read as its continuation where it may end.
        nullable: whether it may be empty.
    """

    what: str
    first: Charset
    extends: Charset
    nullable: bool = False


def of_automaton(what: str, a: Automaton) -> Box:
    """The texts of an automaton, read greedily."""
    ends = [after(a, state) for state, accepts in enumerate(a.accepting) if accepts]
    return Box(what, after(a, 0), charset.union(*ends), a.accepting[0])


# schemas


def of_schema(normal: dict[str, Any]) -> Box:
    """The values of a normal schema."""
    names = _types(normal, normal)
    first = charset.union(*(_FIRST[name] for name in names))
    extends = _DIGITS if "integer" in names else ()
    return Box("a schema", first, _IN_NUMBER if "number" in names else extends)


def _types(node: Any, root: dict[str, Any]) -> set[str]:
    """Types that values of a normal schema may have; too many rather than too few."""
    found: set[str] = set()
    todo, seen = [node], set()
    while todo:
        node = todo.pop()
        if not isinstance(node, dict):
            found |= set(_FIRST) if node is True else set()
        elif "type" in node:
            found |= {node["type"]} if isinstance(node["type"], str) else set(node["type"])
        elif "enum" in node or "const" in node:
            values = node["enum"] if "enum" in node else [node["const"]]
            found |= {_type_of(value) for value in values}
        elif "anyOf" in node:
            todo += node["anyOf"]
        elif str(node.get("$ref", "")).startswith("#/$defs/") and node["$ref"] not in seen:
            seen.add(node["$ref"])
            todo.append(root["$defs"].get(node["$ref"][8:], True))
        elif "$ref" not in node:
            return set(_FIRST)
    return found


def _type_of(value: object) -> str:
    if value is None:
        return "null"
    kinds = ((bool, "boolean"), (str, "string"), (list, "array"), (dict, "object"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "number")


# Lark grammars


@dataclass(frozen=True, slots=True)
class Terminal:
    """A terminal of a Lark grammar; ``pattern`` is None for a schema and for what holds a
    quotation, which may be empty."""

    first: Charset
    extends: Charset
    pattern: Automaton | None
    is_lazy: bool
    is_quotation: bool = False


def of_lark(rule_set: RuleSet) -> Box:
    """The texts of a Lark grammar, whose terminals take as much as they can.

    Raises:
        GrammarBudgetExceeded: a terminal is too large to be looked at.
    """
    inline: dict[str, Node] = {}

    def leaf(node: Node) -> Node:
        if isinstance(node, Ref):
            return node
        inline.setdefault(f"inline {len(inline)}", node)
        return Ref(f"inline {len(inline) - 1}")

    lazy = set(rule_set.options)
    rules = {n: mapped(node, leaf) for n, node in rule_set.rules.items() if n not in lazy}
    nodes = rule_set.definitions() | inline
    used = {ref.name for node in rules.values() for ref in refs(node)} - set(rules)
    terminals = {name: _terminal(nodes[name], nodes, name in lazy) for name in used}
    nullable = {name: _may_be_empty(terminal) for name, terminal in terminals.items()}
    edges = regular.edges(Ref(START), rules, nullable)
    extends = charset.union(
        *(terminals[name].first for name in edges.beyond),
        *(chars for name in edges.last for chars in _beyond(terminals, name)),
    )
    first = charset.union(*(terminals[name].first for name in edges.first))
    return Box("a Lark grammar", first, extends, edges.nullable)


def _terminal(node: Node, nodes: dict[str, Node], is_lazy: bool) -> Terminal:
    if isinstance(node, Lexeme) and node.source.startswith("%json"):
        box = of_schema(json.loads(node.source.removeprefix("%json")))
        return Terminal(box.first, box.extends, None, is_lazy)
    plain = written_out(node, nodes)
    if plain is None:
        return Terminal(ANYTHING, ANYTHING, None, is_lazy, is_quotation=True)
    found = automaton.compile(regular.to_pattern(plain))
    return Terminal(after(found, 0), (), found, is_lazy)


def written_out(node: Node, nodes: dict[str, Node]) -> Node | None:
    """A terminal as characters; None for what holds a quotation. Terminals do not contain
    themselves, and nest within limits."""
    is_plain = True

    def leaf(node: Node) -> Node:
        nonlocal is_plain
        if isinstance(node, Ref):
            return mapped(nodes[node.name], leaf)
        if not isinstance(node, Lexeme):
            return node
        if node.source.startswith('"'):
            return literal(json.loads(node.source))
        if node.source.startswith("%regex"):
            is_plain = False
            return node
        return regular.parse(node.source[1:-1])

    plain = mapped(node, leaf)
    return plain if is_plain else None


def of_terminal(node: Node, nodes: dict[str, Node]) -> Terminal:
    """What is known of a terminal."""
    return _terminal(node, nodes, is_lazy=False)


def step(a: Automaton, state: int, char: int) -> int:
    """The state after a character."""
    return a.table[state][a.classes[bisect.bisect_right(a.starts, char) - 1]]


def _may_be_empty(terminal: Terminal) -> bool:
    return terminal.is_quotation or (terminal.pattern is not None and terminal.pattern.accepting[0])


def _beyond(terminals: dict[str, Terminal], name: str) -> Iterator[Charset]:
    """Characters with which this terminal's text could be read as the beginning of another."""
    terminal = terminals[name]
    if terminal.is_lazy:
        return  # it ends as soon as it may
    yield terminal.extends
    for other in terminals.values():
        if terminal.pattern is not None and other.pattern is not None:
            yield _continuations(terminal.pattern, other.pattern)
        elif other is not terminal and charset.intersection(terminal.first, other.first):
            yield ANYTHING


def _dead(a: Automaton) -> set[int]:
    """The state, if any, from which nothing is accepted."""
    return {s for s, row in enumerate(a.table) if not a.accepting[s] and set(row) == {s}}


def after(a: Automaton, state: int) -> Charset:
    """Characters that lead on from a state."""
    dead = _dead(a)
    return charset.charset(
        run
        for run, c in zip(_runs(a.starts), a.classes, strict=True)
        if a.table[state][c] not in dead
    )


def _runs(starts: list[int] | tuple[int, ...]) -> list[tuple[int, int]]:
    return [
        (start, end - 1)
        for start, end in zip(starts, [*starts[1:], charset.MAX_CODE_POINT + 1], strict=True)
    ]


def _continuations(one: Automaton, other: Automaton) -> Charset:
    """Characters that follow a text of ``one`` in some text of ``other``."""
    starts = sorted({*one.starts, *other.starts})
    columns = [
        tuple(a.classes[bisect.bisect_right(a.starts, start) - 1] for a in (one, other))
        for start in starts
    ]
    dead_one, dead_other = _dead(one), _dead(other)
    found: list[tuple[int, int]] = []
    seen, todo = {(0, 0)}, [(0, 0)]
    while todo:
        i, j = todo.pop()
        limits.check_limit("states of terminals", len(seen), limits.MAX_COMPOSED_PLACES)
        for run, (c, d) in zip(_runs(starts), columns, strict=True):
            target = one.table[i][c], other.table[j][d]
            if target[1] in dead_other:
                continue
            if one.accepting[i]:
                found.append(run)
            if target[0] not in dead_one and target not in seen:
                seen.add(target)
                todo.append(target)
    return charset.charset(found)
