"""Arrays of different items (`uniqueItems`): where they are in a normal schema, and which of them
can be held to it while they are written.

The engine cannot compare values, so items are compared beside it (`engines.different`). That is
exact where two things hold, which `check` makes sure of:

- Whether items must differ follows from the path of keys and indices alone.
- However many items there are, what is written can be ended: an item under way that can only
  become one that is there already is never begun. This has to be found by looking at texts, so
  items must be *spelled* in one way (strings, integers, closed objects of such), or leave the
  writer a way out at every place (objects that take any further key, arrays without an end,
  numbers between bounds).
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator
from functools import reduce
from operator import or_
from typing import Any, NoReturn

from sgrt.errors import UnsupportedSchema
from sgrt.grammar import automaton, limits, productive
from sgrt.grammar.automaton import Automaton

MARK = "uniqueItems"
"""In a normal schema its value is the JSON pointer of the user's schema."""
_MAX_DEPTH = 64
_OTHER = None
"""A key that no schema names."""

Node = dict[str, Any]
_ANY: Node = {}


class Schemas:
    """The schemas of a normal schema that one value may have to satisfy, by their place.

    A *place* is a number; it stands for all alternatives that a value at one path may be.
    """

    def __init__(self, root: Any) -> None:
        self._root = root
        self._numbers: dict[frozenset[int], int] = {}
        self._nodes: list[list[Node]] = []
        self._steps: dict[tuple[int, str | int | None], int] = {}
        self._endless: dict[tuple[int, str], bool] = {}
        self.start = self._place([root])

    def nodes(self, place: int) -> list[Node]:
        """The alternatives, none of them a reference or a list of alternatives."""
        return self._nodes[place]

    def differ(self, place: int) -> bool:
        """Whether the items of an array at a place have to differ."""
        return any(MARK in node for node in self._nodes[place])

    def allows_fractions(self, place: int) -> bool:
        """Whether a number at a place has more spellings than one."""
        return any("number" in types(n) and "enum" not in n for n in self._nodes[place])

    def below(self, place: int, step: str | int | None) -> int:
        """The place behind a key (None: one that no schema names) or of an item."""
        if isinstance(step, int):
            step = min(step, self._num_first(place))
        elif step not in self._named(place):
            step = _OTHER
        key = place, step
        if key not in self._steps:
            found = (s for node in self._nodes[place] for s in _below(node, step))
            self._steps[key] = self._place(found)
        return self._steps[key]

    def steps(self, place: int) -> Iterator[str | int | None]:
        """Every step that leads elsewhere."""
        yield from self._named(place)
        yield _OTHER
        yield from range(self._num_first(place) + 1)

    def is_endless(self, place: int, name: str) -> bool:
        """Whether all values of a type ("any": whatever their type) that are under way at a place
        can go on with something new everywhere; numbers where they are digits without a leading 0.
        """
        key = place, name
        if key not in self._endless:
            nodes = self._nodes[place]
            if name == "any":
                found = all(any(is_endless(n, t) for t in types(n)) for n in nodes)
            else:
                names = {name, "integer"} if name == "number" else {name}
                found = all(is_endless(n, name) for n in nodes if names & types(n))
            self._endless[key] = found
        return self._endless[key]

    def _num_first(self, place: int) -> int:
        """Items that have schemas of their own."""
        return max((len(n.get("prefixItems", ())) for n in self._nodes[place]), default=0)

    def _named(self, place: int) -> set[str]:
        return set().union(*(n.get("properties", ()) for n in self._nodes[place]))

    def _place(self, schemas: Iterable[Any]) -> int:
        found = self.alternatives(schemas)
        key = frozenset(map(id, found))
        if key not in self._numbers:
            limits.check_limit("places of a schema", len(self._nodes), limits.MAX_UNFOLDED)
            self._numbers[key] = len(self._nodes)
            self._nodes.append(found)
        return self._numbers[key]

    def alternatives(self, schemas: Iterable[Any]) -> list[Node]:
        """What schemas come to, none of it a reference or a list of alternatives."""
        found: dict[int, Node] = {}
        todo, seen = list(schemas), set()
        while todo:
            node = todo.pop()
            if node is True or node == {}:
                node = _ANY
            if node is False or id(node) in seen:
                continue
            seen.add(id(node))
            if "anyOf" in node:
                todo += node["anyOf"]
            elif "$ref" in node:
                todo.append(self._target(node["$ref"]))
            else:
                found[id(node)] = node
        return list(found.values())

    def _target(self, ref: str) -> Any:
        return self._root if ref == "#" else self._root["$defs"][ref.removeprefix("#/$defs/")]


def types(node: Node) -> frozenset[str]:
    """Types that a schema's values can have; "number" where some are no integers."""
    if "enum" in node:
        return frozenset(_TYPES_OF.get(type(v), "number") for v in node["enum"])
    named = node.get("type", _ALL)
    return frozenset([named] if isinstance(named, str) else named)


