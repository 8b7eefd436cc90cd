"""Free + cached + held = total, after anything."""

from __future__ import annotations

import itertools
import random
import threading
import time

import pytest

from sgrt.backends.local import Engine, Session
from sgrt.core import Choices, Generate, GenerateResult, Regex, SamplingParams, Text
from sgrt.errors import (
    Cancelled,
    DeadlineExceeded,
    EngineClosed,
    EngineError,
    PromptTooLong,
    RequestError,
)
from tests.runtime.accounting import all_pages_back, check_conservation
from tests.runtime.integer_model import integer_parts, oracle


def _greedy(max_tokens: int, **options) -> Generate:
    constraint = options.pop("constraint", None)
    deadline_s = options.pop("deadline_s", None)
    params = SamplingParams(max_tokens=max_tokens, temperature=0, **options)
    return Generate(params=params, constraint=constraint, deadline_s=deadline_s)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("page_size", [1, 4, 16])
def test_pages_after_random_sessions_all_come_back(cache: bool, page_size: int) -> None:
    rng = random.Random(page_size)
    parts = integer_parts(
        num_pages=256 // page_size + 20, page_size=page_size, prefix_cache=cache, max_running=5
    )
    with Engine.from_parts(parts) as engine:
        sessions: list[Session] = []
        for _ in range(80):
            action = rng.choice(
                ["open", "extend", "generate", "go on", "fork", "close", "cancel", "score"]
            )
            if action == "open" or not sessions:
                sessions.append(engine.open())
                continue
            session = rng.choice(sessions)
            if action == "extend":
                session.extend(Text("abc" * rng.randint(1, 9)))
            elif action == "generate":
                session.extend(Text("x"))
                session.generate([_greedy(rng.randint(1, 9)), Text("--"), _greedy(3)])
            elif action == "go on":  # without new text, so the last token is computed again
                session.extend(Text("w"))
                session.generate([_greedy(rng.randint(1, 5)), _greedy(4, stop=("a", "e"))])
            elif action == "score":
                session.extend(Text("y"))
                options = ["".join(rng.choices("ab", k=rng.randint(1, 6))) for _ in range(25)]
                session.score(options, unconditional=rng.random() < 0.3)
            elif action == "fork":
                sessions += session.fork(2)
            elif action == "cancel":
                session.extend(Text("z"))
                (handle,) = session.generate([_greedy(50)])
                handle.cancel()
            else:
                sessions.remove(session)
                session.close()
            check_conservation(engine)
        for session in sessions:
            _check_text(session)
            session.close()
        check_conservation(engine)
        all_pages_back(engine)


def _check_text(session: Session) -> None:
    """Every generation of a session is what the oracle says after the tokens before it."""
    try:
        token_ids = session.token_ids()
    except Cancelled:
        return
    for handle in session._handles:
        result = handle.result(10)
        if isinstance(result, GenerateResult) and result.stop_match is None:
            prompt = token_ids[: result.usage.prompt]
            assert list(result.token_ids) == oracle(prompt, len(result.token_ids))


def test_fork_children_continue_as_if_they_were_alone() -> None:
    with Engine.from_parts(integer_parts(page_size=4)) as engine:
        session = engine.open()
        session.extend(Text("The common part"))
        (first,) = session.generate([_greedy(6, ignore_eos=True)])
        children = session.fork(3)
        handles = []
        for i, child in enumerate(children):
            child.extend(Text(f" child {i}"))
            handles += child.generate([_greedy(8)])
        start = list(b"The common part") + list(first.result(10).token_ids)
        for i, handle in enumerate(handles):
            prompt = start + list(f" child {i}".encode())
            assert list(handle.result(10).token_ids) == oracle(prompt, 8)
        assert handles[2].result().usage.cached >= len(start) - 1


@pytest.mark.parametrize("page_size", [2, 4, 5, 16])
def test_fork_in_the_middle_of_a_page_copies_what_stands_there(page_size: int) -> None:
    with Engine.from_parts(integer_parts(page_size=page_size)) as engine:
        for length in range(1, 12):
            session = engine.open()
            session.extend(Text("x" * length))
            session.generate([_greedy(3, ignore_eos=True)])[0].result(10)
            before = session.token_ids()
            first, second = session.fork(2)
            second.extend(Text("tail"))
            (one,), (two,) = first.generate([_greedy(5)]), second.generate([_greedy(5)])
            assert list(one.result(10).token_ids) == oracle(before, 5)
            assert list(two.result(10).token_ids) == oracle([*before, *b"tail"], 5)
            assert one.result().usage.cached == len(before) - 1  # nothing was computed again


