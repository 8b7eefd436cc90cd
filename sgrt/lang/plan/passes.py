"""What can be said about a plan without running it: grammars, generations nobody reads, segments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from sgrt.core import Constraint
from sgrt.errors import SgrtError
from sgrt.lang.ir import Gen
from sgrt.lang.plan import code
from sgrt.lang.plan.bounded import BoundedMachine
from sgrt.lang.plan.machine import Frame, Image, Machine

_CONSTRAINTS = (
    *("regex", "json_schema", "grammar", "ebnf", "substring_of", "structural_tag"),
    *("output", "dtype"),
)
_OUTSIDE = (code.Const, code.Global, code.Attr, code.Item, code.Items, code.Dict, code.Binary)


@dataclass(frozen=True)
class Grammar:
    """A constraint of a plan.

    Args:
        name: of the variable, or None where it is not a constant.
        constraint: None where it depends on arguments; then it is compiled when it is met.
    """

    name: str | None
    line: int
    constraint: Constraint | None


def grammars(image: Image) -> list[Grammar]:
    """The constraints of a plan, in the order of its source, each once."""
    found: dict[tuple[str | None, int, Any], Grammar] = {}
    for procedure, function in zip(image.procedures, image.functions, strict=True):
        frame = Frame(procedure, function, {})
        for node in code.walk(*procedure.body):
            if isinstance(node, code.Call) and node.function in code.GENERATIONS:
                grammar = _grammar(image, node, frame)
                if grammar is not None:
                    found.setdefault((grammar.name, grammar.line, grammar.constraint), grammar)
    return list(found.values())


def _grammar(image: Image, node: code.Call, frame: Frame) -> Grammar | None:
    """The constraint of one call, or None where it has none."""
    if node.function == "select":
        return None
    given = zip(node.names, node.values, strict=True)
    kept = [(name, value) for name, value in given if name in (*_CONSTRAINTS, "**")]
    if not kept and node.function == "gen":
        return None
    known = [*node.args[1:], *(value for _, value in kept)]
    name = constant_name(node)
    if not all(_is_from_outside(value) for value in known):
        return Grammar(name, node.line, None)
    first = tuple(code.Const(None) for _ in node.args[:1])
    call = replace(
        node,
        args=(*first, *node.args[1:]),
        names=tuple(name for name, _ in kept),
        values=tuple(value for _, value in kept),
    )
    try:
        machine = BoundedMachine(image) if frame.function is None else Machine(image)
        made = machine.eval(call, frame)
    except (SgrtError, Exception):  # it is told where it is run
        return Grammar(name, node.line, None)
    if not isinstance(made, Gen) or made.constraint is None:
        return None
    return Grammar(name, node.line, made.constraint)


def _is_from_outside(node: code.Expr) -> bool:
    return all(
        isinstance(each, _OUTSIDE)
        or (isinstance(each, code.Call) and each.function not in code.GENERATIONS)
        for each in code.walk(node)
    )


def constant_name(node: code.Call) -> str | None:
    """The name a gen or select is given, where it is a constant."""
    given = [
        *node.args[:1],
        *(v for k, v in zip(node.names, node.values, strict=True) if k == "name"),
    ]
    if given and isinstance(given[0], code.Const) and isinstance(given[0].value, str):
        return given[0].value
    return None


# ---------------------------------------------------------------- what nobody reads


def without_unused(image: Image) -> tuple[Image, list[str]]:
    """A plan without the generations that nothing in the program depends on.

    A generation is needed if its value is read, or if another that is needed follows it: that one
    continues its text. So only what stands behind the last needed one can go.

    Returns:
        The plan, and the names of what went. Nothing goes where a state is used as a whole
        (its text is read, it is returned), or names are not constants.
    """
    names: set[str] = set()
    has_outside = calls_outside(image)
    for procedure in image.procedures:
        states = _states(procedure)
        for node in code.walk(*procedure.body):
            if _escapes(node, states) or (has_outside and _holds(node, states)):
                return image, []
            names |= _names_read(node)
    cut = _Cut(image, names)
    procedures = (replace(image.procedures[0], body=cut.main()), *image.procedures[1:])
    return replace(image, procedures=procedures), cut.gone


def _states(procedure: code.Procedure) -> set[str]:
    """Names that hold states, or groups of them."""
    found = {p.name for p in procedure.parameters[:1]}
    for node in code.walk(*procedure.body):
        match node:
            case code.Append(target=code.Local(name) | code.Item(value=code.Local(name))):
                found.add(name)
            case code.Method(value=code.Local(name), name=method) if method in (
                code.STATE_WRITES | code.GROUP_METHODS
            ) - code.DICT_READS - {"join"}:
                found.add(name)
            case code.Assign(target=code.Local(name), value=code.Method(name="fork" | "copy")):
                found.add(name)
            case code.With(target=code.Local(name)):
                found.add(name)
    return found


def _escapes(node: code.Node, states: set[str]) -> bool:
    """Whether a node uses a state in a way that may read anything of it."""
    match node:
        case code.Append(value=value) | code.Assign(value=value):
            used: Sequence[code.Node] = [value]
        case code.Item(value=value, index=index):
            of_state = _is_state(value, states)
            return of_state and not isinstance(index, code.Const)
        case code.Method(name=name) if name in code.STATE_READS - {"get_var"}:
            return True
        case code.Method(name="get_var", args=args):
            return not isinstance((*args, None)[0], code.Const)
        case code.Compare(left=left, ops=("in",) | ("not in",)):
            return not isinstance(left, code.Const) and any(
                _is_state(right, states) for right in node.rights
            )
        case code.Python():
            return True
        case code.For() | code.With() | code.Inline() | code.Items():
            return False  # a display of states is appended, returned or read: those are looked at
        case code.Call(function="enumerate" | "zip" | "len" | "reversed"):
            return False
        case code.Return(value=value):
            return value is not None and any(_is_state(n, states) for n in _displayed(value))
        case _:
            used = list(code.children(node))
    return any(_is_state(each, states) for each in used)


def calls_outside(image: Image) -> bool:
    """Whether the plan runs Python of the user's."""
    nodes = (node for procedure in image.procedures for node in code.walk(*procedure.body))
    return any(isinstance(node, (code.Outside, code.Import)) for node in nodes)


