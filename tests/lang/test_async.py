"""Async programs, and plain ones from coroutines."""

import asyncio
import time

import pytest

import sgrt
from sgrt.errors import Cancelled, DeadlineExceeded


def backend(**options):
    return sgrt.ScriptedBackend(lambda prompt, c, p: "b" if c else f"[{len(prompt)}]", **options)


@sgrt.function
async def asks(s, text):
    s += text + sgrt.gen("x")
    first = await s.get("x")
    s += sgrt.select("pick", ["a", "b"])
    with s.fork(2) as forks:
        forks += sgrt.gen("y")
    return first, await s.get("pick"), await s.get("y")


@sgrt.function
def plain(s, text):
    s += text + sgrt.gen("x")
    return s["x"]


VALUE = ("[2]", "b", ["[6]", "[6]"])


async def run_awaited(program, *args, **options):
    return (await program.arun(*args, **options)).value


async def run_in_loop(program, *args, **options):
    return program.run(*args, **options).value


async def run_batched(program, *args, **options):
    (state,) = await program.arun_batch([args], **options)
    return state.value


async def run_streamed_batch(program, *args, **options):
    found = [state.value async for _, state in program.astream_batch([args], **options)]
    return found.pop()


ALL = [run_awaited, run_in_loop, run_batched, run_streamed_batch]


@pytest.mark.parametrize("run", ALL)
@pytest.mark.parametrize("latency", [0, 0.01])
async def test_every_way_to_run_gives_the_same_value(run, latency):
    assert await run(asks, "aa", backend=backend(latency=latency)) == VALUE
    assert await run(plain, "aa", backend=backend(latency=latency)) == "[2]"


def test_async_program_runs_from_plain_code():
    assert asks.run("aa", backend=backend(latency=0.01)).value == VALUE
    states = asks.run_batch([("aa",)] * 100, backend=backend(latency=0.01))
    assert [state.value for state in states] == [VALUE] * 100
    state = asks.run("aa", backend=backend(latency=0.01), stream=True)
    assert "".join(state.text_iter()) == "aa[2]b" == state.text()
    assert state.value == VALUE


async def test_awaited_run_leaves_nothing_to_wait_for():
    @sgrt.function
    async def program(s):
        s += "a" + sgrt.gen("x")

    state = await program.arun(backend=backend(latency=0.5))
    begun = time.perf_counter()
    assert (state["x"], state.text(), state.error()) == ("[1]", "a[1]", None)
    assert time.perf_counter() - begun < 0.4


async def test_many_async_runs_wait_at_the_same_time():
    begun = time.perf_counter()
    fake = backend(latency=0.1)
    states = await asyncio.gather(*(asks.arun("aa", backend=fake) for _ in range(100)))
    assert [state.value for state in states] == [VALUE] * 100
    assert time.perf_counter() - begun < 100 * 0.3 / 5


@pytest.mark.parametrize(
    "read",
    [
        lambda s: s["x"],
        lambda s: s.text(),
        lambda s: s.sync(),
        lambda s: s.call(time.sleep, 0),
        lambda s: plain.run("a", backend=backend(latency=0.01)),
    ],
)
async def test_waiting_in_an_async_program_is_an_error_that_says_so(read):
    @sgrt.function
    async def program(s):
        s += "a" + sgrt.gen("x")
        with pytest.raises(sgrt.SgrtError, match="await"):
            read(s)
        value = await s.get("x")
        assert s["x"] == value  # it is there now
        return s.text()

    assert (await program.arun(backend=backend(latency=0.02))).value == "a[1]"
    assert program.run(backend=backend(latency=0.02)).value == "a[1]"


async def test_all_reads_are_free_after_settled():
    @sgrt.function
    async def program(s):
        s += "a" + sgrt.gen("x")
        forks = s.fork(2)
        forks += sgrt.gen("y")
        await s.settled()
        return s.text(), [fork["y"] for fork in forks], s.error()

    assert (await program.arun(backend=backend(latency=0.02))).value == ("a[1]", ["[4]"] * 2, None)


async def test_call_in_a_thread_is_awaited():
    @sgrt.function
    async def program(s):
        value = await s.acall(max, 1, 2)
        inner = await s.acall(plain.run, "a", backend=backend(latency=0.01))
        return value, inner.value

    assert (await program.arun(backend=backend())).value == (2, "[1]")


