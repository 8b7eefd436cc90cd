"""Runs a plan that somebody else wrote: plain values only, and no more than a budget.

A server takes plans from its clients. Nothing in a plan can reach an attribute or a function
that is not listed in `plan.code`; this machine adds that values are plain (JSON's, with tuples and
sets), and that time and memory stay within `Limits`, whatever the plan computes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from sgrt.constraint_json import KINDS
from sgrt.errors import PlanError
from sgrt.lang.ir import Concat, Expr, Gen, Reasoning, Role, Select
from sgrt.lang.plan import code, constants
from sgrt.lang.plan.machine import Frame, Image, Machine
from sgrt.lang.plan.values import Record
from sgrt.lang.state import ProgramState, ProgramStateGroup


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one run of a foreign plan may take.

    Args:
        steps: expressions and statements carried out.
        chars: characters of all texts made on the way, together; also the longest text.
        items: of one list, tuple, dict, set or range, nested ones counted.
        bits: size of an integer.
        forks: children of all forks, together.
        generations: gens and selects that are made, each of a gen's ``n`` counted.
    """

    steps: int = 200_000
    chars: int = 8_000_000
    items: int = 100_000
    bits: int = 4096
    forks: int = 256
    generations: int = 1_000


_SCALARS = (str, int, float, bool, type(None))
_LAZY: tuple[type, ...] = (
    *(range, enumerate, zip, reversed),
    *map(type, (iter([]), (_ for _ in ()), reversed(range(0)))),
)
_WRAPPING = ("enumerate", "zip", "reversed")
_VIEWS: tuple[type, ...] = (
    type({}.items()),
    type({}.keys()),
    type({}.values()),
    type(reversed([])),
)
_METHODS: dict[type, frozenset[str]] = {
    str: code.STR_METHODS,
    list: code.LIST_READS | code.LIST_WRITES,
    tuple: code.LIST_READS,
    dict: code.DICT_READS | code.DICT_WRITES,
    Record: code.DICT_READS,
    set: frozenset({"copy"}),
    ProgramState: code.STATE_READS | code.STATE_WRITES,
    ProgramStateGroup: code.GROUP_METHODS,
}
_WIDE = re.compile(r"\d{4,}|\*")
_WIDE_PERCENT = re.compile(r"%(\([^)]*\))?[-#0 +]*(\*|\d{4,}|\d*\.(\*|\d{4,}))")
_WIDENING = ("ljust", "rjust", "center", "zfill")