def _holds(node: code.Node, states: set[str]) -> bool:
    """Whether a node puts a state into something that could be handed on."""
    match node:
        case code.Call(function="enumerate" | "zip" | "len"):
            return False
        case code.Items() | code.Dict() | code.Call():
            return any(_is_state(each, states) for each in code.children(node))
        case code.Each(element=element):
            return _is_state(element, states)
    return False


def _displayed(node: code.Expr) -> Sequence[code.Expr]:
    if isinstance(node, code.Items):
        return [each for item in node.items for each in _displayed(item)]
    return [node]


def _is_state(node: code.Node, states: set[str]) -> bool:
    match node:
        case code.Local(name):
            return name in states
        case code.Item(value=code.Local(name), index=code.Const(int())):
            return name in states
    return False


def _names_read(node: code.Node) -> set[str]:
    """Names of variables that a node may read."""
    match node:
        case code.Item(index=code.Const(str(name))):
            return {name}
        case code.Compare(left=code.Const(str(name)), ops=("in",) | ("not in",)):
            return {name}
        case code.Method(name="get_var", args=(code.Const(str(name)), *_)):
            return {name}
    return set()


class _Cut:
    """Takes generations out, from the end of the program to its start."""

    def __init__(self, image: Image, names: set[str]) -> None:
        self._image = image
        self._names = names
        self.gone: list[str] = []
        self._needed = False  # something behind continues the text

    def main(self) -> tuple[code.Stmt, ...]:
        return self._block(self._image.procedures[0].body)

    def _block(self, body: Sequence[code.Stmt]) -> tuple[code.Stmt, ...]:
        return tuple(reversed([self._cut(statement) for statement in reversed(body)]))

    def _cut(self, node: Any) -> Any:
        """The node without what is not needed; from its last part to its first."""
        if isinstance(node, (code.For, code.While, code.Each)) and self._any_needed(node):
            self._needed = True  # the next time round continues the text too
        if isinstance(node, code.If):
            behind = self._needed
            other = self._block(node.other)
            after_other, self._needed = self._needed, behind
            then = self._block(node.then)
            self._needed = self._needed or after_other
            return replace(node, test=self._cut(node.test), then=then, other=other)
        if isinstance(node, code.Inline):
            self._needed = self._needed or self._makes(self._image.procedures[node.procedure].body)
        if isinstance(node, code.Outside):  # it may make generations, or stop the program
            self._needed = True
        if isinstance(node, code.Call) and node.function in code.GENERATIONS:
            return self._generation(node)
        changed: dict[str, Any] = {}
        for field in reversed(fields(node)):
            value = getattr(node, field.name)
            if isinstance(value, code.Node):
                changed[field.name] = self._cut(value)
            elif isinstance(value, tuple) and any(isinstance(v, code.Node) for v in value):
                changed[field.name] = tuple(reversed([self._cut(v) for v in reversed(value)]))
        return replace(node, **changed)

    def _generation(self, node: code.Call) -> code.Expr:
        name = constant_name(node)
        if self._needed or self._is_needed(node):
            self._needed = True
            return node
        self.gone.append(name or f"unnamed, line {node.line}")
        return code.Const("")

    def _is_needed(self, node: code.Call) -> bool:
        name = constant_name(node)
        is_named = any(
            not (isinstance(given, code.Const) and given.value is None)
            for given in _given_name(node)
        )
        if "**" in node.names:
            return True
        return name in self._names if name is not None else is_named

    def _any_needed(self, root: code.Node) -> bool:
        nodes = list(code.walk(root))
        return any(
            (isinstance(n, code.Inline) and self._makes(self._image.procedures[n.procedure].body))
            or (isinstance(n, code.Call) and n.function in code.GENERATIONS and self._is_needed(n))
            for n in nodes
        )

    def _makes(self, body: Sequence[code.Stmt]) -> bool:
        """Whether a procedure generates anything; those are left as they are."""
        return any(
            (isinstance(n, code.Call) and n.function in code.GENERATIONS)
            or (
                isinstance(n, code.Inline) and self._makes(self._image.procedures[n.procedure].body)
            )
            for n in code.walk(*body)
        )


def _given_name(node: code.Call) -> Iterator[code.Expr]:
    yield from node.args[:1]
    yield from (v for k, v in zip(node.names, node.values, strict=True) if k == "name")
