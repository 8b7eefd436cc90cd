"""Tokens as the interfaces show them, with their log-probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sgrt.core import GenerateResult, TokenLogprob


def floored(logprob: float) -> float:
    """JSON has no infinity; OpenAI writes -9999.0 for what cannot be."""
    return max(logprob, -9999.0)


def shown(tokenizer: Any, token_id: int) -> str:
    """A token's text; one that is no text by itself as ``bytes:\\xHH``, so that no two look alike."""
    raw: bytes = tokenizer.token_bytes(token_id)
    if not raw:
        return str(tokenizer.piece(token_id))
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def by_id(tokenizer: Any, token_id: int) -> str:
    """A token told by its number, in place of `shown`."""
    return f"token_id:{token_id}"


Spell = Callable[[Any, int], str]
"""`shown` or `by_id`."""


def chat_logprob(tokenizer: Any, token: TokenLogprob, spell: Spell = shown) -> dict[str, Any]:
    """As chat completions list it."""
    return {
        **_chat_token(tokenizer, token.token_id, token.logprob, spell),
        "top_logprobs": [_chat_token(tokenizer, i, p, spell) for i, p in token.top],
    }


def _chat_token(tokenizer: Any, token_id: int, logprob: float, spell: Spell) -> dict[str, Any]:
    raw = tokenizer.token_bytes(token_id)
    return {
        "token": spell(tokenizer, token_id),
        "logprob": floored(logprob),
        "bytes": list(raw) if raw else None,
    }


def ended_by(result: GenerateResult) -> dict[str, str | int | None]:
    """What ended a text, as SGLang tells it and as vLLM does (for which end of text is nothing)."""
    matched = result.end_id if result.stop_match is None else result.stop_match
    return {"matched_stop": matched, "stop_reason": result.stop_match}


def final_text(result: GenerateResult, *, keep_stop: bool) -> str:
    """The text, with the stop string that ended it where the client wants to see it."""
    return result.text + ending(result, keep_stop=keep_stop)


def ending(result: GenerateResult, *, keep_stop: bool) -> str:
    """What `final_text` adds."""
    return result.stop_match if keep_stop and isinstance(result.stop_match, str) else ""
