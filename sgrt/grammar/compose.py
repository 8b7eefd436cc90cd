"""Constraints put together: sequences, alternatives, repeats, with literal text between.

A composition of regular constraints is one pattern. Where schemas or quotations take part, the
rest is written character by character, and every situation that a text can be in is looked at:
the engine reads a schema or a quotation greedily, so what may follow it must not be readable as
its continuation, and nothing else may begin as it does at the same place. A composition that
breaks this is refused; it would be enforced wrongly.
"""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

from sgrt.core import (
    Choices,
    Constraint,
    Ebnf,
    JsonSchema,
    OneOf,
    Regex,
    RepeatOf,
    SequenceOf,
    Substring,
)
from sgrt.errors import ConstraintError
from sgrt.grammar import charset, ebnf, json_schema, layout, limits, regex, regular, substring
from sgrt.grammar.audit import audit_choices
from sgrt.grammar.charset import Charset
from sgrt.grammar.engines import llguidance_
from sgrt.grammar.rules import (
    EMPTY,
    NOTHING,
    Alt,
    Lexeme,
    Node,
    Ref,
    Rep,
    RuleSet,
    Seq,
    children,
    literal,
    mapped,
    pattern,
    prune,
)

_NUMBER = charset.of("-0123456789")
_FIRST = {
    "object": charset.of("{"),
    "array": charset.of("["),
    "string": charset.of('"'),
    "number": _NUMBER,
    "integer": _NUMBER,
    "boolean": charset.of("tf"),
    "null": charset.of("n"),
}
_IN_NUMBER = charset.of("+-.0123456789Ee")


def source(constraint: SequenceOf | OneOf | RepeatOf | Substring) -> str:
    """The engine's grammar text of a composition.

    Raises:
        ConstraintError: a part cannot be composed, the composition would be read wrongly, or no
            text satisfies it; and whatever its parts are refused for.
        GrammarBudgetExceeded: larger than `sgrt.grammar.limits` allow.
    """
    composer = Composer()
    node = prune(composer.node(constraint), lambda name: True)
    if node == NOTHING:
        raise ConstraintError("no text satisfies this constraint")
    if not composer.edges:
        size = _written_size(node)
        limits.check_limit("characters of a composed pattern", size, limits.MAX_REGEX_SIZE)
        return llguidance_.regex_source(regular.to_pattern(node))
    composer.check(node)
    return _rules(node).source()


def _rules(node: Node) -> RuleSet:
    """Rules that write a node; what only a terminal's definition can say becomes one."""
    terminals: dict[str, Node] = {}

    def leaf(node: Node) -> Node:
        if not isinstance(node, Lexeme) or node.source.startswith("%json"):
            return node
        name = f"T{len(terminals)}"
        terminals[name] = node
        return Ref(name)

    return RuleSet({"start": mapped(_joined(node), leaf)}, terminals)


def _joined(node: Node) -> Node:
    """A plain sequence with all that stands between two schemas or quotations as one terminal.

    It is read as written: `Composer.check` found that no text which may end there can go on
    with what comes next. Anywhere else greed could take too much, so characters stay single.
    """
    if not isinstance(node, Seq) or not all(_is_whole(part) for part in node.parts):
        return node
    parts: list[Node] = []
    for is_lexeme, run in groupby(node.parts, lambda part: isinstance(part, Lexeme)):
        same = tuple(run)
        parts += same if is_lexeme else [pattern(regular.to_pattern(Seq(same)))]
    return Seq(tuple(parts))


def _is_whole(node: Node) -> bool:
    """Whether this is a schema or quotation, or holds none."""
    if isinstance(node, Lexeme):
        return True
    todo: list[Node] = [node]
    while todo:
        found = todo.pop()
        if isinstance(found, Lexeme):
            return False
        todo += children(found)
    return True


def _written_size(node: Node) -> int:
    return RuleSet({"start": node}).size()