def test_session_that_ended_at_a_stop_string_forks_as_its_text_says() -> None:
    with Engine.from_parts(integer_parts(page_size=1)) as engine:
        free = engine.generate("abc", max_tokens=30, temperature=0, ignore_eos=True)
        # two tokens, so that one of those cut away has been computed
        ids = free.token_ids
        stop = next(chr(a) + chr(b) for a, b in itertools.pairwise(ids) if a < 128 > b)
        session = engine.open()
        session.extend(Text("abc"))
        (cut,) = session.generate([_greedy(30, ignore_eos=True, stop=(stop,))])
        assert cut.result(10).stop_match == stop
        token_ids = session.token_ids()
        (child,) = session.fork(1)
        (more,) = child.generate([_greedy(6)])
        assert list(more.result(10).token_ids) == oracle(token_ids, 6)
        check_conservation(engine)


@pytest.mark.parametrize("page_size", [1, 4, 8])
def test_last_token_of_a_shared_page_is_computed_again_on_a_copy(page_size: int) -> None:
    prompt = b"sixteen letters."
    assert len(prompt) % page_size == 0
    with Engine.from_parts(integer_parts(page_size=page_size)) as engine:
        session = engine.open()
        session.extend(Text(prompt.decode()))
        first = oracle(list(prompt), 1)[0]
        (ended,) = session.generate([_greedy(5, stop_token_ids=(first,))])
        assert ended.result(10).token_ids == ()  # the whole prompt is computed, nothing follows
        (child,) = session.fork(1)  # now it is shared, too
        (on,) = child.generate([_greedy(6)])
        assert list(on.result(10).token_ids) == oracle(list(prompt), 6)
        assert on.result().usage.cached == len(prompt) - 1
        check_conservation(engine)


def test_constraint_without_a_choice_asks_the_model_nothing() -> None:
    parts = integer_parts()
    with Engine.from_parts(parts) as engine:
        result = engine.generate("abc", constraint=Choices(("only this",)), temperature=0)
        assert (result.text, result.finish_reason) == ("only this", "stop")
        assert (result.usage.sampled, result.usage.forced) == (0, 9)
        assert parts.runner.num_forwards == 0
        result = engine.generate("abc", constraint=Regex("[ab]z"), temperature=0)
        assert (result.usage.sampled, result.usage.forced) == (1, 1)


def test_generation_without_new_text_continues_from_the_last_token() -> None:
    with Engine.from_parts(integer_parts(page_size=4)) as engine:
        session = engine.open()
        session.extend(Text("abcdefgh"))  # two whole pages
        handles = session.generate([_greedy(4), _greedy(4), _greedy(4)])
        text = [i for h in handles for i in h.result(10).token_ids]
        assert text == oracle(list(b"abcdefgh"), 12)[: len(text)]


@pytest.mark.parametrize("num_pages", [12, 13, 24])
def test_full_pool_with_many_sequences_serves_all(num_pages: int) -> None:
    parts = integer_parts(num_pages=num_pages, page_size=4, context_len=48, max_running=8)
    with Engine.from_parts(parts) as engine:
        prompts = [list(f"request number {i}".encode()) for i in range(12)]
        sessions, handles = [], []
        for prompt in prompts:
            sessions.append(engine.open())
            sessions[-1].extend_ids(prompt)
            handles += sessions[-1].generate([_greedy(25, ignore_eos=True)])
        for prompt, handle in zip(prompts, handles, strict=True):
            assert list(handle.result(30).token_ids) == oracle(prompt, 25, ignore_eos=True)
        assert num_pages == 24 or engine.stats()["retracted"] > 0
        check_conservation(engine)


def test_idle_sessions_on_a_full_pool_give_way_and_go_on_later() -> None:
    with Engine.from_parts(integer_parts(num_pages=16, page_size=4)) as engine:
        sessions = [engine.open() for _ in range(6)]
        for turn in range(3):
            for i, session in enumerate(sessions):
                session.extend(Text(f"turn {turn} of {i} "))
                session.generate([_greedy(4, ignore_eos=True)])[0].result(10)
        for i, session in enumerate(sessions):
            token_ids: list[int] = []
            for turn in range(3):
                token_ids += f"turn {turn} of {i} ".encode()
                prompt = list(token_ids)
                token_ids += session.token_ids()[len(prompt) : len(prompt) + 4]
            assert session.token_ids() == token_ids


def test_prompt_longer_than_the_pool_is_refused_and_others_go_on() -> None:
    with Engine.from_parts(integer_parts(num_pages=8, page_size=4)) as engine:
        with pytest.raises(PromptTooLong) as caught:
            engine.generate([1] * 40, max_tokens=4, temperature=0)
        assert caught.value.num_tokens == 40 and caught.value.limit == 31
        assert engine.generate([1] * 4, max_tokens=4, temperature=0).token_ids


