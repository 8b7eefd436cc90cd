"""A finished text in stretches that can be shown: who wrote them, how likely they were."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sgrt.core import Backend, Explains, TokenLogprob
from sgrt.lang.trace import Part
from sgrt.lang.variables import Generated, Kind, Produced, Selected, StreamEvent

NUM_SHOWN = 8
"""Options and alternatives that a note names."""
NUM_EXPLAINED = 64
"""Forbidden tokens of a generation whose reason is looked for."""


@dataclass(frozen=True)
class Span:
    """A stretch of text.

    Args:
        kind: as of `StreamEvent`, or "error": the text says what went wrong.
        message: index of the message whose content it is, or None.
        variable: name of what produced it.
        probability: of the tokens together, where known.
        note: lines on how it came about.
        is_first: where the text of a variable begins.
    """

    text: str
    kind: Kind | str
    message: int | None = None
    variable: str | None = None
    probability: float | None = None
    note: tuple[str, ...] = ()
    is_first: bool = False


def spans(parts: Sequence[Part], backend: Backend) -> Iterator[Span]:
    """All stretches, in order; waits for what is not there yet."""
    for part in parts:
        variable = part.variable
        if isinstance(variable, Produced):
            yield from _produced(variable, part.message, backend)
        elif part.text:
            yield Span(part.text, "template" if part.template else "text", part.message)


def _produced(variable: Produced, message: int | None, backend: Backend) -> Iterator[Span]:
    notes = _about(variable)
    is_first = True
    forbidden = _Forbidden(variable, backend)
    if variable.failure() is None:
        for event in variable.events():
            if event.text or event.tokens:
                note = (*notes, *_alternatives(event, variable, backend, forbidden))
                likely = _probability(event, variable)
                name = variable.name
                yield Span(event.text, event.kind, message, name, likely, note, is_first)
                is_first = False
    failure = variable.failure()
    if failure is not None:
        said = f"{type(failure).__name__}: {failure}"
        yield Span(said, "error", message, variable.name, None, notes, is_first)


def _about(variable: Produced) -> tuple[str, ...]:
    name = variable.name or "(no name)"
    lines = [f"{name}, {variable.location.rpartition('/')[2]}"]
    if variable.failure() is not None:
        return tuple(lines)
    usage = variable.usage()
    lines.append(f"{usage.prompt} prompt tokens, {usage.cached} of them from the cache")
    if isinstance(variable, Generated):
        ended = variable.results()[0]
        by = "" if ended.stop_match is None else f" by {ended.stop_match!r}"
        lines.append(
            f"{usage.sampled} sampled, {usage.forced} forced; ended: {ended.finish_reason}{by}"
        )
        others = [result.text for result in variable.results()[1:]]
        lines += [f"another: {text[:80]!r}" for text in others[:NUM_SHOWN]]
    return tuple(lines)


def _probability(event: StreamEvent, variable: Produced) -> float | None:
    if isinstance(variable, Selected):
        choice = variable.choice()
        return choice.probabilities[choice.text]
    if event.tokens is None or not event.tokens.logprobs:
        return None
    return math.exp(math.fsum(token.logprob for token in event.tokens.logprobs))


class _Forbidden:
    """Why tokens were forbidden that the model wanted, following a generation from its start."""

    def __init__(self, variable: Produced, backend: Backend) -> None:
        self._backend = backend
        self._constraint = variable.constraint if isinstance(variable, Generated) else None
        self._token_ids: list[int] = []
        self._num_left = NUM_EXPLAINED

    def read(self, token_ids: Sequence[int]) -> None:
        """Go on behind these."""
        self._token_ids += token_ids

    def why(self, token_id: int) -> str | None:
        """Why this token cannot follow; None where the backend does not say."""
        if (
            self._constraint is None
            or not self._num_left
            or not isinstance(self._backend, Explains)
        ):
            return None
        self._num_left -= 1
        return self._backend.why_not(self._constraint, self._token_ids, token_id)


def _alternatives(
    event: StreamEvent, variable: Produced, backend: Backend, forbidden: _Forbidden
) -> Iterator[str]:
    if isinstance(variable, Selected):
        ranked = sorted(variable.choice().probabilities.items(), key=lambda pair: -pair[1])
        yield from (f"{share:.1%}  {option[:60]}" for option, share in ranked[:NUM_SHOWN])
        if len(ranked) > NUM_SHOWN:
            yield f"and {len(ranked) - NUM_SHOWN} more"
        return
    if event.kind == "forced":
        yield "forced: the constraint left no other text"
    for token in event.tokens.logprobs if event.tokens else ():
        yield from _one_token(token, variable, backend, forbidden)
    forbidden.read(event.tokens.token_ids if event.tokens else ())


def _one_token(
    token: TokenLogprob, variable: Produced, backend: Backend, forbidden: _Forbidden
) -> Iterator[str]:
    ids = [token.token_id, *(i for i, _ in token.top)]
    own, *others = map(repr, backend.token_texts(ids))
    yield f"{math.exp(token.logprob):.1%}  {own}  (drawn)"
    for (token_id, logprob), text in zip(token.top[:NUM_SHOWN], others, strict=False):
        if token_id != token.token_id:
            yield f"{math.exp(logprob):.1%}  {text}"
    wanted = max(token.top, key=lambda pair: pair[1], default=None)
    if wanted is None or wanted[1] <= token.logprob:
        return
    assert isinstance(variable, Generated)
    text = others[token.top.index(wanted)]
    if variable.is_explained_by_constraint:
        yield f"the model wanted {text}; the constraint forbade it"
        why = forbidden.why(wanted[0])
        if why:
            yield why
    else:
        yield f"{text} was likelier"


def visible(text: str) -> str:
    """Control characters, which could drive a terminal or hide text, as pictures."""
    return "".join(
        c if c in "\n\t" or c.isprintable() or c == "\u200d" else _picture(c) for c in text
    )


def _picture(char: str) -> str:
    code = ord(char)
    return chr(0x2400 + code) if code < 32 else f"\\u{code:04x}"
