"""Which names of a function hold states, and which hold values that are its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Literal

Kind = Literal["state", "group", "own", "value", "mixed"]
"""``state`` and ``group`` of states; ``own``: a list, dict or set made in the function, which it
may change; ``mixed``: sometimes a state, sometimes not."""

_DISPLAYS = (ast.List, ast.ListComp, ast.Dict, ast.DictComp, ast.Set, ast.SetComp)
_Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
_Target = tuple[ast.expr, Kind | tuple[Kind, ...]]


def kinds_of(definition: ast.AST, parameters: Mapping[str, Kind]) -> dict[str, Kind]:
    """The kind of each name that is bound in a function, whatever the order of its lines."""
    kinds: dict[str, Kind] = dict(parameters)
    for _ in range(4):  # a name may take its kind from one that is bound further down
        found: dict[str, Kind] = dict(parameters)
        for target, kind in _bindings(definition, kinds):
            _bind(found, target, kind)
        if found == kinds:
            break
        kinds = found
    return kinds


def kind_of(node: ast.expr, kinds: Mapping[str, Kind]) -> Kind:
    """The kind of an expression's value."""
    match node:
        case ast.Name(id=name):
            return kinds.get(name, "value")
        case ast.Call(func=ast.Attribute(value=base, attr=name)):
            if kind_of(base, kinds) == "state":
                return {"fork": "group", "copy": "state"}.get(name, "value")  # type: ignore[return-value]
        case ast.Subscript(value=base, slice=index):
            if kind_of(base, kinds) == "group" and not isinstance(index, ast.Slice):
                return "state"
        case ast.Call(func=ast.Name(id="list" | "dict" | "set" | "sorted")):
            return "own"
    return "own" if isinstance(node, _DISPLAYS) else "value"


def hands_over(node: ast.AST, kinds: Mapping[str, Kind]) -> bool:
    """Whether a state could be part of a value, as more than a value that is read of it."""

    def over(each: ast.AST) -> bool:
        return hands_over(each, kinds)

    if isinstance(node, ast.expr) and kind_of(node, kinds) in ("state", "group", "mixed"):
        return True
    match node:
        case ast.Subscript(value=base, slice=index) if kind_of(base, kinds) == "state":
            return over(index)
        case ast.Call(func=ast.Attribute(value=base), args=args, keywords=named) if (
            kind_of(base, kinds) == "state"
        ):
            return any(map(over, [*args, *named]))
        case ast.Compare(left=left, ops=[ast.In() | ast.NotIn()], comparators=[right]) if (
            kind_of(right, kinds) == "state"
        ):
            return over(left)
    return any(map(over, ast.iter_child_nodes(node)))


def _bindings(definition: ast.AST, kinds: Mapping[str, Kind]) -> Iterator[_Target]:
    for node in ast.walk(definition):
        match node:
            case ast.Assign(targets=targets, value=value):
                yield from ((target, kind_of(value, kinds)) for target in targets)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                yield target, kind_of(value, kinds)
            case ast.NamedExpr(target=target, value=value):
                yield target, kind_of(value, kinds)
            case ast.For(target=target, iter=items) | ast.AsyncFor(target=target, iter=items):
                yield target, _element(items, kinds)
            case ast.comprehension(target=target, iter=items):
                yield target, _element(items, kinds)
            case ast.withitem(context_expr=value, optional_vars=ast.expr() as target):
                yield target, kind_of(value, kinds)


def _element(items: ast.expr, kinds: Mapping[str, Kind]) -> Kind | tuple[Kind, ...]:
    """The kind of what iterating gives."""
    match items:
        case ast.Call(func=ast.Name(id="enumerate"), args=[inner, *_]):
            element = _element(inner, kinds)
            return ("value", element if isinstance(element, str) else "value")
        case ast.Call(func=ast.Name(id="zip"), args=args):
            elements = [_element(arg, kinds) for arg in args]
            return tuple(e if isinstance(e, str) else "value" for e in elements)
    return "state" if kind_of(items, kinds) == "group" else "value"


def _bind(found: dict[str, Kind], target: ast.expr, kind: Kind | tuple[Kind, ...]) -> None:
    match target:
        case ast.Name(id=name):
            mine: Kind = kind if isinstance(kind, str) else "value"
            found[name] = _merged(found.get(name, mine), mine)
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            each = kind if isinstance(kind, tuple) and len(kind) == len(parts) else None
            for i, part in enumerate(parts):
                _bind(found, part, each[i] if each else "value")


def _merged(a: Kind, b: Kind) -> Kind:
    if a == b:
        return a
    return "value" if {a, b} == {"own", "value"} else "mixed"