def test_context_that_ends_in_mid_generation_gives_length() -> None:
    with Engine.from_parts(integer_parts(context_len=20)) as engine:
        result = engine.generate(list(range(10)), max_tokens=50, temperature=0, ignore_eos=True)
        assert (result.finish_reason, len(result.token_ids)) == ("length", 10)


def test_cancel_frees_pages_within_two_steps() -> None:
    parts = integer_parts(num_pages=64)
    runner = parts.runner
    with Engine.from_parts(parts) as engine:
        started, seen = threading.Event(), []
        session = engine.open()
        session.extend(Text("go on and on"))
        gate = threading.Event()

        def on_forward(batch) -> None:
            started.set()
            gate.wait(5)
            seen.append(len(batch.context_len))

        runner.on_forward = on_forward
        (handle,) = session.generate([_greedy(400, ignore_eos=True)])
        assert started.wait(5)
        handle.cancel()
        num_before = len(seen)
        gate.set()
        with pytest.raises(Cancelled):
            handle.result(5)
        assert len(seen) - num_before <= 2
        all_pages_back(engine)


def test_deadline_that_passes_fails_only_its_own_sequence() -> None:
    parts = integer_parts(num_pages=200)
    parts.runner.on_forward = lambda batch: time.sleep(0.002)
    with Engine.from_parts(parts) as engine:
        slow, other = engine.open(), engine.open()
        slow.extend(Text("slow"))
        other.extend(Text("other"))
        (late,) = slow.generate([_greedy(450, ignore_eos=True, deadline_s=0.05)])
        (queued,) = slow.generate([_greedy(3)])
        (fine,) = other.generate([_greedy(40, ignore_eos=True)])
        with pytest.raises(DeadlineExceeded):
            late.result(10)
        with pytest.raises(DeadlineExceeded):
            queued.result(10)
        assert len(fine.result(10).token_ids) == 40
        check_conservation(engine)


def test_step_that_breaks_fails_its_sequences_and_the_engine_lives() -> None:
    parts = integer_parts()
    with Engine.from_parts(parts) as engine:
        parts.runner.fail_next = RuntimeError("the device hiccuped")
        with pytest.raises(EngineError, match="the device hiccuped"):
            engine.generate("abc", max_tokens=3, temperature=0)
        result = engine.generate("abc", max_tokens=3, temperature=0)
        assert list(result.token_ids) == oracle(list(b"abc"), 3)
        all_pages_back(engine)


def test_close_with_work_under_way_fails_every_handle() -> None:
    parts = integer_parts()
    parts.runner.on_forward = lambda batch: time.sleep(0.001)
    engine = Engine.from_parts(parts)
    session = engine.open()
    session.extend(Text("on"))
    handles = session.generate([_greedy(400, ignore_eos=True), _greedy(2)])
    engine.close()
    for handle in handles:
        with pytest.raises(EngineClosed):
            handle.result(5)
    late = engine.open()
    late.extend(Text("x"))
    with pytest.raises(EngineClosed):
        late.generate([_greedy(1)])[0].result(5)


def test_session_after_an_error_fails_every_later_call_with_it() -> None:
    with Engine.from_parts(integer_parts()) as engine:
        session = engine.open()
        session.extend(Text("x"))
        (bad,) = session.generate([_greedy(3, constraint=Regex("(unclosed"))])
        (after,) = session.generate([_greedy(3)])
        for handle in (bad, after):
            with pytest.raises(Exception) as caught:
                handle.result(5)
            assert type(caught.value).__name__ == "GrammarSyntaxError"
        with pytest.raises(Exception):  # noqa: B017 - the same error again, whatever it is
            session.sync(5)
        assert engine.generate("y", max_tokens=2, temperature=0).token_ids is not None


def test_empty_prompt_without_bos_is_refused() -> None:
    with Engine.from_parts(integer_parts()) as engine, pytest.raises(RequestError, match="empty"):
        engine.generate("", max_tokens=2)


def test_bos_stands_once_at_the_start() -> None:
    with Engine.from_parts(integer_parts(add_bos=True)) as engine:
        session = engine.open()
        session.extend(Text("ab"))
        session.generate([_greedy(1, ignore_eos=True)])
        session.extend(Text("cd"))
        session.generate([_greedy(1, ignore_eos=True)])
        token_ids = session.token_ids()
        assert token_ids[0] == 256 and token_ids.count(256) <= 1 + 2


def test_idle_engine_sleeps() -> None:
    parts = integer_parts()
    with Engine.from_parts(parts) as engine:
        engine.generate("abc", max_tokens=3, temperature=0)
        steps = parts.runner.num_forwards
        start = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - start < 0.2
        assert parts.runner.num_forwards == steps
