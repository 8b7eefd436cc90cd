"""From a function to the syntax tree of its source, checked to be what really runs."""

from __future__ import annotations

import ast
import functools
import linecache
from collections.abc import Iterator
from types import CodeType, FunctionType

Definition = ast.FunctionDef | ast.AsyncFunctionDef


class NoSource(Exception):
    """The source of a function cannot be had; the message says why."""


class Unsupported(Exception):
    """A piece of source that a plan does not understand."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def definition_of(function: FunctionType) -> Definition:
    """The ``def`` of a function.

    The whole file is compiled again and the function's code compared with it, so a file that was
    edited since it was imported is never taken for the program.

    Raises:
        NoSource: there is none, it is a lambda, or it is not what the function was made from.
    """
    code = function.__code__
    text = "".join(linecache.getlines(code.co_filename, function.__globals__))
    if not text:
        raise NoSource("its source cannot be found")
    try:
        tree, codes = _read(text, code.co_filename)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise NoSource(f"its source does not parse: {type(error).__name__}") from None
    if not any(_same(code, other) for other in codes):
        raise NoSource("its source has changed since it was loaded")
    found = [
        node
        for node in ast.walk(tree)
        if isinstance(node, Definition)
        and node.name == code.co_name
        and min([node.lineno, *(d.lineno for d in node.decorator_list)]) == code.co_firstlineno
    ]
    if len(found) != 1:
        raise NoSource("it is not written as a `def` of its own")
    return found[0]


@functools.lru_cache(maxsize=16)
def _read(text: str, file: str) -> tuple[ast.Module, tuple[CodeType, ...]]:
    """A file's syntax tree, and the code of all functions in it."""
    return ast.parse(text), tuple(_codes(compile(text, file, "exec", dont_inherit=True)))


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def _same(a: CodeType, b: CodeType) -> bool:
    """Whether two code objects do the same in the same lines."""
    return (
        a.co_firstlineno == b.co_firstlineno
        and a.co_name == b.co_name
        and a.co_code == b.co_code
        and a.co_names == b.co_names
        and a.co_varnames == b.co_varnames
        and a.co_freevars == b.co_freevars
        and len(a.co_consts) == len(b.co_consts)
        and all(map(_same_constant, a.co_consts, b.co_consts))
    )


def _same_constant(a: object, b: object) -> bool:
    if isinstance(a, CodeType) and isinstance(b, CodeType):
        return _same(a, b)
    return type(a) is type(b) and repr(a) == repr(b)  # frozensets of literals print alike enough
