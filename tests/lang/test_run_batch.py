"""`run_batch`: order kept, user code once per item, failures kept apart."""

import gc
import os
import signal
import threading
import time
import weakref
from collections import Counter

import pytest

import sgrt
from sgrt.errors import DeadlineExceeded


def backend(**options):
    return sgrt.ScriptedBackend(lambda prompt, c, p: f"[{prompt}]", **options)


@sgrt.function
def echo(s, text):
    s += text
    s += sgrt.gen("x", max_tokens=1000)
    return s["x"]


def test_batch_keeps_order_and_gives_finished_states():
    states = echo.run_batch([{"text": f"{i}"} for i in range(50)], backend=backend(latency=0.01))
    assert [state["x"] for state in states] == [f"[{i}]" for i in range(50)]
    assert [state.value for state in states] == [f"[{i}]" for i in range(50)]
    assert echo.run_batch([], backend=backend()) == []


def test_batch_waits_for_what_no_program_reads():
    @sgrt.function
    def program(s, text):
        s += text + sgrt.gen("x")

    fake = backend(latency=0.05)
    program.run_batch([(str(i),) for i in range(9)], backend=fake)
    assert len(fake.calls) == 9


def test_batch_takes_tuples_and_defaults():
    fake = backend()
    echo.run_batch([("a",), ("b",)], backend=fake, temperature=0, stop=["q"], seed=3)
    assert {(c.params.temperature, c.params.stop) for c in fake.calls} == {(0, ("q",))}
    assert len({c.params.seed for c in fake.calls}) == 2


def test_batch_with_a_seed_repeats_whatever_the_order():
    def seeds(num_threads):
        fake = backend(latency=0.001)
        items = [(str(i),) for i in range(20)]
        echo.run_batch(items, backend=fake, seed=1, num_threads=num_threads)
        return {call.prompt: call.params.seed for call in fake.calls}

    assert seeds(1) == seeds(20)


def test_one_failing_item_is_one_failed_state():
    @sgrt.function
    def program(s, text):
        s += text
        if text == "raise":
            raise ValueError("mine")
        if text == "exit":
            raise SystemExit(3)
        s += sgrt.gen("x")

    items = ["a", "raise", "b", "boom", "exit", "c"]
    states = program.run_batch([(item,) for item in items], backend=backend(fail_on="boom"))
    kinds = [type(state.error()).__name__ for state in states]
    ok = "NoneType"
    assert kinds == [ok, "ValueError", ok, "ProgramError", "SystemExit", ok]
    assert [states[i]["x"] for i in (0, 2, 5)] == ["[a]", "[b]", "[c]"]
    for index, error in ((1, ValueError), (3, sgrt.ProgramError)):
        with pytest.raises(error):
            states[index]["x"]
        with pytest.raises(error):
            states[index].text()
    assert "failed" in repr(states[1])


def test_item_with_wrong_arguments_fails_alone():
    states = echo.run_batch([{"text": "a"}, {"txt": "b"}], backend=backend())
    assert states[0].error() is None
    assert isinstance(states[1].error(), TypeError)


def test_item_of_the_wrong_kind_is_refused_before_anything_runs():
    fake = backend()
    with pytest.raises(TypeError, match="'b'"):
        echo.run_batch([("a",), "b"], backend=fake)
    assert fake.calls == []


def test_user_code_runs_exactly_once_per_item():
    ran, lock = Counter(), threading.Lock()

    @sgrt.function
    def program(s, i):
        with lock:
            ran[i] += 1
        s += f"{i:>100}" + sgrt.gen("x")
        if i % 3 == 0:
            raise ValueError

    program.run_batch([(i,) for i in range(60)], backend=backend())
    assert ran == Counter(range(60))


@pytest.mark.parametrize("num_threads", [1, 3, "auto"])
def test_number_of_threads_bounds_the_items_under_way(num_threads):
    running, peak = [0], [0]

    class Counting(sgrt.ScriptedBackend):
        def open(self, **options):
            running[0] += 1
            peak[0] = max(peak[0], running[0])
            session = super().open(**options)
            close = session.close

            def closed():
                running[0] -= 1
                session.close = close
                close()

            session.close = closed
            return session

    items = [(str(i),) for i in range(30)]
    states = echo.run_batch(
        items, backend=Counting(["a"] * 30, latency=0.01), num_threads=num_threads
    )
    assert [state["x"] for state in states] == ["a"] * 30
    assert peak[0] <= (30 if num_threads == "auto" else num_threads)
    assert running[0] == 0


def test_iterator_gives_states_in_order_as_soon_as_they_have_ended():
    fake = backend(latency=0.01)
    states = echo.run_batch([(str(i),) for i in range(20)], backend=fake, generator_style=True)
    assert fake.calls == []  # nothing runs before the first is asked for
    assert [state["x"] for state in states] == [f"[{i}]" for i in range(20)]


