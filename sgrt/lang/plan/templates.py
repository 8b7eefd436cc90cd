"""`str.format` with a constant template, as an f-string."""

from __future__ import annotations

import string
from collections.abc import Iterator

from sgrt.lang.plan import code
from sgrt.lang.plan.source import Unsupported


class Template:
    """A format string as the parts of an f-string.

    The arguments of a call are evaluated once and in order; so each must be used once, in that
    order, unless it is a plain name or constant.
    """

    def __init__(self, given: dict[str, code.Expr], line: int) -> None:
        self._given = given
        self._line = line
        self._next = 0
        self._left = [k for k, v in given.items() if not isinstance(v, (code.Local, code.Const))]

    def parts(self, template: str) -> Iterator[code.Expr]:
        yield from self._parts(template, nested=False)
        if self._left:
            raise Unsupported("format() with arguments that are not used in order")

    def _parts(self, template: str, *, nested: bool) -> Iterator[code.Expr]:
        try:
            pieces = list(string.Formatter().parse(template))
        except ValueError as error:
            raise Unsupported(f"format(): {error}") from None
        for text, name, spec, conversion in pieces:
            if text:
                yield code.Const(text)
            if name is None:
                continue
            if nested and (spec or conversion):
                raise Unsupported("format() with a nested specification")
            value = self._argument(name)
            inner = code.Joined(tuple(self._parts(spec, nested=True))) if spec else None
            yield code.Format(value, conversion or "", inner, self._line)

    def _argument(self, name: str) -> code.Expr:
        if name == "":
            name, self._next = str(self._next), self._next + 1
        if name not in self._given:
            raise Unsupported(f"format() field {name!r:.60}")
        if name in self._left:
            if self._left[0] != name:
                raise Unsupported("format() with arguments that are not used in order")
            self._left.pop(0)
        elif not isinstance(self._given[name], (code.Local, code.Const)):
            raise Unsupported("format() with an argument that is used twice")
        return self._given[name]