class Composer:
    """Builds nodes of constraints.

    Attributes:
        edges: of each schema and quotation, by its source: what it is called, what it may begin
            with, and what could be read as its continuation.
    """

    def __init__(self) -> None:
        self.edges: dict[str, tuple[str, Charset, Charset]] = {}
        self.depth = 0

    def node(self, part: Constraint | str) -> Node:
        limits.check_limit("nested compositions", self.depth, limits.MAX_COMPOSED_DEPTH)
        self.depth += 1
        node = self._node(part)
        self.depth -= 1
        return node

    def _node(self, part: Constraint | str) -> Node:
        match part:
            case str():
                return _literal(part)
            case Regex(text):
                return regular.parse(regex.rewrite(text, regex.PYTHON))
            case Choices():
                return Alt(tuple(literal(option) for option in audit_choices(part)))
            case Ebnf():
                return ebnf.inlined(part)
            case JsonSchema():
                return self._schema(part)
            case Substring(text):
                lexeme = substring.terminal(part)
                chars = charset.of(text)
                self.edges[lexeme.source] = ("a quotation", chars, chars)
                return lexeme
            case SequenceOf(parts):
                return Seq(tuple(self.node(p) for p in parts))
            case OneOf(options):
                return Alt(tuple(self.node(option) for option in options))
            case RepeatOf():
                return self._repeat(part)
        raise ConstraintError(f"{type(part).__name__} cannot be part of a composition")

    def _schema(self, constraint: JsonSchema) -> Node:
        normal = json_schema.normalise(constraint.schema)
        root = json.loads(normal)
        names = _types(root, root)
        extends = _IN_NUMBER if names & {"number", "integer"} else ()
        node = Lexeme(llguidance_.json_part(normal, layout.of(constraint)), len(normal))
        first = charset.union(*(_FIRST[name] for name in names))
        self.edges[node.source] = ("a schema", first, extends)
        return node

    def _repeat(self, repeat: RepeatOf) -> Node:
        low, high = repeat.at_least, repeat.at_most
        for name, value in (("at_least", low), ("at_most", high)):
            is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
            if not is_count and not (name == "at_most" and value is None):
                raise ConstraintError(f"RepeatOf: {name}={value!r:.80} must be an integer >= 0")
        if high is not None and high < low:
            raise ConstraintError(f"RepeatOf: at_least={low} exceeds at_most={high}")
        body = self.node(repeat.part)
        if not repeat.separator:
            return Rep(body, low, high)
        if high == 0:
            return EMPTY
        rest = Rep(
            Seq((_literal(repeat.separator), body)),
            max(low - 1, 0),
            None if high is None else high - 1,
        )
        return Seq((body, rest)) if low else Rep(Seq((body, rest)), 0, 1)

    def check(self, node: Node) -> None:
        """Refuse a composition that the engine would read otherwise than it is meant."""
        for chars, lexemes in regular.states(node):
            if len(lexemes) > 1:
                raise ConstraintError(
                    "two schemas or quotations can begin at the same place",
                    hint="put them into one schema with anyOf, or begin them with different text",
                )
            for source_, (next_chars, next_lexemes) in lexemes.items():
                what, first, extends = self.edges[source_]
                _check_apart(f"{what} and other text can both begin", first, chars)
                after = charset.union(next_chars, *(self.edges[s][1] for s in next_lexemes))
                _check_apart(f"what follows {what} could be read as part of it", extends, after)


def _check_apart(reason: str, one: Charset, other: Charset) -> None:
    common = charset.intersection(one, other)
    if common:
        raise ConstraintError(
            f"{reason}: with {chr(common[0][0])!r}", hint="put other text between them"
        )


def _literal(text: str) -> Node:
    if not isinstance(text, str):
        raise ConstraintError(f"{text!r:.80} is not a text")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ConstraintError(f"{text!r:.80} holds half a surrogate pair")
    return literal(text)


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
