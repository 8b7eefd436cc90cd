"""`Program.preview`: the prompt as the model will see it, without a model.

The program's function runs, once and with the arguments given, up to its first read of something
that a model would have to produce; what it does until then it does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sgrt.core import (
    Backend,
    ChatTemplate,
    Constraint,
    Generation,
    Handle,
    Scoring,
    Segment,
    Session,
    Text,
    Usage,
)
from sgrt.errors import SgrtError
from sgrt.lang.spans import Span
from sgrt.lang.trace import Part
from sgrt.lang.variables import Produced


class NotProduced(SgrtError):
    """A preview has no values; the program's function ends here."""

    def __init__(self) -> None:
        super().__init__("a preview generates nothing")


@dataclass(frozen=True)
class Preview:
    """What a program says before a model has said anything.

    Args:
        prompt: the text before the first generation.
        text: the text as far as it is known, with ``{name}`` where something is generated.
        is_whole: whether the program went on to its end without reading a generated value.
    """

    prompt: str
    text: str
    is_whole: bool
    spans: tuple[Span, ...]
    roles: tuple[str, ...]

    def __str__(self) -> str:
        return self.text

    def __rich__(self) -> Any:
        from sgrt.lang.terminal import coloured

        return coloured(self.spans)

    def _repr_html_(self) -> str:
        from sgrt.lang import html

        return html.fragment(self.spans, self.roles)


def preview_of(parts: Sequence[Part], roles: tuple[str, ...], *, is_whole: bool) -> Preview:
    """What was said, with places for what was asked for."""
    spans: list[Span] = []
    prompt: str | None = None
    for part in parts:
        if isinstance(part.variable, Produced):
            prompt = _text(spans) if prompt is None else prompt
            name = part.variable.name
            spans.append(Span(f"{{{name or ''}}}", "sampled", part.message, name, is_first=True))
        elif part.text:
            spans.append(Span(part.text, "template" if part.template else "text", part.message))
    text = _text(spans)
    return Preview(text if prompt is None else prompt, text, is_whole, tuple(spans), roles)


def _text(spans: Sequence[Span]) -> str:
    return "".join(span.text for span in spans)


class PreviewBackend:
    """Another backend's name and template; produces nothing."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @property
    def name(self) -> str:
        return self._backend.name

    @property
    def chat_template(self) -> ChatTemplate | None:
        return self._backend.chat_template

    def open(self, *, seed: int | None = None, priority: int = 0) -> PreviewSession:
        return PreviewSession()

    def compile(self, constraint: Constraint) -> None:
        self._backend.compile(constraint)

    def token_texts(self, token_ids: Sequence[int]) -> list[str]:
        return self._backend.token_texts(token_ids)

    def stats(self) -> Mapping[str, float]:
        return {}

    def close(self) -> None:
        """It holds nothing."""


class PreviewSession:
    """Every question ends with `NotProduced`."""

    def extend(self, *parts: Text) -> None:
        """The trace has the text."""

    def extend_ids(self, token_ids: Sequence[int]) -> None:
        """Programs append no tokens."""

    def generate(self, segment: Segment) -> tuple[Generation, ...]:
        return tuple(_failed() for item in segment if not isinstance(item, Text))

    def score(
        self,
        options: Sequence[str],
        *,
        unconditional: bool = False,
        deadline_s: float | None = None,
    ) -> Scoring:
        return _failed()

    def fork(self, num: int) -> list[Session]:
        return [PreviewSession() for _ in range(num)]

    def token_ids(self) -> list[int]:
        return []

    def usage(self) -> Usage:
        return Usage()

    def sync(self, timeout: float | None = None) -> None:
        """Nothing is under way."""

    def close(self) -> None:
        """It holds nothing."""


def _failed() -> Handle[Any]:
    handle: Handle[Any] = Handle()
    handle.fail(NotProduced())
    return handle
