"""What is drawn does not depend on the tokens that were computed ahead of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sgrt.backends.local import Engine
from sgrt.core import Generate, GenerateResult, JsonSchema, Regex, SamplingParams
from sgrt.errors import GrammarBudgetExceeded
from sgrt.grammar.engines.llguidance_ import LLMatcher
from sgrt.grammar.engines.tables import TableMatcher
from sgrt.grammar.engines.trie import TrieMatcher
from sgrt.grammar.matcher import Matcher
from sgrt.runtime.masking import LateMask
from sgrt.runtime.tasks import GenerateTask
from tests.runtime.accounting import check_conservation
from tests.runtime.integer_model import NUM_TOKENS, integer_parts
from tests.runtime.test_engine_equality import CONSTRAINTS, SHARED, _requests, _retract_every, _run

Guess = Callable[[Any], list[int]]


def draft_with(patch: pytest.MonkeyPatch, guess: Guess) -> None:
    patch.setattr("sgrt.runtime.tasks.MIN_DRAFT_SCORE", -1_000)
    for matcher in (LLMatcher, TableMatcher, TrieMatcher):
        patch.setattr(matcher, "guess", guess)


def allowed_of(matcher: Matcher) -> list[int]:
    ids = matcher.allowed()
    if ids is not None:
        return list(ids)
    words = np.zeros(-(-NUM_TOKENS // 32), np.uint32)
    matcher.fill(words)
    return [int(i) for i in np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little"))]


def any_guess(seed: int) -> Guess:
    """Up to three tokens that are allowed, one after the other; some will be drawn."""
    rng = random.Random(seed)

    def guess(matcher: Matcher) -> list[int]:
        ids: list[int] = []
        for _ in range(rng.randint(0, 3)):
            allowed = allowed_of(matcher)
            if not allowed:
                break
            ids.append(rng.choice(allowed))
            matcher = matcher.fork()
            matcher.accept(ids[-1:])
        return ids

    return guess


@pytest.mark.parametrize(
    "cache, chunk, retract", [(True, 4, 3), (True, 512, 0), (False, 4, 0), (False, 512, 3)]
)
def test_greedy_text_under_any_draft_and_schedule_is_the_same(
    cache: bool, chunk: int, retract: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = _requests(24)
    options: dict[str, Any] = {"max_running": 7, "prefix_cache": cache}
    with Engine.from_parts(integer_parts(num_pages=96, **options)) as engine:
        expected = _run(engine, requests)
    draft_with(monkeypatch, any_guess(chunk + retract))
    parts = integer_parts(num_pages=96, max_step_tokens=chunk, **options)
    with Engine.from_parts(parts) as engine:
        if retract:
            _retract_every(engine, retract)
        for _ in range(2):
            assert _run(engine, requests) == expected
        check_conservation(engine)


VARIANTS: list[dict[str, Any]] = [
    {"temperature": 1.0, "seed": 3},
    {"temperature": 0.7, "top_p": 0.9, "seed": 4, "logprobs": 3},
    {"temperature": 0, "logprobs": 2, "logprobs_mode": "unmasked"},
    {"temperature": 0, "stop": ("-", '"c', "e")},
    {"temperature": 0, "min_tokens": 12},
    {"temperature": 1, "seed": 5, "finish": "close", "max_tokens": 34},
    {"temperature": 1, "seed": 6, "presence_penalty": 0.5, "repetition_penalty": 1.2},
    {"temperature": 1, "seed": 7, "stop_token_ids": (ord("d"), ord('"'))},
]
MORE = [*CONSTRAINTS, Regex("[a-e]{3,9}( x)*"), JsonSchema('{"type":["string","integer"]}')]


def results_of(engine: Engine) -> list[GenerateResult]:
    """Two generations behind each other, of every kind."""
    handles = []
    for i, constraint in enumerate(MORE):
        for variant in VARIANTS:
            if constraint is None and variant.get("finish"):
                continue
            session = engine.open()
            session.extend_ids(list((SHARED + "x" * i).encode()))
            params = SamplingParams(**{"max_tokens": 18, **variant})
            handles += session.generate([Generate(params=params, constraint=constraint)] * 2)
    found = [handle.result(60) for handle in handles]
    # what was cached depends on which sequences met in a step
    return [replace(result, usage=replace(result.usage, cached=0)) for result in found]


def test_result_under_any_draft_is_the_same_in_all_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine.from_parts(integer_parts()) as engine:
        expected = results_of(engine)
    draft_with(monkeypatch, any_guess(1))
    with Engine.from_parts(integer_parts(num_pages=150)) as engine:
        assert results_of(engine) == expected


def read_of(matcher: Any) -> int:
    """Tokens that a matcher has accepted."""
    return len(matcher._token_ids) if isinstance(matcher, LLMatcher) else len(matcher._path) - 1


def steps_of(request: tuple[list[int], Generate]) -> tuple[list[int], int]:
    with Engine.from_parts(integer_parts(forced_runs=True)) as engine:
        return _run(engine, [request])[0], engine._loop.stats.steps


def test_right_draft_saves_a_step_for_each_of_its_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    params = SamplingParams(max_tokens=20, temperature=0)
    request = (list(b"some text"), Generate(params=params, constraint=Regex("[a-e]{20}")))
    expected, num_steps = steps_of(request)
    assert (len(expected), num_steps) == (20, 20)
    draft_with(monkeypatch, lambda m: expected[read_of(m) : read_of(m) + 3])
    assert steps_of(request) == (expected, 5)


def test_wrong_drafts_are_given_up_after_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    params = SamplingParams(max_tokens=20, temperature=0)
    request = (list(b"some text"), Generate(params=params, constraint=Regex("[a-e]{20}")))
    expected, num_asked = steps_of(request)[0], 0

    def wrong(matcher: Any) -> list[int]:
        nonlocal num_asked
        num_asked += 1
        return [ord("a") if expected[read_of(matcher)] != ord("a") else ord("b")]

    draft_with(monkeypatch, wrong)
    assert steps_of(request) == (expected, 20) and num_asked >= 19
    monkeypatch.undo()
    num_asked = 0
    monkeypatch.setattr(TableMatcher, "guess", wrong)
    assert steps_of(request) == (expected, 20) and num_asked <= 4


@pytest.mark.parametrize("late", [True, False])
def test_mask_behind_a_draft_that_fails_or_is_late_costs_only_the_draft(
    late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        place = None

        def __init__(self, matcher: Matcher) -> None:
            self.matcher = matcher

        def allowed(self) -> None:
            return None

        def fill(self, row: np.ndarray) -> None:
            raise LateMask(self.matcher) if late else GrammarBudgetExceeded("a mask", 1, 1)

    original = GenerateTask.row

    def row(task: GenerateTask, seq: Any, position: int) -> Any:
        found = original(task, seq, position)
        if position > task.next_position:
            found = type(found)(
                found.seq, position, found.sampling, Broken(found.matcher), found.end_ids
            )
        return found

    requests = _requests(12)
    with Engine.from_parts(integer_parts()) as engine:
        expected = _run(engine, requests)
    draft_with(monkeypatch, any_guess(2))
    monkeypatch.setattr(GenerateTask, "row", row)
    with Engine.from_parts(integer_parts()) as engine:
        assert _run(engine, requests) == expected


def test_draft_leaves_room_for_the_token_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of max_tokens and of the context no token is computed in vain."""
    lengths: list[int] = []

    def long_guess(matcher: Any) -> list[int]:
        return [ord("a")] * 8

    draft_with(monkeypatch, long_guess)
    original = GenerateTask.draft

    def draft(task: GenerateTask) -> Sequence[int]:
        ids = original(task)
        lengths.append(task.next_position + len(ids))
        return ids

    monkeypatch.setattr(GenerateTask, "draft", draft)
    with Engine.from_parts(integer_parts(context_len=20)) as engine:
        for max_tokens in (3, 100):
            session = engine.open()
            session.extend_ids(list(b"ten tokens"))
            params = SamplingParams(max_tokens=max_tokens, temperature=0)
            request = Generate(params=params, constraint=Regex("[a-c]{40}"))
            session.generate([request])[0].result(60)
            assert max(lengths) < min(20, 10 + max_tokens)
            lengths.clear()
