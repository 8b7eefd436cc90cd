"""Greedy text does not depend on how it was computed."""

from __future__ import annotations

import itertools
import random

import pytest

from sgrt.backends.local import Engine
from sgrt.core import Choices, Generate, JsonSchema, Regex, SamplingParams
from sgrt.runtime.sequence import Sequence, Work
from tests.runtime.integer_model import integer_parts, oracle

SHARED = "You read a text and you answer in JSON. "
CONSTRAINTS = [
    None,
    Regex("(alpha|beta gamma)-[0-9]{2}-end of it"),
    JsonSchema(
        '{"type":"object","properties":{"name":{"enum":["Ada","Bob"]},'
        '"count":{"type":"integer","minimum":0,"maximum":99}},'
        '"required":["name","count"],"additionalProperties":false}'
    ),
    Choices(("red", "green", "greenish")),
]


def _requests(num: int) -> list[tuple[list[int], Generate]]:
    rng = random.Random(7)
    requests = []
    for i in range(num):
        text = SHARED * (i % 3 > 0) + "".join(rng.choices("abcdefgh ", k=rng.randint(1, 40)))
        params = SamplingParams(max_tokens=rng.randint(1, 24), temperature=0)
        requests.append(
            (list(text.encode()), Generate(params=params, constraint=CONSTRAINTS[i % 4]))
        )
    return requests


def _run(engine: Engine, requests: list[tuple[list[int], Generate]]) -> list[list[int]]:
    sessions = [engine.open() for _ in requests]
    handles = []
    for session, (prompt, request) in zip(sessions, requests, strict=True):
        session.extend_ids(prompt)
        handles += session.generate([request])
    return [list(h.result(60).token_ids) for h in handles]


def _retract_every(engine: Engine, num_steps: int) -> None:
    """Make the scheduler retract a running sequence again and again, but let each draw a token
    in between: with the cache off it starts anew every time."""
    scheduler = engine._loop.scheduler
    original, step, rng = scheduler.schedule, itertools.count(1), random.Random(3)
    lengths: dict[Sequence, int] = {}

    def schedule() -> list[Work]:
        grown = [s for s in scheduler.running if len(s.token_ids) > lengths.get(s, 0)]
        if next(step) % num_steps == 0 and grown:
            victim = rng.choice(grown)
            lengths[victim] = len(victim.token_ids)
            scheduler.retract(victim)
        return original()

    scheduler.schedule = schedule  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    return [
        oracle(prompt, request.params.max_tokens, request.constraint)
        for prompt, request in _requests(16)
    ]


@pytest.mark.parametrize("cache", ["off", "on", "warm"])
@pytest.mark.parametrize("batch", [1, 2, 7, 32])
@pytest.mark.parametrize("chunk", [16, 512])
@pytest.mark.parametrize("retract", [0, 3])
@pytest.mark.parametrize("forced", [True, False])
def test_greedy_text_under_any_schedule_is_the_same(
    cache: str, batch: int, chunk: int, retract: int, forced: bool, expected: list[list[int]]
) -> None:
    parts = integer_parts(
        num_pages=96,
        prefix_cache=cache != "off",
        max_running=batch,
        max_step_tokens=chunk,
        forced_runs=forced,
    )
    requests = _requests(16)
    with Engine.from_parts(parts) as engine:
        if retract:
            _retract_every(engine, retract)
        if cache == "warm":
            _run(engine, requests)
        assert _run(engine, requests) == expected
        kv = engine._loop.kv
        kv.tree.check()
