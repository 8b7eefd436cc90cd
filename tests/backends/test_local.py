"""The embedded engine's faces, over the integer model."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import select
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sgrt.backends.local import Engine
from sgrt.core import Backend, Choices, Generate, Message, Regex, SamplingParams, Session, Text
from sgrt.errors import (
    Cancelled,
    DeadlineExceeded,
    EngineError,
    InvalidSamplingParams,
    RequestError,
)
from tests.runtime.integer_model import BOS, EOS, hash_tokens, integer_parts, logits_of, oracle


@pytest.fixture
def engine():
    with Engine.from_parts(integer_parts(num_pages=512)) as engine:
        yield engine


def test_engine_and_its_sessions_satisfy_the_protocols(engine: Engine) -> None:
    backend: Backend = engine
    assert isinstance(backend.open(), Session)
    assert backend.name == "integers"


def test_generate_sync_async_and_streamed_give_the_same_text(engine: Engine) -> None:
    options = {"max_tokens": 12, "temperature": 0, "ignore_eos": True}
    result = engine.generate("hello", **options)
    events = list(engine.stream("hello", **options))

    async def both():
        awaited = await engine.agenerate("hello", **options)
        streamed = [event async for event in engine.astream("hello", **options)]
        return awaited, streamed

    awaited, streamed = asyncio.run(both())
    assert result.text == awaited.text
    for stream in (events, streamed):
        assert "".join(e.text for e in stream) == result.text
        assert tuple(i for e in stream for i in e.token_ids) == result.token_ids


def test_stream_left_early_cancels_the_work(engine: Engine) -> None:
    for _ in engine.stream("hello", max_tokens=400, temperature=0, ignore_eos=True):
        break
    gc.collect()
    engine.generate("x", max_tokens=1, temperature=0)
    assert engine.stats()["running"] == 0


def test_cancelled_coroutine_cancels_the_work(engine: Engine) -> None:
    async def give_up():
        task = asyncio.ensure_future(
            engine.agenerate("hello", max_tokens=450, temperature=0, ignore_eos=True)
        )
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up())
    engine.generate("x", max_tokens=1, temperature=0)
    assert engine.stats()["running"] == 0


def test_n_continuations_differ_and_repeat_with_the_seed(engine: Engine) -> None:
    options = {"max_tokens": 10, "temperature": 1.0, "seed": 5, "ignore_eos": True}
    first = engine.generate("abc", n=4, **options)
    again = engine.generate("abc", n=4, **options)
    assert [r.text for r in first] == [r.text for r in again]
    assert len({r.token_ids for r in first}) == 4


def test_same_seed_draws_the_same_text_whatever_runs_beside_it(engine: Engine) -> None:
    alone = engine.generate("abc", max_tokens=16, temperature=1.0, seed=9)
    sessions = [engine.open() for _ in range(8)]
    handles = []
    for i, session in enumerate(sessions):
        session.extend(Text("abc" if i == 5 else f"other {i}"))
        params = SamplingParams(max_tokens=16, temperature=1.0, seed=9)
        handles += session.generate([Generate(params=params)])
    assert handles[5].result(10).token_ids == alone.token_ids


def test_chat_messages_go_through_the_template(engine: Engine) -> None:
    messages = [Message("user", "hi")]
    result = engine.generate(messages, max_tokens=5, temperature=0)
    assert list(result.token_ids) == oracle(list(b"<user>hi</><assistant>"), 5)
    as_dicts = engine.generate([{"role": "user", "content": "hi"}], max_tokens=5, temperature=0)
    assert as_dicts.text == result.text


def test_stop_string_inside_tokens_leaves_exactly_the_text_before_it(engine: Engine) -> None:
    free = engine.generate("abc", max_tokens=40, temperature=0, ignore_eos=True)
    raw = bytes(i for i in free.token_ids if i < 128)
    stop = chr(raw[4]) if raw[4] else "a"
    session = engine.open()
    session.extend(Text("abc"))
    params = SamplingParams(max_tokens=40, temperature=0, ignore_eos=True, stop=(stop,))
    (handle,) = session.generate([Generate(params=params)])
    result = handle.result(10)
    assert (result.finish_reason, result.stop_match) == ("stop", stop)
    assert stop not in result.text and free.text.startswith(result.text)
    assert session.token_ids() == list(b"abc") + list(result.token_ids)
    (more,) = session.generate([Generate(params=SamplingParams(max_tokens=3, temperature=0))])
    assert list(more.result(10).token_ids) == oracle(
        session.token_ids()[: 3 + len(result.token_ids)], 3
    )


def test_text_cut_by_max_tokens_says_whether_it_satisfies_its_constraint(engine: Engine) -> None:
    for pattern, complete in (("[a-z]{1,9}", True), ("[a-z]{9}", False)):
        result = engine.generate(
            "abc", constraint=Regex(pattern), max_tokens=4, temperature=0, logit_bias={EOS: -100}
        )
        assert (result.finish_reason, result.is_complete) == ("length", complete)


def test_text_cut_by_a_stop_string_says_whether_it_satisfies_its_constraint(
    engine: Engine,
) -> None:
    for pattern, complete in (("[a-z]{1,9}(-x)?", True), ("[a-z]{2}-x", False)):
        result = engine.generate(
            "abc",
            constraint=Regex(pattern),
            max_tokens=40,
            temperature=0,
            stop=("-",),
            logit_bias={ord("-"): 100, EOS: -100},
        )
        assert (result.finish_reason, result.stop_match) == ("stop", "-")
        assert result.is_complete is complete


def test_stop_token_ends_the_text_and_is_named(engine: Engine) -> None:
    free = engine.generate("abc", max_tokens=10, temperature=0, ignore_eos=True)
    stop = free.token_ids[3]
    result = engine.generate(
        "abc", max_tokens=10, temperature=0, ignore_eos=True, stop_token_ids=(stop,)
    )
    assert result.stop_match == stop
    assert result.token_ids == free.token_ids[: free.token_ids.index(stop)]


def test_min_tokens_forbids_the_end_until_then(engine: Engine) -> None:
    for prompt in ("a", "b", "c", "d", "e", "f"):
        result = engine.generate(
            prompt, max_tokens=20, min_tokens=15, temperature=0, logit_bias={EOS: 100}
        )
        assert len(result.token_ids) == 15
        assert result.finish_reason == "stop"


def test_logit_bias_and_penalties_have_their_effect(engine: Engine) -> None:
    biased = engine.generate("abc", max_tokens=6, temperature=0, logit_bias={65: 100})
    assert biased.text == "AAAAAA"
    penalised = engine.generate(
        "abc", max_tokens=6, temperature=0, logit_bias={65: 11}, frequency_penalty=2
    )
    assert 0 < penalised.text.count("A") < 6


def test_logprobs_equal_the_log_softmax_of_the_logits(engine: Engine) -> None:
    result = engine.generate("abc", max_tokens=1, temperature=0, logprobs=3, ignore_eos=True)
    logits = logits_of(hash_tokens(b"abc")).astype(float)
    total = math.log(sum(math.exp(x) for x in logits))
    (token,) = result.logprobs
    assert token.logprob == pytest.approx(max(logits) - total, abs=1e-4)
    best = sorted(range(len(logits)), key=lambda i: -logits[i])[:3]
    assert [i for i, _ in token.top] == best


def test_score_equals_the_log_probabilities_of_each_token(engine: Engine) -> None:
    session = engine.open()
    session.extend(Text("the answer: "))
    scored = session.score(["yes", "no", "yet"]).result(10)
    for option, logprobs in zip(["yes", "no", "yet"], scored.token_logprobs, strict=True):
        prefix = list(b"the answer: ")
        for byte, logprob in zip(option.encode(), logprobs, strict=True):
            logits = logits_of(hash_tokens(prefix)).astype(float)
            total = math.log(sum(math.exp(x) for x in logits))
            assert logprob == pytest.approx(logits[byte] - total, abs=1e-4)
            prefix.append(byte)
    assert session.token_ids() == list(b"the answer: ")


def test_unconditional_score_is_that_of_the_option_after_bos_alone(engine: Engine) -> None:
    session = engine.open()
    session.extend(Text("the answer: "))
    options = ["yes", "no", "yet"]
    scored = session.score(options, unconditional=True).result(10)
    alone = engine.open()
    alone.extend_ids([BOS])
    expected = alone.score(options).result(10)
    assert scored.unconditional_logprobs == expected.token_logprobs
    assert scored.token_logprobs == session.score(options).result(10).token_logprobs
    assert expected.unconditional_logprobs is None
    assert session.token_ids() == list(b"the answer: ")


def test_score_past_its_deadline_fails_with_it(engine: Engine) -> None:
    session = engine.open()
    session.extend(Text("the answer: "))
    with pytest.raises(DeadlineExceeded):
        session.score(["yes" * 50, "no"], deadline_s=1e-6).result(10)
    with pytest.raises(InvalidSamplingParams):
        engine.open().score(["a"], deadline_s=0)


def test_segment_of_texts_and_gens_equals_separate_calls(engine: Engine) -> None:
    request = Generate(params=SamplingParams(max_tokens=4, temperature=0, ignore_eos=True))
    fused, separate = engine.open(), engine.open()
    handles = fused.generate([Text("a:"), request, Text(" b:"), request])
    separate.extend(Text("a:"))
    one = separate.generate([request])[0].result(10)
    separate.extend(Text(" b:"))
    two = separate.generate([request])[0].result(10)
    assert [h.result(10).token_ids for h in handles] == [one.token_ids, two.token_ids]
    assert fused.token_ids() == separate.token_ids()


def test_segment_is_one_round_trip_and_its_texts_cost_no_step_of_their_own() -> None:
    parts = integer_parts()
    with Engine.from_parts(parts) as engine:
        request = Generate(params=SamplingParams(max_tokens=3, temperature=0, ignore_eos=True))
        session = engine.open()
        segment = [x for i in range(5) for x in (Text(f"field {i}: "), request)]
        results = [h.result(10) for h in session.generate(segment)]
        assert engine.stats()["submissions"] == 1
        assert parts.runner.num_forwards == 5 * 3
        assert [r.usage.prompt - r.usage.cached for r in results] == [9] + [10] * 4


@pytest.mark.parametrize("rest", [{}, {"prefix_cache": False}])
def test_segment_takes_a_pass_for_each_token_that_is_drawn_and_no_other(rest: dict) -> None:
    """Neither ends, nor what is forced, nor the text between: all of it goes with a drawn token."""
    free = SamplingParams(max_tokens=5, temperature=1, seed=3, ignore_eos=True)
    requests = [
        Generate(params=free),
        Generate(params=free, constraint=Regex("[ab]{1,3}")),  # may end by a drawn end of text
        Generate(params=free, constraint=Choices(("yes, it is", "yes, always", "no"))),
        Generate(params=free, constraint=Regex("only(?:this)")),
        Generate(params=SamplingParams(max_tokens=0)),
        Generate(params=SamplingParams(max_tokens=9, seed=1, stop=("a", "b", "c", "d", "e"))),
        Generate(params=SamplingParams(max_tokens=40, seed=1)),
    ]
    parts = integer_parts(**rest)
    with Engine.from_parts(parts) as engine:
        segment = [x for i, request in enumerate(requests) for x in (Text(f"\n{i}: "), request)]
        results = [handle.result(10) for handle in engine.open().generate(segment)]
        assert parts.runner.num_forwards == sum(result.usage.sampled for result in results)
        assert sum(result.usage.forced for result in results) >= len("only" + "this")


def test_usage_adds_up(engine: Engine) -> None:
    session = engine.open()
    session.extend(Text("abcdefgh"))
    request = Generate(params=SamplingParams(max_tokens=4, temperature=0, ignore_eos=True))
    results = [h.result(10) for h in session.generate([request, request])]
    assert [r.usage.prompt for r in results] == [8, 12]
    assert results[0].usage.cached == 0 and results[1].usage.cached == 11
    assert session.usage() == results[0].usage + results[1].usage


def test_flush_cache_forgets_what_nobody_uses(engine: Engine) -> None:
    engine.generate("a rather long prompt", max_tokens=1, temperature=0)
    assert engine.stats()["pages_cached"] > 0
    assert engine.flush_cache() > 0
    assert engine.stats()["pages_cached"] == 0


def test_cancel_of_a_handle_ends_its_session_only(engine: Engine) -> None:
    session = engine.open()
    session.extend(Text("abc"))
    params = SamplingParams(max_tokens=450, temperature=0, ignore_eos=True)
    first, second = session.generate([Generate(params=params), Generate(params=params)])
    first.cancel()
    for handle in (first, second):
        with pytest.raises(Cancelled):
            handle.result(10)
    assert engine.generate("abc", max_tokens=2, temperature=0).token_ids


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1),
        ("temperature", float("nan")),
        ("top_p", 0),
        ("top_p", 1.5),
        ("min_p", 2),
        ("max_tokens", -1),
        ("max_tokens", 1.5),
        ("top_k", -2),
        ("stop", ("",)),
        ("logprobs", -1),
        ("logit_bias", {1: float("inf")}),
        ("logit_bias", {"a": 1}),
        ("seed", -1),
        ("frequency_penalty", 3),
        ("repetition_penalty", 0),
        ("stop_token_ids", (-1,)),
    ],
)
def test_sampling_value_outside_its_range_is_refused_by_name(
    engine: Engine, field: str, value: object
) -> None:
    with pytest.raises(InvalidSamplingParams) as caught:
        engine.generate("abc", **{field: value})
    assert caught.value.field == field


def test_unknown_option_is_refused_by_name(engine: Engine) -> None:
    with pytest.raises(RequestError, match="temprature"):
        engine.generate("abc", temprature=1)
    with pytest.raises(RequestError, match="num_thread"):
        Engine(num_thread=1)


@pytest.mark.parametrize("options", [{"logit_bias": {5000: 1}}, {"stop_token_ids": (5000,)}])
def test_token_outside_the_vocabulary_is_refused(engine: Engine, options: dict) -> None:
    with pytest.raises(RequestError, match="5000"):
        engine.generate("abc", **options)
    session = engine.open()
    with pytest.raises(RequestError, match="5000"):
        session.extend_ids([1, 5000])
    with pytest.raises(RequestError, match="non-empty"):
        session.score([]).result(5)


def test_engine_that_nobody_holds_any_more_ends_its_thread() -> None:
    engine = Engine.from_parts(integer_parts())
    thread = engine._loop._thread
    handle = engine.open().generate([Text("abc"), Generate(params=SamplingParams(max_tokens=3))])[0]
    del engine
    assert handle.result(10).finish_reason in ("stop", "length")  # a session keeps it open
    del handle
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    "prompt",
    [
        b"abc",
        None,
        5,
        [1.5],
        [True],
        ["hi"],
        [{"role": "user"}],
        [{"role": "user", "content": 3}],
        [{"role": "user", "content": "x", "name": "y"}],
        {"role": "user", "content": "x"},
    ],
)
def test_prompt_that_is_no_prompt_is_refused(engine: Engine, prompt: object) -> None:
    with pytest.raises(RequestError):
        engine.generate(prompt, max_tokens=1)  # type: ignore[arg-type]


def test_token_ids_may_come_as_an_array(engine: Engine) -> None:
    expected = engine.generate([97, 98, 99], max_tokens=3, temperature=0).token_ids
    for ids in (np.array([97, 98, 99]), (np.int64(97), np.int64(98), np.int64(99))):
        assert engine.generate(ids, max_tokens=3, temperature=0).token_ids == expected


@pytest.mark.parametrize("options", [{"priority": "x"}, {"seed": "x"}, {"seed": -1}])
def test_open_with_a_bad_option_is_refused_and_the_engine_lives(
    engine: Engine, options: dict
) -> None:
    with pytest.raises(RequestError):
        engine.open(**options)
    assert engine.generate("abc", max_tokens=1, temperature=0).token_ids


@pytest.mark.parametrize("deadline_s", [float("nan"), float("inf"), 0, -1, "1"])
def test_deadline_that_is_no_time_is_refused(engine: Engine, deadline_s: object) -> None:
    with pytest.raises(InvalidSamplingParams, match="deadline_s"):
        engine.generate("abc", deadline_s=deadline_s)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"top_p": 1e-9},
        {"top_k": 2**31 - 1},
        {"repetition_penalty": 0.01},
        {"min_p": 1e-300},
        {"temperature": 5e-324},
        {"temperature": 100},
        {"repetition_penalty": 10},
    ],
)
def test_extreme_but_allowed_values_work(engine: Engine, options: dict) -> None:
    result = engine.generate("abc", max_tokens=3, **{"temperature": 1.0, "seed": 1} | options)
    assert len(result.token_ids) <= 3


@pytest.mark.parametrize(
    "options", [{"top_p": 1e-300}, {"top_k": 10**30}, {"repetition_penalty": 1e-300}]
)
def test_values_that_the_kernels_cannot_take_are_refused(engine: Engine, options: dict) -> None:
    with pytest.raises(InvalidSamplingParams):
        engine.generate("abc", max_tokens=3, **options)


def test_row_that_cannot_be_drawn_fails_alone(engine: Engine) -> None:
    runner = engine._parts.runner
    draw = runner.sample

    def sample(hidden, plan, rows):
        if (rows.seed == 666).any():
            raise OverflowError("this row is too much")
        return draw(hidden, plan, rows)

    runner.sample = sample
    sessions = [engine.open() for _ in range(3)]
    handles = []
    for i, session in enumerate(sessions):
        session.extend(Text("abc"))
        params = SamplingParams(max_tokens=3, seed=666 if i == 1 else i, ignore_eos=True)
        handles += session.generate([Generate(params=params)])
    with pytest.raises(EngineError, match="too much"):
        handles[1].result(10)
    for handle in (handles[0], handles[2]):
        assert len(handle.result(10).token_ids) == 3


def test_broken_scheduler_step_fails_its_sequences_and_the_loop_lives(engine: Engine) -> None:
    scheduler = engine._loop.scheduler
    schedule = scheduler.schedule

    def broken():
        scheduler.schedule = schedule
        raise ZeroDivisionError("broken")

    scheduler.schedule = broken
    with pytest.raises(EngineError, match="broken"):
        engine.generate("abc", max_tokens=3)
    assert engine.generate("abc", max_tokens=1, temperature=0).token_ids


def test_stream_that_is_never_read_ends_with_its_iterator(engine: Engine) -> None:
    stream = engine.stream("abc", max_tokens=400, temperature=0, ignore_eos=True)
    del stream
    gc.collect()
    engine.generate("x", max_tokens=1, temperature=0)
    assert engine.stats()["running"] == 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_process_is_told_instead_of_waiting(engine: Engine) -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            engine.generate("abc", max_tokens=1)
        except Exception as error:
            os.write(writer, repr(error).encode())
        os._exit(0)
    os.close(writer)
    ready, _, _ = select.select([reader], [], [], 10)
    assert ready, "the child hangs"
    assert b"forked" in os.read(reader, 1000)
    os.close(reader)
    os.waitpid(pid, 0)
    assert engine.generate("abc", max_tokens=1, temperature=0).token_ids


def test_process_that_ends_in_mid_generation_exits_cleanly(tmp_path: Path) -> None:
    script = (
        "import sys, time; from tests.runtime.integer_model import integer_parts\n"
        "from sgrt.backends.local import Engine\n"
        "from sgrt.core import Generate, SamplingParams, Text\n"
        "engine = Engine.from_parts(integer_parts())\n"
        "session = engine.open(); session.extend(Text('abc'))\n"
        "session.generate([Generate(params=SamplingParams(max_tokens=450, ignore_eos=True))])\n"
        "time.sleep(0.05)\n"
    )
    root = Path(__file__).parents[2]
    env = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'kernels'}"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_scored_tokens_have_the_logprobs_of_options_and_the_top_of_generation(
    engine: Engine,
) -> None:
    prompt, text = [5, 6, 7], [9, 40, 41, 9, 12]
    session = engine.open()
    session.extend_ids(prompt)
    found = session.extend_scored(text, num_top=3).result(30)
    assert [t.token_id for t in found] == text
    assert session.token_ids()[-8:] == prompt + text
    for position, token in enumerate(found):
        alone = engine.open()
        alone.extend_ids(session.token_ids()[: -len(text) + position])
        params = SamplingParams(max_tokens=1, temperature=0, logprobs=3, ignore_eos=True)
        (drawn,) = alone.generate([Generate(params=params)])
        best = drawn.result(30).logprobs
        assert best is not None and best[0].top == token.top
        assert token.logprob <= token.top[0][1]


def test_scored_tokens_of_an_empty_sequence_are_refused(engine: Engine) -> None:
    session = engine.open()
    with pytest.raises(RequestError, match="nothing stands before"):
        session.extend_scored([5]).result(30)
