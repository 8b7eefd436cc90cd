"""Runs a plan: the meaning of every node, which is the meaning of the Python it came from.

The machine drives an ordinary `ProgramState`, so whatever a state does (queueing, fusing,
errors at the reader) it does here too. Each statement runs below a frame that bears the user's
file, function and line: errors and tracebacks name the program, not the machine.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import operator
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from types import CodeType, FunctionType
from typing import Any

from sgrt.lang.plan import code
from sgrt.lang.plan.code import Expr, Node, Procedure, Stmt

BINARY: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
    "&": operator.and_,
    "|": operator.or_,
    "^": operator.xor,
}
AUGMENTED: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": operator.iadd,
    "-": operator.isub,
    "*": operator.imul,
    "/": operator.itruediv,
    "//": operator.ifloordiv,
    "%": operator.imod,
    "**": operator.ipow,
    "&": operator.iand,
    "|": operator.ior,
    "^": operator.ixor,
}
UNARY: Mapping[str, Callable[[Any], Any]] = {
    "not": operator.not_,
    "-": operator.neg,
    "+": operator.pos,
}
COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "is": operator.is_,
    "is not": operator.is_not,
    "in": lambda left, right: left in right,
    "not in": lambda left, right: left not in right,
}
_CONVERSIONS: Mapping[str, Callable[[Any], Any]] = {
    "": lambda value: value,
    "s": str,
    "r": repr,
    "a": ascii,
}
_COLLECT: Mapping[str, Callable[[Any], Any]] = {"list": list, "set": set, "dict": dict}
_MISSING = object()


@functools.lru_cache(maxsize=4096)
def _at(file: str, function: str, line: int) -> Callable[..., Any]:
    """``call(*args)`` below a frame of this place."""
    return FunctionType(_code_at(file, function, line), {})


@functools.lru_cache(maxsize=4096)
def _code_at(file: str, function: str, line: int) -> CodeType:
    code_of_step: CodeType = _step.__code__
    return code_of_step.replace(
        co_filename=file, co_name=function, co_qualname=function, co_firstlineno=line
    )


_step: Any = lambda call, *args: call(*args)  # noqa: E731  (one line: its frame shows that line)


@dataclass(frozen=True)
class Image:
    """What a machine runs.

    Args:
        procedures: number 0 is the program.
        functions: what each was read from, for its names from outside; None where a plan was
            read from text and has no such names.
        checks: pass on the values of procedures whose annotation says what those are.
    """

    procedures: tuple[Procedure, ...]
    functions: tuple[FunctionType | None, ...]
    checks: Mapping[int, Callable[[Any], Any]] = field(default_factory=dict)

    def signature(self, index: int) -> inspect.Signature:
        """How a procedure is called."""
        return inspect.Signature(
            [
                inspect.Parameter(
                    p.name,
                    inspect._ParameterKind(p.kind),
                    default=inspect.Parameter.empty if p.default is None else p.default.value,
                )
                for p in self.procedures[index].parameters
            ]
        )


class Frame:
    """One call of a procedure."""

    __slots__ = ("file", "function", "line", "locals", "name")

    def __init__(
        self, procedure: Procedure, function: FunctionType | None, values: MutableMapping[str, Any]
    ) -> None:
        self.file = procedure.file
        self.name = procedure.name
        self.function = function
        self.locals = values
        self.line = 0

    def inner(self) -> Frame:
        """The scope of a comprehension or lambda: sees this one, binds its own."""
        twin = Frame.__new__(Frame)
        twin.file, twin.name, twin.function = self.file, self.name, self.function
        twin.locals, twin.line = ChainMap({}, self.locals), self.line
        return twin


@dataclass(frozen=True, slots=True)
class Returned:
    """The signal of a ``return``."""

    value: Any


class Machine:
    """Runs an image once."""

    def __init__(self, image: Image) -> None:
        self._image = image

    def run(self, arguments: MutableMapping[str, Any]) -> Any:
        """Run the program with its parameters bound; what it returns."""
        return self._procedure(0, arguments)

    def _procedure(self, index: int, arguments: MutableMapping[str, Any]) -> Any:
        procedure = self._image.procedures[index]
        frame = Frame(procedure, self._image.functions[index], arguments)
        signal = self.block(procedure.body, frame)
        value = signal.value if isinstance(signal, Returned) else None
        check = self._image.checks.get(index)
        return value if check is None else check(value)

    def located(self, frame: Frame, line: int, call: Callable[..., Any], *args: Any) -> Any:
        """Call below a frame of this line."""
        if line == frame.line:
            return call(*args)
        outer, frame.line = frame.line, line
        try:
            return _at(frame.file, frame.name, line)(call, *args)
        finally:
            frame.line = outer

    # ------------------------------------------------------------ statements

    def block(self, body: Sequence[Stmt], frame: Frame) -> Returned | str | None:
        """Run statements; a jump or a return ends them."""
        for statement in body:
            run = _STATEMENTS[type(statement)]
            signal: Returned | str | None = self.located(
                frame, statement.line, run, self, statement, frame
            )
            if signal is not None:
                return signal
        return None

    def append(self, node: code.Append, frame: Frame) -> None:
        target = node.target
        if isinstance(target, code.Item):
            group, index = self.eval(target.value, frame), self.eval(target.index, frame)
            state = group[index]
            group[index] = self.extend(state, self.eval(node.value, frame))
            return
        state = self.eval(target, frame)
        result = self.extend(state, self.eval(node.value, frame))
        assert isinstance(target, code.Local)
        frame.locals[target.name] = result

    def extend(self, state: Any, value: Any) -> Any:
        """``state += value``"""
        state += value
        return state

    def do(self, node: code.Do, frame: Frame) -> None:
        self.eval(node.value, frame)

    def assign(self, node: code.Assign, frame: Frame) -> None:
        self.bind(node.target, self.eval(node.value, frame), frame)

    def bind(self, target: Expr, value: Any, frame: Frame) -> None:
        """Store a value in a target."""
        match target:
            case code.Local(name):
                frame.locals[name] = value
            case code.Items(items=targets):
                for each, part in zip(targets, _unpacked(value, len(targets)), strict=True):
                    self.bind(each, part, frame)
            case code.Item(base, index, line):
                container = self.eval(base, frame)
                key = self.eval(index, frame)
                self.located(frame, line, self.store, container, key, value)

    def store(self, container: Any, key: Any, value: Any) -> None:
        container[key] = value

    def augment(self, node: code.Augment, frame: Frame) -> None:
        current = self.local(node.name, frame)
        frame.locals[node.name] = self.apply(
            AUGMENTED[node.op], node.op, current, self.eval(node.value, frame)
        )

    def branch(self, node: code.If, frame: Frame) -> Returned | str | None:
        return self.block(node.then if self.eval(node.test, frame) else node.other, frame)

    def loop_over(self, node: code.For, frame: Frame) -> Returned | str | None:
        for value in self.eval(node.items, frame):
            self.bind(node.target, value, frame)
            signal = self.block(node.body, frame)
            if isinstance(signal, Returned):
                return signal
            if signal == "break":
                return None
        return self.block(node.other, frame)

    def loop_while(self, node: code.While, frame: Frame) -> Returned | str | None:
        while self.eval(node.test, frame):
            signal = self.block(node.body, frame)
            if isinstance(signal, Returned):
                return signal
            if signal == "break":
                return None
        return self.block(node.other, frame)

    def inside(self, node: code.With, frame: Frame) -> Returned | str | None:
        with self.eval(node.value, frame) as value:
            if node.target is not None:
                self.bind(node.target, value, frame)
            return self.block(node.body, frame)
        return None  # a manager that swallows errors

    def attempt(self, node: code.Try, frame: Frame) -> Returned | str | None:
        try:
            signal = self._attempted(node, frame)
        except BaseException:
            last = self.block(node.final, frame)
            if last is None:
                raise
            return last
        last = self.block(node.final, frame)
        return signal if last is None else last

    def _attempted(self, node: code.Try, frame: Frame) -> Returned | str | None:
        try:
            signal = self.block(node.body, frame)
        except Exception as error:
            handler = self.handler(node, error)
            if handler is None:
                raise
            return self._handled(handler, error, frame)
        return self.block(node.other, frame) if signal is None else signal

    def handler(self, node: code.Try, error: Exception) -> code.Except | None:
        """Which handler takes an error."""
        for each in node.handlers:
            assert isinstance(each, code.Except)
            if isinstance(error, tuple(code.CAUGHT[name] for name in each.errors)):
                return each
        return None

    def _handled(self, node: code.Except, error: Exception, frame: Frame) -> Returned | str | None:
        frame.locals.update(dict.fromkeys(node.names, error))
        try:
            return self.block(node.body, frame)
        finally:
            for name in node.names:
                frame.locals.pop(name, None)

    def leave(self, node: code.Return, frame: Frame) -> Returned:
        return Returned(None if node.value is None else self.eval(node.value, frame))

    def fail(self, node: code.Raise, frame: Frame) -> None:
        raise self.eval(node.value, frame)

    def jump(self, node: code.Jump, frame: Frame) -> str | None:
        return None if node.kind == "pass" else node.kind

    def imported(self, node: code.Import, frame: Frame) -> None:
        assert frame.function is not None
        source = compile("\n" * (node.line - 1) + node.source, frame.file, "exec")
        exec(source, frame.function.__globals__, frame.locals)

    def put(self, node: code.Put, frame: Frame) -> None:
        value = self.eval(node.value, frame)
        base = self.eval(node.target.value, frame)
        if isinstance(node.target, code.Attr):
            self.located(frame, node.line, setattr, base, node.target.name, value)
        else:
            index = self.eval(node.target.index, frame)
            self.located(frame, node.line, self.store, base, index, value)

    def python(self, node: code.Python, frame: Frame) -> None:
        raise AssertionError(f"line {node.line} is not part of the plan: {node.reason}")

    # ------------------------------------------------------------ expressions

    def eval(self, node: Expr, frame: Frame) -> Any:
        """The value of an expression."""
        return _EXPRESSIONS[type(node)](self, node, frame)

    def constant(self, node: code.Const, frame: Frame) -> Any:
        return node.value

    def local(self, name: str, frame: Frame) -> Any:
        value = frame.locals.get(name, _MISSING)
        if value is _MISSING:
            raise UnboundLocalError(
                f"cannot access local variable {name!r} where it is not associated with a value"
            )
        return value

    def outer(self, node: code.Global, frame: Frame) -> Any:
        assert frame.function is not None
        return look_up(frame.function, node.name)

    def format(self, node: code.Format, frame: Frame) -> str:
        value = self.eval(node.value, frame)
        spec = "" if node.spec is None else self.eval(node.spec, frame)
        return self.located(frame, node.line, self.formatted, value, node.conversion, spec)  # type: ignore[no-any-return]

    def formatted(self, value: Any, conversion: str, spec: str) -> str:
        return format(_CONVERSIONS[conversion](value), spec)

    def joined(self, node: code.Joined, frame: Frame) -> str:
        return "".join([self.eval(part, frame) for part in node.parts])

    def binary(self, node: code.Binary, frame: Frame) -> Any:
        left = self.eval(node.left, frame)
        right = self.eval(node.right, frame)
        return self.located(frame, node.line, self.apply, BINARY[node.op], node.op, left, right)

    def apply(self, function: Callable[[Any, Any], Any], op: str, left: Any, right: Any) -> Any:
        return function(left, right)

    def unary(self, node: code.Unary, frame: Frame) -> Any:
        return UNARY[node.op](self.eval(node.value, frame))

    def compare(self, node: code.Compare, frame: Frame) -> Any:
        left = self.eval(node.left, frame)
        result: Any = True
        for op, other in zip(node.ops, node.rights, strict=True):
            right = self.eval(other, frame)
            result = self.located(frame, node.line, self.compared, op, left, right)
            if other is not node.rights[-1] and not result:
                return result
            left = right
        return result

    def compared(self, op: str, left: Any, right: Any) -> Any:
        return COMPARE[op](left, right)

    def logic(self, node: code.Logic, frame: Frame) -> Any:
        value = None
        for each in node.values:
            value = self.eval(each, frame)
            if each is not node.values[-1] and bool(value) == (node.op == "or"):
                return value
        return value

    def if_else(self, node: code.IfElse, frame: Frame) -> Any:
        return self.eval(node.then if self.eval(node.test, frame) else node.other, frame)

    def display(self, node: code.Items, frame: Frame) -> Any:
        values = [self.eval(item, frame) for item in node.items]
        return (
            values if node.kind == "list" else tuple(values) if node.kind == "tuple" else {*values}
        )

    def mapping(self, node: code.Dict, frame: Frame) -> dict[Any, Any]:
        pairs = zip(node.keys, node.values, strict=True)
        return {self.eval(key, frame): self.eval(value, frame) for key, value in pairs}

    def item(self, node: code.Item, frame: Frame) -> Any:
        value = self.eval(node.value, frame)
        index = self.eval(node.index, frame)
        return self.located(frame, node.line, self.read, value, index)

    def read(self, value: Any, index: Any) -> Any:
        return value[index]

    def slice(self, node: code.Slice, frame: Frame) -> slice:
        bounds = (node.lower, node.upper, node.step)
        return slice(*(None if b is None else self.eval(b, frame) for b in bounds))

    def attribute(self, node: code.Attr, frame: Frame) -> Any:
        value = self.eval(node.value, frame)
        return self.located(frame, node.line, self.field, value, node.name)

    def field(self, value: Any, name: str) -> Any:
        return getattr(value, name)

    def _arguments(
        self, node: code.Call | code.Method | code.Inline | code.Outside, frame: Frame
    ) -> tuple[list[Any], dict[str, Any]]:
        args = [self.eval(arg, frame) for arg in node.args]
        named: dict[str, Any] = {}
        for name, value in zip(node.names, node.values, strict=True):
            found = self.eval(value, frame)
            for key, each in self.spread(found).items() if name == "**" else ((name, found),):
                if key in named:
                    raise TypeError(f"got multiple values for keyword argument {key!r}")
                named[key] = each
        return args, named

    def spread(self, value: Any) -> Mapping[str, Any]:
        """A mapping as keywords."""
        named = {**value}
        if not all(isinstance(key, str) for key in named):
            raise TypeError("keywords must be strings")
        return named

    def call(self, node: code.Call, frame: Frame) -> Any:
        args, named = self._arguments(node, frame)
        return self.located(frame, node.line, self.called, node.function, args, named)

    def called(self, function: str, args: list[Any], named: dict[str, Any]) -> Any:
        return code.FUNCTIONS[function](*args, **named)

    def method(self, node: code.Method, frame: Frame) -> Any:
        value = self.eval(node.value, frame)
        bound = self.located(frame, node.line, self.bound, value, node.name)
        args, named = self._arguments(node, frame)
        return self.located(frame, node.line, self.bound_called, bound, value, args, named)

    def bound(self, value: Any, name: str) -> Callable[..., Any]:
        return getattr(value, name)  # type: ignore[no-any-return]

    def bound_called(
        self, bound: Callable[..., Any], value: Any, args: list[Any], named: dict[str, Any]
    ) -> Any:
        return bound(*args, **named)

    def outside(self, node: code.Outside, frame: Frame) -> Any:
        """The call, right below a frame as its function would have it: some look who calls."""
        function = self.eval(node.function, frame)
        rest = () if node.rest is None else self.eval(node.rest, frame)
        args, named = self._arguments(node, frame)
        assert frame.function is not None
        call = FunctionType(_code_at(frame.file, frame.name, node.line), frame.function.__globals__)
        return call(functools.partial(function, *rest, *args, **named))

    def inline(self, node: code.Inline, frame: Frame) -> Any:
        args, named = self._arguments(node, frame)
        return self.located(frame, node.line, self._inlined, node.procedure, args, named)

    def _inlined(self, index: int, args: list[Any], named: dict[str, Any]) -> Any:
        procedure = self._image.procedures[index]
        try:
            bound = self._image.signature(index).bind(*args, **named)
        except TypeError as error:
            raise TypeError(f"{procedure.name}(): {error}") from None
        bound.apply_defaults()
        return self._procedure(index, bound.arguments)

    def each(self, node: code.Each, frame: Frame) -> Any:
        inner = frame.inner()
        items = iter(self.eval(node.items, frame))
        values = self._produced(node, items, inner)
        if node.kind == "chain":
            return (each for group in values for each in group)
        return values if node.kind == "iter" else _COLLECT[node.kind](values)

    def _produced(self, node: code.Each, items: Iterator[Any], inner: Frame) -> Iterator[Any]:
        for value in items:
            self.bind(node.target, value, inner)
            if all(self.eval(test, inner) for test in node.tests):
                yield self.eval(node.element, inner)

    def named(self, node: code.Named, frame: Frame) -> Any:
        value = frame.locals[node.name] = self.eval(node.value, frame)
        return value

    def function(self, node: code.Lambda, frame: Frame) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if len(args) != len(node.parameters):
                raise TypeError(f"<lambda>() takes {len(node.parameters)} arguments: {len(args)}")
            inner = frame.inner()
            inner.locals.update(zip(node.parameters, args, strict=True))
            return self.located(inner, node.line, self.eval, node.body, inner)

        return call


def _unpacked(value: Any, num: int) -> list[Any]:
    try:
        items = iter(value)
    except TypeError:
        raise TypeError(f"cannot unpack non-iterable {type(value).__name__} object") from None
    found = [item for _, item in zip(range(num), items, strict=False)]
    if len(found) < num:
        raise ValueError(f"not enough values to unpack (expected {num}, got {len(found)})")
    if next(items, _MISSING) is not _MISSING:
        raise ValueError(f"too many values to unpack (expected {num})")
    return found


def look_up(function: FunctionType, name: str) -> Any:
    """What a name from outside of a function stands for now.

    Raises:
        NameError: nothing has this name.
    """
    free = function.__code__.co_freevars
    if name in free and function.__closure__ is not None:
        try:
            return function.__closure__[free.index(name)].cell_contents
        except ValueError:
            raise NameError(
                f"cannot access free variable {name!r} where it is not associated with a value in "
                "enclosing scope"
            ) from None
    value = function.__globals__.get(name, _MISSING)
    if value is _MISSING:
        value = getattr(builtins, name, _MISSING)
    if value is _MISSING:
        raise NameError(f"name {name!r} is not defined")
    return value


_STATEMENTS: Mapping[type[Node], Callable[..., Any]] = {
    code.Append: lambda m, n, f: m.append(n, f),
    code.Do: lambda m, n, f: m.do(n, f),
    code.Assign: lambda m, n, f: m.assign(n, f),
    code.Augment: lambda m, n, f: m.augment(n, f),
    code.If: lambda m, n, f: m.branch(n, f),
    code.For: lambda m, n, f: m.loop_over(n, f),
    code.While: lambda m, n, f: m.loop_while(n, f),
    code.With: lambda m, n, f: m.inside(n, f),
    code.Try: lambda m, n, f: m.attempt(n, f),
    code.Return: lambda m, n, f: m.leave(n, f),
    code.Raise: lambda m, n, f: m.fail(n, f),
    code.Jump: lambda m, n, f: m.jump(n, f),
    code.Python: lambda m, n, f: m.python(n, f),
    code.Import: lambda m, n, f: m.imported(n, f),
    code.Put: lambda m, n, f: m.put(n, f),
}
_EXPRESSIONS: Mapping[type[Node], Callable[..., Any]] = {
    code.Const: lambda m, n, f: m.constant(n, f),
    code.Local: lambda m, n, f: m.local(n.name, f),
    code.Global: lambda m, n, f: m.outer(n, f),
    code.Format: lambda m, n, f: m.format(n, f),
    code.Joined: lambda m, n, f: m.joined(n, f),
    code.Binary: lambda m, n, f: m.binary(n, f),
    code.Unary: lambda m, n, f: m.unary(n, f),
    code.Compare: lambda m, n, f: m.compare(n, f),
    code.Logic: lambda m, n, f: m.logic(n, f),
    code.IfElse: lambda m, n, f: m.if_else(n, f),
    code.Items: lambda m, n, f: m.display(n, f),
    code.Dict: lambda m, n, f: m.mapping(n, f),
    code.Item: lambda m, n, f: m.item(n, f),
    code.Slice: lambda m, n, f: m.slice(n, f),
    code.Attr: lambda m, n, f: m.attribute(n, f),
    code.Call: lambda m, n, f: m.call(n, f),
    code.Method: lambda m, n, f: m.method(n, f),
    code.Inline: lambda m, n, f: m.inline(n, f),
    code.Named: lambda m, n, f: m.named(n, f),
    code.Each: lambda m, n, f: m.each(n, f),
    code.Lambda: lambda m, n, f: m.function(n, f),
    code.Outside: lambda m, n, f: m.outside(n, f),
}
