"""References between schemas: how deep they nest, and which of them some value satisfies."""

from __future__ import annotations

from typing import Any

from sgrt.errors import UnsupportedSchema
from sgrt.grammar import limits

Node = dict[str, Any]


class Graph:
    """The normal schemas of one document, as they are made.

    A *tree* is the root or the target of a `$ref`; its schemas nest in one another, and lead to
    other trees by reference.
    """

    def __init__(self, root: Node) -> None:
        self.root = root
        self.nodes: list[Node] = []
        self.targets: dict[int, Node | bool] = {}
        self._trees: dict[int, tuple[int, list[Node]]] = {}
        """Height and nodes of each tree, by identity of its root."""

    def add_tree(self, root: Node) -> None:
        """Take in the root or the target of a `$ref`, and the schemas in it."""
        tree = [(root, 1)]
        for node, depth in tree:
            tree += [(child, depth + 1) for child in children(node)]
        nodes = [node for node, _ in tree]
        self.nodes += nodes
        self._trees[id(root)] = tree[-1][1], nodes

    def refer(self, node: Node, target: Node | bool) -> None:
        self.targets[id(node)] = target

    # nesting

    def check_depth(self) -> None:
        """Bound the nesting with every reference followed.

        Schemas that refer to each other in a circle count as nested in one another, all of them:
        an engine may walk them in any order.
        """
        edges = {
            tree: {id(t) for n in nodes if isinstance(t := self.targets.get(id(n)), dict)}
            for tree, (_, nodes) in self._trees.items()
        }
        total: dict[int, int] = {}
        for component in components(edges):
            own = sum(self._trees[tree][0] for tree in component)
            below = [total[t] for tree in component for t in edges[tree] if t not in component]
            deepest = own + max(below, default=0)
            limits.check_limit("nested schemas", deepest, limits.MAX_SCHEMA_DEPTH)
            total.update(dict.fromkeys(component, deepest))

    # keywords that meet in one value

    def check_same_value(self) -> None:
        """Refuse schemas that lead back to themselves for one value; bound what meets in one.

        The engine intersects the patterns of one string, which takes it exponential time.
        """
        nodes = {id(node): node for node in self.nodes}
        edges = {
            key: {id(o) for o in (*self._all(node), *node.get("anyOf", ())) if isinstance(o, dict)}
            for key, node in nodes.items()
            if key in self.targets or "allOf" in node or "anyOf" in node
        }
        num_patterns: dict[int, int] = {}
        for component in components(edges):
            key = next(iter(component))
            if len(component) > 1 or key in edges.get(key, ()):
                reason = "leads back to itself without a value in between"
                raise UnsupportedSchema(reason, keyword="$ref")
            node = nodes.get(key, {})
            met = int("pattern" in node)
            met += sum(num_patterns.get(id(other), 0) for other in self._all(node))
            met += max(
                (num_patterns.get(id(other), 0) for other in node.get("anyOf", ())), default=0
            )
            limits.check_limit("patterns on one string", met, limits.MAX_PATTERNS)
            num_patterns[key] = met

    def _all(self, node: Node) -> list[Any]:
        """Schemas that must hold beside this one for the same value."""
        return [*node.get("allOf", ()), self.targets.get(id(node))]

    # emptiness

    def prune(self) -> bool:
        """Replace every schema that no value can satisfy by false.

        This finds what no finite value satisfies (a schema that requires itself); emptiness of
        ranges and patterns is the engine's to find.

        Returns:
            Whether some value may satisfy the root.
        """
        alive: set[int] = set()
        grew = True
        while grew:
            before = len(alive)
            for node in reversed(self.nodes):
                if id(node) not in alive and self._is_alive(node, alive):
                    alive.add(id(node))
            grew = len(alive) > before
        if len(alive) < len(self.nodes):
            for node in self.nodes:
                _replace(node, alive)
        return id(self.root) in alive

    def _is_alive(self, node: Node, alive: set[int]) -> bool:
        def ok(child: Any) -> bool:
            return child is True or id(child) in alive

        if id(node) in self.targets and not ok(self.targets[id(node)]):
            return False
        if not all(ok(c) for c in node.get("allOf", ())):
            return False
        if node.get("enum") == []:
            return False
        if "anyOf" in node and not any(ok(c) for c in node["anyOf"]):
            return False
        types = node.get("type")
        names = types if isinstance(types, list) else [types]
        return any(all(ok(part) for part in _needed(node, name)) for name in names)


def _needed(node: Node, type_name: str | None) -> list[Any]:
    """Sub-schemas that every value of this type holds values of."""
    if type_name == "object":
        return [node.get("properties", {}).get(name, True) for name in node.get("required", ())]
    if type_name == "array":
        count = node.get("minItems", 0)
        prefix: list[Any] = node.get("prefixItems", [])
        return prefix[:count] + ([node.get("items", True)] if count > len(prefix) else [])
    return []


def children(node: Node) -> list[Any]:
    """Sub-schemas of a normal schema, the definitions left out."""
    children: list[Any] = [node.get("items"), node.get("additionalProperties")]
    for keyword in ("properties", "patternProperties"):
        children += node.get(keyword, {}).values()
    for keyword in ("prefixItems", "allOf", "anyOf"):
        children += node.get(keyword, ())
    return [child for child in children if isinstance(child, dict)]


def _replace(node: Node, alive: set[int]) -> None:
    def keep(child: Any) -> Any:
        return False if isinstance(child, dict) and id(child) not in alive else child

    for keyword in ("items", "additionalProperties"):
        if keyword in node:
            node[keyword] = keep(node[keyword])
    for keyword in ("properties", "patternProperties", "$defs"):
        if keyword in node:
            node[keyword] = {name: keep(child) for name, child in node[keyword].items()}
    for keyword in ("prefixItems", "allOf", "anyOf"):
        if keyword in node:
            node[keyword] = [keep(child) for child in node[keyword]]


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
