"""``gen(max_tokens=0, logprobs=…)`` tells what would come next, and writes nothing."""

from collections.abc import Iterator

import pytest

import sgrt
from sgrt.backends.local import Engine
from tests.server.support import parts, wait_until


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine.from_parts(parts()) as engine:
        yield engine
        wait_until(lambda: not engine._loop._lives)


@sgrt.function
def peeks(s, n):
    s += "begin"
    s += sgrt.gen("next", max_tokens=0, logprobs=4, n=n, temperature=0)
    s += sgrt.gen("one", max_tokens=1, logprobs=4, temperature=0, ignore_eos=True)


def test_next_tokens_are_those_that_come_and_the_text_does_not_change(engine):
    state = peeks.run(1, backend=engine)
    assert state["next"] == ""
    (peeked,), (drawn,) = state.result("next").logprobs, state.result("one").logprobs
    assert peeked == drawn and len(peeked.top) == 4
    assert state.text() == "begin" + state["one"]
    told = state.get_meta_info("next")
    assert [token_id for _, token_id, _ in told["output_top_logprobs"][0]] == [
        token_id for token_id, _ in peeked.top
    ]
    assert "".join(peeks.run(1, backend=engine, stream=True).text_iter("next")) == ""


def test_several_of_no_text_are_as_many_values(engine):
    assert peeks.run(3, backend=engine)["next"] == ["", "", ""]


def test_constraint_masks_what_would_come_and_no_text_satisfies_none(engine):
    @sgrt.function
    def program(s):
        s += "x" + sgrt.gen("a", max_tokens=0, logprobs=5, regex="[ab]+")

    state = program.run(backend=engine)
    (told,) = state._trace.variables["a"].results()[0].logprobs
    assert {token_id for token_id, p in told.top if p > -100} == {ord("a"), ord("b")}
    with pytest.raises(sgrt.ProgramError, match="max_tokens=0 ended"):
        _ = state["a"]


def test_failure_and_cancel_of_it_reach_the_reader():
    @sgrt.function
    def program(s):
        s += sgrt.gen("a", max_tokens=0, logprobs=1)

    state = program.run(backend=sgrt.ScriptedBackend([]))
    with pytest.raises(sgrt.ProgramError, match="variable 'a'"):
        _ = state["a"]
    slow = program.run(backend=sgrt.ScriptedBackend(["x"], latency=60), stream=True)
    slow.cancel()
    with pytest.raises(sgrt.ProgramError):
        _ = slow["a"]


def test_without_log_probabilities_no_token_is_asked_for():
    backend = sgrt.ScriptedBackend(["x"])

    @sgrt.function
    def program(s):
        s += "x" + sgrt.gen("a", max_tokens=0)

    assert program.run(backend=backend)["a"] == ""
