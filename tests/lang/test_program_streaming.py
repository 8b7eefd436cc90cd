"""Streams: pieces that add up to the text, as it comes, and errors that arrive."""

import asyncio
import threading

import pytest

import sgrt
from sgrt.core import GenerateResult, Handle, TokenEvent, Usage
from sgrt.errors import BackendError
from sgrt.lang.feed import Feed


@sgrt.function
def story(s, go=None):
    s += sgrt.user("Tell me.")
    with s.assistant():
        s += "So: " + sgrt.gen("a", stop=".") + sgrt.select("mood", ["sad", "glad"])
        if go is not None:
            go.wait(5)
        s += sgrt.gen("b", max_tokens=1000)
    s["own"] = 1


def answers(prompt, constraint, params):
    if constraint is not None:
        return "glad"
    return "Es war einmal, 🙂 ünd so weiter. Ende" if "Es" not in prompt else "x" * 50


@pytest.mark.parametrize("latency", [0, 0.02])
@pytest.mark.parametrize("stream", [False, True])
def test_pieces_concatenate_to_the_text(latency, stream, within):
    def run():
        state = story.run(backend=sgrt.ScriptedBackend(answers, latency=latency), stream=stream)
        pieces = list(state.text_iter())
        assert "" not in pieces
        assert "".join(pieces) == state.text()
        for name in ("a", "mood", "b"):
            assert "".join(state.text_iter(name)) == state[name]
        assert len(list(state.text_iter("a"))) > 1

    within(run)


@pytest.mark.parametrize("stream", [False, True])
async def test_async_pieces_are_the_same(stream):
    state = story.run(backend=sgrt.ScriptedBackend(answers, latency=0.01), stream=stream)
    pieces = [piece async for piece in state.text_async_iter()]
    assert pieces == list(state.text_iter())
    for name in ("a", "mood", "b"):
        assert [p async for p in state.text_async_iter(name)] == list(state.text_iter(name))
    with pytest.raises(sgrt.ProgramError, match="no variable 'zzz'"):
        await anext(state.text_async_iter("zzz"))
    with pytest.raises(sgrt.ProgramError, match="cannot be streamed"):
        await anext(state.text_async_iter("own"))


def test_events_tell_who_wrote_what():
    state = story.run(backend=sgrt.ScriptedBackend(answers))
    text = {}
    for event in state.events():
        key = (event.kind, event.variable)
        text[key] = text.get(key, "") + event.text
    assert text["text", None] == "Tell me.So: "
    assert text["template", None].count("<|im_start|>") == 2
    assert text["sampled", "a"] == state["a"]
    assert text["selected", "mood"] == "glad"
    assert {kind for kind, _ in text} == {"text", "template", "sampled", "selected"}


def test_streaming_run_returns_before_the_program_ends_and_reads_wait(within):
    go = threading.Event()
    state = story.run(go=go, backend=sgrt.ScriptedBackend(answers), stream=True)
    assert within(lambda: state["a"]).startswith("Es war")
    assert "running" in repr(state)
    threading.Timer(0.05, go.set).start()
    assert within(lambda: state["own"]) == 1
    assert within(state.text).endswith("x<|im_end|>\n")
    assert "own" in state


def test_pieces_come_while_the_model_still_writes(within):
    handle = Handle()

    class Slow(sgrt.ScriptedBackend):
        def open(self, **options):
            session = super().open(**options)
            session.generate = lambda segment: (handle,)
            return session

    @sgrt.function
    def program(s):
        s += sgrt.gen("x", max_tokens=9)

    pieces = program.run(backend=Slow([])).text_iter("x")
    for text in ("one ", "two "):
        handle.push(TokenEvent((1,), text))
        assert within(lambda: next(pieces)) == text
    handle.push(TokenEvent((2,), ""))
    handle.finish(GenerateResult("one two th", (1, 1, 2), "length", Usage()))
    assert within(lambda: list(pieces)) == ["th"]  # held back until it was no stop string


def test_unknown_variable_ends_the_stream_with_an_error(within):
    state = story.run(backend=sgrt.ScriptedBackend(answers, latency=0.01), stream=True)
    with pytest.raises(sgrt.ProgramError, match="no variable 'zzz'; known: a, mood, b, own"):
        within(lambda: list(state.text_iter("zzz")))
    with pytest.raises(sgrt.ProgramError, match="cannot be streamed"):
        within(lambda: list(state.text_iter("own")))
    with pytest.raises(sgrt.ProgramError, match="no variable"):
        within(lambda: state["zzz"])


