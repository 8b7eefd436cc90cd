"""One sequence alone: how fast a prompt is read, and how fast tokens come free and constrained.

Decode is timed on a prompt that the engine has just answered, so that its cache holds it and
what is left is decoding; prefill is timed on a prompt that shares no prefix with any before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

from benchmarks.peers.workload import SCHEMA, Report, passages, prompt

Run = Callable[[str, int, dict[str, Any] | None, bool], int]
"""(prompt, max_tokens, schema, fresh) → tokens: of the prompt if ``fresh``, else of the answer."""

FREE_TOKENS = 128
CHARACTERS = 2000
"""Of a prompt: about 512 tokens of this text."""
REPEATS = 1
"""In one process; the processes are repeated."""


def document() -> list[str]:
    """Prompts of about 512 tokens (exact counts are reported) that differ from the first word on."""
    texts = [p["text"] for p in passages()]
    return [
        (f"Collection {index + 1}.\n" + "\n".join(texts[5 * index : 5 * index + 5]))[:CHARACTERS]
        for index in range(REPEATS + 1)
    ]


def constrained_schema() -> dict[str, Any]:
    """Schema of the constrained row: the one of the extraction."""
    return SCHEMA


def _rate(run: Run, text: str, max_tokens: int, schema: dict[str, Any] | None) -> dict[str, float]:
    """Tokens per second of decoding after a cached prompt; medians of wall and CPU."""
    run(text, max_tokens, schema, False)
    walls, cpus, tokens = [], [], 0
    for _ in range(REPEATS):
        wall, cpu = time.perf_counter(), time.process_time()
        tokens = run(text, max_tokens, schema, False)
        walls.append(tokens / (time.perf_counter() - wall))
        cpus.append(tokens / (time.process_time() - cpu))
    return {"wall": median(walls), "cpu": median(cpus), "tokens": tokens}


def _prefill(run: Run, prompts: list[str]) -> dict[str, float]:
    """Prompt tokens per second of a fresh prompt; medians of wall and CPU."""
    walls, cpus, tokens = [], [], 0
    for text in prompts:
        wall, cpu = time.perf_counter(), time.process_time()
        tokens = run(text, 1, None, True)
        walls.append(tokens / (time.perf_counter() - wall))
        cpus.append(tokens / (time.process_time() - cpu))
    return {"wall": median(walls[1:]), "cpu": median(cpus[1:]), "tokens": tokens}


def report_stream(report: Report, run: Run, prompts: list[str], schema: dict[str, Any]) -> None:
    """Measure the four rows into ``report.extra`` (tokens per second)."""
    report.extra["prefill_512"] = _prefill(run, prompts)
    report.extra["free_short"] = _rate(run, "Once upon a time", FREE_TOKENS, None)
    report.extra["free_512"] = _rate(run, prompts[0], FREE_TOKENS, None)
    report.extra["constrained"] = _rate(run, prompt(passages()[0]["text"]), 160, schema)
