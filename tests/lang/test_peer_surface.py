"""What SGLang's frontend has: the same names and meaning, or a refusal by name."""

import json
import pickle
import re

import pytest

import sgrt as sgl
from sgrt.lang.ir import REGEX_BOOL, REGEX_FLOAT, REGEX_INT, REGEX_STR


def scripted(*answers, **options):
    return sgl.ScriptedBackend(list(answers), **options)


# ---------------------------------------------------------------- values in running text


@sgl.function
def city(s):
    s += "Facts about Paris.\n"
    with s.var_scope("json"):
        s += "{" + '"name": ' + sgl.gen_string("name") + ", "
        s += '"population": ' + sgl.gen_int("population", stop="x") + ", "
        s += '"area": ' + sgl.gen("area", dtype=float) + ", "
        s += '"capital": ' + sgl.gen("capital", dtype=bool) + "}"
    s += " Done."


def test_typed_values_in_running_text_have_their_type_and_end_where_the_sentence_goes_on():
    backend = scripted('"P\\u00e1ris"', "2100000, say", "105.4", "true")
    state = city.run(backend=backend)
    assert json.loads(state["json"]) == {
        "name": "Páris", "population": 2100000, "area": 105.4, "capital": True,
    }  # fmt: skip
    values = [state[name] for name in ("name", "population", "area", "capital")]
    assert values == ["Páris", 2100000, 105.4, True]
    assert [type(v) for v in values] == [str, int, float, bool]
    assert state.text().endswith("} Done.")
    assert backend.calls[1].params.stop[0] == "x"


@pytest.mark.parametrize(
    ("answer", "value"),
    [("24 hours", 24), ("-7. Then", -7), ("365", 365), ("12)", 12), ("0\n", 0)],
)
def test_number_ends_before_what_follows(answer, value):
    @sgl.function
    def program(s):
        s += "n = " + sgl.gen_int("n")

    assert program.run(backend=scripted(answer))["n"] == value


@pytest.mark.parametrize(
    ("answer", "max_tokens", "value"),
    [
        ('"a long name"', 5, "a lo"),
        ('"a long name"', 12, "a long name"),
        ('"a long name"', 13, "a long name"),
        ('"a long name"', 1, ""),
        ('"a long name"', 0, ""),
        (r'"say \"no\""', 6, "say "),
        (r'"say \"no\""', 7, 'say "'),
        (r'"\u00e1"', 6, ""),
        (r'"\\"', 2, ""),
        (r'"\\"', 3, "\\"),
        (r'"x\ud83d\ude00"', 8, "x"),
    ],
)
def test_string_that_is_cut_has_what_there_is_of_it(answer, max_tokens, value):
    @sgl.function
    def program(s):
        s += "name: " + sgl.gen_string("name", max_tokens=max_tokens)
        s += ", plain: " + sgl.gen("plain", max_tokens=max_tokens, output=str)

    state = program.run(backend=scripted(answer, "free text"))
    assert state["name"] == value
    assert state["plain"] == "free text"[:max_tokens]
    is_cut = max_tokens < len(answer)
    assert state.get_meta_info("name")["finish_reason"]["type"] == ("length" if is_cut else "stop")


@pytest.mark.parametrize(
    ("answer", "given"), [("-1.5", {"dtype": float}), ('"abc"', {"regex": REGEX_STR})]
)
def test_what_is_no_string_and_cut_has_no_value(answer, given):
    @sgl.function
    def program(s):
        s += "n: " + sgl.gen("n", max_tokens=1, **given)

    with pytest.raises(sgl.ProgramError, match="ended the text before"):
        program.run(backend=scripted(answer))["n"]


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        (REGEX_INT, ["0", "-12", "365 ", "7\n"], ["007", "+5", "1.5", "", "1  "]),
        (REGEX_FLOAT, ["0", "-1.5", "1e5", "2.5E-3 "], [".5", "1.", "1e", "nan"]),
        (REGEX_BOOL, ["true", "False"], ["TRUE", "yes"]),
        (REGEX_STR, ['""', '"it\'s, ok."', r'"a\n\u00e9"'], ['"a', '"a\nb"', r'"\x"', "a"]),
    ],
)
def test_patterns_are_those_of_json(pattern, yes, no):
    for text in yes:
        assert re.fullmatch(pattern, text), text
        assert pattern == REGEX_BOOL or json.loads(text) is not None
    assert not [text for text in no if re.fullmatch(pattern, text)]