class BoundedMachine(Machine):
    """A machine for foreign plans.

    Raises:
        PlanError: a limit is reached, or a value is not plain.
    """

    def __init__(self, image: Image, limits: Limits | None = None) -> None:
        super().__init__(image)
        self._limits = limits or Limits()
        self._steps = self._limits.steps
        self._chars = self._limits.chars
        self._forks = self._limits.forks
        self._generations = self._limits.generations

    def run(self, arguments: MutableMapping[str, Any]) -> Any:
        for value in arguments.values():
            self.check(value)
        try:
            return super().run(arguments)
        except RecursionError:
            raise PlanError("the plan nests values too deeply") from None

    def handler(self, node: code.Try, error: Exception) -> code.Except | None:
        own = isinstance(error, (PlanError, RecursionError, MemoryError))
        return None if own else super().handler(node, error)

    def each(self, node: code.Each, frame: Frame) -> Any:
        if node.kind in ("iter", "chain"):
            node = replace(node, items=code.Const(self._unwound(self.eval(node.items, frame))))
        return super().each(node, frame)

    def _unwound(self, value: Any) -> Any:
        """A lazy value as a list, where another is made of it: a tower of them, built in a loop,
        would overflow the stack when it is read."""
        if not isinstance(value, _LAZY) or isinstance(value, range):
            return value
        items = _up_to(value, self._limits.items + 1)
        self.check(items)
        return items

    def eval(self, node: code.Expr, frame: Frame) -> Any:
        self.step()
        value = super().eval(node, frame)
        kind = type(value)
        if kind is str and not isinstance(node, (code.Local, code.Const)):
            self._count_chars(len(value))
        elif kind is int and value.bit_length() > self._limits.bits:
            self._refuse("bits", self._limits.bits)
        return value

    def step(self, num: int = 1) -> None:
        """Count what is done."""
        self._steps -= num
        if self._steps < 0:
            self._refuse("steps", self._limits.steps)

    def block(self, body: Any, frame: Frame) -> Any:
        self.step(len(body) + 1)
        return super().block(body, frame)

    def _count_chars(self, num: int) -> None:
        self._chars -= num
        if self._chars < 0:
            self._refuse("chars", self._limits.chars)

    def _refuse(self, what: str, limit: int) -> NoReturn:
        raise PlanError(f"the plan takes more than its limit of {limit} {what}")

    def check(self, value: Any) -> None:
        """A value is plain, and not too large with all that is in it.

        A value that holds another twice counts it twice: printing it takes that long.
        """
        if type(value) in _SCALARS:
            self.step(len(value) // 64 if type(value) is str else 0)
            return
        left, stack = self._limits.items, [value]
        while stack:
            each = stack.pop()
            left -= 1
            if left < 0:
                self._refuse("items", self._limits.items)
            if type(each) in (list, tuple, set, frozenset):
                stack += _up_to(each, left + 1)
            elif type(each) in (dict, Record):
                stack += _up_to(each.keys(), left + 1)
                stack += _up_to(each.values(), left + 1)
            elif type(each) is str:
                left -= len(each) // 64
            else:
                self._check_leaf(each)
        self.step((self._limits.items - left) // 8)

    def _check_leaf(self, value: Any) -> None:
        if isinstance(value, range):
            if len(value[: self._limits.items + 1]) > self._limits.items:
                self._refuse("items", self._limits.items)
        elif not (
            type(value) in _SCALARS
            or isinstance(value, (*_LAZY, *_VIEWS, ProgramState, ProgramStateGroup))
            or self.is_known(value)
        ):
            raise PlanError(f"a plan works on plain values, not on {type(value).__name__}")

    def is_known(self, value: Any) -> bool:
        """Whether it is one of sgrt's own values: nodes of the language, types, constraints."""
        return isinstance(value, (Expr, Exception)) or constants.is_constant(value)

    def spread(self, value: Any) -> Mapping[str, Any]:
        self.check(value)
        if not isinstance(value, dict):
            raise PlanError(f"a plan spreads dicts, not {type(value).__name__}")
        return super().spread(value)

    # ------------------------------------------------------------ where work is done

    def extend(self, state: Any, value: Any) -> Any:
        if not isinstance(state, (ProgramState, ProgramStateGroup)):
            raise PlanError(f"a plan extends states, not {type(state).__name__}")
        if isinstance(state, ProgramStateGroup):
            self._count_generations(len(state) - 1)
        self._count_nodes(value)
        return super().extend(state, value)

    def _count_nodes(self, value: Any) -> None:
        """Expressions may be appended again and again."""
        match value:
            case Concat(parts):
                self.step(len(parts))
                for part in parts:
                    self._count_nodes(part)
            case Role(body=body) | Reasoning(body=body):
                self._count_nodes(body)
            case Gen(n=n):
                self._count_generations(n)
            case Select(options=options):
                self._count_generations(len(options))
            case str():
                self._count_chars(len(value))

    def _count_generations(self, num: int) -> None:
        self._generations -= num
        if self._generations < 0:
            self._refuse("generations", self._limits.generations)

    def store(self, container: Any, key: Any, value: Any) -> None:
        if type(container) not in (list, dict, ProgramState):
            raise PlanError(f"a plan does not change {type(container).__name__}")
        self.check(key)
        super().store(container, key, value)

    def formatted(self, value: Any, conversion: str, spec: str) -> str:
        self.check(value)
        self._check_spec(spec)
        return super().formatted(value, conversion, spec)

    def _check_spec(self, spec: str) -> None:
        if _WIDE.search(spec):
            raise PlanError(f"a format of a plan is too wide: {spec!r:.40}")

    def apply(self, function: Callable[[Any, Any], Any], op: str, left: Any, right: Any) -> Any:
        if op == "**":
            raise PlanError("a plan does not take powers")
        if op == "*":
            self._check_repeat(left, right)
        elif isinstance(left, tuple(KINDS.values())):
            raise PlanError("a plan names constraints, it does not compute them")
        elif op == "+" and isinstance(left, (str, list, tuple, Concat)):
            self._check_sum(left, right)
        elif op == "%" and isinstance(left, str):
            self._check_percent(left, right)
        return super().apply(function, op, left, right)

    def _check_percent(self, template: str, values: Any) -> None:
        self.check(values)
        if _WIDE_PERCENT.search(template):
            raise PlanError(f"a format of a plan is too wide: {template!r:.40}")
        each = values.values() if isinstance(values, dict) else values
        each = each if isinstance(values, (tuple, dict)) else (values,)
        longest = max(
            (len(v) if isinstance(v, (str, list, tuple, dict)) else 1 for v in each), default=1
        )
        self._count_chars(template.count("%") * longest)

    def _check_repeat(self, left: Any, right: Any) -> None:
        if isinstance(right, (str, list, tuple)):
            left, right = right, left
        if isinstance(left, (str, list, tuple)) and isinstance(right, int):
            self._check_len(left, len(left) * max(right, 0))

    def _check_sum(self, left: Any, right: Any) -> None:
        size = len(left.parts) if isinstance(left, Concat) else len(left)
        other = len(right.parts) if isinstance(right, Concat) else 0
        self._check_len(
            left, size + (len(right) if isinstance(right, (str, list, tuple)) else other)
        )

    def _check_len(self, value: Any, size: int) -> None:
        if isinstance(value, str):
            self._count_chars(size)
        else:
            self.step(min(size, self._limits.items) // 16)
            if size > self._limits.items:
                self._refuse("items", self._limits.items)

    def compared(self, op: str, left: Any, right: Any) -> Any:
        self.check(left)
        self.check(right)
        return super().compared(op, left, right)

    def read(self, value: Any, index: Any) -> Any:
        if not isinstance(value, (str, list, tuple, dict, range, ProgramState, ProgramStateGroup)):
            raise PlanError(f"a plan does not look into {type(value).__name__}")
        return super().read(value, index)

    def field(self, value: Any, name: str) -> Any:
        if not isinstance(value, Record):
            raise PlanError(f"a plan does not look into {type(value).__name__} for {name!r:.60}")
        return value.field(name)

    def called(self, function: str, args: list[Any], named: dict[str, Any]) -> Any:
        if function in _WRAPPING:
            args = [self._unwound(value) for value in args]
        for value in (*args, *named.values()):
            self.check(value)
            if isinstance(value, (str, list, tuple, dict, set)):
                self.step(len(value) // 16)
        if function in ("round", "json.dumps"):
            self._check_numbers([*args[1:], *named.values()])
        if function == "sum" and any(isinstance(v, (list, tuple)) for v in args[1:]):
            raise PlanError("a plan sums numbers")
        if function in code.GENERATIONS:
            self._check_generation(args, named)
        result = super().called(function, args, named)
        if function in KINDS:
            constants.checked(result)
        self.check(result)
        return result

    def _check_numbers(self, values: Iterable[Any]) -> None:
        if any(isinstance(v, int) and abs(v) > 1000 for v in values):
            raise PlanError("a number in a plan's call is too large")

    def _check_generation(self, args: list[Any], named: dict[str, Any]) -> None:
        n = named.get("n", 1)
        if isinstance(n, int) and n > self._limits.generations:
            self._refuse("generations", self._limits.generations)
        for options in (*args, named.get("choices")):
            if isinstance(options, (list, tuple)):
                self._count_generations(len(options))

    def bound(self, value: Any, name: str) -> Callable[..., Any]:
        if name not in _METHODS.get(type(value), ()):
            raise PlanError(f"a plan does not call .{name:.60} of {type(value).__name__}")
        return super().bound(value, name)

    def bound_called(
        self, bound: Callable[..., Any], value: Any, args: list[Any], named: dict[str, Any]
    ) -> Any:
        for each in (*args, *named.values()):
            self.check(each)
        name = bound.__name__
        if isinstance(value, ProgramState):
            self._check_state_call(name, args, named)
        elif isinstance(value, (str, list)) and name in ("join", "extend") and args:
            args = [_up_to(args[0], self._limits.items), *args[1:]]  # an iterator is read once
        if isinstance(value, str):
            self._check_text_call(name, value, args)
        elif isinstance(value, list) and name == "extend" and args:
            self._check_len(value, len(value) + len(args[0]))
        return super().bound_called(bound, value, args, named)

    def _check_state_call(self, name: str, args: list[Any], named: dict[str, Any]) -> None:
        if name in ("fork", "copy"):
            numbers = [v for v in (*args, *named.values()) if isinstance(v, int)]
            self._forks -= max([1, *numbers])
            if self._forks < 0:
                self._refuse("forks", self._limits.forks)
        elif name in ("system", "user", "assistant"):
            for value in args:
                self._count_nodes(value)

    def _check_text_call(self, name: str, text: str, args: list[Any]) -> None:
        self.step(len(text) // 64)
        if name == "replace" and len(args) >= 2 and all(isinstance(a, str) for a in args[:2]):
            self._count_chars(len(text) + (text.count(args[0]) * len(args[1])))
        elif name in _WIDENING and args and isinstance(args[0], int):
            self._count_chars(max(0, args[0]))
        elif name == "join" and args:
            self._count_chars(
                sum(len(part) for part in args[0] if isinstance(part, str))
                + len(text) * len(args[0])
            )
        elif name in ("split", "rsplit", "splitlines"):
            self.step(len(text) // 4)


def _up_to(values: Any, most: int) -> list[Any]:
    """The first items; one more than ``most`` shows that there are too many."""
    return [value for _, value in zip(range(most + 1), values, strict=False)]