@pytest.mark.parametrize("latency", [0, 0.02])
async def test_errors_of_the_backend_reach_the_await_with_their_place(latency):
    fake = backend(latency=latency, fail_on="boom")

    @sgrt.function
    async def program(s):
        s += "boom" + sgrt.gen("x")
        s += sgrt.gen("y")
        with pytest.raises(sgrt.ProgramError, match="variable 'x'") as caught:
            await s.get("y")
        assert caught.value.location.startswith(__file__)
        await s.get("x")

    with pytest.raises(sgrt.ProgramError, match="variable 'x'"):
        await program.arun(backend=fake)
    with pytest.raises(sgrt.ProgramError, match="no variable 'z'"):
        await (await plain.arun("a", backend=backend())).get("z")


async def test_exception_of_user_code_is_raised_as_it_is():
    mine = ZeroDivisionError("mine")

    @sgrt.function
    async def program(s):
        s += sgrt.gen("x")
        raise mine

    with pytest.raises(ZeroDivisionError) as caught:
        await program.arun(backend=backend())
    assert caught.value is mine
    (state,) = await program.arun_batch([()], backend=backend())
    assert state.error() is mine


class Closing(sgrt.ScriptedBackend):
    """Counts the sessions that are open."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.sessions = []

    def open(self, **options):
        self.sessions.append(super().open(**options))
        return self.sessions[-1]

    def all_closed(self):
        return bool(self.sessions) and all(session._error for session in self.sessions)


async def eventually(condition):
    for _ in range(200):
        if condition():
            return True
        await asyncio.sleep(0.01)
    return False


@pytest.mark.parametrize("program", [asks, plain])
async def test_cancelling_the_task_cancels_the_work(program):
    fake = Closing(["x"], latency=30)
    task = asyncio.create_task(program.arun("a", backend=fake))
    await eventually(lambda: fake.sessions)
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await eventually(fake.all_closed)


@pytest.mark.parametrize("program", [asks, plain])
async def test_leaving_a_stream_early_cancels_the_work(program):
    fake = Closing(["x"], latency=30)
    async for event in program.astream("a", backend=fake):
        assert event.text == "a"
        break
    assert await eventually(fake.all_closed)


@pytest.mark.parametrize("program", [asks, plain])
async def test_stream_adds_up_to_the_text(program):
    text = "".join([event.text async for event in program.astream("aa", backend=backend())])
    assert text == (await program.arun("aa", backend=backend())).text()


@pytest.mark.parametrize("program", [asks, plain])
async def test_deadline_ends_the_work_and_says_why(program):
    fake = Closing(["x"], latency=30)
    begun = time.perf_counter()
    with pytest.raises(sgrt.ProgramError, match=r"DeadlineExceeded.*0\.05 s") as caught:
        await program.arun("a", backend=fake, deadline_s=0.05)
    assert isinstance(caught.value.__cause__, DeadlineExceeded)
    assert time.perf_counter() - begun < 10
    assert await eventually(fake.all_closed)


def test_deadline_holds_in_plain_code_too():
    with pytest.raises(sgrt.ProgramError, match="DeadlineExceeded"):
        plain.run("a", backend=backend(latency=30), deadline_s=0.05)
    state = plain.run("a", backend=backend(), deadline_s=0.5)
    time.sleep(0.6)
    assert state["x"] == "[1]"  # it had ended before


def test_program_that_goes_on_after_its_deadline_hears_of_it():
    @sgrt.function
    def program(s):
        time.sleep(0.1)
        s += "too late"

    with pytest.raises(sgrt.ProgramError, match="DeadlineExceeded"):
        program.run(backend=backend(), deadline_s=0.03)


@pytest.mark.parametrize("seconds", [0, -1, "1", True, float("inf"), float("nan")])
def test_deadline_that_means_nothing_is_refused(seconds):
    for run in (plain.run, plain.run_batch):
        with pytest.raises(sgrt.RequestError, match="deadline_s"):
            run([("a",)], backend=backend(), deadline_s=seconds)


async def test_cancelled_state_says_so():
    @sgrt.function
    async def program(s):
        s += sgrt.gen("x")
        s.cancel()
        with pytest.raises(sgrt.ProgramError) as caught:
            await s.get("x")
        return caught.value.__cause__

    assert isinstance((await program.arun(backend=backend(latency=9))).value, Cancelled)
