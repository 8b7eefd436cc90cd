"""What a plan consists of: a small language, cut from Python, with nothing in it that acts outside.

Expressions and statements are frozen nodes. They mean what the Python they were read from means,
in the same order of evaluation; `plan.machine` runs them, `plan.wire` writes and reads them.
"""

from __future__ import annotations

import builtins
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from sgrt import errors
from sgrt.constraint_json import KINDS
from sgrt.lang import api


class Node:
    """Base of all nodes."""

    __slots__ = ()


class Expr(Node):
    """Has a value."""

    __slots__ = ()


class Stmt(Node):
    """Does something; every statement has a ``line``."""

    __slots__ = ()
    line: int


# ---------------------------------------------------------------- expressions


@dataclass(frozen=True, slots=True)
class Const(Expr):
    """A value known when the plan was made."""

    value: Any


@dataclass(frozen=True, slots=True)
class Local(Expr):
    """A parameter or a variable of the function."""

    name: str


@dataclass(frozen=True, slots=True)
class Global(Expr):
    """A name from outside of the function: module, closure, built-in; looked up when it runs."""

    name: str


@dataclass(frozen=True, slots=True)
class Format(Expr):
    """One value in an f-string. ``conversion`` is "", "s", "r" or "a"."""

    value: Expr
    conversion: str
    spec: Expr | None
    line: int


@dataclass(frozen=True, slots=True)
class Joined(Expr):
    """An f-string: constant strings and `Format`s."""

    parts: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Binary(Expr):
    op: str
    left: Expr
    right: Expr
    line: int


@dataclass(frozen=True, slots=True)
class Unary(Expr):
    op: str
    value: Expr
    line: int