_ALL = ("null", "boolean", "number", "string", "array", "object")
_TYPES_OF: dict[type, str] = {type(None): "null", bool: "boolean", int: "integer", str: "string"}
_TYPES_OF |= {list: "array", dict: "object"}


def _below(node: Node, step: str | int | None) -> Iterator[Any]:
    if "enum" in node:
        return
    if isinstance(step, int):
        if "array" in types(node):
            prefix = node.get("prefixItems", ())
            yield prefix[step] if step < len(prefix) else node.get("items", True)
    elif "object" in types(node):
        if step is not None and step in node.get("properties", ()):
            yield node["properties"][step]
        else:
            yield from node.get("patternProperties", {}).values()
            yield node.get("additionalProperties", True)


# what is supported


def _all_nodes(root: Node) -> Iterator[Node]:
    todo = [root, *root.get("$defs", {}).values()]
    for node in todo:
        yield node
        todo += productive.children(node)


def check(root: Any) -> list[str]:
    """Refuse arrays of different items that could lead to where nothing can follow.

    Returns:
        Pointers of schemas whose items have to differ where another alternative for the same
        value would allow equal ones.

    Raises:
        UnsupportedSchema: the items can be spelled in several ways, or there may be too few.
    """
    schemas = Schemas(root)
    found: list[str] = []
    seen, todo = {schemas.start}, [schemas.start]
    while todo:
        place = todo.pop()
        if schemas.differ(place):
            found += _Check(schemas, place).shared()
        for step in schemas.steps(place):
            other = schemas.below(place, step)
            if other not in seen:
                seen.add(other)
                todo.append(other)
    return found


class _Check:
    """Arrays of different items at one place."""

    def __init__(self, schemas: Schemas, place: int) -> None:
        self._schemas, self._place = schemas, place
        nodes = [n for n in schemas.nodes(place) if "array" in types(n)]
        self._arrays = [n for n in nodes if "enum" not in n]
        self._pointer = next(n[MARK] for n in nodes if MARK in n)
        if len(nodes) > len(self._arrays):
            self._refuse("is not supported beside constant arrays")

    def _refuse(self, why: str, hint: str = "give items an enum and maxItems") -> NoReturn:
        raise UnsupportedSchema(why, pointer=self._pointer, keyword=MARK, hint=hint)

    def shared(self) -> list[str]:
        """Check all; the pointer where arrays without the keyword are held to it too."""
        for node in self._arrays:
            last = node.get("minItems", 0) - 1
            for index in {*range(min(last, len(node.get("prefixItems", ())))), last}:
                if index > 0 and self._count(next(_below(node, index)), index + 1, 0) <= index:
                    self._refuse("is not supported where there may be too few different items")
        for step in self._schemas.steps(self._place):
            if isinstance(step, int):
                self._check_item(self._schemas.below(self._place, step))
        return [] if all(MARK in n for n in self._arrays) else [self._pointer]

    # spelling

    def _check_item(self, place: int) -> None:
        nodes = self._schemas.nodes(place)
        for node in nodes:
            if "multipleOf" in node and _is_narrow(node):
                self._refuse("is not supported for such multiples")
        for name in ("object", "array"):
            if not (self._schemas.is_endless(place, name) or self._is_spelled(place, name, ())):
                self._refuse(
                    f"is not supported for {name}s of which one can be spelled in several ways",
                    "set additionalProperties to false and use integers",
                )

    def _is_spelled(self, place: int, name: str, open_: tuple[int, ...]) -> bool:
        """Whether equal containers of a place have equal texts."""
        nodes = [n for n in self._schemas.nodes(place) if name in types(n)]
        if place in open_ or not nodes:
            return True
        if any("enum" in n for n in nodes):
            return all("enum" in n for n in nodes)
        if len(open_) > _MAX_DEPTH:
            return False
        if name == "object" and not (all(map(_is_closed, nodes)) and _is_ordered(nodes)):
            return False
        return all(
            self._is_spelled_value(self._schemas.below(place, step), (*open_, place))
            for step in self._schemas.steps(place)
        )

    def _is_spelled_value(self, place: int, open_: tuple[int, ...]) -> bool:
        if self._schemas.allows_fractions(place) or self._mixes_numbers(place):
            return False
        return all(self._is_spelled(place, name, open_) for name in ("object", "array"))

    def _mixes_numbers(self, place: int) -> bool:
        """Whether a listed 1.0 may stand beside an integer."""
        listed = [v for n in self._schemas.nodes(place) for v in n.get("enum", ())]
        return any(isinstance(v, float) and v.is_integer() for v in listed)

    # number of values

    def _count(self, schema: Any, most: int, depth: int) -> float:
        """How many different values a schema surely has; no more than ``most`` are looked for."""
        nodes = self._schemas.alternatives([schema]) if depth < _MAX_DEPTH else []
        return max((self._count_node(node, most, depth + 1) for node in nodes), default=0)

    def _count_node(self, node: Node, most: int, depth: int) -> float:
        if "enum" in node:
            return len(node["enum"])
        return sum(self._count_type(node, name, most, depth) for name in types(node))

    def _count_type(self, node: Node, name: str, most: int, depth: int) -> float:
        match name:
            case "null" | "boolean":
                return 1 if name == "null" else 2
            case "string":
                return _num_texts(node, most)
            case "integer" | "number":
                return _num_numbers(node, name)
        if is_endless(node, name):
            return math.inf
        return sum(self._counts(node, name, most, depth))

    def _counts(self, node: Node, name: str, most: int, depth: int) -> list[float]:
        """Values of a container, for each length of an array apart."""
        if name == "object":
            if {"minProperties", "maxProperties"} & node.keys():
                return []
            required = node.get("required", ())
            values = node.get("properties", {}).items()
            ways = (self._count(v, most, depth) + (key not in required) for key, v in values)
            return [math.prod(ways)]
        lengths = range(node.get("minItems", 0), min(node.get("maxItems", most), most) + 1)
        item = [self._count(next(_below(node, i)), most, depth) for i in range(lengths.stop)]
        if MARK in node:
            item = [max(0, count - i) for i, count in enumerate(item)]
        return [math.prod(item[:length]) for length in lengths]


