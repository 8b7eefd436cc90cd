"""What servers that speak OpenAI's protocol answer, event by event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sgrt.backends.remote import malformed
from sgrt.backends.satisfied import satisfies
from sgrt.core import Constraint, FinishReason, SamplingParams, TokenEvent, TokenLogprob, Usage
from sgrt.errors import BackendError


class Speller(Protocol):
    """Numbers tokens, whose own ids are not known."""

    def number(self, spelling: str) -> int:
        """A number for a token."""


class Answer:
    """What a stream has told so far."""

    def __init__(self, speller: Speller, url: str) -> None:
        self.text = ""
        self.logprobs: list[TokenLogprob] = []
        self._speller = speller
        self._url = url
        self._usage: Any = None
        self._reason: Any = None
        self._stopped_by: Any = None
        self._events = 0

    def take(self, event: Any) -> TokenEvent | None:
        """What an event adds; None where that is nothing."""
        if not isinstance(event, dict) or not isinstance(event.get("choices", []), list):
            raise malformed(self._url, event)
        self._usage = event.get("usage") or self._usage
        fresh = None
        for choice in event.get("choices", ()):
            try:
                fresh = self._take_choice(choice)
            except (TypeError, KeyError, ValueError, AttributeError) as error:
                raise malformed(self._url, event) from error
        return fresh

    def _take_choice(self, choice: Mapping[str, Any]) -> TokenEvent | None:
        self._reason = choice.get("finish_reason") or self._reason
        self._stopped_by = choice.get("stop_reason", choice.get("matched_stop")) or self._stopped_by
        text = self.text_of(choice)
        logprobs = tuple(self.logprobs_of(choice))
        self.text += text
        self.logprobs += logprobs
        if not text and not logprobs:
            return None
        self._events += 1
        return TokenEvent(tuple(found.token_id for found in logprobs), text, logprobs=logprobs)

    def text_of(self, choice: Mapping[str, Any]) -> str:
        raise NotImplementedError

    def logprobs_of(self, choice: Mapping[str, Any]) -> list[TokenLogprob]:
        raise NotImplementedError

    def usage(self) -> Usage:
        """The server's count, or what was seen."""
        return usage_of(self._usage, self._events)

    def ending(self) -> FinishReason:
        """Why it ended."""
        if self._reason == "content_filter":
            raise BackendError("the server's content filter withheld the answer")
        if self._reason not in ("stop", "length"):
            raise BackendError(f"the answer ended with finish_reason={self._reason!r:.80}")
        return "stop" if self._reason == "stop" else "length"

    def stop_match(self, params: SamplingParams, constraint: Constraint | None) -> str | int | None:
        """What stopped it; the first stop string where the server does not say which."""
        found = self._stopped_by
        if found in params.stop or found in params.stop_token_ids:
            return found  # type: ignore[no-any-return]
        is_cut = constraint is not None and satisfies(self.text, constraint) is False
        return params.stop[0] if params.stop and is_cut and self._reason == "stop" else None

    def _number(self, token: Mapping[str, Any]) -> int:
        return self._speller.number(str(token["token"]))


class ChatAnswer(Answer):
    """Of ``/chat/completions``."""

    def text_of(self, choice: Mapping[str, Any]) -> str:
        delta = choice["delta"]
        if delta.get("refusal"):
            raise BackendError(f"the model refused: {str(delta['refusal'])[:300]}")
        return str(delta.get("content") or "")

    def logprobs_of(self, choice: Mapping[str, Any]) -> list[TokenLogprob]:
        told = (choice.get("logprobs") or {}).get("content") or ()
        return [
            TokenLogprob(
                self._number(token),
                float(token["logprob"]),
                tuple(
                    (self._number(t), float(t["logprob"])) for t in token.get("top_logprobs", ())
                ),
            )
            for token in told
        ]


class CompletionAnswer(Answer):
    """Of ``/completions``."""

    def text_of(self, choice: Mapping[str, Any]) -> str:
        return str(choice.get("text") or "")

    def logprobs_of(self, choice: Mapping[str, Any]) -> list[TokenLogprob]:
        told = choice.get("logprobs") or {}
        tokens, values = told.get("tokens") or (), told.get("token_logprobs") or ()
        tops = told.get("top_logprobs") or [None] * len(tokens)
        number = self._speller.number
        return [
            TokenLogprob(
                number(token),
                float(value),
                tuple((number(t), float(v)) for t, v in (top or {}).items()),
            )
            for token, value, top in zip(tokens, values, tops, strict=True)
        ]


@dataclass
class TokenUsage:
    """Tokens that a backend was charged for.

    Args:
        prompt_tokens: sent.
        completion_tokens: generated.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def reset(self) -> None:
        """Count from nothing again."""
        self.prompt_tokens = self.completion_tokens = 0

    def add(self, usage: Usage) -> None:
        """Count a request."""
        self.prompt_tokens += usage.prompt
        self.completion_tokens += usage.sampled


def usage_of(told: object, sampled: int) -> Usage:
    """The server's count, or what was seen."""
    if not isinstance(told, dict):
        return Usage(sampled=sampled)
    details = told.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    return Usage(
        told.get("prompt_tokens") or 0, cached or 0, 0, told.get("completion_tokens") or sampled
    )
