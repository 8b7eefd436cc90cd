"""Token counts of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sgrt.core import GenerateResult


def usage_so_far(num_prompt: int, num_written: int) -> dict[str, int]:
    """Of one choice, while it is being written."""
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_written,
        "total_tokens": num_prompt + num_written,
    }


def num_written(result: GenerateResult) -> int:
    """Tokens of one choice, the one that ended it included."""
    return result.usage.forced + result.usage.sampled


def usage(*prompts: Sequence[GenerateResult]) -> dict[str, Any]:
    """Tokens of all choices; each prompt counts once, however many continue it."""
    results = [result for group in prompts for result in group]
    prompt = sum(group[0].usage.prompt for group in prompts if group)
    cached = sum(min(r.usage.cached for r in group) for group in prompts if group)
    completion = sum(num_written(result) for result in results)
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
