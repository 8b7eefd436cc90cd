"""What is appended goes to the backend together, and nobody can tell but by the round trips."""

import threading
import time

import pytest

import sgrt
from sgrt.core import Generate, Text


class Counting(sgrt.ScriptedBackend):
    """Remembers what sessions were asked, call by call."""

    def __init__(self, answers=lambda prompt, c, p: "b" if c else f"[{len(prompt)}]", **options):
        super().__init__(answers, **options)
        self.trips = []

    def open(self, **options):
        return self.watched(super().open(**options))

    def watched(self, session):
        generate, score, fork = session.generate, session.score, session.fork

        def counted(segment):
            self.trips.append(["text" if isinstance(x, Text) else "gen" for x in segment])
            assert all(isinstance(x, (Text, Generate)) for x in segment)
            return generate(segment)

        def scored(*args, **kwargs):
            self.trips.append("score")
            return score(*args, **kwargs)

        session.generate, session.score = counted, scored
        session.fork = lambda num: [self.watched(child) for child in fork(num)]
        return session


def extract(s, read):
    s += "Facts.\n"
    for name in ("name", "born", "city", "job", "age"):
        s += f"{name}: " + sgrt.gen(name, stop="\n")
        s += "\n"
        if read:
            s.sync()
    return {name: s[name] for name in s.variables()}


def test_five_fields_take_one_round_trip_and_have_the_same_text():
    runs = {}
    for read in (False, True):
        backend = Counting()
        state = sgrt.function(extract).run(read, backend=backend)
        runs[read] = (state.text(), state.value, len(backend.calls))
        assert len(backend.trips) == (5 if read else 1)
    assert runs[False] == runs[True]


def test_each_reading_sends_what_stands_before_it_and_no_more():
    @sgrt.function
    def program(s):
        s += "a" + sgrt.gen("x")
        s += "b" + sgrt.gen("y")
        assert backend.trips == []
        s.sync()
        assert backend.trips == [["text", "gen", "text", "gen"]]
        s += "c"
        s.text()
        assert len(backend.trips) == 1
        s += sgrt.gen("z")

    backend = Counting()
    program.run(backend=backend)
    assert backend.trips[1:] == [["text", "gen"]]


@pytest.mark.parametrize(
    "read",
    [
        lambda s: s["x"],
        lambda s: s.text(),
        lambda s: s.messages(),
        lambda s: s.sync(),
        lambda s: s.error(),
        lambda s: s.usage(),
        lambda s: s.result("x"),
        lambda s: list(s.text_iter()),
        lambda s: list(s.events("x")),
        lambda s: s.fork(1)[0]["x"],
        lambda s: s.call(list),
    ],
)
def test_every_kind_of_reading_sends(read, within):
    @sgrt.function
    def program(s):
        s += "a" + sgrt.gen("x")
        read(s)
        return len(backend.trips)

    backend = Counting(latency=0.01)
    assert within(lambda: program.run(backend=backend)).value == 1


def test_children_that_wait_side_by_side_are_all_sent_when_one_is_read():
    @sgrt.function
    def program(s):
        s += "a"
        forks = s.fork(3)
        for fork in forks:
            fork += "b" + sgrt.gen("x")
            fork += "c" + sgrt.gen("y")
        assert backend.trips == []
        assert forks[2]["x"] == "[2]"
        assert backend.trips == [["text", "gen", "text", "gen"]] * 3

    backend = Counting(latency=0.01)
    program.run(backend=backend)


def test_run_inside_of_a_run_finds_what_was_asked_before_sent():
    @sgrt.function
    def inner(s):
        return len(backend.trips)

    @sgrt.function
    def outer(s):
        s += "a" + sgrt.gen("x")
        return inner.run(backend=backend).value, inner.run_batch([()], backend=backend)[0].value

    backend = Counting()
    assert outer.run(backend=backend).value == (1, 1)


def test_work_does_not_wait_long_for_code_that_takes_its_time():
    @sgrt.function
    def program(s):
        s += "a" + sgrt.gen("x")
        for _ in range(500):
            if backend.trips:
                return True
            time.sleep(0.01)
        return False

    backend = Counting()
    assert program.run(backend=backend).value


def test_stream_sees_each_piece_while_the_program_goes_on(within):
    go = threading.Event()

    @sgrt.function
    def program(s):
        s += "a" + sgrt.gen("x")
        go.wait(9)
        s += sgrt.gen("y")

    state = program.run(backend=Counting(), stream=True)
    pieces = state.text_iter()
    assert [within(lambda: next(pieces)) for _ in range(2)] == ["a", "[1]"]
    go.set()
    assert within(lambda: next(pieces)) == "[4]"


@pytest.mark.parametrize("latency", [0, 0.01])
def test_error_in_the_middle_of_a_segment_is_raised_for_it_and_what_follows(latency):
    @sgrt.function
    def program(s):
        s += "a" + sgrt.gen("x")
        s += "boom" + sgrt.gen("y")
        s += "c" + sgrt.gen("z")
        assert s["x"] == "[1]"
        for name in ("y", "z"):
            with pytest.raises(sgrt.ProgramError, match="variable 'y'"):
                s[name]
        with pytest.raises(sgrt.ProgramError, match="variable 'y'"):
            s += "more" + sgrt.gen("w")

    program.run(backend=Counting(fail_on="boom", latency=latency))


def test_error_of_a_program_with_forks_can_be_asked_for_inside(within):
    @sgrt.function
    def program(s):
        forks = s.fork(2)
        forks += sgrt.gen("x")
        return s.error(), forks[0].error()

    assert within(lambda: program.run(backend=Counting(latency=0.01)).value) == (None, None)


def test_same_gen_asks_for_the_same_and_values_of_other_types_are_told_apart():
    @sgrt.function
    def program(s, value):
        s += sgrt.gen("x", max_tokens=value)

    backend = Counting()
    for value in (1, 1, 2):
        program.run(value, backend=backend)
    assert [call.params.max_tokens for call in backend.calls] == [1, 1, 2]
    with pytest.raises(sgrt.RequestError, match="max_tokens"):
        program.run(True, backend=backend)  # True == 1


def test_options_that_cannot_be_a_key_work():
    @sgrt.function
    def program(s):
        s += sgrt.gen("x", logit_bias={3: 1.0})

    backend = Counting()
    program.run(backend=backend)
    assert backend.calls[0].params.logit_bias == {3: 1.0}


def test_program_without_a_gen_opens_no_session():
    @sgrt.function
    def program(s):
        s += "only text"
        return s.text()

    backend = Counting()
    backend.close()  # it would refuse
    assert program.run(backend=backend).value == "only text"
