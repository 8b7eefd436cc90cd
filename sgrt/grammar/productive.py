"""References between schemas: how deep they nest, and which of them some value satisfies."""

from __future__ import annotations

from typing import Any

from sgrt.grammar import limits

Node = dict[str, Any]


class Graph:
    """The normal schemas of one document, as they are made.

    A *tree* is the root or the target of a `$ref`; its schemas nest in one another, and lead to
    other trees by reference.

    Args:
        targets: what each schema that is only a `$ref` leads to, by identity.
    """

    def __init__(self, root: Node, targets: dict[int, Node]) -> None:
        self.root = root
        self.nodes: list[Node] = []
        """All schemas but references."""
        self._targets = targets
        self._heights: dict[int, int] = {}
        self._edges: dict[int, set[int]] = {}
        """Height of each tree and the trees it refers to, by identity of their roots."""

    def add_tree(self, root: Node) -> None:
        """Take in the root or the target of a `$ref`, and the schemas in it."""
        edges: set[int] = set()
        level, height = [root], 0
        while level:
            height += 1
            below: list[Node] = []
            for node in level:
                target = self._targets.get(id(node))
                if target is not None:
                    edges.add(id(target))
                else:
                    self.nodes.append(node)
                    below += children(node)
            level = below
        self._heights[id(root)] = height
        self._edges[id(root)] = edges

    def check_depth(self) -> None:
        """Bound the nesting with every reference followed.

        Schemas that refer to each other in a circle count as nested in one another, all of them:
        an engine may walk them in any order.
        """
        total: dict[int, int] = {}
        for component in components(self._edges):
            own = sum(self._heights[tree] for tree in component)
            below = (total[t] for tree in component for t in self._edges[tree] - component)
            deepest = own + max(below, default=0)
            limits.check_limit("nested schemas", deepest, limits.MAX_SCHEMA_DEPTH)
            total.update(dict.fromkeys(component, deepest))

    # emptiness

    def prune(self) -> bool:
        """Replace every schema that no value can satisfy by false, or leave it out of `anyOf`.

        This finds what no finite value satisfies (a schema that requires itself); emptiness of
        ranges and patterns is the engine's to find.

        Returns:
            Whether some value may satisfy the root.
        """
        refs: dict[int, list[int]] = {}
        for ref, target in self._targets.items():
            refs.setdefault(id(target), []).append(ref)
        alive = {id(True)}
        """By identity: schemas, what refers to them, and true."""
        left = []
        for node in reversed(self.nodes):
            if node.keys().isdisjoint(_CONDITIONS):
                alive.add(id(node))
                alive.update(refs.get(id(node), ()))
            else:
                left.append(node)
        grew = True
        while grew:
            dead = []
            for node in left:
                if _is_alive(node, alive):
                    alive.add(id(node))
                    alive.update(refs.get(id(node), ()))
                else:
                    dead.append(node)
            grew, left = len(dead) < len(left), dead
        if left:
            for node in self.nodes:
                _replace(node, alive)
        return id(self.root) in alive


_CONDITIONS = frozenset(("allOf", "anyOf", "enum", "minItems", "required"))
"""What a schema has to have for there to be no value of it."""
_ONE = ("items", "additionalProperties")
_MANY = ("prefixItems", "allOf", "anyOf")
_NAMED = ("properties", "patternProperties")
_INSIDE = frozenset((*_ONE, *_MANY, *_NAMED))


def _is_alive(node: Node, alive: set[int]) -> bool:
    if node.get("enum") == [] or not alive.issuperset(map(id, node.get("allOf", ()))):
        return False
    if "anyOf" in node and alive.isdisjoint(map(id, node["anyOf"])):
        return False
    types = node.get("type")
    names = types if isinstance(types, list) else [types]
    return any(alive.issuperset(map(id, _needed(node, name))) for name in names)


def _needed(node: Node, type_name: str | None) -> list[Any]:
    """Sub-schemas that every value of this type holds values of."""
    if type_name == "object" and "required" in node:
        properties = node.get("properties", {})
        return [properties.get(name, True) for name in node["required"]]
    if type_name == "array":
        count = node.get("minItems", 0)
        prefix: list[Any] = node.get("prefixItems", [])
        return prefix[:count] + ([node.get("items", True)] if count > len(prefix) else [])
    return []


def children(node: Node) -> list[Node]:
    """Sub-schemas of a normal schema, the definitions left out."""
    found: list[Any] = []
    for keyword in _INSIDE & node.keys():
        value = node[keyword]
        if keyword in _ONE:
            found.append(value)
        else:
            found += value if keyword in _MANY else value.values()
    return [child for child in found if isinstance(child, dict)]


def _replace(node: Node, alive: set[int]) -> None:
    for keyword in _INSIDE & node.keys():
        value = node[keyword]
        if keyword in _ONE:
            node[keyword] = value if id(value) in alive else False
        elif keyword == "anyOf":
            node[keyword] = [child for child in value if id(child) in alive]
        elif keyword in _MANY:
            node[keyword] = [child if id(child) in alive else False for child in value]
        else:
            node[keyword] = {n: c if id(c) in alive else False for n, c in value.items()}


def components(edges: dict[int, set[int]]) -> list[set[int]]:
    """Strongly connected components, those referred to first (Tarjan, without recursion)."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    found: list[set[int]] = []
    for start in edges:
        if start in index:
            continue
        work = [(start, iter(edges[start]))]
        index[start] = low[start] = len(index)
        stack.append(start)
        on_stack.add(start)
        while work:
            node, rest = work[-1]
            for target in rest:
                if target not in index:
                    index[target] = low[target] = len(index)
                    stack.append(target)
                    on_stack.add(target)
                    work.append((target, iter(edges.get(target, ()))))
                    break
                if target in on_stack:
                    low[node] = min(low[node], index[target])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    at = stack.index(node)
                    found.append(set(stack[at:]))
                    on_stack.difference_update(stack[at:])
                    del stack[at:]
    return found
