"""What goes wrong is raised where it is read, names the place, and nothing hangs."""

import threading
from pathlib import Path

import pytest
from pydantic import BaseModel, field_validator

import sgrt
from sgrt.errors import BackendError, Cancelled, EngineClosed, InvalidSamplingParams


class Person(BaseModel):
    name: str
    age: int

    @field_validator("name")
    @classmethod
    def no_robots(cls, value):
        if value == "robot":
            raise ValueError("robots have no names")
        return value


def line_of(text):
    lines = Path(__file__).read_text().splitlines()
    return next(i for i, line in enumerate(lines, 1) if text in line)


@sgrt.function
def two_gens(s, first):
    s += first
    s += sgrt.gen("a")
    s += "more"
    s += sgrt.gen("b")  # the line of b


@pytest.mark.parametrize("latency", [0, 0.01])
def test_backend_error_is_raised_at_every_read_from_there_on(latency, within):
    def run():
        backend = sgrt.ScriptedBackend(["1", BackendError("broken", status=503)], latency=latency)
        state = two_gens.run("x", backend=backend)
        assert state["a"] == "1"
        reads = [lambda: state["b"], state.text, state.sync, lambda: list(state.text_iter())] * 2
        errors = []
        for read in reads:
            with pytest.raises(sgrt.ProgramError) as caught:
                read()
            errors.append(caught.value)
        return [*errors, state.error()]

    for error in within(run):
        assert isinstance(error.__cause__, BackendError) and error.__cause__.status == 503
        assert error.program == "two_gens" and error.variable == "b"
        assert error.location == f"{__file__}:{line_of('# the line of b')}"
        assert "broken" in str(error)


def test_append_and_read_after_an_error_raise_that_error_at_once(within):
    @sgrt.function
    def program(s):
        s += sgrt.gen("a")
        s += "more" + sgrt.gen("b")
        s += sgrt.select("c", ["x", "y"]) + sgrt.gen("d", n=2)
        forks = s.fork(2)
        forks += sgrt.gen("e")
        forks.join()
        with pytest.raises(sgrt.ProgramError):
            s["a"]
        for append in (lambda: s.__iadd__("x"), lambda: s.user("x"), s.user, lambda: s.fork(2)):
            with pytest.raises(sgrt.ProgramError, match=r"'a'.*broken") as caught:
                append()
            assert isinstance(caught.value.__cause__, BackendError)
        for name in "cde":
            with pytest.raises(sgrt.ProgramError, match=r"'a'.*broken") as caught:
                s[name]
            assert isinstance(caught.value.__cause__, BackendError)
        return "got over it"

    backend = sgrt.ScriptedBackend([BackendError("broken")])
    state = within(lambda: program.run(backend=backend))
    assert state.value == "got over it"
    assert within(state.error) is None  # that b failed of the same cause was never read


def test_error_inside_the_program_that_is_not_caught_is_raised_by_run():
    @sgrt.function
    def program(s):
        s += sgrt.gen("a")
        return s["a"]

    with pytest.raises(sgrt.ProgramError, match="broken"):
        program.run(backend=sgrt.ScriptedBackend([BackendError("broken")]))


def test_error_that_was_handled_inside_does_not_count_afterwards():
    @sgrt.function
    def program(s):
        s += sgrt.gen("a", output=Person)
        try:
            return s["a"]
        except sgrt.ProgramError:
            s += sgrt.gen("b", output=Person)
            return s["b"]

    backend = sgrt.ScriptedBackend(['{"name": "robot", "age": 1}', '{"name": "Ada", "age": 36}'])
    state = program.run(backend=backend)
    assert state.value == Person(name="Ada", age=36)
    assert state.error() is None
    with pytest.raises(sgrt.ProgramError):
        state["a"]


def test_cause_handled_at_a_later_variable_does_not_count_either(within):
    @sgrt.function
    def program(s):
        s += sgrt.gen("a") + sgrt.gen("b") + sgrt.gen("c")
        with pytest.raises(sgrt.ProgramError, match="'b' was not produced"):
            s["b"]

    state = program.run(backend=sgrt.ScriptedBackend([BackendError("broken")]))
    assert within(state.error) is None


def test_backend_that_opens_no_session_fails_the_reader(within):
    backend = sgrt.ScriptedBackend(["1"])
    backend.close()
    state = two_gens.run("x", backend=backend)
    for read in (state.sync, lambda: state["a"], state.text):
        with pytest.raises(sgrt.ProgramError) as caught:
            within(read)
        assert isinstance(caught.value.__cause__, EngineClosed)


def test_session_that_raises_at_the_call_fails_the_reader(within):
    class Rude(sgrt.ScriptedBackend):
        def open(self, **options):
            session = super().open(**options)
            generate = session.generate

            def once(segment):
                session.generate = generate
                raise RuntimeError("no queue")

            session.generate = once
            return session

    state = two_gens.run("x", backend=Rude(["1", "2"]))
    with pytest.raises(sgrt.ProgramError, match="no queue") as caught:
        within(lambda: state["b"])
    assert caught.value.variable == "a"
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_unknown_variable_names_the_known_ones_and_does_not_wait(within):
    @sgrt.function
    def program(s):
        s += sgrt.gen("person")
        s["persons"]

    with pytest.raises(sgrt.ProgramError, match="known: person") as caught:
        within(lambda: program.run(backend=sgrt.ScriptedBackend(["x"], latency=30)))
    assert "did you mean 'person'" in str(caught.value)
    assert caught.value.location == f"{__file__}:{line_of(chr(34) + 'persons' + chr(34))}"


