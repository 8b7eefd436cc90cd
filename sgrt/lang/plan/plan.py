"""What `Program.compile` gives: a program that can be looked at, warmed up, written and sent.

A *whole* plan runs without the function it was read from: the plan is the program. A *partial* one
holds something that only Python can do; then the function itself runs, exactly once per call as
ever, and the plan knows how its text begins and which grammars it needs.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType, MethodType
from typing import Any

from sgrt.core import Backend, Constraint, Text
from sgrt.errors import PlanError
from sgrt.lang.bodies import value_check
from sgrt.lang.given import OPTIONS, Arguments
from sgrt.lang.plan import code, passes, show, wire
from sgrt.lang.plan.bounded import BoundedMachine, Limits
from sgrt.lang.plan.compiler import Guard, compile_function
from sgrt.lang.plan.machine import Image, Machine
from sgrt.lang.plan.probe import Nowhere, Unknown, plain_or_unknown, prefix_of
from sgrt.lang.plan.warm import Warm, warm
from sgrt.lang.program import Program
from sgrt.lang.state import ProgramState


class Plan:
    """A program, read from its source or from JSON; made by `Program.compile` or `Plan.from_json`.

    ``print(plan)`` shows it. It stays valid for any arguments; where a function that it names has
    been replaced since, it is read again before it runs.

    Attributes:
        is_whole: whether it runs without the program's function.
        program: a `Program` that runs by this plan: `run`, `run_batch` and all its other ways.
        dropped: generations that were left out because nothing reads them (``drop_unused``).
        notes: what was lost when it was written as JSON.
    """

    def __init__(
        self,
        origin: Program | None,
        image: Image,
        *,
        guards: Sequence[Guard] = (),
        dropped: Sequence[str] | None = None,
        notes: Sequence[str] = (),
        limits: Limits | None = None,
    ) -> None:
        self._origin = origin
        self.image = image
        self._guards = tuple(guards)
        self.dropped = None if dropped is None else tuple(dropped)
        self.notes = tuple(notes)
        self._limits = limits
        self.signature = image.signature(0) if origin is None else _signature(origin)
        self.name = image.procedures[0].name if origin is None else origin._name
        self.is_whole = _find_python(image) is None
        self.program = _program(self) if origin is None or self.is_whole else origin

    # ------------------------------------------------------------ making

    @classmethod
    def of(cls, program: Program, *, drop_unused: bool = False) -> Plan:
        """Read a program's source. `Program.compile` keeps the result.

        Raises:
            PlanError: ``drop_unused`` of a program that is not whole.
        """
        if hasattr(program._func, "__plan__"):
            raise PlanError(f"{program!r:.80} is a plan already")
        func, _ = _unbound(program)
        compiled = compile_function(func)
        plan = cls(program, compiled.image, guards=compiled.guards)
        if not drop_unused:
            return plan
        if not plan.is_whole:
            node = _find_python(plan.image)
            assert node is not None
            raise PlanError(f"drop_unused needs a whole plan; line {node.line}: {node.reason}")
        image, dropped = passes.without_unused(compiled.image)
        return cls(program, image, guards=compiled.guards, dropped=dropped)

    @classmethod
    def from_json(cls, text: str | bytes, *, limits: Limits | None = None) -> Plan:
        """A plan from `to_json`'s text, by whomever: it can do no more than plans can.

        Args:
            limits: what each run may take.

        Raises:
            PlanError: it is no plan of this version.
        """
        image, notes = wire.from_json(text)
        for parameter in image.procedures[0].parameters:
            if parameter.name in OPTIONS:
                raise PlanError(f"the parameter name {parameter.name!r} belongs to run()")
        return cls(None, image, notes=notes, limits=limits or Limits())

    def to_json(self) -> str:
        """The plan as text: `from_json` runs it with new arguments, without the program's source.

        Names from outside are written as they stand now. Classes become their JSON schema, their
        values plain objects; `Plan.notes` of what is read again says which.

        Raises:
            PlanError: the plan is not whole, or a value from outside has no JSON.
        """
        first, named = self._given()
        notes = list(self.notes)
        if self.image.checks or "_call" in self.program.__dict__:
            notes.append("what it returns is not checked against annotations")
        if self.program._num_ahead is not None:
            notes.append("num_api_spec_tokens is not kept")
        if self.program._history != "kept":
            raise PlanError(f"history={self.program._history!r} has no JSON")
        return wire.to_json(self.image, first, named, notes=notes)

    def _given(self) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """Arguments that come with the program: a method's object, and what was bound."""
        if self._origin is None:
            return (), {}
        func, named = _unbound(self._origin)
        return ((func.__self__,) if isinstance(func, MethodType) else ()), named

    # ------------------------------------------------------------ looking

    def holds(self) -> bool:
        """Whether all functions it names are still what they were."""
        return all(guard.holds() for guard in self._guards)

    def grammars(self) -> list[passes.Grammar]:
        """Constraints of the program, those in its Python parts too where they can be told."""
        return passes.grammars(self.image)

    def prefix(
        self, backend: Backend, arguments: Mapping[str, Any] | None = None
    ) -> tuple[Text, ...]:
        """How the text of every call begins, in the words of a backend's chat template.

        Args:
            arguments: those that are the same in every call.
        """
        known = {**(arguments or {}), **self._given()[1]}
        nowhere: Any = Nowhere(backend.name, backend.chat_template)
        state = self.program._new_state(nowhere, self.program._plain, None, None)
        given: dict[str, Any] = {p: Unknown() for p in self.image.signature(0).parameters}
        given |= {p: plain_or_unknown(value) for p, value in known.items() if p in given}
        given[self._state_name()] = state
        try:
            return prefix_of(self.image, state, given)
        finally:
            state.cancel()

    def _state_name(self) -> str:
        return next(iter(self.signature.parameters))

    def __str__(self) -> str:
        return "\n".join(_lines(self))

    def __repr__(self) -> str:
        return f"<sgrt plan of {self.name}: {'whole' if self.is_whole else 'partial'}>"

    # ------------------------------------------------------------ running

    def _current(self) -> Plan:
        """This plan, or what the program is read as now."""
        if self._origin is None or self.holds():
            return self
        return self._origin.compile(drop_unused=self.dropped is not None)

    def run(self, *args: Any, **kwargs: Any) -> ProgramState:
        """`Program.run`, by this plan."""
        return self._current().program.run(*args, **kwargs)

    def run_batch(self, *args: Any, **kwargs: Any) -> Any:
        """`Program.run_batch`, by this plan."""
        return self._current().program.run_batch(*args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._current().program(*args, **kwargs)

    def warm(self, backend: Backend, batch: Sequence[Arguments] = (), *, wait: bool = True) -> Warm:
        """Have ready what all calls share: grammars compiled in parallel, the prefix computed.

        Args:
            batch: positional and named arguments of the calls to come: those that are the same in
                all of them belong to the prefix.
            wait: until the grammars are compiled. The prefix is not waited for: who needs it
                while it is computed waits for it in the engine.

        Returns:
            What holds the prefix in the backend's cache until it is closed; a context manager.
            A backend that cannot hold a prefix (a remote one) only gets the grammars.
        """
        known = self._common(batch)
        prefix = self.prefix(backend, known)
        found = dict.fromkeys(g.constraint for g in self.grammars() if g.constraint is not None)
        return warm(backend, prefix, list(found), wait=wait)

    def _common(self, batch: Sequence[Arguments]) -> dict[str, Any]:
        """Arguments that are the same in every item."""
        common: dict[str, Any] | None = None
        for args, kwargs in batch:
            try:
                bound = self.signature.bind(None, *args, **kwargs)
            except TypeError:
                return {}  # the item's own failure
            bound.apply_defaults()
            if common is None:
                common = dict(bound.arguments)
            else:
                for name in [n for n in common if not _equal(common[n], bound.arguments[n])]:
                    del common[name]
            if len(common) <= 1:
                break
        return {k: v for k, v in (common or {}).items() if k != self._state_name()}


def _find_python(image: Image) -> code.Python | None:
    """What keeps a plan from being whole."""
    nodes = code.walk(*image.procedures[0].body)
    return next((node for node in nodes if isinstance(node, code.Python)), None)


def _equal(a: Any, b: Any) -> bool:
    """Whether two arguments are the same plain value, or the same object."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if type(a) in (list, tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    if type(a) is dict:
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    return type(a) in (str, int, float, bool) and a == b


def _signature(program: Program) -> inspect.Signature:
    return inspect.signature(program._func)


def _unbound(program: Program) -> tuple[FunctionType | MethodType, Mapping[str, Any]]:
    """The function that a program was written as, and the arguments bound to it since."""
    values: dict[str, Any] = {}
    while program._bound_of is not None:
        program, more = program._bound_of
        values = {**more, **values}
    assert isinstance(program._func, (FunctionType, MethodType))
    return program._func, values


def _body(plan: Plan) -> Callable[..., Any]:
    """The plan as a function of a state and arguments, in place of the program's."""
    func = None if plan._origin is None else plan._origin._func
    first, named = plan._given()
    signature = plan.image.signature(0)
    limits = plan._limits

    def body(*args: Any, **kwargs: Any) -> Any:
        try:
            arguments = signature.bind(*first, *args, **kwargs, **named)
        except TypeError as error:
            raise TypeError(f"{plan.name}(): {error}") from None
        arguments.apply_defaults()
        machine = Machine(plan.image) if limits is None else BoundedMachine(plan.image, limits)
        return machine.run(arguments.arguments)

    if func is not None:
        functools.update_wrapper(body, func)
        del body.__wrapped__  # type: ignore[attr-defined]  # the function is not called
    else:
        body.__name__ = body.__qualname__ = plan.name
    body.__signature__ = plan.signature  # type: ignore[attr-defined]
    body.__plan__ = plan  # type: ignore[attr-defined]
    return body


def _program(plan: Plan) -> Program:
    origin = plan._origin
    program = Program(
        _body(plan),
        num_api_spec_tokens=None if origin is None else origin._num_ahead,
        history="kept" if origin is None else origin._history,
    )
    if origin is not None and passes.calls_outside(plan.image):
        program._conduct = origin._conduct  # the user's code may take its time
    else:
        program._conduct.may_block = False  # a plan only computes
    if plan._origin is not None and (check := value_check(plan._origin._func, plan.name)):
        body = program._func
        program.__dict__["_call"] = lambda *args, **kwargs: check(body(*args, **kwargs))
    return program


def _lines(plan: Plan) -> list[str]:
    image = plan.image
    first = image.procedures[0]
    kind = "whole: runs without the function" if plan.is_whole else "partial: the function runs"
    if plan.is_whole and passes.calls_outside(image):
        kind += ", calls Python"
    lines = [f"plan of {plan.name}{plan.signature} · {first.file}:{first.line} · {kind}"]
    if plan.dropped is not None:
        lines.append(f"  dropped: {', '.join(plan.dropped) or 'nothing'}")
    for number, row in enumerate(show.rows(image), 1):
        segments = f"  §{'–'.join(map(str, _ends(row.segments)))}" if row.segments else ""
        why = f"  | {row.why}" if row.why else ""
        lines.append(f"{number:4}  {'    ' * row.depth}{row.text}{segments}{why}")
    for grammar in plan.grammars():
        what = "depends on arguments" if grammar.constraint is None else _shown(grammar.constraint)
        lines.append(f"  grammar {grammar.name or 'without a name'}, line {grammar.line}: {what}")
    return [*lines, *(f"  note: {note}" for note in plan.notes)]


def _ends(numbers: tuple[int, ...]) -> tuple[int, ...]:
    return numbers if len(numbers) == 1 else (numbers[0], numbers[-1])


def _shown(constraint: Constraint) -> str:
    return f"{constraint!r:.80}"
