"""What is slow for one sequence happens beside the steps of the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sgrt.backends.local import Engine
from sgrt.core import Generate, GenerateResult, Generation, Regex, SamplingParams, Text
from sgrt.errors import (
    Cancelled,
    DeadlineExceeded,
    EngineClosed,
    EngineError,
    GrammarBudgetExceeded,
)
from sgrt.grammar.closing import Closing
from sgrt.runtime.masking import fill_one
from tests.runtime.accounting import all_pages_back, check_conservation
from tests.runtime.integer_model import integer_parts, oracle

CONSTRAINT = Regex("(ab|cd|e[0-9]{1,4}f|\\[(x|yy){2,5}\\]){1,9}")


class Gate:
    """Holds every search of a completion until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()
        self.error: Exception | None = None


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate, search = Gate(), Closing.search

    def held(self: Closing, room: int) -> bool:
        gate.reached.set()
        assert gate.opened.wait(30)
        if gate.error is not None:
            raise gate.error
        return search(self, room)

    monkeypatch.setattr(Closing, "search", held)
    monkeypatch.setattr(Closing, "try_follow", lambda self, ids, room: False)
    yield gate
    gate.opened.set()


def closed(engine: Engine, max_tokens: int = 30, deadline_s: float | None = None) -> Generation:
    session = engine.open()
    session.extend(Text("text: "))
    params = SamplingParams(max_tokens=max_tokens, seed=5, finish="close")
    request = Generate(params=params, constraint=CONSTRAINT, deadline_s=deadline_s)
    return session.generate([request])[0]


def free(engine: Engine, text: str, max_tokens: int) -> GenerateResult:
    result = engine.generate(text, max_tokens=max_tokens, temperature=0, ignore_eos=True)
    assert isinstance(result, GenerateResult)
    return result


@pytest.mark.parametrize("forced", [True, False])
@pytest.mark.parametrize("num_pages", [13, 256])
def test_search_that_takes_long_lets_the_others_go_on_and_changes_nothing(
    gate: Gate, forced: bool, num_pages: int
) -> None:
    """With few pages the waiting sequence loses its own and gets them back."""
    with Engine.from_parts(integer_parts()) as alone:
        gate.opened.set()
        expected = closed(alone).result(10)
        gate.opened.clear()
        gate.reached.clear()
    with Engine.from_parts(integer_parts(num_pages=num_pages, forced_runs=forced)) as engine:
        waiting = closed(engine)
        assert gate.reached.wait(10)
        assert list(free(engine, "others", 40).token_ids) == oracle(
            list(b"others"), 40, ignore_eos=True
        )
        assert not waiting.done()
        check_conservation(engine)
        gate.opened.set()
        result = waiting.result(10)
        assert (result.text, result.is_complete) == (expected.text, True)
        if num_pages == 13:
            assert engine.stats()["retracted"] > 0


@pytest.mark.parametrize("end", ["cancel", "deadline", "close"])
def test_sequence_that_ends_while_it_waits_fails_at_once(gate: Gate, end: str) -> None:
    parts = integer_parts()
    with Engine.from_parts(parts) as engine:
        waiting = closed(engine, deadline_s=0.2 if end == "deadline" else None)
        assert gate.reached.wait(10)
        if end == "cancel":
            waiting.cancel()
        elif end == "close":
            engine.close()
        expected = {"cancel": Cancelled, "deadline": DeadlineExceeded, "close": EngineClosed}
        with pytest.raises(expected[end]):
            waiting.result(10)
        if end == "close":
            return
        all_pages_back(engine)
        gate.opened.set()
        assert free(engine, "x", 3).token_ids
        all_pages_back(engine)


def test_search_that_breaks_fails_its_sequence_alone(gate: Gate) -> None:
    with Engine.from_parts(integer_parts()) as engine:
        gate.error = RuntimeError("the search hiccuped")
        gate.opened.set()
        with pytest.raises(EngineError, match="the search hiccuped"):
            closed(engine).result(10)
        assert free(engine, "x", 3).token_ids
        all_pages_back(engine)


def test_engine_whose_sequences_all_wait_sleeps(gate: Gate) -> None:
    parts = integer_parts()
    with Engine.from_parts(parts) as engine:
        handles = [closed(engine) for _ in range(3)]
        assert gate.reached.wait(10)
        engine.stats()
        free(engine, "x", 1)
        num_steps = parts.runner.num_forwards
        threading.Event().wait(0.1)
        assert parts.runner.num_forwards == num_steps
        gate.opened.set()
        assert all(handle.result(10).is_complete for handle in handles)


# ---------------------------------------------------------------- masks


class SlowGrammar:
    """A grammar whose matchers wait before they fill some of their masks."""

    def __init__(self, grammar: Any, before_fill: Callable[[int], None]) -> None:
        self._grammar = grammar
        self._before_fill = before_fill

    def matcher(self) -> Any:
        return SlowMatcher(self._grammar.matcher(), self._before_fill)


class SlowMatcher:
    place = None  # known by nobody, so that each mask is filled

    def __init__(self, matcher: Any, before_fill: Callable[[int], None]) -> None:
        self._matcher = matcher
        self._before_fill = before_fill
        self._length = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._matcher, name)

    def allowed(self) -> None:
        return None

    def accept(self, ids: Sequence[int]) -> None:
        self._matcher.accept(ids)
        self._length += len(ids)

    def fill(self, row: np.ndarray) -> None:
        self._before_fill(self._length)
        fill_one(self._matcher, row)


