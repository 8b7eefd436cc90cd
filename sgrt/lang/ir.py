"""What a program says, as values: the nodes that `s += …` appends.

Nodes are frozen and know nothing of backends. A plain string is a `core.Text`; everything else
is an `Expr`, and expressions concatenate with `+` among themselves and with strings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from sgrt.core import Constraint, Text
from sgrt.lang.choices import ChoicesMethod, sequence_probability
from sgrt.lang.plain import REGEX_BOOL as REGEX_BOOL
from sgrt.lang.plain import REGEX_FLOAT as REGEX_FLOAT
from sgrt.lang.plain import REGEX_INT as REGEX_INT
from sgrt.lang.plain import REGEX_STR as REGEX_STR


class Expr:
    """Part of a program's text; ``"a" + expr + "b"`` is one too."""

    def __add__(self, other: object) -> Concat:
        return concat(self, other) if isinstance(other, (str, Expr)) else NotImplemented

    def __radd__(self, other: object) -> Concat:
        return concat(other, self) if isinstance(other, str) else NotImplemented

    def __format__(self, spec: str) -> str:
        """Refused: it would become text that nobody means."""
        raise TypeError(
            f'{self!r:.80} cannot stand in an f-string; write "text" + gen(...), or s += twice'
        )

    def __str__(self) -> str:
        """Refused as `__format__` is, for ``"%s" % gen(...)``; ``repr`` shows it."""
        raise TypeError(
            f'{self!r:.80} is no text yet; write "text" + gen(...), or s += twice, and read s[name]'
        )

    def __bool__(self) -> NoReturn:
        """Refused: nothing has been generated yet that could be true."""
        raise TypeError(
            f"{self!r:.80} has no value of its own; append it with s += and read s[name]"
        )


Node = Text | Expr


@dataclass(frozen=True)
class Concat(Expr):
    """Nodes one after the other; never nested in itself."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, kw_only=True)
class Gen(Expr):
    """The model continues.

    Args:
        sampling: fields of `core.SamplingParams` that were given here; the run's defaults
            fill the others.
        stop_regex: patterns that end the text; see `core.Generate`.
        output: type that the text is parsed into (`lang.outputs`), or None for text.
        n: how many independent continuations; the text goes on with the first.
    """

    name: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    constraint: Constraint | None = None
    output: Any = None
    n: int = 1
    stop_regex: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Select(Expr):
    """The model picks one of the options."""

    name: str | None
    options: tuple[str, ...]
    method: ChoicesMethod = sequence_probability
    temperature: float = 0.0
    seed: int | None = None


@dataclass(frozen=True)
class Role(Expr):
    """A whole message of a conversation."""

    role: str
    body: Node

    def __enter__(self) -> NoReturn:
        raise TypeError(f"a message is opened on the state: with s.{self.role}(): …")

    def __exit__(self, *exc: object) -> None: ...


@dataclass(frozen=True)
class RoleBegin(Expr):
    """What follows belongs to a message of this role."""

    role: str


@dataclass(frozen=True)
class RoleEnd(Expr):
    """The message of this role ends."""

    role: str


@dataclass(frozen=True)
class Reasoning(Expr):
    """Text whose generations are split into what was thought and what was said.

    Args:
        tags: begin and end of what was thought.
        is_begun: the prompt has opened the thoughts already.
    """

    body: Node
    tags: tuple[str, str]
    is_begun: bool


def as_node(value: object) -> Node:
    """A string or expression as a node.

    Raises:
        TypeError: anything else; numbers and None are not turned into text by guessing.
    """
    if isinstance(value, str):
        return Text(value if type(value) is str else str(value))
    if isinstance(value, Expr):
        return value
    raise TypeError(
        f"a program is extended with str or sgrt expressions, not "
        f"{type(value).__name__}: {value!r:.80}{_hint(value)}"
    )


def _hint(value: object) -> str:
    """What was probably meant."""
    if value is None:
        return "; a program that is called with a state appends by itself: f(s), not s += f(s)"
    if callable(value):
        return "; is it to be called?"
    if isinstance(value, (int, float)):
        return '; write it as text: f"{value}"'
    if callable(getattr(value, "text", None)):
        return "; append its text(), or a value of it, s[name]"
    return ""


def concat(*values: object) -> Concat:
    """All values in order, flattened, so that long sums never nest."""
    parts: list[Node] = []
    for value in values:
        node = as_node(value)
        parts.extend(node.parts if isinstance(node, Concat) else (node,))
    return Concat(tuple(parts))
