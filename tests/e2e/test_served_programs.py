"""A program on `sgrt serve` is the same as on the engine in this process, token for token."""

from __future__ import annotations

from pathlib import Path

import pytest

import sgrt

pytestmark = [pytest.mark.model, pytest.mark.slow]


@sgrt.function
def interview(s, question):
    s += sgrt.system("You are brief.")
    s += sgrt.user(question)
    s += sgrt.assistant(sgrt.gen("answer", max_tokens=16, stop="."))
    s += sgrt.user("Was that <|im_end|> right?")
    s += sgrt.assistant(sgrt.select("right", ["yes", "no", "not quite"]))
    forks = s.fork(2)
    forks += lambda i: sgrt.user(f"{i}?") + sgrt.assistant(sgrt.gen("n", regex="[0-9]{2}"))
    forks.join()


def test_served_program_equals_the_local_one(smollm2: Path) -> None:
    with sgrt.Engine(num_threads=1, context_len=1024) as engine:
        local = interview.run("What is a compiler?", backend=engine, temperature=0)
        expected = local.text(), local["n"], local.probabilities("right")
    with sgrt.Runtime(num_threads=1, context_length=1024) as runtime:
        served = interview.run("What is a compiler?", backend=runtime, temperature=0)
        assert (served.text(), served["n"]) == expected[:2]
        assert served.probabilities("right") == pytest.approx(expected[2])
        assert runtime.token_exact
        assert sgrt.get_server_info(runtime)["version"]
        sgrt.flush_cache(runtime)
        process = runtime._process
    assert process.poll() is not None


def test_runtime_says_why_its_server_did_not_start() -> None:
    with pytest.raises(sgrt.BackendError, match="no such file or directory"):
        sgrt.Runtime("/no/such/model")
    with pytest.raises(sgrt.BackendError, match="--nonsense"):
        sgrt.Runtime(nonsense=3)