@dataclass(frozen=True, slots=True)
class Compare(Expr):
    """``left op right op right …``, one operator per right side."""

    left: Expr
    ops: tuple[str, ...]
    rights: tuple[Expr, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Logic(Expr):
    """``and`` / ``or``."""

    op: str
    values: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class IfElse(Expr):
    test: Expr
    then: Expr
    other: Expr


@dataclass(frozen=True, slots=True)
class Items(Expr):
    """A list, tuple or set display, and a tuple of targets. ``kind`` names the type."""

    kind: str
    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Dict(Expr):
    keys: tuple[Expr, ...]
    values: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Item(Expr):
    """``value[index]``; of a state: the value of a variable."""

    value: Expr
    index: Expr
    line: int


@dataclass(frozen=True, slots=True)
class Slice(Expr):
    lower: Expr | None
    upper: Expr | None
    step: Expr | None


@dataclass(frozen=True, slots=True)
class Attr(Expr):
    value: Expr
    name: str
    line: int


@dataclass(frozen=True, slots=True)
class Call(Expr):
    """A call of one of `FUNCTIONS`. Here as in all calls, the name "**" spreads a mapping."""

    function: str
    args: tuple[Expr, ...]
    names: tuple[str, ...]
    values: tuple[Expr, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Method(Expr):
    """A call of one of `METHODS` of a value."""

    value: Expr
    name: str
    args: tuple[Expr, ...]
    names: tuple[str, ...]
    values: tuple[Expr, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Inline(Expr):
    """A call of another function that is part of the plan."""

    procedure: int
    args: tuple[Expr, ...]
    names: tuple[str, ...]
    values: tuple[Expr, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Named(Expr):
    """``(name := value)``"""

    name: str
    value: Expr


@dataclass(frozen=True, slots=True)
class Each(Expr):
    """A comprehension with one ``for``. ``kind``: list, set, dict (of pairs), iter (lazy), or chain:
    lazy too, of the items of its elements, for a ``for`` with others inside of it."""

    kind: str
    element: Expr
    target: Expr
    items: Expr
    tests: tuple[Expr, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Lambda(Expr):
    """A function of positional parameters, to be appended to a group of states."""

    parameters: tuple[str, ...]
    body: Expr
    line: int


# ---------------------------------------------------------------- statements


@dataclass(frozen=True, slots=True)
class Append(Stmt):
    """``target += value`` of a state or a group of states."""

    target: Expr
    value: Expr
    line: int


@dataclass(frozen=True, slots=True)
class Do(Stmt):
    """An expression as a statement."""

    value: Expr
    line: int


@dataclass(frozen=True, slots=True)
class Assign(Stmt):
    """``target = value``: a `Local`, a tuple of targets, or an `Item`."""

    target: Expr
    value: Expr
    line: int


@dataclass(frozen=True, slots=True)
class Augment(Stmt):
    """``name op= value``."""

    name: str
    op: str
    value: Expr
    line: int


@dataclass(frozen=True, slots=True)
class If(Stmt):
    test: Expr
    then: tuple[Stmt, ...]
    other: tuple[Stmt, ...]
    line: int


@dataclass(frozen=True, slots=True)
class For(Stmt):
    target: Expr
    items: Expr
    body: tuple[Stmt, ...]
    other: tuple[Stmt, ...]
    line: int


@dataclass(frozen=True, slots=True)
class While(Stmt):
    test: Expr
    body: tuple[Stmt, ...]
    other: tuple[Stmt, ...]
    line: int


@dataclass(frozen=True, slots=True)
class With(Stmt):
    """``with value as target``; one context manager."""

    value: Expr
    target: Expr | None
    body: tuple[Stmt, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Except(Stmt):
    """``except (errors) as name``, inside of a `Try` only.

    Args:
        errors: of `CAUGHT`.
        names: one, or none.
    """

    errors: tuple[str, ...]
    names: tuple[str, ...]
    body: tuple[Stmt, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Try(Stmt):
    """``try``, with `Except`s as its handlers."""

    body: tuple[Stmt, ...]
    handlers: tuple[Stmt, ...]
    other: tuple[Stmt, ...]
    final: tuple[Stmt, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Return(Stmt):
    value: Expr | None
    line: int


@dataclass(frozen=True, slots=True)
class Raise(Stmt):
    value: Expr
    line: int


@dataclass(frozen=True, slots=True)
class Jump(Stmt):
    """``break``, ``continue`` or ``pass``."""

    kind: str
    line: int


@dataclass(frozen=True, slots=True)
class Python(Stmt):
    """Source that a plan does not understand; the function itself has to run.

    Args:
        calls: the gens and selects found in it, for their grammars.
    """

    line: int
    last: int
    reason: str
    calls: tuple[Expr, ...] = ()


@dataclass(frozen=True, slots=True)
class Parameter:
    """Of a procedure. ``kind`` is that of `inspect.Parameter`."""

    name: str
    kind: int
    default: Const | None


@dataclass(frozen=True)
class Procedure:
    """One function of a plan; number 0 is the program itself."""

    name: str
    file: str
    line: int
    parameters: tuple[Parameter, ...]
    body: tuple[Stmt, ...]


_KINDS = [kind for kind in list(globals().values()) if isinstance(kind, type)]
EXPRESSIONS = {k.__name__: k for k in _KINDS if issubclass(k, Expr) and k is not Expr}
STATEMENTS = {k.__name__: k for k in _KINDS if issubclass(k, Stmt) and k is not Stmt}


# ---------------------------------------------------------------- what only its own process runs


@dataclass(frozen=True, slots=True)
class Outside(Expr):
    """A call of the user's own Python, as it stands where it stands. No state is handed to it.

    Args:
        rest: gives all positional arguments, where some are starred.
    """

    function: Expr
    args: tuple[Expr, ...]
    names: tuple[str, ...]
    values: tuple[Expr, ...]
    line: int
    rest: Expr | None = None


@dataclass(frozen=True, slots=True)
class Import(Stmt):
    """An ``import`` inside of the function.

    Args:
        names: that it binds.
    """

    source: str
    names: tuple[str, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Put(Stmt):
    """``base.name = value`` or ``base[index] = value`` of an object of the user's."""

    target: Attr | Item
    value: Expr
    line: int


# ---------------------------------------------------------------- what may be called

_SAYS = (
    *("gen", "select", "regex", "gen_int", "gen_string", "system", "user", "assistant"),
    "separate_reasoning",
    *("system_begin", "system_end", "user_begin", "user_end", "assistant_begin", "assistant_end"),
)
_BUILTINS = (
    *("len", "range", "enumerate", "zip", "reversed", "sorted", "min", "max", "sum", "any", "all"),
    *(
        "abs",
        "round",
        "divmod",
        "str",
        "int",
        "float",
        "bool",
        "list",
        "tuple",
        "dict",
        "set",
        "repr",
    ),
)
ERRORS = (
    *("Exception", "RuntimeError", "ValueError", "TypeError", "KeyError", "LookupError"),
    *("IndexError", "AssertionError"),
)
_MATH = ("ceil", "exp", "floor", "isclose", "isfinite", "isnan", "log", "log10", "log2", "sqrt")
CAUGHT: Mapping[str, type[Exception]] = {
    **{name: getattr(builtins, name) for name in ERRORS},
    **{kind.__name__: kind for kind in (ArithmeticError, ZeroDivisionError, AttributeError)},
    "json.JSONDecodeError": json.JSONDecodeError,
    "SgrtError": errors.SgrtError,
    "ProgramError": errors.ProgramError,
}
"""All that a plan's ``except`` names."""
GENERATIONS = ("gen", "select", "regex", "gen_int", "gen_string")
FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    **{name: getattr(api, name) for name in _SAYS},
    **{name: getattr(builtins, name) for name in (*_BUILTINS, *ERRORS)},
    **KINDS,
    "json.dumps": json.dumps,
    "json.loads": json.loads,
    **{f"math.{name}": getattr(math, name) for name in _MATH},
}
"""All that a plan calls by name. None acts on anything but its arguments."""

STR_METHODS = frozenset(
    [
        "capitalize",
        "casefold",
        "count",
        "endswith",
        "find",
        "index",
        "isalnum",
        "isalpha",
        "isascii",
        "isdecimal",
        "isdigit",
        "isidentifier",
        "islower",
        "isnumeric",
        "isspace",
        "istitle",
        "isupper",
        "join",
        "ljust",
        "lower",
        "lstrip",
        "partition",
        "removeprefix",
        "removesuffix",
        "replace",
        "rfind",
        "rindex",
        "rjust",
        "rpartition",
        "rsplit",
        "rstrip",
        "split",
        "splitlines",
        "startswith",
        "strip",
        "swapcase",
        "title",
        "upper",
        "zfill",
        "center",
    ]
)
LIST_READS = frozenset({"copy", "count", "index"})
LIST_WRITES = frozenset({"append", "extend", "insert", "pop", "reverse"})
DICT_READS = frozenset({"copy", "get", "items", "keys", "values"})
DICT_WRITES = frozenset({"setdefault", "update"})
STATE_READS = frozenset(
    [
        "get_var",
        "text",
        "messages",
        "variables",
        "sync",
        "probabilities",
        "get_meta_info",
        "error",
        "usage",
    ]
)
STATE_WRITES = frozenset(
    [
        "system",
        "user",
        "assistant",
        "set_var",
        "fork",
        "copy",
        "var_scope",
        "cancel",
        "system_begin",
        "system_end",
        "user_begin",
        "user_end",
        "assistant_begin",
        "assistant_end",
    ]
)
GROUP_METHODS = frozenset({"join"})


# ---------------------------------------------------------------- walking


def children(node: Node) -> Iterator[Node]:
    """The nodes right below one, in order."""
    for field in fields(node):  # type: ignore[arg-type]  # every node is a dataclass
        value = getattr(node, field.name)
        if isinstance(value, Node):
            yield value
        elif isinstance(value, tuple):
            yield from (item for item in value if isinstance(item, Node))


def walk(*roots: Node) -> Iterator[Node]:
    """Nodes and all below them, in order of the source."""
    for root in roots:
        yield root
        yield from walk(*children(root))


def is_whole(procedure: Procedure | None) -> bool:
    """Whether nothing of it is left to Python."""
    return procedure is not None and not any(
        isinstance(node, Python) for node in walk(*procedure.body)
    )
