"""Schemas of numbers that are written by their digits, as rules of the engine's grammar.

The engine's numbers are 64-bit floats; a pattern of digits can stand in its grammars but not in its
schemas. So whatever leads to such an integer (objects, arrays, references) is written as rules here,
and all else stays a schema inside of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sgrt.grammar import automaton, limits, unparse
from sgrt.grammar.engines import llguidance_
from sgrt.grammar.layout import Layout
from sgrt.grammar.rules import (
    EMPTY,
    NOTHING,
    START,
    Alt,
    Lexeme,
    Node,
    Ref,
    Rep,
    RuleSet,
    Seq,
    pattern,
    quoted,
)
from sgrt.grammar.schema import digits, strings

Schema = dict[str, Any] | bool


def holds_digits(normal: Any) -> bool:
    """Whether numbers of a normal schema are written by their digits."""
    todo = [normal]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            if isinstance(node.get(digits.KEY), str) and node.get("type") in ("integer", "number"):
                return True
            todo += (v for k, v in node.items() if k != "enum")
        elif isinstance(node, list):
            todo += node
    return False


def source(normal: dict[str, Any], layout: Layout) -> str:
    """The engine's grammar text of a normal schema.

    Raises:
        GrammarBudgetExceeded: it needs too many rules.
    """
    return _Rules(normal, layout).rule_set().source()


class _Rules:
    def __init__(self, root: dict[str, Any], layout: Layout) -> None:
        self._layout = layout
        self._defs: dict[str, Any] = {f"#/$defs/{n}": d for n, d in root.get("$defs", {}).items()}
        self._root = {k: v for k, v in root.items() if k != "$defs"}
        self._rules: dict[str, Node] = {}
        self._known: dict[str, Ref] = {}
        """The rule of each plain schema, by its text."""
        self._spelled = self._leading_to_digits({"#": self._root, **self._defs})

    def rule_set(self) -> RuleSet:
        start = self._node(self._root)
        for ref in sorted(self._spelled - {"#"}):
            self._rules[ref] = self._node(self._defs[ref])
        self._rules["#"] = start
        return RuleSet({START: Ref("#"), **self._rules})

    # what leads to digits

    @staticmethod
    def _leading_to_digits(trees: dict[str, Any]) -> set[str]:
        """References to schemas that hold digits, or refer to such."""
        found = {ref for ref, tree in trees.items() if holds_digits(tree)}
        refs = {ref: set(_references(tree)) for ref, tree in trees.items()}
        while more := {ref for ref in trees if ref not in found and refs[ref] & found}:
            found |= more
        return found

    def _is_spelled(self, schema: Schema) -> bool:
        return holds_digits(schema) or not self._spelled.isdisjoint(_references(schema))

    # rules

    def _add(self, node: Node) -> Ref:
        """A rule of its own."""
        limits.check_limit("rules of a schema", len(self._rules), limits.MAX_RULES)
        name = f"rule {len(self._rules)}"
        self._rules[name] = node
        return Ref(name)

    def _node(self, schema: Schema) -> Node:
        if schema is False or schema == {"enum": []}:
            return NOTHING
        if isinstance(schema, bool) or not self._is_spelled(schema):
            return self._plain({} if schema is True else schema)
        if "$ref" in schema:
            return Ref(schema["$ref"])
        if "anyOf" in schema:
            return Alt(tuple(map(self._node, schema["anyOf"])))
        if digits.KEY in schema:
            return pattern(schema[digits.KEY])
        return self._array(schema) if schema["type"] == "array" else self._object(schema)

    def _plain(self, schema: Schema) -> Node:
        """A schema as the engine reads it, with what it refers to."""
        needed: dict[str, Any] = {}
        todo = list(_references(schema))
        while todo:
            ref = todo.pop()
            if ref not in needed:
                needed[ref] = self._defs[ref]
                todo += _references(needed[ref])
        whole = dict(schema) if isinstance(schema, dict) else {}
        if needed:
            whole["$defs"] = {ref.removeprefix("#/$defs/"): node for ref, node in needed.items()}
        text = json.dumps(whole, ensure_ascii=False)
        if text not in self._known:
            part = Lexeme(llguidance_.json_part(text, self._layout), len(text))
            self._known[text] = self._add(part)
        return self._known[text]

    # arrays

    def _array(self, schema: dict[str, Any]) -> Node:
        first = schema.get("prefixItems", [])
        rest = self._node(schema.get("items", True))
        low, high = schema.get("minItems", 0), schema.get("maxItems")
        after = self._rest_of_items(rest, low, high, len(first))
        for i in reversed(range(len(first))):
            item = self._node(first[i])
            after = self._add(self._items(item, after, i, low, high))
        return Seq((quoted("["), after, quoted("]")))

    def _items(self, item: Node, after: Node, index: int, low: int, high: int | None) -> Node:
        """The items from an index on."""
        if high is not None and index >= high:
            return EMPTY
        found = Seq((*self._comma(index), item, after))
        return found if index < low else Alt((found, EMPTY))

    def _rest_of_items(self, rest: Node, low: int, high: int | None, index: int) -> Node:
        if high is not None and index >= high:
            return EMPTY
        if index:
            more = None if high is None else high - index
            return Rep(Seq((*self._comma(index), rest)), max(low - index, 0), more)
        if rest == NOTHING:
            return NOTHING if low else EMPTY
        found = Seq((rest, self._rest_of_items(rest, low, high, 1)))
        return found if low else Alt((found, EMPTY))

    def _comma(self, index: int) -> tuple[Node, ...]:
        return (quoted(self._layout.item),) if index else ()

    # objects

    def _object(self, schema: dict[str, Any]) -> Node:
        """For each named member and each number of those before it, what may follow; counts above
        all that matter are one."""
        named = [(n, self._member(n, s)) for n, s in schema.get("properties", {}).items()]
        named = [(name, member) for name, member in named if member != NOTHING]
        low, high = schema.get("minProperties", 0), schema.get("maxProperties")
        top = max(low, high or 0, 1)
        others = self._others(schema)
        after = [self._end(others, c, low, high) for c in range(min(len(named), top) + 1)]
        for i in reversed(range(len(named))):
            name, member = named[i]
            is_required = name in schema.get("required", ())
            level: list[Node] = []
            for count in range(min(i, top) + 1):
                options = [] if is_required else [after[count]]
                if high is None or count < high:
                    more = after[min(count + 1, top)]
                    options.insert(0, Seq((*self._comma(count), member, more)))
                level.append(self._add(Alt(tuple(options))))
            after = level
        return Seq((quoted("{"), after[0], quoted("}")))

    def _end(self, others: Node, count: int, low: int, high: int | None) -> Node:
        """Members that the schema does not name, behind so many."""
        if others == NOTHING or high == count:
            return EMPTY if count >= low else NOTHING
        more = None if high is None else high - max(count, 1)
        tail = Rep(Seq((*self._comma(1), others)), max(low - max(count, 1), 0), more)
        if count:
            return self._add(tail)
        found = Seq((others, tail))
        return self._add(found if low else Alt((found, EMPTY)))

    def _member(self, name: str, schema: Schema) -> Node:
        value = self._node(schema)
        key = quoted(json.dumps(name, ensure_ascii=False))
        return NOTHING if value == NOTHING else Seq((key, quoted(self._layout.key), value))

    def _others(self, schema: dict[str, Any]) -> Node:
        """A member whose key the schema does not name."""
        left = ~automaton.of_texts(schema.get("properties", ()))
        found = []
        for key, value in schema.get("patternProperties", {}).items():
            language = automaton.compile(key[1:-1])
            found.append(self._keyed(left & language, value))
            left = left & ~language
        found.append(self._keyed(left, schema.get("additionalProperties", True)))
        return Alt(tuple(found))

    def _keyed(self, keys: automaton.Automaton, schema: Schema) -> Node:
        value = self._node(schema)
        if value == NOTHING or keys.is_empty():
            return NOTHING
        key = {"type": "string", "pattern": strings.whole(unparse.to_pattern(keys))}
        return Seq((self._plain(key), quoted(self._layout.key), value))


def _references(schema: Any) -> Iterator[str]:
    todo = [schema]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            todo += (v for k, v in node.items() if k != "enum")
        elif isinstance(node, list):
            todo += node
