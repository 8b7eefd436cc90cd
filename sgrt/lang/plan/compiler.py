"""From the source of a program to the code of its plan.

Names are resolved as they stand when the plan is made: what is called must be a function of sgrt,
a harmless built-in, or a function whose own source can be read the same way. Such names are
remembered as guards; a plan whose guards no longer hold is made anew. All else that may act on
the outside, or is not understood, becomes a `code.Python` node.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FunctionType, MethodType, ModuleType
from typing import Any

from sgrt.lang.plan import code
from sgrt.lang.plan.kinds import Kind
from sgrt.lang.plan.machine import Image, look_up
from sgrt.lang.plan.reader import MISSING, Reader
from sgrt.lang.plan.source import NoSource, Unsupported, definition_of

_MAX_DEPTH = 32


@dataclass(frozen=True)
class Guard:
    """A dotted name, as a function sees it, and what it stood for."""

    function: FunctionType
    path: tuple[str, ...]
    found: Any

    def holds(self) -> bool:
        """Whether it still stands for that."""
        return resolve(self.function, self.path) is self.found


@dataclass(frozen=True)
class Compiled:
    """What the source gave."""

    image: Image
    guards: tuple[Guard, ...]


def resolve(function: FunctionType, path: Sequence[str]) -> Any:
    """What a dotted name stands for; MISSING where nothing does. Only modules are entered."""
    try:
        value = look_up(function, path[0])
    except NameError:
        return MISSING
    for name in path[1:]:
        if not isinstance(value, ModuleType):
            return MISSING
        value = getattr(value, name, MISSING)
    return value


def compile_function(func: FunctionType | MethodType) -> Compiled:
    """The code of a program's function and of all that it calls."""
    plain = func.__func__ if isinstance(func, MethodType) else func
    assert isinstance(plain, FunctionType)
    builder = Builder()
    kinds: list[Kind] = ["value", "state"] if isinstance(func, MethodType) else ["state"]
    try:
        builder.procedure(plain, kinds)
    except NoSource as error:
        builder.without_source(plain, str(error))
    procedures = [p for p in builder.procedures if p is not None]
    assert len(procedures) == len(builder.procedures)
    image = Image(tuple(procedures), tuple(builder.functions), builder.checks)
    return Compiled(image, tuple(builder.guards))


class Builder:
    """Procedures and guards of one plan."""

    def __init__(self) -> None:
        self.procedures: list[code.Procedure | None] = []
        self.functions: list[FunctionType | None] = []
        self.guards: list[Guard] = []
        self.checks: dict[int, Callable[[Any], Any]] = {}
        self._known: dict[tuple[FunctionType, tuple[Kind, ...]], int] = {}

    def procedure(self, function: FunctionType, kinds: Sequence[Kind]) -> int:
        """The number of a function's procedure, when its first parameters are of these kinds."""
        parameters = list(inspect.signature(function, follow_wrapped=False).parameters.values())
        others: list[Kind] = ["value"] * len(parameters)
        padded = tuple([*kinds, *others][: len(parameters)])
        key = (function, padded)
        if key in self._known:
            index = self._known[key]
            if self.procedures[index] is None:
                raise Unsupported(f"{function.__name__} calls itself")
            return index
        if len(self._known) >= _MAX_DEPTH:
            raise Unsupported("it calls too many functions")
        definition = definition_of(function)
        index = self._known[key] = len(self.procedures)
        self.procedures.append(None)
        self.functions.append(function)
        named = {p.name: kind for p, kind in zip(parameters, padded, strict=True)}
        body = Reader(self, function, definition, named).body()
        self.procedures[index] = _procedure(function, parameters, body)
        return index

    def without_source(self, function: FunctionType, reason: str) -> None:
        """A plan that knows only that the function has to run."""
        line = function.__code__.co_firstlineno
        node = code.Python(line, line, reason)
        parameters = list(inspect.signature(function, follow_wrapped=False).parameters.values())
        self.procedures.append(_procedure(function, parameters, (node,)))
        self.functions.append(function)

    def guard(self, function: FunctionType, path: tuple[str, ...]) -> Any:
        """What a name stands for, to be checked before every run."""
        found = resolve(function, path)
        guard = Guard(function, path, found)
        if not any(g.function is function and g.path == path for g in self.guards):
            self.guards.append(guard)
        return found


def _procedure(
    function: FunctionType, parameters: Sequence[inspect.Parameter], body: tuple[code.Stmt, ...]
) -> code.Procedure:
    return code.Procedure(
        function.__name__,
        function.__code__.co_filename,
        function.__code__.co_firstlineno,
        tuple(
            code.Parameter(
                p.name, int(p.kind), None if p.default is p.empty else code.Const(p.default)
            )
            for p in parameters
        ),
        body,
    )