SLOW = Regex("[0-9]{12}")


def engine_with_slow_masks(before_fill: Callable[[int], None], **options: Any) -> Engine:
    parts = integer_parts(**options)
    compiled = parts.grammars.compile
    grammars = SimpleNamespace(
        compile=lambda c: SlowGrammar(compiled(c), before_fill) if c == SLOW else compiled(c),
        close=parts.grammars.close,
        stats=parts.grammars.stats,
    )
    return Engine.from_parts(replace(parts, grammars=grammars))  # type: ignore[arg-type]


def digits(engine: Engine) -> Generation:
    session = engine.open()
    session.extend(Text("digits: "))
    params = SamplingParams(max_tokens=12, temperature=0)
    return session.generate([Generate(params=params, constraint=SLOW)])[0]


def test_masks_that_come_late_leave_out_their_rows_and_change_nothing() -> None:
    def wait(length: int) -> None:
        if length in (3, 4, 8):
            time.sleep(0.1)

    expected = oracle(list(b"digits: "), 12, SLOW)
    with engine_with_slow_masks(wait) as engine:
        slow = [digits(engine) for _ in range(2)]
        others = [
            engine.open().generate(
                [
                    Text(f"{i}"),
                    Generate(
                        params=SamplingParams(max_tokens=30, temperature=0, ignore_eos=True),
                        constraint=Regex("[a-z]{30}"),
                    ),
                ]
            )[0]
            for i in range(3)
        ]
        for i, handle in enumerate(others):
            expected_other = oracle(list(f"{i}".encode()), 30, Regex("[a-z]{30}"))
            assert list(handle.result(30).token_ids) == expected_other
        for handle in slow:
            assert list(handle.result(30).token_ids) == expected
        assert engine.stats()["late_masks"] >= 4  # two of each sequence, then it counts as slow
        check_conservation(engine)
        all_pages_back(engine)


def test_forced_text_is_found_beside_the_loop_once_masks_were_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[int, str]] = []

    def forced(self: SlowMatcher) -> list[int]:
        asked.append((self._length, threading.current_thread().name))
        return list(self._matcher.forced())

    monkeypatch.setattr(SlowMatcher, "forced", forced, raising=False)
    with engine_with_slow_masks(lambda length: time.sleep(0.1 * (length in (2, 3)))) as engine:
        assert list(digits(engine).result(30).token_ids) == oracle(list(b"digits: "), 12, SLOW)
        assert engine.stats()["late_masks"] >= 2
    on_loop = [length for length, name in asked if name == "sgrt-engine"]
    assert on_loop[:4] == [0, 1, 2, 3] and max(on_loop) < 5 and max(asked)[0] == 12


def test_step_goes_on_without_the_row_whose_mask_does_not_come() -> None:
    reached, opened = threading.Event(), threading.Event()

    def wait(length: int) -> None:
        if length == 3:
            reached.set()
            assert opened.wait(30)

    with engine_with_slow_masks(wait) as engine:
        slow = digits(engine)
        assert reached.wait(10)
        for text in ("a", "b"):
            assert list(free(engine, text, 20).token_ids) == oracle(
                list(text.encode()), 20, ignore_eos=True
            )
        other = engine.generate("c", constraint=Regex("[a-z]{20}"), temperature=0)
        assert isinstance(other, GenerateResult) and len(other.text) == 20
        assert not slow.done()
        opened.set()
        assert list(slow.result(10).token_ids) == oracle(list(b"digits: "), 12, SLOW)


@pytest.mark.parametrize("end", ["limit", "cancel", "deadline"])
def test_mask_that_never_comes_ends_its_sequence(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reached, opened = threading.Event(), threading.Event()

    def wait(length: int) -> None:
        if length == 3:
            reached.set()
            opened.wait(30)

    if end == "limit":
        monkeypatch.setattr("sgrt.runtime.engine.MASK_LIMIT_S", 0.1)
    with engine_with_slow_masks(wait) as engine:
        session = engine.open()
        session.extend(Text("digits: "))
        request = Generate(
            params=SamplingParams(max_tokens=12, temperature=0),
            constraint=SLOW,
            deadline_s=0.2 if end == "deadline" else None,
        )
        (slow,) = session.generate([request])
        if end == "cancel":
            assert reached.wait(10)
            slow.cancel()
        expected = {
            "limit": GrammarBudgetExceeded,
            "cancel": Cancelled,
            "deadline": DeadlineExceeded,
        }
        with pytest.raises(expected[end]):
            slow.result(10)
        assert free(engine, "x", 3).token_ids
        all_pages_back(engine)
        opened.set()


def test_late_mask_that_fails_ends_its_sequence_with_the_reason() -> None:
    def fail(length: int) -> None:
        if length == 3:
            time.sleep(0.1)
            raise GrammarBudgetExceeded("steps of one mask", 2, 1)

    with engine_with_slow_masks(fail) as engine:
        with pytest.raises(GrammarBudgetExceeded, match="steps of one mask"):
            digits(engine).result(10)
        assert free(engine, "x", 3).token_ids
