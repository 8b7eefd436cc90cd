"""Token counts of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sgrt.core import GenerateResult


def usage(*prompts: Sequence[GenerateResult]) -> dict[str, Any]:
    """Tokens of all choices; each prompt counts once, however many continue it."""
    results = [result for group in prompts for result in group]
    prompt = sum(group[0].usage.prompt for group in prompts if group)
    cached = sum(min(r.usage.cached for r in group) for group in prompts if group)
    completion = sum(r.usage.forced + r.usage.sampled for r in results)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "accepted_prediction_tokens": sum(r.usage.forced for r in results),
            "rejected_prediction_tokens": 0,
        },
    }
