"""Forks share what was said, go on side by side, and are gathered by join."""

import threading
import time

import pytest

import sgrt
from sgrt.errors import BackendError, InvalidSamplingParams


def echo(prompt, constraint, params):
    """Answers with the end of the prompt, so that every text tells where it came from."""
    return f"({prompt[-6:]})"


def run(program, *args, backend=None, **options):
    return program.run(*args, backend=backend or sgrt.ScriptedBackend(echo), **options)


def test_children_start_with_text_and_variables_of_the_parent():
    @sgrt.function
    def program(s):
        s += "start " + sgrt.gen("a")
        s["own"] = 5
        forks = s.fork(3)
        forks += lambda i: f" child{i} "
        return [(c.text(), c["a"], c["own"]) for c in forks]

    state = run(program)
    for i, (text, a, own) in enumerate(state.value):
        assert text == f"start (start ) child{i} "
        assert (a, own) == ("(start )", 5)
    assert state.text() == "start (start )"


def test_join_gives_the_parent_lists_in_order_of_the_children():
    @sgrt.function
    def program(s):
        s += "x" + sgrt.gen("before")
        with s.fork(3) as forks:
            forks += lambda i: f"#{i}" + sgrt.gen("a")
            forks[1] += sgrt.gen("b")
            forks[2]["c"] = "own"
        return s["a"], s["b"], s["c"], s["before"]

    a, b, c, before = run(program).value
    assert [value[-4:] for value in a] == [")#0)", ")#1)", ")#2)"]
    assert b[0] is None and b[2] is None and isinstance(b[1], str)
    assert c == [None, None, "own"]
    assert isinstance(before, str)


def test_two_rounds_of_one_name_are_both_kept():
    @sgrt.function
    def program(s):
        for round_ in "ABC":
            forks = s.fork(2)
            forks += [f"{round_}0" + sgrt.gen("x"), f"{round_}1" + sgrt.gen("x")]
            forks.join()
            forks.join()  # again is nothing

    assert run(program)["x"] == ["(A0)", "(A1)", "(B0)", "(B1)", "(C0)", "(C1)"]


def test_nested_forks_join_upwards():
    @sgrt.function
    def program(s):
        with s.fork(2) as outer:
            for i, child in enumerate(outer):
                child += f"{i}"
                with child.fork(2) as inner:
                    inner += lambda j: f"{j}" + sgrt.gen("x")

    assert run(program)["x"] == [["(00)", "(01)"], ["(10)", "(11)"]]


def test_parent_and_children_go_on_separately():
    @sgrt.function
    def program(s):
        s += "a"
        forks = s.fork(1)
        s += "p" + sgrt.gen("x")
        forks += "c" + sgrt.gen("y")
        forks.join()
        s += "!"
        return forks[0].text()

    state = run(program)
    assert state.text() == "ap(ap)!"
    assert state.value == "ac(ac)"
    assert state["y"] == ["(ac)"]


def test_forks_do_not_wait_for_each_other():
    @sgrt.function
    def program(s):
        s += sgrt.gen("a")
        forks = s.fork(20)
        forks += sgrt.gen("x")
        forks.join()
        s += sgrt.gen("b")

    before = threading.active_count()
    started = time.perf_counter()
    state = run(program, backend=sgrt.ScriptedBackend(echo, latency=0.8))
    assert time.perf_counter() - started < 0.8  # nothing was read
    assert threading.active_count() <= before + 2
    state.sync()
    assert len(state["x"]) == 20
    assert time.perf_counter() - started < 9  # one after the other takes 17.6


def test_fork_behind_a_select_begins_with_the_chosen_option():
    @sgrt.function
    def program(s):
        s += "q:" + sgrt.select("way", ["left", "right"])
        with s.fork(2) as forks:
            forks += sgrt.gen("x")

    def answer(prompt, constraint, params):
        return "right" if constraint else prompt

    state = run(program, backend=sgrt.ScriptedBackend(answer, latency=0.01))
    assert state["x"] == ["q:right", "q:right"]


def test_error_of_a_child_is_raised_where_its_list_is_read():
    @sgrt.function
    def program(s):
        s += sgrt.gen("a")
        forks = s.fork(2)
        forks += ["fine" + sgrt.gen("x"), "boom" + sgrt.gen("x")]
        forks.join()
        s += sgrt.gen("b")

    state = run(program, backend=sgrt.ScriptedBackend(echo, fail_on="boom"))
    assert state["a"] and state["b"]
    with pytest.raises(sgrt.ProgramError, match="variable 'x'") as caught:
        state["x"]
    assert isinstance(caught.value.__cause__, BackendError)
    assert isinstance(state.error().__cause__, BackendError)


def test_group_refuses_what_does_not_fit():
    @sgrt.function
    def program(s):
        for size in (0, -1, "2", True):
            with pytest.raises(InvalidSamplingParams, match="size"):
                s.fork(size)
        forks = s.fork(2)
        with pytest.raises(ValueError, match="3 items for 2"):
            forks += ["a", "b", "c"]
        with pytest.raises(TypeError):
            forks += None
        with pytest.raises(TypeError, match="replaced"):
            forks[0] = s
        with pytest.raises(TypeError):
            forks += lambda i: i
        return [child.text() for child in forks]

    assert run(program).value == ["", ""]


def test_group_left_by_an_exception_is_cancelled_and_not_joined():
    @sgrt.function
    def program(s):
        with pytest.raises(KeyError), s.fork(2) as forks:
            forks += sgrt.gen("x")
            raise KeyError("mine")
        return s.variables()

    backend = sgrt.ScriptedBackend(echo, latency=5)
    assert run(program, backend=backend).value == []
    assert backend.calls == []


def test_joined_children_take_no_more_text():
    @sgrt.function
    def program(s):
        forks = s.fork(2)
        forks.join()
        with pytest.raises(sgrt.ProgramError, match="has ended"):
            forks += "more"

    run(program)


def closing_backend(closed, opened, **options):
    """Notes the depth of every session in ``opened`` and, when it is closed, in ``closed``."""

    def watch(session, depth):
        opened.append(depth)
        close, fork = session.close, session.fork
        session.close = lambda: (closed.append(depth), close())
        session.fork = lambda num: [watch(child, depth + 1) for child in fork(num)]
        return session

    class Watching(sgrt.ScriptedBackend):
        def open(self, **options):
            return watch(super().open(**options), 0)

    return Watching(echo, **options)


def until_closed(closed, opened):
    for _ in range(200):
        if len(closed) == len(opened):
            return
        time.sleep(0.01)


def test_sessions_of_further_continuations_are_closed():
    @sgrt.function
    def program(s):
        s += sgrt.gen("x", n=3)

    closed, opened = [], []
    run(program, backend=closing_backend(closed, opened, latency=0.02)).sync()
    until_closed(closed, opened)
    assert sorted(closed) == opened == [0, 1, 1]


def test_parents_session_is_closed_after_those_of_its_children():
    @sgrt.function
    def program(s):
        s += "the parent itself asks for nothing"
        with s.fork(2) as forks:
            forks += sgrt.gen("x")
            with forks[0].fork(2) as inner:
                inner += sgrt.gen("y")

    closed, opened = [], []
    state = run(program, backend=closing_backend(closed, opened, latency=0.03))
    assert len(state["x"]) == len(state["y"][0]) == 2
    until_closed(closed, opened)
    assert sorted(closed) == [0, 1, 1, 2, 2]
    assert closed[-1] == 0 and closed.index(1) < closed.index(0)
