"""`@sgrt.function`: what a program is, and how arguments and defaults reach it."""

import copy
import functools
import inspect
import pickle
import threading

import pytest

import sgrt
from sgrt.core import Choices, JsonSchema, Regex
from sgrt.errors import InvalidSamplingParams, UnsupportedSchema


@sgrt.function
def hello(s, who="you"):
    """Says hello."""
    s += f"Hello {who}:" + sgrt.gen("reply")
    return s["reply"].upper()


class Greeter:
    greeting = "Hi"

    @sgrt.function
    def greet(self, state, who):
        state += f"{self.greeting} {who}:" + sgrt.gen("reply")
        return state["reply"]


def scripted(text="fine", **options):
    return sgrt.ScriptedBackend(lambda prompt, constraint, params: text, **options)


def test_program_keeps_name_doc_and_signature():
    assert hello.__name__ == "hello"
    assert hello.__doc__ == "Says hello."
    assert list(inspect.signature(hello).parameters) == ["s", "who"]
    assert "hello" in repr(hello)


def test_program_result_holds_value_text_and_variable():
    state = hello.run("Ada", backend=scripted())
    assert (state.value, state["reply"], state.text()) == ("FINE", "fine", "Hello Ada:fine")
    assert str(state) == state.text()
    assert "reply" in state and "other" not in state
    assert state.variables() == ["reply"]


def test_program_called_without_state_is_run():
    backend = scripted()
    sgrt.set_default_backend(backend)
    try:
        assert hello(who="Bo").text() == "Hello Bo:fine"
    finally:
        sgrt.set_default_backend(None)


def test_program_called_with_state_runs_inline_on_it():
    @sgrt.function
    def outer(s):
        s += "["
        inner = hello(s, who="C")
        s += "]"
        return inner

    state = outer.run(backend=scripted())
    assert state.text() == "[Hello C:fine]"
    assert state.value == "FINE"


def test_method_as_program_sees_its_instance():
    greeter = Greeter()
    greeter.greeting = "Yo"
    assert greeter.greet.run("Ada", backend=scripted()).text() == "Yo Ada:fine"
    assert greeter.greet.run(who="Ada", backend=scripted()).value == "fine"


def test_programs_pickle_by_name():
    assert pickle.loads(pickle.dumps(hello)) is hello
    bound = pickle.loads(pickle.dumps(Greeter().greet))
    assert bound.run("Z", backend=scripted()).text() == "Hi Z:fine"


@pytest.mark.parametrize("kind", ["async generator", "generator", "no state", "reserved"])
def test_function_that_cannot_be_a_program_is_refused(kind):
    async def async_generator(s):
        yield s

    def generator(s):
        yield s

    def stateless(): ...

    def reserved(s, backend): ...

    bad = {
        "async generator": async_generator,
        "generator": generator,
        "no state": stateless,
        "reserved": reserved,
    }
    with pytest.raises(TypeError, match=bad[kind].__name__):
        sgrt.function(bad[kind])


@pytest.mark.parametrize("value", [hello, print, 3, staticmethod(len), functools.partial(len)])
def test_what_is_no_function_cannot_be_a_program(value):
    with pytest.raises(TypeError, match="must be a function"):
        sgrt.function(value)


def test_parameter_names_of_sampling_fields_belong_to_the_program():
    seen = {}

    @sgrt.function
    def program(s, n, stop, temperature):
        seen.update(n=n, stop=stop, temperature=temperature)
        s += sgrt.gen("x")

    backend = scripted()
    program.run(n=3, stop="END", temperature="hot", sampling={"temperature": 0.5}, backend=backend)
    assert seen == {"n": 3, "stop": "END", "temperature": "hot"}
    assert backend.calls[0].params.temperature == 0.5
    assert backend.calls[0].params.stop == ()


def test_run_defaults_reach_every_gen_and_gens_override_them():
    @sgrt.function
    def program(s):
        s += sgrt.gen("a") + sgrt.gen("b", max_tokens=7, stop=["x", "y"])

    backend = scripted("ok")
    program.run(max_tokens=50, temperature=0, stop="Z", backend=backend)
    first, second = (call.params for call in backend.calls)
    assert (first.max_tokens, first.temperature, first.stop) == (50, 0, ("Z",))
    assert (second.max_tokens, second.temperature, second.stop) == (7, 0, ("x", "y"))


def test_run_with_unknown_keyword_names_the_near_one():
    with pytest.raises(TypeError, match=r"'temprature'.*did you mean 'temperature'"):
        hello.run(temprature=1, backend=scripted())


def test_run_with_missing_argument_fails_before_the_body():
    backend = scripted()
    with pytest.raises(TypeError, match=r"who"):
        Greeter().greet.run(backend=backend)
    assert backend.calls == []


