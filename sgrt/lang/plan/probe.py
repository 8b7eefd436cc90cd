"""How a program's text begins, whatever its unknown arguments are.

The plan is run ahead of its calls, on plain values only, up to the first thing that is not known:
a parameter, something generated, anything outside. What was said by then is the same in every
call. Nothing is asked of a model, and nothing of the user's runs.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any

from sgrt.core import ChatTemplate, Segment, Text
from sgrt.errors import Cancelled, PlanError, SgrtError
from sgrt.lang.ir import Concat, Expr, Gen, Reasoning, Role, RoleBegin, Select, as_node, concat
from sgrt.lang.plan import code
from sgrt.lang.plan.bounded import BoundedMachine, Limits
from sgrt.lang.plan.machine import Frame, Image, Returned
from sgrt.lang.state import ProgramState, ProgramStateGroup
from sgrt.lang.variables import Produced

_LIMITS = Limits(steps=10_000, chars=4_000_000, items=10_000)
_ROLES = ("system", "user", "assistant")


class Unknown:
    """A value that is not known yet, or only how it begins."""

    def __init__(self, begins: str | Expr | None = None) -> None:
        self.begins = begins


class _Stop(Exception):
    """An unknown value is needed."""

    def __init__(self, value: Unknown | None = None) -> None:
        self.value = value or Unknown()
        super().__init__("unknown")


def prefix_of(
    image: Image, state: ProgramState, arguments: MutableMapping[str, Any]
) -> tuple[Text, ...]:
    """What a state's text begins with.

    Args:
        state: a fresh one, over `Nowhere`.
        arguments: of the program, its state included; `Unknown` where they are.
    """
    probe = _Probe(image, state)
    with suppress(
        SgrtError, _Stop, Exception
    ):  # what fails here fails in the run, and is told there
        probe.run(arguments)
    return probe.said()


def plain_or_unknown(value: Any) -> Any:
    """A copy of a plain value; of anything else nothing is known."""
    probe = _Probe(Image((), ()), None)
    try:
        probe.check(value)
    except SgrtError:
        return Unknown()
    if isinstance(value, (str, int, float, type(None), list, tuple, dict, set)):
        return copy.deepcopy(value)
    return Unknown()  # an iterator is used up by looking at it


class _Probe(BoundedMachine):
    def __init__(self, image: Image, state: ProgramState | None) -> None:
        super().__init__(image, _LIMITS)
        self._root = state
        self._said: tuple[Text, ...] | None = None

    def said(self) -> tuple[Text, ...]:
        """The text up to where it stopped."""
        self._seal()
        return self._said or ()

    def _seal(self) -> None:
        if self._said is None and self._root is not None:
            texts: list[Text] = []
            for part in self._root._trace.parts.now():
                if isinstance(part.variable, Produced):
                    break
                if part.text:
                    texts.append(Text(part.text, special=part.template))
            self._said = tuple(texts)

    def check(self, value: Any) -> None:
        if isinstance(value, Unknown):
            raise _Stop(value)
        super().check(value)

    def run(self, arguments: MutableMapping[str, Any]) -> Any:
        return self._procedure(0, arguments)  # unknown ones are checked where they are used

    # ------------------------------------------------------------ statements

    def block(self, body: Sequence[code.Stmt], frame: Frame) -> Any:
        try:
            return super().block(body, frame)
        except BaseException:
            self._seal()  # before roles around it are closed
            raise

    def assign(self, node: code.Assign, frame: Frame) -> None:
        try:
            value = self.eval(node.value, frame)
        except _Stop as stop:
            value = stop.value
        if isinstance(value, Unknown) and not isinstance(node.target, code.Local):
            self._forget(node.target, frame)
        else:
            self.bind(node.target, value, frame)

    def _forget(self, target: code.Expr, frame: Frame) -> None:
        for node in code.walk(target):
            match node:
                case code.Local(name):
                    if isinstance(frame.locals.get(name), (ProgramState, ProgramStateGroup)):
                        raise _Stop
                    frame.locals[name] = Unknown()

    def append(self, node: code.Append, frame: Frame) -> None:
        try:
            super().append(node, frame)
        except _Stop as stop:
            if stop.value.begins is not None and isinstance(node.target, code.Local):
                self.extend(self.eval(node.target, frame), stop.value.begins)
            raise _Stop from None

    def extend(self, state: Any, value: Any) -> Any:
        if isinstance(state, ProgramStateGroup):
            raise _Stop
        known, ends = _until_generation(as_node(value))
        super().extend(state, known)
        if ends:
            self._seal()
            raise _Stop
        return state

    def augment(self, node: code.Augment, frame: Frame) -> None:
        try:
            super().augment(node, frame)
        except _Stop:
            frame.locals[node.name] = Unknown()

    def handler(self, node: code.Try, error: Exception) -> None:
        raise _Stop from None  # it may be one that the program does not meet

    def leave(self, node: code.Return, frame: Frame) -> Any:
        try:
            return super().leave(node, frame)
        except _Stop as stop:
            return Returned(stop.value)

    def do(self, node: code.Do, frame: Frame) -> None:
        try:
            super().do(node, frame)
        except _Stop:
            if not isinstance(node.value, code.Outside):
                raise  # else its value is nobody's, and it changes nothing that is known here

    def python(self, node: code.Python, frame: Frame) -> None:
        raise _Stop

    def imported(self, node: code.Import, frame: Frame) -> None:
        frame.locals.update((name, Unknown()) for name in node.names)

    def put(self, node: code.Put, frame: Frame) -> None:
        raise _Stop

    # ------------------------------------------------------------ expressions

    def eval(self, node: code.Expr, frame: Frame) -> Any:
        try:
            return super().eval(node, frame)
        except _Stop as stop:
            if stop.value.begins is None or _begins_as_its_part(node):
                raise
            raise _Stop from None

    def named(self, node: code.Named, frame: Frame) -> Any:
        try:
            return super().named(node, frame)
        except _Stop:
            frame.locals[node.name] = Unknown()
            raise

    def local(self, name: str, frame: Frame) -> Any:
        value = super().local(name, frame)
        if isinstance(value, Unknown):
            raise _Stop(value)
        return value

    def outer(self, node: code.Global, frame: Frame) -> Any:
        value = super().outer(node, frame)
        if not isinstance(value, ModuleType):
            self.check(value)
        return copy.deepcopy(value) if isinstance(value, (list, dict, set)) else value

    def field(self, value: Any, name: str) -> Any:
        if not isinstance(value, ModuleType):
            raise _Stop
        found = getattr(value, name)
        if not isinstance(found, ModuleType):
            self.check(found)
        return found

    def read(self, value: Any, index: Any) -> Any:
        if isinstance(value, ProgramState):
            raise _Stop
        return super().read(value, index)

    def joined(self, node: code.Joined, frame: Frame) -> str:
        begins = ""
        for part in node.parts:
            try:
                begins += self.eval(part, frame)
            except _Stop:
                raise _Stop(Unknown(begins)) from None
        return begins

    def binary(self, node: code.Binary, frame: Frame) -> Any:
        if node.op != "+":
            return super().binary(node, frame)
        left = self.eval(node.left, frame)
        try:
            right = self.eval(node.right, frame)
        except _Stop as stop:
            begins = stop.value.begins
            if isinstance(left, (str, Expr)):
                raise _Stop(Unknown(left if begins is None else _sum(left, begins))) from None
            raise _Stop from None
        return self.apply(lambda a, b: a + b, "+", left, right)

    def call(self, node: code.Call, frame: Frame) -> Any:
        if node.function in code.GENERATIONS:
            return Gen()  # it ends the prefix, whatever it asks for
        try:
            return super().call(node, frame)
        except _Stop as stop:
            raise _Stop(_in_role(node.function, stop.value)) from None

    def method(self, node: code.Method, frame: Frame) -> Any:
        try:
            return super().method(node, frame)
        except _Stop as stop:
            begins = _in_role(node.name, stop.value).begins
            if begins is not None and isinstance(node.value, code.Local):
                state = self.local(node.value.name, frame)
                if isinstance(state, ProgramState):
                    self.extend(state, begins)
                    self._seal()
            raise _Stop from None

    def bound_called(self, bound: Any, value: Any, args: list[Any], named: dict[str, Any]) -> Any:
        if isinstance(value, ProgramState) and bound.__name__ in code.STATE_READS:
            raise _Stop
        if isinstance(value, ProgramState) and bound.__name__ in _ROLES and args:
            self.extend(value, Role(bound.__name__, as_node(args[0])))
            return None
        return super().bound_called(bound, value, args, named)

    def inline(self, node: code.Inline, frame: Frame) -> Any:
        if "**" in node.names:
            return super().inline(node, frame)
        args = [self._known_or_not(arg, frame) for arg in node.args]
        pairs = zip(node.names, node.values, strict=True)
        named = {name: self._known_or_not(value, frame) for name, value in pairs}
        value = self._inlined(node.procedure, args, named)
        if isinstance(value, Unknown):
            raise _Stop(value)
        return value

    def _known_or_not(self, node: code.Expr, frame: Frame) -> Any:
        try:
            return self.eval(node, frame)
        except _Stop as stop:
            return stop.value

    def outside(self, node: code.Outside, frame: Frame) -> Any:
        """Not called. What it may change is not known from there on, which ends all."""
        for each in code.walk(node):
            value = frame.locals.get(each.name) if isinstance(each, code.Local) else None
            if not isinstance(value, (Unknown, str, int, float, type(None))):
                raise PlanError("what is outside may change this")
        raise _Stop

    def function(self, node: code.Lambda, frame: Frame) -> Any:
        raise _Stop


def _begins_as_its_part(node: code.Expr) -> bool:
    """Whether a value begins as the unknown part says that stopped it."""
    if isinstance(node, code.Binary):
        return node.op == "+"
    return isinstance(node, (code.Local, code.Joined, code.Call, code.Inline))


def _sum(left: str | Expr, right: str | Expr) -> str | Expr:
    return left + right if isinstance(left, str) and isinstance(right, str) else concat(left, right)


def _in_role(name: str, value: Unknown) -> Unknown:
    """How a message begins whose text begins so."""
    if name not in _ROLES:
        return Unknown()
    begin = RoleBegin(name)
    return Unknown(begin if value.begins is None else concat(begin, value.begins))


def _until_generation(node: Text | Expr) -> tuple[Any, bool]:
    """What a node says before anything is generated, and whether something is."""
    match node:
        case Text(text):
            return text, False
        case Gen() | Select():
            return "", True
        case Concat(parts):
            known: list[Any] = []
            for part in parts:
                begins, ends = _until_generation(part)
                known.append(begins)
                if ends:
                    return concat(*known), True
            return node, False
        case Reasoning(body=body):
            begins, ends = _until_generation(body)
            return (begins, True) if ends else (node, False)
        case Role(role, body):
            begins, ends = _until_generation(body)
            return (concat(RoleBegin(role), begins), True) if ends else (node, False)
    return node, False


class Nowhere:
    """A backend without a model: what is said to it is only written down by the state."""

    def __init__(self, name: str, template: ChatTemplate | None) -> None:
        self.name = name
        self.chat_template = template

    def open(self, *, seed: int | None = None, priority: int = 0) -> _Session:
        return _Session()

    def compile(self, constraint: object) -> None:
        """Nothing to be ready for."""

    def stats(self) -> Mapping[str, float]:
        return {}

    def close(self) -> None:
        """Nothing to give back."""


class _Session:
    def extend(self, *parts: Text) -> None:
        """Kept by the state."""

    def extend_ids(self, token_ids: Sequence[int]) -> None:
        """No program gives ids."""

    def generate(self, segment: Segment) -> Any:
        raise Cancelled("nothing is generated here")

    def score(self, options: Sequence[str]) -> Any:
        raise Cancelled("nothing is scored here")

    def fork(self, num: int) -> list[Any]:
        return [_Session() for _ in range(num)]

    def token_ids(self) -> list[int]:
        return []

    def usage(self) -> Any:
        raise Cancelled("nothing is counted here")

    def sync(self, timeout: float | None = None) -> None:
        """Nothing is under way."""

    def close(self) -> None:
        """Nothing to give back."""
