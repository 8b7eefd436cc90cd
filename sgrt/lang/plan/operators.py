"""Python's syntax in the words of plans."""

from __future__ import annotations

import ast
import inspect
import sys
from typing import Any

BINARY = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
    ast.BitAnd: "&",
    ast.BitOr: "|",
    ast.BitXor: "^",
}
UNARY = {ast.Not: "not", ast.USub: "-", ast.UAdd: "+"}
COMPARE = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.In: "in",
    ast.NotIn: "not in",
}

LOOKING_AT_THEIR_CALLER = (
    *(locals, globals, vars, dir, eval, exec, super, breakpoint, __import__),
    *(sys._getframe, inspect.currentframe, inspect.stack),
)
"""Functions that tell of the frame that calls them."""


def described(node: ast.AST) -> str:
    """A node's kind in words: ``FunctionDef`` → "function def"."""
    name = type(node).__name__
    return "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()


def is_of_sgrt(value: Any) -> bool:
    """What belongs to the language cannot be a call of the user's own."""
    return str(getattr(value, "__module__", "")).startswith("sgrt.")
