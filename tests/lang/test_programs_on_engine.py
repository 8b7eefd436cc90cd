"""Programs on the embedded engine's loop, over a model that hashes the pages it reads: any
session that is closed too early, forked too late or mixed up with another changes the text."""

import asyncio
import gc
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sgrt
from sgrt.errors import Cancelled, GrammarSyntaxError, RequestError, UnsupportedSchema
from sgrt.lang.plan.plan import Plan

pytest.importorskip("torch")
from tests.runtime.integer_model import ByteTokenizer, integer_parts


@pytest.fixture
def engine():
    with sgrt.Engine.from_parts(integer_parts(num_pages=512)) as engine:
        yield engine


def gen(name):
    return sgrt.gen(name, max_tokens=12, ignore_eos=True)


@sgrt.function
def forking(s, prompt):
    s += prompt
    forks = s.fork(3)
    forks += lambda i: f" {i}" + gen("x")
    for child in forks:
        with child.fork(2) as inner:
            inner += [gen("y"), " other" + gen("y")]
    forks.join()


def pages_come_back(engine):
    for _ in range(200):
        stats = engine.stats()
        if stats["pages_free"] + stats["pages_cached"] == stats["pages"]:
            return stats["running"] == stats["waiting"] == 0
        time.sleep(0.01)
    return False


def test_children_of_a_parent_without_gens_get_their_text(engine):
    state = forking.run("abc", backend=engine, temperature=0)
    for i, text in enumerate(state["x"]):
        assert (
            text == engine.generate(f"abc {i}", temperature=0, max_tokens=12, ignore_eos=True).text
        )
    assert [len(pair) for pair in state["y"]] == [2, 2, 2]
    assert pages_come_back(engine)


def test_batch_equals_the_same_programs_one_by_one(engine):
    items = [(f"prompt {i}",) for i in range(4)]
    together = forking.run_batch(items, backend=engine, temperature=1.0, seed=4)
    for item, state in zip(items, together, strict=True):
        alone = forking.run(*item, backend=engine, temperature=1.0, seed=state.seed)
        assert (alone["x"], alone["y"]) == (state["x"], state["y"])
    assert pages_come_back(engine)


def test_select_and_n_go_on_with_what_was_chosen(engine):
    @sgrt.function
    def program(s):
        s += "q" + sgrt.select("way", ["left", "right"]) + sgrt.gen("many", n=3, max_tokens=5)
        s += "!" + gen("end")

    state = program.run(backend=engine, temperature=0)
    assert sum(state.probabilities("way").values()) == pytest.approx(1)
    before = state.text().removesuffix(state["end"])
    assert before == f"q{state['way']}{state['many'][0]}!"
    assert len(state["many"]) == 3
    assert state.usage().sampled + state.usage().forced == 12 + sum(
        len(r.token_ids) for r in state.result("many")
    )
    assert pages_come_back(engine)


def test_cancelled_program_gives_its_pages_back(engine):
    @sgrt.function
    def program(s):
        s += "abc" + sgrt.gen("x", max_tokens=400, ignore_eos=True)
        s.fork(2)
        raise KeyError("mine")

    with pytest.raises(KeyError):
        program.run(backend=engine)
    assert pages_come_back(engine)


def test_impossible_constraint_fails_its_reader_and_the_engine_lives(engine):
    @sgrt.function
    def program(s):
        s += "a" + sgrt.gen("x", regex="(")

    state = program.run(backend=engine)
    with pytest.raises(sgrt.ProgramError, match="'x'") as caught:
        state["x"]
    assert isinstance(caught.value.__cause__, sgrt.ConstraintError)
    assert forking.run("abc", backend=engine, temperature=0)["x"]


REFUSED = {
    "regex": (lambda: sgrt.gen("b", regex="("), GrammarSyntaxError),
    "schema": (lambda: sgrt.gen("b", json_schema={"type": "horse"}), UnsupportedSchema),
    "text": (lambda: "\ud800" + gen("b"), RequestError),
    "select": (lambda: sgrt.select("b", ["x", "\ud800"]), RequestError),
    "n": (lambda: sgrt.gen("b", regex="(", n=2), GrammarSyntaxError),
}


def encode(self, text, **options):
    """Refuses as the real tokenizer does."""
    try:
        return list(text.encode())
    except UnicodeEncodeError as error:
        raise RequestError("a lone surrogate") from error


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("at_once", [False, True])
def test_what_is_refused_later_leaves_earlier_values_and_is_blamed_itself(
    engine, monkeypatch, what, at_once
):
    monkeypatch.setattr(ByteTokenizer, "encode", encode)
    make, kind = REFUSED[what]

    @sgrt.function
    def program(s):
        s += "Hello"
        if at_once:
            s += gen("a") + make() + gen("c")  # at once
        else:
            s += gen("a")
            s += make()  # refused
            s.fork(2).join()
            s += gen("c")

    alone = engine.generate("Hello", temperature=0, max_tokens=12, ignore_eos=True).text
    state = program.run(backend=engine, temperature=0)
    assert state["a"] == alone
    lines = Path(__file__).read_text().splitlines()
    mark = "# at once" if at_once else "# refused"
    line = next(i for i, text in enumerate(lines, 1) if text.endswith(mark))
    for read in (lambda: state["b"], lambda: state["c"], state.text, state.sync):
        with pytest.raises(sgrt.ProgramError) as caught:
            read()
        assert caught.value.variable == "b"
        assert caught.value.location == f"{__file__}:{line}"
        assert isinstance(caught.value.__cause__, kind)
    assert state.error().variable == "b"
    assert pages_come_back(engine)