def test_dtype_beside_another_constraint_is_refused():
    with pytest.raises(sgl.RequestError, match="not dtype=int and another"):
        sgl.gen("x", dtype=int, regex="[0-9]")
    with pytest.raises(sgl.RequestError, match="output and dtype"):
        sgl.gen("x", dtype=int, output=int)


# ---------------------------------------------------------------- arguments


def test_gen_takes_its_arguments_in_the_peers_order():
    gen = sgl.gen("x", 5, 2, 3, "a", [7], "b+", 0.5, 0.9, 4, 0.1, 0.2, 0.3, True, True, -1, 2, True)
    assert (gen.name, gen.n, gen.stop_regex) == ("x", 3, ("b+",))
    assert gen.sampling == {
        "max_tokens": 5, "min_tokens": 2, "stop": "a", "stop_token_ids": (7,), "temperature": 0.5,
        "top_p": 0.9, "top_k": 4, "min_p": 0.1, "frequency_penalty": 0.2, "presence_penalty": 0.3,
        "ignore_eos": True, "logprobs": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        {"stop_regex": [1]},
        {"stop_regex": "a+", "choices": ["a", "b"]},
        {"logprob_start_len": 0},
        {"top_logprobs_num": 2},
        {"return_logprob": True, "logprobs": 1},
        {"return_text_in_logprobs": False},
    ],
)
def test_argument_without_effect_is_refused_by_name(arguments):
    with pytest.raises(sgl.RequestError, match=next(iter(arguments))):
        sgl.gen("x", **arguments)


@pytest.mark.parametrize(
    "default", [{"stop_regex": "a"}, {"use_thread": False}, {"logprob_start_len": 3}]
)
def test_default_without_effect_is_refused_by_name(default):
    with pytest.raises(sgl.RequestError, match=next(iter(default))):
        city.run(backend=scripted(), **default)


def test_run_takes_the_peers_defaults():
    @sgl.function
    def program(s):
        s += "q" + sgl.gen("x")

    backend = scripted("answer")
    program.run(backend=backend, max_new_tokens=9, return_logprob=True, use_thread=True).sync()
    assert (backend.calls[0].params.max_tokens, backend.calls[0].params.logprobs) == (9, 0)
    with pytest.raises(sgl.RequestError, match="max_new_tokens"):
        program.run(backend=backend, max_new_tokens=9, max_tokens=9)


def test_images_are_refused_by_name():
    with pytest.raises(sgl.RequestError, match="image"):
        sgl.image("a.png")
    with pytest.raises(sgl.RequestError, match="video"):
        sgl.video("a.mp4", 3)


def test_typed_gens_take_their_arguments_in_the_peers_order():
    made = {"int": sgl.gen_int("x", 5, 3, "a"), "str": sgl.gen_string("x", 5, 3, "a")}
    for kind, gen in made.items():
        assert (gen.name, gen.n, gen.output.name) == ("x", 3, kind)
        assert (gen.sampling["max_tokens"], gen.sampling["stop"][0]) == (5, "a")
    assert sgl.gen_int("x", min_tokens=2, max_tokens=9).sampling["min_tokens"] == 2
    with pytest.raises(TypeError):
        sgl.gen_int("x", 5, 3, n=2)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("int", int), ("float", float), ("bool", bool), ("str", str), ("string", str)],
)
def test_type_may_be_given_by_its_name(name, kind):
    assert sgl.gen("x", dtype=name) == sgl.gen("x", dtype=kind)


def test_type_that_is_no_name_of_one_is_refused():
    with pytest.raises((TypeError, sgl.SgrtError), match="integer"):
        sgl.gen("x", dtype="integer")


def test_none_is_what_is_not_given():
    assert sgl.gen("x", n=None) == sgl.gen("x")
    with pytest.raises(sgl.RequestError, match=r"n=3.*not supported"):
        city.run(backend=scripted(), n=3)