def is_endless(node: Node, name: str) -> bool:
    """Whether a value of a type can go on at every place, with something new each time."""
    if name == "string":
        return node.keys() <= _OF_FREE_STRINGS
    if name in ("integer", "number"):
        return node.keys() <= {"type"}
    if "enum" in node or name not in ("object", "array"):
        return False
    if name == "array":
        rest = node.get("items", True)
        return rest is not False and "maxItems" not in node and MARK not in node
    if "maxProperties" in node:
        return False
    patterns = node.get("patternProperties", {})
    languages = {p: automaton.compile(p[1:-1]) for p in patterns}
    if node.get("additionalProperties", True) is not False:
        return _is_infinite(~reduce(or_, languages.values(), automaton.NOTHING))
    return any(v is not False and _is_infinite(languages[p]) for p, v in patterns.items())


_OF_FREE_STRINGS = frozenset(("type", "minLength"))


def _is_infinite(language: Automaton) -> bool:
    return language.num_texts(len(language.table), None, 0) > 0


def _is_narrow(node: Node) -> bool:
    """Whether few multiples could be left behind some digits, or "-0" alone behind a sign."""
    bounds = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
    return "number" in types(node) or any(node.get(name, 0) != 0 for name in bounds)


def _is_closed(node: Node) -> bool:
    values = node.get("patternProperties", {}).values()
    return node.get("additionalProperties", True) is False and not any(values)


def _is_ordered(nodes: list[Node]) -> bool:
    """Whether the keys that two objects share stand in the same order."""
    orders = [list(n.get("properties", ())) for n in nodes]
    return all(
        [k for k in a if k in b] == [k for k in b if k in a]
        for a, b in itertools.combinations(orders, 2)
    )


def _num_texts(node: Node, count: int) -> int:
    found = automaton.of_length(0, None)
    for part in (node, *node.get("allOf", ())):
        if "pattern" in part:
            found &= automaton.compile(part["pattern"][1:-1])
    return found.num_texts(node.get("minLength", 0), node.get("maxLength"), count)


def _num_numbers(node: Node, name: str) -> float:
    """How many numbers there are at least."""
    low: float = max(node.get("minimum", -math.inf), node.get("exclusiveMinimum", -math.inf))
    high: float = min(node.get("maximum", math.inf), node.get("exclusiveMaximum", math.inf))
    if name == "number" and low < high:  # between bounds there are always more
        return math.inf
    step: float = node.get("multipleOf", 1)
    return max(0, (high - low) / step - 2)


# the engine's part


def holds_marks(root: Node) -> bool:
    """Whether some array of a normal schema is marked."""
    return any(MARK in node for node in _all_nodes(root))


def split(source: str) -> tuple[str, Schemas | None]:
    """The engine's grammar text without the marks, and the schemas that hold them."""
    if not source.startswith("{") or f'"{MARK}"' not in source:
        return source, None
    plain = json.loads(source)
    marks = [node.pop(MARK, None) for node in _all_nodes(_root(plain))]
    if not any(mark is not None for mark in marks):
        return source, None
    return json.dumps(plain, ensure_ascii=False), Schemas(_root(json.loads(source)))


def _root(source: Node) -> Node:
    root: Node = source["grammars"][0]["json_schema"]
    return root