@sgrt.function
def long(s, num_forks=0):
    s += "abc" + sgrt.gen("x", max_tokens=100, ignore_eos=True)
    if num_forks:
        forks = s.fork(num_forks)
        forks += sgrt.gen("y", max_tokens=100, ignore_eos=True)
        s["child"] = forks[0]


def variable(state, name):
    """What the state reads, without the state."""
    return state._trace.variables[name]


@pytest.mark.parametrize("stream", [False, True])
def test_work_that_nobody_can_read_any_more_is_cancelled(engine, stream):
    kept = long.run(backend=engine, stream=stream)
    dropped = [variable(long.run(backend=engine), "x") for _ in range(4)]
    forked = long.run(2, backend=engine)
    dropped += [variable(forked, "x"), variable(forked["child"], "y")]
    del forked
    assert all(isinstance(lost.failure(), Cancelled) for lost in dropped)
    assert kept.error() is None and len(kept.result("x").token_ids) == 100
    assert pages_come_back(engine)


def test_child_keeps_the_parents_work_that_it_stands_on(engine):
    child = long.run(2, backend=engine)["child"]
    gc.collect()
    assert child.error() is None
    assert [len(child.result(name).token_ids) for name in "xy"] == [100, 100]
    assert pages_come_back(engine)


def test_stream_keeps_the_work_that_it_follows(engine):
    pieces = long.run(backend=engine, stream=True, seed=3).text_iter()
    gc.collect()
    assert "".join(pieces) == long.run(backend=engine, seed=3).text()


def test_program_that_runs_on_at_exit_ends_the_interpreter_in_silence():
    script = """
import sgrt
@sgrt.function
def program(s):
    s += "a" + sgrt.gen("x")
state = program.run(backend=sgrt.ScriptedBackend(["1"], latency=60))
program.run(backend=state._trace.backend)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, b"")


@sgrt.function
def seeded(s, i):
    s += f"item {i} " + gen("a")
    forks = s.fork(2)
    forks += gen("b")
    forks.join()
    s += sgrt.select("c", ["one", "two"], temperature=1.0) + gen("d")
    return s.text(), s["b"]


@sgrt.function
async def seeded_async(s, i):
    s += f"item {i} " + gen("a")
    forks = s.fork(2)
    forks += gen("b")
    forks.join()
    s += sgrt.select("c", ["one", "two"], temperature=1.0) + gen("d")
    await s.settled()
    return s.text(), s["b"]


def test_seed_gives_the_same_text_whatever_runs_beside_it_and_in_which_form(engine):
    def values(program, **options):
        states = program.run_batch([(i,) for i in range(6)], backend=engine, seed=5, **options)
        return [state.value for state in states]

    expected = values(seeded)
    assert len({text for text, _ in expected}) == 6
    assert all(first != second for _, (first, second) in expected)  # forks have their own
    noise = forking.run("noise", backend=engine, stream=True)
    assert values(seeded, num_threads=1) == expected
    assert values(seeded_async) == expected
    assert values(seeded, generator_style=True, num_threads=3) == expected
    noise.sync()


def test_fused_and_unfused_programs_write_the_same_tokens(engine):
    @sgrt.function
    def program(s, read):
        for i in range(5):
            s += f"{i}: " + sgrt.gen(f"x{i}", max_tokens=9, regex="[a-z]{3,6}")
            s += ";\n"
            if read:
                s.sync()
        return s.text(), [s.result(f"x{i}").token_ids for i in range(5)]

    runs = [program.run(read, backend=engine, seed=3).value for read in (False, True)]
    assert runs[0] == runs[1]


def test_deadline_and_cancelled_task_give_pages_back(engine):
    @sgrt.function
    def endless(s):
        s += "abc" + sgrt.gen("x", max_tokens=100_000, ignore_eos=True)
        return s["x"]

    with pytest.raises(sgrt.ProgramError, match="DeadlineExceeded"):
        endless.run(backend=engine, deadline_s=0.1)
    assert pages_come_back(engine)

    async def cancelled():
        task = asyncio.create_task(endless.arun(backend=engine))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert pages_come_back(engine)


@sgrt.function
def stopping(s, patterns):
    s += "once" + sgrt.gen("x", regex="[a-d]*", stop_regex=patterns, max_tokens=24)
    s += "!" + sgrt.gen("y", max_tokens=4, ignore_eos=True)


def test_stop_regex_ends_a_gen_before_its_first_match_in_plans_too(engine):
    whole = stopping.run(None, backend=engine, temperature=0)["x"]
    found = re.compile("a[^a]*c|dd")
    ends = [(i, j) for j in range(len(whole) + 1) for i in range(j) if found.fullmatch(whole, i, j)]
    assert ends
    plan = Plan.from_json(stopping.compile().to_json())
    for run in (stopping.run, plan.run):
        state = run(["a[^a]*c|dd", "zz"], backend=engine, temperature=0)
        assert state["x"] == whole[: ends[0][0]]
        assert state.text() == "once" + state["x"] + "!" + state["y"]
        assert state.get_meta_info("x")["finish_reason"]["matched"] == "a[^a]*c|dd"


def test_stop_regex_that_cannot_be_followed_is_told_at_the_read(engine):
    state = stopping.run("(?=a)b", backend=engine)
    with pytest.raises(sgrt.ProgramError, match="stop_regex"):
        _ = state["x"]
    scripted = stopping.run("a", backend=sgrt.ScriptedBackend(["b"]))
    with pytest.raises(sgrt.ProgramError, match=r"stop_regex.*embedded engine"):
        _ = scripted["x"]