def test_gen_of_choices_is_a_select():
    @sgl.function
    def program(s):
        s += "I need a " + sgl.gen("tool", choices=["calculator", "search"]) + "."

    assert sgl.gen("x", choices=["a", "b"]) == sgl.select("x", ["a", "b"])
    state = program.run(backend=scripted("search"), temperature=1)
    assert (state["tool"], state.text()) == ("search", "I need a search.")
    rows = state.get_meta_info("tool")["input_token_logprobs"]
    assert ["".join(text for _, _, text in row) for row in rows] == ["calculator", "search"]
    with pytest.raises(sgl.RequestError, match="compared whole; no max_tokens applies"):
        sgl.gen("x", max_tokens=3, choices=["a", "b"])


def test_message_without_an_expression_is_empty():
    @sgl.function
    def program(s):
        s += sgl.system() + sgl.user("hi") + sgl.assistant()

    contents = [m["content"] for m in program.run(backend=scripted()).messages()]
    assert contents == ["", "hi", ""]


def test_streams_take_the_peers_keyword_and_states_its_names():
    @sgl.function
    def program(s, k):
        s += "q" + sgl.gen("x")
        with s.copy(position_ids_offset=None) as c:
            c += "r"
        return k

    state = program.run(3, backend=scripted("ab"), stream=True)
    assert "".join(state.text_iter(var_name="x")) == "ab"
    assert state.ret_value == 3
    assert program.func.__name__ == "program"


class Counting(sgl.ScriptedBackend):
    """Counts sessions that may guess ahead."""

    def open_ahead(self, num_tokens, *, seed=None):
        self.opened = [*getattr(self, "opened", []), num_tokens]
        return self.open(seed=seed)


class Guesser:
    @sgl.function(num_api_spec_tokens=9)
    def program(self, s, x="q"):
        s += x + sgl.gen("x")


def test_number_of_tokens_to_guess_goes_with_the_program():
    program, backend = Guesser().program, Counting({"q": "a"})
    for each in (program, program.bind(x="q"), program.compile()):
        assert each.run(backend=backend)["x"] == "a"
    assert backend.opened == [9, 9, 9]


def test_batch_is_made_ready_unless_told_otherwise():
    class Holding(sgl.ScriptedBackend):
        def pin(self, prefix):
            pinned.append(prefix)
            raise sgl.BackendError("full")

    @sgl.function
    def program(s, x):
        s += "the same " + x + sgl.gen("y")

    pinned = []
    for wanted in (False, True):
        sgl.global_config.enable_precache_with_tracing = wanted
        program.run_batch([["a"], ("b",)], backend=Holding(lambda *_: "z"))
        assert len(pinned) == wanted
    with pytest.raises(sgl.RequestError, match="must be true or false"):
        sgl.global_config.enable_precache_with_tracing = 1


@pytest.mark.parametrize("name", ["Anthropic", "LiteLLM", "VertexAI", "Shortfin", "Crusoe"])
def test_backend_that_is_not_here_says_what_to_use(name):
    with pytest.raises(AttributeError, match=f"{name}.*use sgrt"):
        getattr(sgl, name)


# ---------------------------------------------------------------- scopes, copies, joins


def test_scope_is_readable_also_after_an_exception_and_holds_what_was_generated():
    @sgl.function
    def program(s):
        try:
            with s.var_scope("part"):
                s += "a" + sgl.gen("x")
                raise KeyError
        except KeyError:
            s += "c"
        assert s["part"] == "ab"

    state = program.run(backend=scripted("b"))
    assert (state["part"], state.text()) == ("ab", "abc")


def test_scope_of_a_failed_generation_raises_the_generations_error():
    @sgl.function
    def program(s):
        with s.var_scope("part"):
            s += "a" + sgl.gen("x")

    state = program.run(backend=scripted(sgl.BackendError("down")))
    with pytest.raises(sgl.ProgramError, match="down"):
        _ = state["part"]


