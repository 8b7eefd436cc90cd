"""Bodies on shared threads: what blocks stalls nobody else, and few threads serve all."""

import contextvars
import json
import threading
import time
from functools import partial

import pytest

import sgrt
from sgrt.lang import hub
from sgrt.lang.conduct import Conduct


def backend(**options):
    return sgrt.ScriptedBackend(lambda prompt, c, p: f"[{len(prompt)}]", **options)


def peak_of_threads(work):
    """The most threads that `work` had beside those that were there, ours excepted."""
    peak, ended, base = [0], threading.Event(), threading.active_count()

    def watch():
        while not ended.wait(0.002):
            peak[0] = max(peak[0], threading.active_count() - base - 1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    ended.set()
    watcher.join()
    return peak[0]


@sgrt.function
def reads(s, text):
    s += text + sgrt.gen("x")
    return s["x"]


@sgrt.function
def tree(s, text):
    s += text
    forks = s.fork(8)
    forks += sgrt.gen("x")
    forks.join()
    return s["x"]


@pytest.mark.parametrize("program", [reads, tree])
def test_hundreds_of_waiting_programs_take_at_most_four_threads(program):
    items = [(str(i),) for i in range(300)]
    run = partial(program.run_batch, items, backend=backend(latency=0.3))
    assert peak_of_threads(run) <= 4 + 1  # the script's own clock


def test_waiting_programs_wait_at_the_same_time():
    begun = time.perf_counter()
    states = reads.run_batch([(str(i),) for i in range(500)], backend=backend(latency=0.5))
    assert time.perf_counter() - begun < 500 * 0.5 / 10
    assert len({state.seed for state in states}) == 1


def test_program_that_blocks_openly_is_run_in_threads():
    @sgrt.function
    def program(s, i):
        s += sgrt.gen("x")
        s.sync()
        time.sleep(0.2)
        return i

    begun = time.perf_counter()
    states = program.run_batch([(i,) for i in range(50)], backend=backend(latency=0.01))
    assert [state.value for state in states] == list(range(50))
    assert time.perf_counter() - begun < 50 * 0.2 / 2


def test_call_that_blocks_stalls_nobody():
    @sgrt.function
    def program(s, i):
        s += sgrt.gen("x")
        return s.call(blocks, s["x"], number=i)

    def blocks(text, *, number):
        time.sleep(0.2)
        return text, number

    program._conduct.may_block = False  # so that its bodies share one thread
    begun = time.perf_counter()
    states = program.run_batch([(i,) for i in range(50)], backend=backend(latency=0.01))
    assert [state.value for state in states] == [("[0]", i) for i in range(50)]
    assert time.perf_counter() - begun < 50 * 0.2 / 2


def test_call_raises_what_the_function_raises_and_sends_what_was_asked_before():
    @sgrt.function
    def program(s, fake):
        s += "a" + sgrt.gen("x")
        s["asked"] = s.call(lambda: len(fake.calls))
        with pytest.raises(KeyError, match="mine"):
            s.call({}.__getitem__, "mine")
        return s["asked"]

    fake = backend()
    assert program.run(fake, backend=fake).value == 1
    program._conduct.may_block = False
    assert program.run_batch([(fake,)], backend=fake)[0].value == 2


def test_hub_that_is_stuck_does_not_keep_others_from_beginning(within):
    release = threading.Event()

    @sgrt.function
    def stuck(s):
        release.wait(9)

    stuck._conduct.may_block = False  # a wrong guess
    state = stuck.run(backend=backend(), stream=True)
    try:
        assert within(lambda: reads.run_batch([("a",)], backend=backend())[0].value) == "[1]"
        assert within(lambda: stuck._conduct.may_block)  # it has shown what it does
    finally:
        release.set()
    within(state.sync)


def test_bodies_one_after_the_other_see_nothing_of_each_others_context(monkeypatch):
    monkeypatch.setattr(hub, "_MAX_IDLE", 4)
    left = contextvars.ContextVar("left", default="nothing")

    @sgrt.function
    def program(s, i, waits):
        seen = left.get()
        left.set(f"by {i}")
        s += str(i) + sgrt.gen("x")
        if waits:
            assert s["x"]
            assert left.get() == f"by {i}"
        return seen

    items = [(i, i % 3 == 0) for i in range(60)]  # more than greenlets are kept
    for _ in range(2):
        states = program.run_batch(items, backend=backend(latency=0.01))
        assert {state.value for state in states} == {"nothing"}


def test_runs_inside_of_runs_share_the_thread(within):
    @sgrt.function
    def outer(s, i):
        inner = reads.run(str(i), backend=s._trace.backend)
        s += inner["x"] + sgrt.gen("y")
        return [state.value for state in reads.run_batch([("a",), ("bb",)], backend=inner_backend)]

    inner_backend = backend(latency=0.01)
    run = partial(outer.run_batch, [(i,) for i in range(20)], backend=backend(latency=0.01))
    assert [state.value for state in within(run)] == [["[1]", "[2]"]] * 20


def test_batches_in_batches_of_programs_that_block_never_wait_for_each_other(within):
    @sgrt.function
    def leaf(s):
        time.sleep(0.001)
        return 1

    @sgrt.function
    def branch(s, depth):
        time.sleep(0.001)
        kind, items = (branch, [(depth - 1,)] * 2) if depth else (leaf, [()] * 2)
        return sum(state.value for state in kind.run_batch(items, backend=s._trace.backend))

    states = within(lambda: branch.run_batch([(1,)] * 130, backend=backend()))
    assert [state.value for state in states] == [4] * 130


def test_each_body_has_a_context_of_its_own():
    who = contextvars.ContextVar("who", default="nobody")

    @sgrt.function
    def program(s, i):
        before = who.get()
        who.set(i)
        s += sgrt.gen("x")
        s.sync()
        return before, who.get()

    who.set("caller")
    states = program.run_batch([(i,) for i in range(20)], backend=backend(latency=0.01))
    assert [state.value for state in states] == [("caller", i) for i in range(20)]
    assert who.get() == "caller"


def test_value_of_a_handle_that_nobody_fills_can_be_waited_for_with_a_limit():
    from sgrt.core import Handle

    @sgrt.function
    def program(s):
        with pytest.raises(TimeoutError):
            Handle().result(0.05)
        return "went on"

    program._conduct.may_block = False
    (state,) = program.run_batch([()], backend=backend())
    assert state.value == "went on"


class Client:
    def get(self, url):
        return url


client = Client()


def helper(text):
    return json.loads(text)


def blocking_helper(text):
    return client.get(text)


def test_code_that_cannot_block_is_trusted_and_all_other_is_not():
    def plain(s, items):
        for i, item in enumerate(items):
            s += f"{i}. {item.strip()}\n" + sgrt.gen("x", regex="[a-z]+")
        if "yes" in s["x"] and len(s.text()) > 3:
            s += sgrt.select("y", ["a", "b"])
        with s.user():
            s += ", ".join(items)
        return helper(s["y"])

    def sleeps(s):
        time.sleep(1)

    def asks_a_client(s):
        return client.get("x")

    def asks_by_a_helper(s):
        return blocking_helper("x")

    def opens(s):
        return open("x")

    def imports(s):
        import socket

        return socket

    def nested(s):
        return [asks_a_client(s) for _ in range(3)]

    assert not Conduct(plain).may_block
    for func in (sleeps, asks_a_client, asks_by_a_helper, opens, imports, nested):
        assert Conduct(func).may_block, func.__name__


def test_object_with_methods_among_the_arguments_makes_a_program_suspect():
    conduct = Conduct(lambda s, x: s)
    conduct.sees([1, "a", [2], {"b": 3}, None])
    assert not conduct.may_block
    conduct.sees([client])
    assert conduct.may_block


def test_program_that_has_shown_not_to_block_is_trusted():
    conduct = Conduct(lambda s: client)
    assert conduct.may_block
    for _ in range(8):
        conduct.finished(0.001)
    assert not conduct.may_block
    conduct.stalled()
    assert conduct.may_block
