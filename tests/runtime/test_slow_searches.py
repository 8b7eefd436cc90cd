"""What is slow for one sequence happens beside the steps of the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from sgrt.backends.local import Engine
from sgrt.core import Generate, GenerateResult, Generation, Regex, SamplingParams, Text
from sgrt.errors import Cancelled, DeadlineExceeded, EngineClosed, EngineError
from sgrt.grammar.closing import Closing
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