def test_scope_may_be_streamed_past_and_nested():
    @sgl.function
    def program(s):
        with s.var_scope("all"):
            s += "1"
            with s.var_scope("inner"):
                s += sgl.gen("x")
            s += "3"

    state = program.run(backend=scripted("2"), stream=True)
    assert "".join(state.text_iter()) == "123"
    assert (state["all"], state["inner"]) == ("123", "2")


def test_copy_gives_back_values_and_not_lists():
    @sgl.function
    def program(s):
        s += "base "
        with s.copy() as c:
            c += "side " + sgl.gen("x", stop=".")
            c["own"] = 3
        s += "end " + sgl.gen("y")

    backend = scripted("one", "two")
    state = program.run(backend=backend)
    assert (state["x"], state["own"], state["y"]) == ("one", 3, "two")
    assert state.text() == "base end two"
    assert backend.calls[-1].prompt == "base end "


def test_join_in_append_mode_goes_on_with_the_childrens_text():
    @sgl.function
    def program(s):
        s += "0"
        forks = s.fork(2)
        forks += lambda i: f"[{i}:" + sgl.gen("x") + "]"
        forks.join(mode="concate_and_append")
        s += "?" + sgl.gen("answer")

    answers = {"[0:": "a", "[1:": "b", "?": "c"}
    state = program.run(backend=sgl.ScriptedBackend(answers))
    assert state.text() == "0[0:a][1:b]?c"
    assert state.variables() == ["answer"]


def test_join_refuses_other_modes_and_messages_that_cannot_be_appended():
    @sgl.function
    def program(s, mode):
        forks = s.fork(1)
        forks += sgl.user("hi")
        forks.join(mode)

    with pytest.raises(sgl.RequestError, match="mode='zip'"):
        program.run("zip", backend=scripted())
    with pytest.raises(sgl.ProgramError, match="messages"):
        program.run("concate_and_append", backend=scripted())


def test_fork_refuses_position_offsets():
    @sgl.function
    def program(s):
        s.fork(2, position_ids_offset=[1, 2])

    with pytest.raises(sgl.RequestError, match="position_ids_offset"):
        program.run(backend=scripted())


# ---------------------------------------------------------------- reasoning


@pytest.mark.parametrize(
    ("model_type", "answer", "thought", "said"),
    [
        ("deepseek-r1", "hm.</think>\n\nYes.", "hm.", "Yes."),
        ("deepseek-r1", "<think>hm.</think>Yes.", "hm.", "Yes."),
        ("deepseek-r1", "still thinking", "still thinking", ""),
        ("qwen3", "<think>\nhm\n</think>\nYes.", "hm", "Yes."),
        ("qwen3", "Yes.", "", "Yes."),
        ("kimi", "◁think▷hm◁/think▷Yes.", "hm", "Yes."),
    ],
)
def test_reasoning_is_separated_from_the_answer(model_type, answer, thought, said):
    @sgl.function
    def program(s):
        s += sgl.user("?")
        s += sgl.assistant(sgl.separate_reasoning("So: " + sgl.gen("x"), model_type=model_type))

    state = program.run(backend=scripted(answer))
    assert (state["x"], state["x_reasoning_content"]) == (said, thought)
    assert f"So: {answer}" in state.text()
    assert "finish_reason" in state.get_meta_info("x")
    streamed = program.run(backend=scripted(answer), stream=True)
    assert streamed["x_reasoning_content"] == thought


def test_reasoning_of_several_continuations_is_a_list():
    @sgl.function
    def program(s):
        s += sgl.separate_reasoning(sgl.gen("x", n=2), "qwen3")

    state = program.run(backend=scripted("<think>a</think>b", "c"))
    assert (state["x"], state["x_reasoning_content"]) == (["b", "c"], ["a", ""])


def test_reasoning_refuses_unknown_models_and_constraints():
    with pytest.raises(sgl.RequestError, match="model_type='gpt'"):
        sgl.separate_reasoning(sgl.gen("x"), "gpt")

    @sgl.function
    def program(s):
        s += sgl.separate_reasoning(sgl.gen("x", regex="a"), "qwen3")

    with pytest.raises(sgl.ProgramError, match="constraint"):
        program.run(backend=scripted("a"))


# ---------------------------------------------------------------- programs