def test_run_with_default_out_of_range_is_refused():
    with pytest.raises(InvalidSamplingParams, match="top_p"):
        hello.run(top_p=2.0, backend=scripted())


def test_run_with_no_backend_object_is_refused():
    with pytest.raises(TypeError, match="http"):
        hello.run(backend="http://localhost")


def test_run_raises_what_user_code_raises_as_it_is():
    error = ZeroDivisionError("mine")

    @sgrt.function
    def program(s):
        s += sgrt.gen("x")
        raise error

    with pytest.raises(ZeroDivisionError) as caught:
        program.run(backend=scripted(latency=5))
    assert caught.value is error


@pytest.mark.parametrize("bad", [None, 1, 2.0, b"x", ["a"], object()])
def test_append_of_what_is_no_text_raises_at_the_statement(bad):
    reached = []

    @sgrt.function
    def program(s):
        s += "a"
        with pytest.raises(TypeError, match=type(bad).__name__):
            s += bad
        with pytest.raises(TypeError):
            s += "a" + sgrt.gen("x") + bad
        with pytest.raises(TypeError):
            s.user(bad)
        with pytest.raises(TypeError):
            sgrt.user(bad)
        reached.append(s.text())

    program.run(backend=scripted())
    assert reached == ["a"]


def test_expression_sums_keep_order_on_both_sides():
    @sgrt.function
    def program(s):
        s += "a" + sgrt.gen("x") + "b" + (sgrt.gen("y") + "c")

    backend = sgrt.ScriptedBackend(["1", "2"])
    state = program.run(backend=backend)
    assert state.text() == "a1b2c"
    assert (state["x"], state["y"]) == ("1", "2")


def test_long_sums_do_not_nest():
    @sgrt.function
    def program(s):
        expr = sgrt.gen("x") + ""
        for _ in range(5000):
            expr = expr + "a"
        s += expr

    assert program.run(backend=scripted("z")).text() == "z" + "a" * 5000


def test_constraints_reach_the_backend_as_written():
    @sgrt.function
    def program(s):
        s += sgrt.gen("a", regex="[0-9]+")
        s += sgrt.regex("b", "[0-9]+", max_tokens=3)
        s += sgrt.gen("c", grammar=Choices(("1", "2")))
        s += sgrt.gen("d", json_schema={"type": "integer"})
        s += sgrt.gen("e", json_schema='{"type": "integer"}')

    backend = scripted("1")
    program.run(backend=backend).sync()
    digits, integer = Regex("[0-9]+"), JsonSchema('{"type":"integer"}')
    expected = [digits, digits, Choices(("1", "2")), integer, integer]
    assert [call.constraint for call in backend.calls] == expected


def test_two_constraints_are_refused_by_name():
    with pytest.raises(sgrt.RequestError, match="regex and choices"):
        sgrt.gen("x", regex="a", choices=["a"])


@pytest.mark.parametrize("make", [sgrt.select, lambda n, c: sgrt.gen(n, choices=c)])
@pytest.mark.parametrize(
    ("choices", "error"),
    [
        ([], sgrt.ConstraintError),
        (["a", ""], sgrt.ConstraintError),
        (["a", "b", "a"], sgrt.ConstraintError),
        (["a", 1], TypeError),
        ("ab", TypeError),
    ],
)
def test_choices_that_cannot_be_chosen_are_refused(make, choices, error):
    with pytest.raises(error):
        make("x", choices)


@pytest.mark.parametrize("n", [0, -1, True, 1.5])
def test_n_below_one_is_refused(n):
    with pytest.raises(InvalidSamplingParams, match="n="):
        sgrt.gen("x", n=n)


def test_schema_that_is_no_schema_is_refused():
    with pytest.raises(UnsupportedSchema):
        sgrt.gen("x", json_schema="[1]")
    with pytest.raises(sgrt.ConstraintError, match="column"):
        sgrt.gen("x", json_schema="{")
    with pytest.raises(UnsupportedSchema):
        sgrt.gen("x", json_schema={"const": float("nan")})
    with pytest.raises(TypeError):
        sgrt.gen("x", json_schema=3)
    with pytest.raises(TypeError):
        sgrt.gen("x", output="dict")


def test_n_continuations_are_a_list_and_the_text_goes_on_with_the_first():
    @sgrt.function
    def program(s):
        s += "q" + sgrt.gen("x", n=3) + "!" + sgrt.gen("y")

    backend = sgrt.ScriptedBackend(lambda p, c, q: f"<{q.seed % 1000}>" if p == "q" else p)
    state = program.run(backend=backend, seed=5)
    assert len(state["x"]) == 3 == len(set(state["x"]))
    assert state["y"] == f"q{state['x'][0]}!"
    assert len(state.result("x")) == 3