def test_object_cut_by_max_tokens_is_no_value():
    @sgrt.function
    def program(s):
        s += sgrt.gen("p", output=Person, max_tokens=20)
        s += sgrt.gen("q", regex="[a-z]+!", max_tokens=4)

    backend = sgrt.ScriptedBackend(['{"name": "Ada Lovelace", "age": 36}', "abcdefg!"])
    state = program.run(backend=backend)
    with pytest.raises(sgrt.ProgramError, match=r"max_tokens=20.*Lov"):
        state["p"]
    with pytest.raises(sgrt.ProgramError, match=r"max_tokens=4.*abcd"):
        state["q"]
    assert state.result("p").text == '{"name": "Ada Lovela'
    assert isinstance(state.error(), sgrt.ProgramError)


def test_constraint_that_is_satisfied_where_tokens_end_is_a_value():
    @sgrt.function
    def program(s):
        s += sgrt.gen("q", regex="[a-z]+", max_tokens=4)

    assert program.run(backend=sgrt.ScriptedBackend(["abcdefg"]))["q"] == "abcd"


def test_object_that_does_not_validate_names_the_field():
    @sgrt.function
    def program(s):
        s += sgrt.gen("p", output=Person)
        s += sgrt.gen("q")

    state = program.run(backend=sgrt.ScriptedBackend(['{"name": "robot", "age": 3}', "fine"]))
    with pytest.raises(sgrt.ProgramError, match="robots have no names") as caught:
        state["p"]
    assert isinstance(caught.value.__cause__, ValueError)
    assert state["q"] == "fine"  # the session is sound; only this value is not


class Careless(BaseModel):
    name: str

    @field_validator("name")
    @classmethod
    def look_up(cls, value):
        return {"known": 1}[value]


def test_validator_that_breaks_fails_its_own_value_and_nothing_else():
    @sgrt.function
    def program(s, key):
        s += key + sgrt.gen("p", output=Careless)  # looks up
        s += sgrt.gen("q")

    backend = sgrt.ScriptedBackend({"good": '{"name": "x"}', '"x"}': "fine"})
    states = program.run_batch([("good",), ("good",)], backend=backend)
    for state in states:
        with pytest.raises(sgrt.ProgramError, match="Careless raised KeyError: 'x'") as caught:
            state["p"]
        assert isinstance(caught.value.__cause__, KeyError)
        assert caught.value.location == f"{__file__}:{line_of('# looks up')}"
        assert state.error().variable == "p"
        assert state["q"] == "fine"


def test_answer_that_breaks_its_constraint_is_an_error_of_the_scripted_backend():
    @sgrt.function
    def program(s):
        s += sgrt.gen("p", choices=["a", "b"])

    error = program.run(backend=sgrt.ScriptedBackend(["c"])).error()
    assert isinstance(error.__cause__, sgrt.ConstraintError)


def test_sampling_value_out_of_range_raises_at_the_statement():
    @sgrt.function
    def program(s):
        with pytest.raises(InvalidSamplingParams, match="temperature"):
            s += "a" + sgrt.gen("x", temperature=-1) + "b"
        s += sgrt.gen("y")

    assert program.run(backend=sgrt.ScriptedBackend(["1"]))["y"] == "1"


def test_cancel_ends_every_read(within):
    @sgrt.function
    def program(s):
        s += sgrt.gen("a") + sgrt.select("b", ["x", "y"]) + sgrt.gen("c")

    state = program.run(backend=sgrt.ScriptedBackend(["1"], latency=30))
    threading.Timer(0.05, state.cancel).start()
    error = within(state.error)
    assert isinstance(error.__cause__, Cancelled)
    for name in "abc":
        with pytest.raises(sgrt.ProgramError):
            state[name]


def test_error_behind_a_waiting_select_reaches_all_that_queued(within):
    @sgrt.function
    def program(s):
        s += sgrt.select("a", ["x", "y"])
        s += sgrt.gen("b")
        forks = s.fork(2)
        forks += sgrt.gen("c")
        forks.join()

    backend = sgrt.ScriptedBackend([BackendError("broken")], latency=0.02)
    state = program.run(backend=backend)
    for name in "abc":
        with pytest.raises(sgrt.ProgramError) as caught:
            within(lambda name=name: state[name])
        assert caught.value.variable == "a"
        assert isinstance(caught.value.__cause__, BackendError)


def test_cancel_ends_every_one_of_n(within):
    @sgrt.function
    def program(s):
        s += sgrt.gen("a", n=3)

    state = program.run(backend=sgrt.ScriptedBackend(["1"] * 3, latency=30))
    handles = state._trace.variables["a"].handles()
    state.cancel()
    for handle in handles:
        with pytest.raises(Cancelled):
            within(handle.result)