def test_stream_of_a_batch_gives_each_item_once_in_the_order_of_ending():
    @sgrt.function
    def program(s, i):
        for _ in range(i):
            s += sgrt.gen("x")
            s.sync()
        return i

    fake = sgrt.ScriptedBackend(lambda p, c, q: "a", latency=0.02)
    ended = list(program.stream_batch([(9,), (1,), (5,)], backend=fake))
    assert [index for index, _ in ended] == [1, 2, 0]
    assert [state.value for _, state in ended] == [1, 5, 9]
    assert list(program.stream_batch([], backend=fake)) == []


@pytest.mark.parametrize("form", ["run_batch", "stream_batch"])
def test_leaving_an_iterator_early_cancels_the_rest(form):
    began = []

    @sgrt.function
    def program(s, i):
        began.append(i)
        s += sgrt.gen("x")
        return s["x"]

    def answer(prompt, constraint, params):
        return "x"

    fake = sgrt.ScriptedBackend(answer, latency=0.02)
    options = {"generator_style": True} if form == "run_batch" else {}
    items = getattr(program, form)(
        [(i,) for i in range(50)], backend=fake, num_threads=2, **options
    )
    next(items)
    items.close()
    time.sleep(0.1)
    num_began = len(began)
    time.sleep(0.1)
    assert len(began) == num_began < 10


@sgrt.function
def forking(s, text):
    s += text + sgrt.gen("x")
    children = s.fork(2)
    children += sgrt.gen("y")
    children.join()
    return s["y"]


WAYS = {
    "run": lambda program, items, fake: [program.run(*item, backend=fake) for item in items],
    "run_batch": lambda program, items, fake: program.run_batch(items, backend=fake),
    "in_order": lambda program, items, fake: list(
        program.run_batch(items, backend=fake, generator_style=True)
    ),
    "stream_batch": lambda program, items, fake: [
        state for _, state in program.stream_batch(items, backend=fake)
    ],
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("program", [echo, forking])
def test_states_end_with_who_holds_them_and_need_no_garbage_collection(way, program):
    gc.disable()
    try:
        states = WAYS[way](program, [(str(i),) for i in range(10)], backend(latency=0.001))
        assert all(state.error() is None for state in states)
        left = [weakref.ref(state) for state in states]
        left += [weakref.ref(state._trace) for state in states]
        del states
        for _ in range(200):  # what has run them lets go a moment later
            if not any(ref() for ref in left):
                return
            time.sleep(0.01)
        pytest.fail(f"{sum(ref() is not None for ref in left)} of {len(left)} are still there")
    finally:
        gc.enable()


def test_progress_bar_of_an_iterator_counts_what_has_ended(capsys):
    items = [("a",), ["b"]]
    states = echo.run_batch(items, backend=backend(), generator_style=True, progress_bar=True)
    assert [state.text() for state in states] == [
        echo.run(x, backend=backend()).text() for x in "ab"
    ]
    assert "2/2" in capsys.readouterr().err


def test_deadline_of_an_item_fails_that_item():
    @sgrt.function
    def program(s, n):
        for _ in range(n):
            s += sgrt.gen("x")
            s.sync()

    fake = sgrt.ScriptedBackend(lambda p, c, q: "a", latency=0.05)
    good, bad = program.run_batch([(1,), (200,)], backend=fake, deadline_s=0.5)
    assert good.error() is None
    assert isinstance(bad.error().__cause__, DeadlineExceeded)


@pytest.mark.parametrize("num_threads", [0, -1, "all", 1.5, True])
def test_number_of_threads_that_means_nothing_is_refused(num_threads):
    with pytest.raises(sgrt.RequestError, match="num_threads"):
        echo.run_batch([("a",)], backend=backend(), num_threads=num_threads)


def test_progress_bar_counts_items_and_failures(capsys):
    items = [("a",), ("boom",), ("c",)]
    echo.run_batch(items, backend=backend(fail_on="boom"), progress_bar=True)
    err = capsys.readouterr().err
    assert "3/3" in err and "1 failed" in err and "tok/s" in err
    echo.run_batch(items, backend=backend())
    assert capsys.readouterr().err == ""


def test_interrupt_cancels_what_is_under_way(interruptible):
    started = []

    @sgrt.function
    def program(s, i):
        started.append(i)
        s += sgrt.gen("x")
        return s["x"]

    interrupt = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
    interrupt.start()
    begun = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        program.run_batch([(i,) for i in range(50)], backend=backend(latency=30), num_threads=4)
    assert time.perf_counter() - begun < 5
    assert len(started) <= 4
    time.sleep(0.1)
    assert not [t for t in threading.enumerate() if t.name.startswith("sgrt-batch")]