class Teacher:
    name = "Ada"

    @sgl.function
    def lesson(self, state, topic):
        """Teach."""
        state += f"{self.name} on {topic}: " + sgl.gen("x")


def test_bound_program_keeps_its_name_and_lacks_what_was_given():
    @sgl.function
    def program(s, a, b, n=3):
        """Doc."""
        s += f"{a}{b}{n}" + sgl.gen("x")

    bound = program.bind(a=1, n=2)
    assert bound.run(b="-", backend=scripted("!")).text() == "1-2!"
    assert (bound.__name__, bound.__doc__) == ("program", "Doc.")
    with pytest.raises(TypeError, match="'a'"):
        bound.run(a=5, b=1, backend=scripted("!"))
    with pytest.raises(TypeError, match="no argument 'c'"):
        program.bind(c=1)
    states = bound.bind(b="+").run_batch([{}, {}], backend=scripted("!", "!"))
    assert [state.text() for state in states] == ["1+2!"] * 2


def test_bound_program_and_method_pickle_as_what_they_are():
    bound = pickle.loads(pickle.dumps(city.bind()))
    assert repr(bound) == repr(city)
    lesson = Teacher().lesson.bind(topic="sums")
    assert lesson.run(backend=scripted("ok")).text() == "Ada on sums: ok"


async def test_bound_async_program_runs():
    @sgl.function
    async def program(s, a):
        s += a + sgl.gen("x")

    state = await program.bind(a="q").arun(backend=scripted("!"))
    assert state.text() == "q!"


# ---------------------------------------------------------------- meta information


def test_meta_info_speaks_the_servers_words():
    @sgl.function
    def program(s):
        s += "q" + sgl.gen("x", return_logprob=True, stop=".")
        s["own"] = 1

    state = program.run(backend=scripted("ab."))
    told = state.get_meta_info("x")
    assert told["finish_reason"] == {"type": "stop", "matched": "."}
    assert (told["prompt_tokens"], told["completion_tokens"]) == (1, 2)
    assert told["output_token_logprobs"] == [(0.0, 97, "a"), (0.0, 98, "b")]
    with pytest.raises(sgl.ProgramError, match="not generated"):
        state.get_meta_info("own")


async def test_stream_with_meta_data_counts_every_token_once():
    @sgl.function
    def program(s):
        s += "q" + sgl.gen("x", return_logprob=True)

    answer = "a long answer in several events"
    state = program.run(backend=scripted(answer), stream=True)
    pairs = [pair async for pair in state.text_async_iter("x", return_meta_data=True)]
    assert "".join(text for text, _ in pairs) == answer
    spelled = [t for _, told in pairs for _, _, t in told["output_token_logprobs"]]
    assert "".join(spelled) == answer
    last = pairs[-1][1]
    assert last["completion_tokens"] == last["output_token_logprobs_length"] == len(answer)


def test_backend_functions_reach_the_default_backend():
    backend = scripted("x")
    sgl.set_default_backend(backend)
    try:
        assert sgl.global_config.default_backend is backend
        assert sgl.get_server_info()["steps"] == 0
        with pytest.raises(sgl.RequestError, match="flush_cache"):
            sgl.flush_cache()
        sgl.global_config.default_backend = None
    finally:
        sgl.set_default_backend(None)
    with pytest.raises(sgl.RequestError, match=r"verbosity[^\n]*\n.*print"):
        sgl.global_config.verbosity = 2


def test_trace_shows_the_plan_and_runs_nothing():
    @sgl.function
    def program(s, question):
        """Never run here."""
        s += "Q: " + question + "A:" + sgl.gen("answer", stop="\n")

    shown = program.trace().last_node.print_graph_dfs()
    assert "answer" in shown and "Q: " in shown
    assert str(program.trace(question="why?")) == str(program.bind(question="why?").trace())


def test_cache_holds_what_calls_begin_with_until_it_is_closed():
    @sgl.function
    def program(s, question):
        s += "Instructions. " + question + sgl.gen("answer")

    with program.cache(scripted("x")):
        assert program.run("q", backend=scripted("x"))["answer"] == "x"


# ---------------------------------------------------------------- habits from elsewhere