def test_n_continuations_with_a_named_seed_differ_and_repeat():
    @sgrt.function
    def program(s):
        s += sgrt.gen("x", n=4, seed=9)

    def run():
        return program.run(backend=sgrt.ScriptedBackend(lambda p, c, q: str(q.seed)))["x"]

    assert run() == run()
    assert len(set(run())) == 4
    assert run()[0] == "9"


def test_same_seed_repeats_everything_and_another_does_not():
    @sgrt.function
    def program(s):
        s += sgrt.gen("a") + sgrt.gen("b")
        forks = s.fork(2)
        forks += sgrt.gen("c")
        forks.join()
        s += sgrt.select("d", list("0123456789"), temperature=5.0)

    def run(seed):
        def answer(prompt, constraint, params):
            return "3" if isinstance(constraint, Choices) else f"{params.seed} "

        state = program.run(backend=sgrt.ScriptedBackend(answer), seed=seed)
        return [state[name] for name in "abcd"]

    assert run(1) == run(1)
    assert run(1)[:3] != run(2)[:3]
    assert len({*run(1)[:2], *run(1)[2]}) == 4  # no two gens share a seed
    assert len({run(seed)[3] for seed in range(20)}) > 3


def test_own_values_are_variables_and_do_not_change_the_text():
    @sgrt.function
    def program(s):
        s += "a"
        s["x"] = [1, 2]
        s.set_var("y", 3)
        return s["x"], s.get_var("y")

    state = program.run(backend=scripted())
    assert state.value == ([1, 2], 3)
    assert state.text() == "a"
    with pytest.raises(TypeError):
        state[0]
    with pytest.raises(TypeError):
        iter(state)


def test_a_name_used_again_holds_the_newest_value():
    @sgrt.function
    def program(s):
        s += sgrt.gen("x") + sgrt.gen("x")

    assert program.run(backend=sgrt.ScriptedBackend(["1", "2"]))["x"] == "2"


def test_usage_counts_gens_selects_and_forks():
    @sgrt.function
    def program(s):
        s += "1234" + sgrt.gen("x")
        s += sgrt.select("y", ["a", "b"])
        s.fork(1)[0].__iadd__(sgrt.gen("z"))

    backend = sgrt.ScriptedBackend(["567", "a", "8"])
    usage = program.run(backend=backend).usage()
    assert usage.sampled == 4
    assert usage.prompt == 4 + 7 + 8
    assert usage.sampled == backend.stats()["sampled"]


def test_result_gives_the_backends_record():
    @sgrt.function
    def program(s):
        s += sgrt.gen("x", stop="!", logprobs=0)
        s["own"] = 1

    state = program.run(backend=scripted("ab!c"))
    result = state.result("x")
    assert (result.text, result.stop_match, result.finish_reason) == ("ab", "!", "stop")
    assert len(result.logprobs) == 2
    with pytest.raises(sgrt.ProgramError, match="'own' was not generated"):
        state.result("own")


def test_ended_program_takes_no_more_text():
    state = hello.run(backend=scripted())
    with pytest.raises(sgrt.ProgramError, match="has ended"):
        state += "more"
    with pytest.raises(sgrt.ProgramError, match="has ended"):
        state.fork(2)
    with pytest.raises(sgrt.ProgramError, match="has ended"), state.user():
        pass


def test_sessions_are_closed_once_the_work_is_done():
    opened = []

    class Watching(sgrt.ScriptedBackend):
        def open(self, **options):
            opened.append(super().open(**options))
            return opened[-1]

    state = hello.run(backend=Watching(["a"], latency=0.02))
    state.sync()
    deadline = threading.Event()
    for _ in range(200):
        if opened[0]._error is not None:
            break
        deadline.wait(0.01)
    assert isinstance(opened[0]._error, sgrt.errors.Cancelled)
    assert state["reply"] == "a"


@pytest.mark.parametrize("make", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_state_is_no_value_to_pickle_or_copy_and_says_so(make):
    state = hello.run("Ada", backend=scripted())
    with pytest.raises(TypeError, match=r"ProgramState cannot be pickled.*text\(\)"):
        make(state)


@pytest.mark.parametrize(
    "make",
    [
        lambda **given: sgrt.gen("x", **given),
        lambda **given: sgrt.regex("x", "a", **given),
        lambda **given: sgrt.select("x", ["a"], **given),
    ],
)
def test_unknown_argument_of_an_expression_names_the_near_one(make):
    with pytest.raises(TypeError, match=r"no argument 'temprature'; did you mean 'temperature'"):
        make(temprature=1)
    with pytest.raises(TypeError, match=r"no argument 'qqqqqq'$"):
        make(qqqqqq=1)