@pytest.mark.parametrize("latency", [0, 0.02])
def test_backend_error_reaches_every_kind_of_stream(latency, within):
    def stream():
        backend = sgrt.ScriptedBackend([BackendError("broken")], latency=latency)
        return story.run(backend=backend, stream=True)

    async def drain(iterator):
        return [piece async for piece in iterator]

    for consume in (
        lambda: list(stream().text_iter()),
        lambda: list(stream().text_iter("b")),
        lambda: list(stream().events("a")),
        lambda: asyncio.run(drain(stream().text_async_iter())),
        lambda: asyncio.run(drain(stream().text_async_iter("b"))),
    ):
        with pytest.raises(sgrt.ProgramError, match="broken"):
            within(consume)


def test_exception_of_user_code_reaches_the_stream_as_it_is(within):
    mine = ZeroDivisionError("mine")

    @sgrt.function
    def program(s):
        s += "a" + sgrt.gen("x")
        raise mine

    async def drain(state):
        return [piece async for piece in state.text_async_iter()]

    def stream():
        return program.run(backend=sgrt.ScriptedBackend(["1"], latency=0.02), stream=True)

    for read in (
        lambda s: list(s.text_iter()),
        lambda s: list(s.text_iter("x")),
        lambda s: asyncio.run(drain(s)),
        lambda s: s["x"],
        lambda s: s["y"],
        lambda s: s.value,
        lambda s: s.text(),
        lambda s: s.sync(),
    ):
        with pytest.raises(ZeroDivisionError) as caught:
            within(lambda read=read: read(stream()))
        assert caught.value is mine
    assert within(lambda: stream().error()) is mine


def everything(s):
    with s.system():
        s += "a"
    s.user("b")
    s += sgrt.user_begin() + "c" + sgrt.user_end()
    with s.assistant():
        s += sgrt.gen("a", stop=".") + sgrt.select("mood", ["sad", "glad"])
        s += sgrt.gen("many", n=2)
        s += sgrt.separate_reasoning(sgrt.gen("thought"), "qwen3")
        with s.var_scope("scope"):
            s += "d" + sgrt.gen("e")
    s["own"] = 1
    s.set_var("other", 2)
    with s.copy() as child:
        child += sgrt.gen("copied")
    children = s.fork(2)
    with children as forks:
        forks += sgrt.gen("forked")
    assert s["forked"]


@pytest.mark.parametrize("leave", [lambda state: state.sync(), lambda state: state.cancel()])
def test_text_is_only_added_by_who_holds_the_lock_of_its_readers(leave, monkeypatch):
    """Else a reader that looks just then would sleep through it."""
    added = []

    def checked(method):
        def call(feed, *args):
            added.append(feed._lock._is_owned())
            return method(feed, *args)

        return call

    backend = sgrt.ScriptedBackend(answers)
    program = sgrt.function(everything)
    monkeypatch.setattr(Feed, "append_held", checked(Feed.append_held))
    monkeypatch.setattr(Feed, "close_held", checked(Feed.close_held))
    leave(program.run(backend=backend))
    leave(program.run(backend=backend, stream=True))
    assert len(added) > 30
    assert all(added)


def test_cancelled_stream_ends(within):
    go = threading.Event()
    state = story.run(go=go, backend=sgrt.ScriptedBackend(answers, latency=5), stream=True)
    threading.Timer(0.05, state.cancel).start()
    with pytest.raises(sgrt.ProgramError, match="cancelled"):
        within(lambda: list(state.text_iter()))
    go.set()


def test_append_after_a_cancel_says_that_it_was_cancelled():
    @sgrt.function
    def program(s):
        s.cancel()
        s += "a"

    with pytest.raises(sgrt.ProgramError, match="nothing can be appended: Cancelled"):
        program.run(backend=sgrt.ScriptedBackend([]))


def test_value_inside_the_running_program_is_refused():
    @sgrt.function
    def program(s):
        with pytest.raises(sgrt.ProgramError, match="still running"):
            _ = s.value
        s += "a" + sgrt.gen("x")
        return list(s.text_iter())

    assert program.run(backend=sgrt.ScriptedBackend(["1"])).value == ["a", "1"]
