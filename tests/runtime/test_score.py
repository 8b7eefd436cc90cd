"""Scores are what the model says of each option alone, and cost what their trie costs."""

from __future__ import annotations

import functools
import math
import random
import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest

from sgrt.backends.local import Engine
from sgrt.core import Choices, Generate, SamplingParams, Text
from sgrt.errors import Cancelled, DeadlineExceeded, EngineClosed, EngineError, PromptTooLong
from tests.models.tiny import tiny_model_dir
from tests.runtime.accounting import all_pages_back, check_conservation
from tests.runtime.integer_model import (
    BOS,
    NUM_TOKENS,
    hash_tokens,
    integer_parts,
    logits_of,
    next_hash,
)

PROMPT = "Which of these is it? "


@functools.cache
def _logprobs_after(state: int) -> np.ndarray:
    logits = logits_of(state).astype(np.float64)
    return logits - np.log(np.exp(logits).sum())


def _by_definition(prompt: list[int], option: bytes) -> list[float]:
    state, found = hash_tokens(prompt), []
    for i, byte in enumerate(option):
        found.append(float(_logprobs_after(state)[byte]))
        state = next_hash(state, byte, len(prompt) + i)
    return found


def _some_options(rng: random.Random, num: int) -> list[str]:
    """Much is shared; some begin others, and some are given twice."""
    options = ["".join(rng.choices("ab", k=rng.randint(1, 9))) for _ in range(num)]
    return options + options[: num // 10]


def _num_inner(options: list[str]) -> int:
    return len({option[:n] for option in options for n in range(len(option))})


@pytest.mark.parametrize("page_size", [1, 4, 16])
@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize(("max_running", "max_step_tokens"), [(1, 512), (3, 8), (64, 512)])
def test_scores_of_any_options_are_those_of_each_alone(
    page_size: int, cache: bool, max_running: int, max_step_tokens: int
) -> None:
    rng = random.Random(page_size)
    parts = integer_parts(
        num_pages=1024 // page_size,
        page_size=page_size,
        prefix_cache=cache,
        max_running=max_running,
        max_step_tokens=max_step_tokens,
    )
    with Engine.from_parts(parts) as engine:
        for num in (1, 2, 30):
            options, prompt = _some_options(rng, num), PROMPT[: rng.randint(1, len(PROMPT))]
            before = engine.stats()
            session = engine.open()
            session.extend(Text(prompt))
            result = session.score(options, unconditional=True).result(30)
            assert result.unconditional_logprobs is not None
            for i, option in enumerate(options):
                assert result.token_ids[i] == tuple(option.encode())
                expected = _by_definition(list(prompt.encode()), option.encode())
                assert result.token_logprobs[i] == pytest.approx(expected, abs=1e-5)
                expected = _by_definition([BOS], option.encode())
                assert result.unconditional_logprobs[i] == pytest.approx(expected, abs=1e-5)
            after, inner = engine.stats(), _num_inner(options)
            assert after["head_rows"] - before["head_rows"] == 2 * inner * NUM_TOKENS
            computed = after["computed"] - before["computed"]
            assert computed == len(prompt) - result.usage.cached + 2 * (inner - 1) + 1
            assert result.usage.prompt == len(prompt)
            session.close()
        check_conservation(engine)
        all_pages_back(engine)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("num_pages", [13, 16, 24])
def test_more_branches_than_pages_are_scored_in_waves(cache: bool, num_pages: int) -> None:
    rng = random.Random(num_pages)
    parts = integer_parts(num_pages=num_pages, page_size=4, prefix_cache=cache, context_len=48)
    options = ["".join(rng.choices("abcd", k=rng.randint(1, 7))) for _ in range(200)]
    with Engine.from_parts(parts) as engine:
        sessions = [engine.open() for _ in range(3)]
        handles = []
        for i, session in enumerate(sessions):
            session.extend(Text(f"{i} {PROMPT}"))
            handles.append(session.score(options))
        for i, handle in enumerate(handles):
            prompt = list(f"{i} {PROMPT}".encode())
            for option, logprobs in zip(options, handle.result(60).token_logprobs, strict=True):
                expected = _by_definition(prompt, option.encode())
                assert logprobs == pytest.approx(expected, abs=1e-5)
        check_conservation(engine)
        for session in sessions:
            session.close()
        all_pages_back(engine)


def test_scored_session_goes_on_without_computing_its_text_again() -> None:
    with Engine.from_parts(integer_parts(page_size=4)) as engine:
        session = engine.open()
        session.extend(Text(PROMPT))
        session.score(["yes", "no"]).result(10)
        request = Generate(params=SamplingParams(max_tokens=3, temperature=0, ignore_eos=True))
        (generated,) = session.generate([request])
        assert generated.result(10).usage.cached == len(PROMPT) - 1
        other = engine.open()
        other.extend(Text(PROMPT))
        assert other.score(["yes"]).result(10).usage.cached >= len(PROMPT) // 4 * 4 - 4


def test_option_that_does_not_fit_into_the_context_is_refused() -> None:
    with Engine.from_parts(integer_parts(context_len=20)) as engine:
        session = engine.open()
        session.extend(Text("0123456789"))
        assert len(session.score(["x" * 10, "y"]).result(10).token_logprobs[0]) == 10
        with pytest.raises(PromptTooLong) as caught:
            session.score(["y", "x" * 11]).result(10)
        assert (caught.value.num_tokens, caught.value.limit) == (21, 20)
        all_pages_back(engine)


@pytest.mark.parametrize("end", ["cancel", "session", "deadline", "engine", "break"])
def test_scoring_that_is_ended_fails_and_gives_its_pages_back(end: str) -> None:
    parts = integer_parts(page_size=4, max_running=4)
    rng, reached = random.Random(1), threading.Event()
    options = ["".join(rng.choices("abcdefgh", k=6)) for _ in range(200)]

    def on_forward(batch: object) -> None:
        time.sleep(0.002)
        if parts.runner.num_forwards == 6:
            reached.set()
        if parts.runner.num_forwards == 10 and end == "break":
            parts.runner.fail_next = RuntimeError("the device hiccuped")

    parts.runner.on_forward = on_forward
    expected = {
        "cancel": Cancelled,
        "session": Cancelled,
        "deadline": DeadlineExceeded,
        "engine": EngineClosed,
        "break": EngineError,
    }
    with Engine.from_parts(parts) as engine:
        session, other = engine.open(), engine.open()
        session.extend(Text(PROMPT))
        handle = session.score(
            options, unconditional=True, deadline_s=0.05 if end == "deadline" else None
        )
        queued = session.score(["a"])
        assert end == "deadline" or reached.wait(10)
        if end == "cancel":
            handle.cancel()
        elif end == "session":
            session.close()
        elif end == "engine":
            engine.close()
        for waiting in (handle, queued):
            with pytest.raises(expected[end]):
                waiting.result(10)
        if end == "engine":
            return
        other.extend(Text("x"))
        scored = other.score(["ab"]).result(10).token_logprobs[0]
        assert scored == pytest.approx(_by_definition([120], b"ab"), abs=1e-5)
        other.close()
        all_pages_back(engine)


def test_scores_beside_generations_disturb_neither() -> None:
    with Engine.from_parts(integer_parts(num_pages=64, page_size=4, max_running=6)) as engine:
        request = Generate(params=SamplingParams(max_tokens=20, temperature=0, ignore_eos=True))
        rng = random.Random(5)
        options = _some_options(rng, 50)
        alone = engine.open()
        alone.extend(Text("generate "))
        expected = alone.generate([request])[0].result(10).token_ids
        sessions = [engine.open() for _ in range(8)]
        handles = []
        for i, session in enumerate(sessions):
            session.extend(Text("generate "))
            handles.append(session.score(options) if i % 2 else session.generate([request])[0])
        for i, handle in enumerate(handles):
            result = handle.result(30)
            if i % 2:
                assert result.token_logprobs[3] == pytest.approx(
                    _by_definition(list(b"generate "), options[3].encode()), abs=1e-5
                )
            else:
                assert result.token_ids == expected
        check_conservation(engine)


# ---------------------------------------------------------------- real arithmetic


@pytest.fixture(scope="module", params=["native", "torch"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = tiny_model_dir(tmp_path_factory.mktemp("tiny"), "llama")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "torch":
            patch.setenv("SGRT_CPU_ISA", "none")
        from sgrt import ops

        ops.native_library.cache_clear()
        with Engine(str(folder), precision="float32", kv_tokens=2048, num_threads=1) as engine:
            yield request.param, engine
    ops.native_library.cache_clear()


OPTIONS = ["yes", "no", " yes", "year", "years later", "years", "not the fox", "no"]


def _same(kind: str, one: Sequence[float], other: Sequence[float]) -> None:
    """Bit for bit on the native kernels; torch promises no such thing."""
    assert tuple(one) == tuple(other) if kind == "native" else one == pytest.approx(other, abs=1e-4)


def test_scores_together_equal_each_alone(tiny: tuple[str, Engine]) -> None:
    kind, engine = tiny
    session = engine.open()
    session.extend(Text(PROMPT * 3))
    together = session.score(OPTIONS).result(30)
    for option, logprobs in zip(OPTIONS, together.token_logprobs, strict=True):
        single = engine.open()
        single.extend(Text(PROMPT * 3))
        (alone,) = single.score([option]).result(30).token_logprobs
        _same(kind, alone, logprobs)


@pytest.mark.parametrize("prompt", ["The answer is", "The answer is ", "The answer is ye", "12"])
def test_option_is_scored_as_the_tokens_that_a_generation_of_it_writes(
    tiny: tuple[str, Engine], prompt: str
) -> None:
    """The seam: an option's tokens never reach into the text before it."""
    kind, engine = tiny
    tokenizer = engine.tokenizer
    for option in OPTIONS:
        session = engine.open()
        session.extend(Text(prompt))
        scored = session.score([option]).result(30)
        generated = engine.generate(
            prompt,
            constraint=Choices((option,)),
            temperature=0,
            logprobs=0,
            logprobs_mode="unmasked",
        )
        assert scored.token_ids[0] == generated.token_ids
        _same(kind, scored.token_logprobs[0], [p.logprob for p in generated.logprobs])
        session.extend(Text(option))
        assert session.token_ids() == tokenizer.encode(prompt) + list(scored.token_ids[0])


def test_probabilities_of_one_token_options_sum_to_less_than_one(tiny: tuple[str, Engine]) -> None:
    kind, engine = tiny
    tokenizer = engine.tokenizer
    texts = {i: tokenizer.decode([i]) for i in range(tokenizer.vocab_size)}
    options = [t for i, t in texts.items() if t and tokenizer.encode(t, after_id=70) == [i]]
    assert len(options) > 100
    session = engine.open()
    session.extend(Text(PROMPT))
    scored = session.score(options).result(30)
    total = math.fsum(math.exp(p) for (p,) in scored.token_logprobs)
    assert 0.2 < total <= 1 + 1e-6
    first = session.score([options[0]]).result(30).token_logprobs[0]
    _same(kind, scored.token_logprobs[0], first)
