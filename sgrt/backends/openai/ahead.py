"""Guessing ahead: one request that serves several generations.

An API charges each request for its whole prompt. So a generation that a stop string ends asks for
more than it needs, without the stop string. Where what the program appends next is what the model
has written anyway, the next generation is read from that, and nothing is sent. What is read is
what the model wrote behind the same text; where the program goes on otherwise, or it cannot be
told what a request of its own would have given, such a request is sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from sgrt.backends.openai import ChatSession, CompletionSession, OpenAI
from sgrt.backends.remote import Push, finished
from sgrt.core import (
    Constraint,
    FinishReason,
    Generate,
    GenerateResult,
    Generation,
    SamplingParams,
    Text,
    TokenEvent,
    Usage,
)
from sgrt.errors import BackendError, RequestError

_TRIES = 3  # for an answer that has the form of the program's message
_PLAIN = SamplingParams()
_NEUTRAL = (
    *("min_tokens", "presence_penalty", "frequency_penalty", "repetition_penalty"),
    *("stop_token_ids", "ignore_eos", "logprobs", "finish"),
)
"""Parameters that count or report tokens of one generation: with them, nothing is guessed."""


class Cut(NamedTuple):
    """What a generation takes of a guess."""

    text: str
    reason: FinishReason
    stop: str | None


@dataclass
class Guess:
    """What the model has written, and no generation has taken yet.

    Args:
        max_tokens: that were asked for.
        num_tokens: of the whole answer, so no fewer than are left.
        reason: why the answer ended.
        asked: with which parameters, but for stop strings, length and seed.
        is_fresh: nothing of it has been taken.
    """

    text: str
    max_tokens: int
    num_tokens: int
    reason: FinishReason
    asked: Mapping[str, Any]
    is_fresh: bool = True

    def cut(self, params: SamplingParams) -> Cut | None:
        """What a request with these parameters would have given, or None where that is unknown."""
        found = first_stop(self.text, params.stop)
        if found is not None:
            begin, end = found
            return (
                Cut(self.text[:begin], "stop", self.text[begin:end])
                if self._fits(self.text[:end], params.max_tokens)
                else None
            )
        if self.reason == "stop":
            fits = self._fits(self.text, params.max_tokens)
            return Cut(self.text, "stop", None) if fits else None
        is_all = self.is_fresh and params.max_tokens == self.max_tokens
        return Cut(self.text, "length", None) if is_all else None

    def _fits(self, text: str, max_tokens: int) -> bool:
        """Whether it surely has no more tokens: the server counts only whole answers, and a token
        has a byte at least."""
        return self.num_tokens <= max_tokens or len(text.encode()) <= max_tokens

    def take(self, text: str) -> Guess | None:
        """What is left behind this text; None where the guess is another."""
        if not self.text.startswith(text):
            return None
        return replace(self, text=self.text[len(text) :], is_fresh=self.is_fresh and not text)


def guess_of(answer: GenerateResult, max_tokens: int, asked: Mapping[str, Any]) -> Guess:
    """An answer, before anything is taken of it."""
    # A server that does not tell what it has read has not counted what it wrote, either.
    is_counted = answer.usage.prompt > 0
    num_tokens = answer.usage.sampled if is_counted else len(answer.text.encode())
    return Guess(answer.text, max_tokens, num_tokens, answer.finish_reason, asked)


def first_stop(text: str, stops: Sequence[str]) -> tuple[int, int] | None:
    """Where the stop string that is complete first begins and ends."""
    places = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    if not places:
        return None
    end, begin = min(places)
    return begin, end


def can_guess(params: SamplingParams, constraint: Constraint | None) -> bool:
    """Whether a generation can be read from a longer text."""
    is_neutral = all(getattr(params, name) == getattr(_PLAIN, name) for name in _NEUTRAL)
    return is_neutral and constraint is None and bool(params.stop)


def asked_with(backend: OpenAI, params: SamplingParams) -> dict[str, Any]:
    """What two generations must share to be read from one text."""
    return backend.fields(replace(params, stop=(), max_tokens=1, seed=None), None)


class CompletionAhead(CompletionSession):
    """`CompletionSession` that guesses ahead."""

    def __init__(self, backend: OpenAI, seed: int | None, num_tokens: int) -> None:
        super().__init__(backend, seed)
        self._num_ahead = num_tokens
        self._guess: Guess | None = None

    def twin(self, seed: int | None) -> CompletionAhead:
        """Without the guess: children are to write each their own."""
        return CompletionAhead(self._openai, seed, self._num_ahead)

    async def append(self, parts: Sequence[Text]) -> None:
        await super().append(parts)
        if self._guess is not None:
            self._guess = self._guess.take("".join(part.text for part in parts))

    async def continue_text(self, item: Generate, push: Push) -> GenerateResult:
        params, constraint = item.params, item.constraint
        guess, self._guess = self._guess, None
        if not can_guess(params, constraint):
            return await super().continue_text(item, push)
        asked = asked_with(self._openai, params)
        usage = Usage()
        cut = guess.cut(params) if guess is not None and guess.asked == asked else None
        if cut is None:
            num = max(params.max_tokens, self._num_ahead)
            ahead = replace(params, stop=(), max_tokens=num)
            answer = await self.request(ahead, None, _unheard)
            usage = answer.usage
            guess = guess_of(answer, num, asked)
            cut = guess.cut(params)
        if cut is None or guess is None:
            result = await super().continue_text(item, push)
            return replace(result, usage=usage + result.usage)
        self._text += cut.text
        self._guess = guess.take(cut.text)
        return served(cut, usage, push)


class ChatAhead(ChatSession):
    """`ChatSession` that has the model write an assistant's message in one go, and reads the
    generations of that message from it. So they need not begin their message."""

    def __init__(self, backend: OpenAI, seed: int | None, num_tokens: int) -> None:
        super().__init__(backend, seed)
        self._num_ahead = num_tokens
        self._guess: Guess | None = None
        self._coming: deque[Text | SamplingParams] = deque()  # what is queued

    def twin(self, seed: int | None) -> ChatAhead:
        """Without the guess: children are to write each their own."""
        return ChatAhead(self._openai, seed, self._num_ahead)

    def extend(self, *parts: Text) -> None:
        self._coming.extend(parts)
        super().extend(*parts)

    def _queue_generation(self, item: Generate) -> Generation:
        if item.params.max_tokens > 0:  # else nothing is asked
            self._coming.append(item.params)
        return super()._queue_generation(item)

    async def append(self, parts: Sequence[Text]) -> None:
        await super().append(parts)
        for part in parts:
            self._coming.popleft()
            if part.special:
                self._guess = None
            elif self._guess is not None:
                self._guess = self._guess.take(part.text)

    async def continue_text(self, item: Generate, push: Push) -> GenerateResult:
        params, constraint = item.params, item.constraint
        self._coming.popleft()
        guess, self._guess = self._guess, None
        role, begun = self._messages[-1] if self._open else ("", "")
        can = can_guess(params, constraint) or (begun and self._may_end(params, constraint))
        if role != "assistant" or not can:
            return await super().continue_text(item, push)
        asked = asked_with(self._openai, params)
        usage = Usage()
        cut = guess.cut(params) if guess is not None and guess.asked == asked else None
        if cut is None:
            guess, usage = await self._ask(params, begun, asked)
            cut = guess.cut(params)
        if cut is None and not begun:
            result = await super().continue_text(item, push)
            return replace(result, usage=usage + result.usage)
        if cut is None or guess is None:
            raise RequestError(
                f"whether {params.max_tokens} tokens are enough cannot be told from an answer of"
                f" {self._num_ahead}",
                hint="give the function a larger num_api_spec_tokens, and gens as many max_tokens",
            )
        self._write(cut.text)
        self._guess = guess.take(cut.text)
        return served(cut, usage, push)

    def _may_end(self, params: SamplingParams, constraint: Constraint | None) -> bool:
        """Whether a generation without stop strings can take the rest of the message."""
        return can_guess(replace(params, stop=("\n",)), constraint)

    async def _ask(
        self, params: SamplingParams, begun: str, asked: Mapping[str, Any]
    ) -> tuple[Guess, Usage]:
        """A whole message that goes on with what it begins with.

        Raises:
            BackendError: the model does not begin it so.
        """
        num = max(params.max_tokens, self._num_ahead)
        ahead = replace(params, stop=(), max_tokens=num)
        begin, usage = None, Usage()
        for _ in range(_TRIES):
            answer = await self.request(ahead, None, _unheard, self.before())
            usage += answer.usage
            rest = guess_of(answer, num, asked).take(begun)
            if rest is None:
                continue
            begin = rest
            if self._has_form(rest.text, params):
                break
        if begin is None:
            raise BackendError(
                f"the model was asked {_TRIES} times for a message that begins with"
                f" {begun[:200]!r}, and wrote {answer.text[:200]!r}",
                hint="show it the form it is to write, or append the text to the user's message",
            )
        return begin, usage

    def _has_form(self, text: str, params: SamplingParams) -> bool:
        """Whether what is queued for this message can be read from a text."""
        for item in (params, *self._coming):
            if isinstance(item, SamplingParams):
                found = first_stop(text, item.stop)
                text = "" if found is None else text[found[0] :]
            elif item.special:
                break
            elif not text.startswith(item.text):
                return False
            else:
                text = text[len(item.text) :]
        return True


def served(cut: Cut, usage: Usage, push: Push) -> GenerateResult:
    """A generation that was read from a guess."""
    if cut.text:
        push(TokenEvent((), cut.text))
    return finished(cut.text, (), cut.reason, usage, None, stop_match=cut.stop)


def _unheard(event: TokenEvent) -> None:
    """Events of a guess are nobody's."""
