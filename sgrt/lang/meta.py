"""Results in the words of SGLang's servers: `ProgramState.get_meta_info`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sgrt.core import Backend, GenerateResult, TokenLogprob
from sgrt.lang.variables import Choice

Told = tuple[float, int, str]
"""Log-probability, token id, text."""


def of_result(backend: Backend, result: GenerateResult) -> dict[str, Any]:
    """About a generation."""
    usage = result.usage
    num_tokens = usage.forced + usage.sampled
    finish: dict[str, Any] = {"type": result.finish_reason}
    finish |= {"length": num_tokens} if result.finish_reason == "length" else {}
    finish |= {"matched": result.stop_match} if result.stop_match is not None else {}
    told = {
        "finish_reason": finish,
        "prompt_tokens": usage.prompt,
        "completion_tokens": num_tokens,
        "cached_tokens": usage.cached,
    }
    if result.logprobs is None:
        return told
    return {**told, **of_tokens(backend, result.logprobs)}


def of_tokens(backend: Backend, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    """About tokens, with the alternatives to each."""
    return {
        "output_token_logprobs": _told(backend, ((t.token_id, t.logprob) for t in logprobs)),
        "output_top_logprobs": [_told(backend, t.top) for t in logprobs],
        "output_token_logprobs_length": len(logprobs),
    }


def of_choice(backend: Backend, choice: Choice) -> dict[str, Any]:
    """About a select."""
    scores = choice.scores
    told = {
        **choice.meta_info,
        "prompt_tokens": scores.usage.prompt,
        "cached_tokens": scores.usage.cached,
        "input_token_logprobs": _rows(backend, scores.token_ids, scores.token_logprobs),
    }
    if scores.unconditional_logprobs is not None:
        rows = _rows(backend, scores.token_ids, scores.unconditional_logprobs)
        told["unconditional_token_logprobs"] = rows
    return told


def _rows(
    backend: Backend, ids: Sequence[Sequence[int]], logprobs: Sequence[Sequence[float]]
) -> list[list[Told]]:
    return [
        _told(backend, zip(row, values, strict=True))
        for row, values in zip(ids, logprobs, strict=True)
    ]


def _told(backend: Backend, pairs: Iterable[tuple[int, float]]) -> list[Told]:
    kept = list(pairs)
    texts = backend.token_texts([token_id for token_id, _ in kept])
    return [(value, i, text) for (i, value), text in zip(kept, texts, strict=True)]
