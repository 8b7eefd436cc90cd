"""Does a program's own code block? A guess from its byte code, then what its runs have shown.

The guess decides where a body begins, in a thread or on a hub, and nothing else: a wrong one costs
time, never a value. Only names that are known not to block are trusted.
"""

from __future__ import annotations

import builtins
import dis
import enum
import functools
import importlib
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

_PROOF = 8  # so many runs in a row without a stall show that a program does not block
_STALL_S = 0.02

_MODULES = frozenset(
    [
        "re",
        "json",
        "math",
        "cmath",
        "random",
        "string",
        "itertools",
        "functools",
        "operator",
        "collections",
        "textwrap",
        "datetime",
        "decimal",
        "fractions",
        "statistics",
        "difflib",
        "dataclasses",
        "enum",
        "typing",
        "pydantic",
        "copy",
        "unicodedata",
        "sgrt",
        "heapq",
        "bisect",
        "html",
        "base64",
        "hashlib",
        "uuid",
        "pprint",
        "contextlib",
    ]
)
_BUILTINS_THAT_BLOCK = frozenset(
    ["input", "open", "exec", "eval", "__import__", "compile", "breakpoint"]
)
_TYPES = (str, bytes, list, dict, set, frozenset, tuple, int, float, complex, slice)
_METHODS = frozenset(name for kind in _TYPES for name in dir(kind)) - {"get", "join"}
_NAMES = frozenset(
    # of states, forks, results, matches and models; `join` of strings and forks
    [
        "fork",
        "join",
        "system",
        "user",
        "assistant",
        "get_var",
        "set_var",
        "text",
        "messages",
        "variables",
        "value",
        "seed",
        "states",
        "probabilities",
        "result",
        "usage",
        "events",
        "text_iter",
        "name",
        "set_var",
        "var_scope",
        "sync",
        "error",
        "append",
        "group",
        "groups",
        "groupdict",
        "span",
        "start",
        "end",
        "model_dump",
        "model_dump_json",
        "token_ids",
        "finish_reason",
        "choices",
    ]
)
_LOADS = frozenset(("LOAD_GLOBAL", "LOAD_NAME"))
_ATTRIBUTES = frozenset(("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"))


class Conduct:
    """What is known of one program."""

    def __init__(self, func: Callable[..., Any]) -> None:
        self._func = func
        self._num_good = 0
        self._lock = threading.Lock()
        self._seen: set[type] = set()

    def sees(self, arguments: Iterable[object]) -> None:
        """Arguments of a run; objects that may be clients or connections make it suspect."""
        for value in arguments:
            kind = type(value)
            if kind not in self._seen:
                self._seen.add(kind)
                if not _is_data(kind):
                    self.may_block = True

    @cached_property
    def may_block(self) -> bool:
        """Whether its bodies had better have threads; the guess is made at the first run, when
        all that the code names is there."""
        return _looks_blocking(self._func)

    def stalled(self) -> None:
        """A body of it held a hub."""
        self.may_block = True
        self._num_good = 0

    def finished(self, longest_s: float) -> None:
        """A body of it ended in a thread; its longest stretch of own code took so long."""
        with self._lock:
            self._num_good = self._num_good + 1 if longest_s < _STALL_S else 0
            if self._num_good >= _PROOF:
                self.may_block = False


def _looks_blocking(func: Callable[..., Any]) -> bool:
    try:
        return not _is_trusted(func, set(), depth=4)
    except Exception:  # odd objects among the globals
        return True


def _is_trusted(value: object, seen: set[int], depth: int) -> bool:
    """Whether using this object cannot block, as far as can be seen."""
    if isinstance(value, MethodType):
        value = value.__func__
    if id(value) in seen or value is None or isinstance(value, (*_TYPES, bool, enum.Enum)):
        return True
    seen.add(id(value))
    module = getattr(value, "__module__", None) or getattr(value, "__name__", "")
    if isinstance(value, ModuleType):
        return value.__name__.partition(".")[0] in _MODULES
    func = getattr(value, "_func", value)  # of a Program
    if isinstance(func, MethodType):
        func = func.__func__
    if isinstance(func, FunctionType) and not _is_known(func.__module__):
        return depth > 0 and all(_parts_trusted(func, seen, depth - 1))
    if isinstance(value, type):
        return _is_data(value)
    if isinstance(value, (BuiltinFunctionType, FunctionType)):
        if module == "builtins":
            return value.__name__ not in _BUILTINS_THAT_BLOCK
        return _is_known(module)
    return _is_known(type(value).__module__)


def _is_data(kind: type) -> bool:
    return kind.__module__ == "builtins" or _is_known(kind.__module__) or _holds_data(kind)


def _holds_data(kind: type) -> bool:
    """A class whose objects are made of values: a model, dataclass, enum or exception."""
    if issubclass(kind, (enum.Enum, BaseException, tuple, dict)):
        return True
    return hasattr(kind, "model_json_schema") or hasattr(kind, "__dataclass_fields__")


def _is_known(module: str | None) -> bool:
    return (module or "").partition(".")[0] in _MODULES


def _parts_trusted(func: FunctionType, seen: set[int], depth: int) -> Iterator[bool]:
    cells = func.__closure__ or ()
    for cell in cells:
        try:
            yield _is_trusted(cell.cell_contents, seen, depth)
        except ValueError:  # not set yet
            yield False
    for code in _codes(func.__code__):
        for instruction in dis.get_instructions(code):
            name = instruction.argval
            if instruction.opname in _LOADS:
                value = func.__globals__.get(name, getattr(builtins, str(name), _MISSING))
                yield value is not _MISSING and _is_trusted(value, seen, depth)
            elif instruction.opname in _ATTRIBUTES:
                yield name in _METHODS or name in _NAMES or name in _module_names()
            elif instruction.opname == "IMPORT_NAME":
                yield _is_known(str(name))


def _dir(module: str) -> list[str]:
    return dir(importlib.import_module(module))


@functools.cache
def _module_names() -> frozenset[str]:
    modules = ("json", "math", "random", "re", "sgrt.lang.api")
    return frozenset(name for module in modules for name in _dir(module))


_MISSING = object()


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