def test_expression_in_an_fstring_is_refused():
    for expr in (sgl.gen("x"), sgl.select("x", ["a"]), "a" + sgl.gen("x"), sgl.user("x")):
        with pytest.raises(TypeError, match="cannot stand in an f-string"):
            f"name: {expr}"
    assert "name='x'" in f"{sgl.gen('x')!r}"


def test_expression_as_text_or_as_a_truth_is_refused():
    for expr in (sgl.gen("x"), sgl.select("x", ["a"]), "a" + sgl.gen("x"), sgl.user("x")):
        with pytest.raises(TypeError, match="is no text yet"):
            "name: %s" % expr  # noqa: UP031
        with pytest.raises(TypeError, match="has no value of its own"):
            bool(expr)


@pytest.mark.parametrize(
    ("value", "hint"),
    [(None, r"f\(s\), not s \+= f\(s\)"), (sgl.gen, "is it to be called"), (5, "write it as text")],
)
def test_append_of_what_is_no_text_says_what_was_probably_meant(value, hint):
    program = sgl.function(lambda s: s.__iadd__(value))
    with pytest.raises(TypeError, match=hint):
        program.run(backend=scripted("x"))


def test_state_that_is_appended_or_awaited_in_a_plain_program_says_what_to_do():
    with pytest.raises(TypeError, match=r"append its text\(\)"):
        sgl.function(lambda s: s.__iadd__(s)).run(backend=scripted("x"))
    with pytest.raises(TypeError, match=r"here, read s\['x'\]"):
        sgl.function(lambda s: s.__iadd__(sgl.gen("x")).get("x")).run(backend=scripted("x"))
    with pytest.raises(TypeError, match="a schema goes to json_schema="):
        sgl.gen("x", output={"type": "object"})


def test_batch_or_child_that_is_not_there_is_named():
    program = sgl.function(lambda s: s.fork(2)[5])
    with pytest.raises(IndexError, match="there is no child 5: the fork has 2"):
        program.run(backend=scripted("x"))
    with pytest.raises(TypeError, match="a batch must be a list of arguments, not None"):
        program.run_batch(None, backend=scripted("x"))


def test_role_as_a_context_manager_says_whose_it_is():
    with pytest.raises(TypeError, match=r"with s\.user\(\)"), sgl.user("x"):
        pass


def test_class_as_a_backend_is_refused():
    with pytest.raises(TypeError, match="not the class ScriptedBackend"):
        city.run(backend=sgl.ScriptedBackend)
    with pytest.raises(TypeError, match="not the class OpenAI"):
        sgl.set_default_backend(sgl.OpenAI)


@pytest.mark.parametrize("batch", ["ab", {"x": 1}])
def test_batch_that_is_one_item_is_refused(batch):
    with pytest.raises(TypeError, match="a batch must be a list of arguments, not a"):
        city.run_batch(batch, backend=scripted())


async def test_batch_may_be_any_iterable(capsys):
    @sgl.function
    def program(s, x):
        s += x + sgl.gen("y")

    backend = sgl.ScriptedBackend(lambda *_: "!")
    expected = ["a!", "b!"]
    states = program.run_batch(({"x": x} for x in "ab"), backend=backend, progress_bar=True)
    assert [state.text() for state in states] == expected
    states = await program.arun_batch(iter([["a"], ("b",)]), backend=backend)
    assert [state.text() for state in states] == expected
    assert "2/2" in capsys.readouterr().err


def test_run_inside_a_run_goes_to_the_same_backend_where_no_default_is_set():
    @sgl.function
    def inner(s):
        s += "?" + sgl.gen("x")

    @sgl.function
    def outer(s):
        return inner()["x"], [state["x"] for state in inner.run_batch([(), ()])]

    mine, default = sgl.ScriptedBackend({"?": "mine"}), sgl.ScriptedBackend({"?": "default"})
    for program in (outer, outer.compile()):
        assert program.run(backend=mine).value == ("mine", ["mine"] * 2)
    sgl.set_default_backend(default)
    try:
        assert outer.run(backend=mine).value == ("default", ["default"] * 2)
    finally:
        sgl.set_default_backend(None)
