"""What a plan knows ahead: how a text begins, which grammars it needs, what nobody reads."""

import random
import runpy

import pytest
from pydantic import BaseModel, Field

import sgrt
from sgrt.core import Choices, JsonSchema, Regex
from sgrt.errors import PlanError, ProgramError
from sgrt.lang.plan.plan import Plan

PREAMBLE = "You are careful."
BACKEND = sgrt.ScriptedBackend(lambda prompt, constraint, params: "7" if constraint else "text")


class Reading(BaseModel):
    value: int = Field(ge=0, le=9)


def text_of(prefix):
    return "".join(part.text for part in prefix)


@sgrt.function
def chat(s, question, mood, tail="?"):
    intro = PREAMBLE + f" Be {mood}."
    s += sgrt.system(intro)
    with s.user():
        s += "Asked: " + question.strip() + tail
    s += sgrt.assistant(sgrt.gen("answer"))


@sgrt.function
def loop(s, items, extra):
    for item in items:
        s += f"- {item}\n"
    if extra:
        s += "extra"
    s += sgrt.gen("x")


@sgrt.function
def partial(s, x):
    s += PREAMBLE
    _first, *_ = x
    s += sgrt.gen("x", regex="[0-9]")


@sgrt.function
def helper(s, x):
    s += "<" + x


@sgrt.function
def nested(s, a, b):
    helper(s, "static")
    helper(s, a)
    s += b + sgrt.gen("x")


@pytest.mark.parametrize(
    ("program", "known", "end"),
    [
        (chat, {}, f"system\n{PREAMBLE} Be "),
        (chat, {"mood": "kind"}, "kind.<|im_end|>\n<|im_start|>user\nAsked: "),
        (chat, {"mood": "kind", "question": " why "}, "Asked: why"),
        (chat, {"mood": "kind", "question": "why", "tail": "!"}, "Asked: why!<|im_end|>\n"),
        (loop, {"items": ["a", "b"]}, "- a\n- b\n"),
        (loop, {"items": ["a"], "extra": True}, "- a\nextra"),
        (loop, {"extra": True}, ""),
        (partial, {}, PREAMBLE),
        (partial, {"x": "a"}, PREAMBLE),
        (nested, {}, "<static<"),
        (nested, {"a": "1", "b": "2"}, "<static<12"),
    ],
)
def test_prefix_ends_at_the_first_thing_that_is_not_known(program, known, end):
    prefix = text_of(program.compile().prefix(BACKEND, known))
    assert prefix.endswith(end)
    assert end or not prefix


@pytest.mark.parametrize("program", [chat, loop, nested])
def test_prefix_begins_every_text(program):
    choose = random.Random(0)
    plan = program.compile()
    names = list(plan.signature.parameters)[1:]
    for _ in range(30):
        arguments = {n: choose.choice(["a", " b ", "", "cc"]) for n in names}
        known = {n: arguments[n] for n in names if choose.random() < 0.5}
        text = program.run(**arguments, backend=BACKEND).text()
        assert text.startswith(text_of(plan.prefix(BACKEND, known)))


def test_prefix_touches_nothing_of_the_users():
    class Loud(str):
        def strip(self, *args):
            raise AssertionError("user code ran")

    shared = [1]
    plan = chat.compile()
    assert text_of(plan.prefix(BACKEND, {"mood": "x", "question": Loud("q")})).endswith("Asked: ")
    plan.prefix(BACKEND, {"mood": shared})
    assert shared == [1]


def test_prefix_of_an_endless_program_ends():
    @sgrt.function
    def endless(s):
        while True:
            s += "again "

    assert text_of(endless.compile().prefix(BACKEND)).startswith("again again ")


def test_batch_knows_arguments_that_are_equal_in_all_items():
    plan = chat.compile()
    same = [((), {"question": f"q{i}", "mood": "kind"}) for i in range(3)]
    other = [*same, ((), {"question": "q", "mood": "cold"})]
    with plan.warm(BACKEND, same) as warm:
        assert text_of(warm.prefix).endswith("Be kind.<|im_end|>\n<|im_start|>user\nAsked: ")
        assert warm.num_tokens is None  # this backend holds no prefix
    with plan.warm(BACKEND, other) as warm:
        assert text_of(warm.prefix).endswith("Be ")
    with plan.warm(BACKEND, [((), {"nonsense": 1})]) as warm:
        assert text_of(warm.prefix).endswith("Be ")


@sgrt.function
def constrained(s, allowed):
    s += sgrt.gen("a", regex="[0-9]") + sgrt.gen("b", output=Reading)
    if s["a"] == "1":
        s += sgrt.gen("c", regex=allowed)
    s += sgrt.regex("d", r"\d\d") + sgrt.gen("free")
    print(end="")
    _first, *_ = [sgrt.gen("e", grammar=Choices(("x", "y")))]


def test_grammars_are_found_in_python_parts_too():
    found = {g.name: g.constraint for g in constrained.compile().grammars()}
    assert set(found) == {"a", "b", "c", "d", "e"}
    assert (found["a"], found["c"], found["d"]) == (Regex("[0-9]"), None, Regex(r"\d\d"))
    assert isinstance(found["b"], JsonSchema)
    assert found["e"] == Choices(("x", "y"))


def test_warm_tells_which_grammars_are_refused():
    @sgrt.function
    def wrong(s):
        s += sgrt.gen("a", regex="(") + sgrt.gen("b", regex="b")

    with wrong.compile().warm(BACKEND) as warm:
        assert list(warm.refused()) == [Regex("(")]


# what nobody reads


@sgrt.function
def wasteful(s, x):
    s += x + sgrt.gen("draft")
    s += "\nfinal: " + sgrt.gen("final")
    s += "\nnote: " + sgrt.gen("note") + sgrt.gen()
    if x:
        s += sgrt.select("mood", ["good", "bad"])
    return s["final"]


def test_unused_generations_are_dropped_only_when_told_to():
    assert set(wasteful.compile().run("x", backend=new_backend()).variables()) == {
        *("draft", "final", "note", "mood"),
    }
    plan = wasteful.compile(drop_unused=True)
    assert plan.dropped[0] == "mood" and plan.dropped[2] == "note" and len(plan.dropped) == 3
    backend = new_backend()
    state = plan.run("x", backend=backend)
    assert state.value == "text"
    assert state.text() == "xtext\nfinal: text\nnote: "
    assert len(backend.calls) == 2
    with pytest.raises(ProgramError, match="there is no variable 'note'"):
        state["note"]


def new_backend():
    return sgrt.ScriptedBackend(
        lambda prompt, constraint, params: "text", scores=lambda prompt, option: -1.0
    )


@sgrt.function
def reads_all(s):
    s += sgrt.gen("a")
    return s.text()


@sgrt.function
def gives_itself(s):
    s += sgrt.gen("a")
    return s


@sgrt.function
def reads_by_name(s, name):
    s += sgrt.gen("a")
    return s[name]


@sgrt.function
def reads_in_a_loop(s):
    for _ in range(3):
        s += sgrt.gen("a") + sgrt.gen("b")
        s["x"] = s["a"]


@pytest.mark.parametrize("program", [reads_all, gives_itself, reads_by_name, reads_in_a_loop])
def test_nothing_is_dropped_where_it_may_be_read(program):
    assert program.compile(drop_unused=True).dropped == ()


def test_partial_plan_drops_nothing():
    with pytest.raises(PlanError, match="drop_unused needs a whole plan; line"):
        partial.compile(drop_unused=True)


# what is shown


def test_plan_shows_its_lines_segments_and_grammars():
    shown = str(constrained.compile())
    assert "partial: the function runs" in shown
    assert "Python, line" in shown and "may be changed outside" in shown
    assert "grammar c, line" in shown and "depends on arguments" in shown
    lines = str(wasteful.compile()).splitlines()
    assert "whole: runs without the function" in lines[0]
    assert all("§1" in line for line in lines[1:4])


def test_segments_shown_are_those_that_the_backend_gets():
    class Counting:
        def __init__(self):
            self._backend = new_backend()
            self.segments = 0

        def __getattr__(self, name):
            return getattr(self._backend, name)

        def open(self, **options):
            session = self._backend.open(**options)
            generate = session.generate

            def counted(segment):
                self.segments += 1
                return generate(segment)

            session.generate = counted
            return session

    @sgrt.function
    def straight(s, x):
        s += x + sgrt.gen("a") + "."
        s += sgrt.gen("b")
        s += s["a"] + sgrt.gen("c")
        s += " " + sgrt.gen("d")

    plan = straight.compile()
    backend = Counting()
    plan.run("x", backend=backend).sync()
    assert "§2" in str(plan) and "§3" not in str(plan)
    assert backend.segments >= 2
    assert backend.segments == 2 or backend.segments <= 4  # slow machines hand over earlier


def test_names_private_to_a_class_are_left_to_python():
    class Secret:
        @sgrt.function
        def tell(self, s, __word):
            s += __word

    plan = Secret().tell.compile()
    assert not plan.is_whole and "private to a class" in str(plan)
    assert plan.run("hush", backend=BACKEND).text() == "hush"


def test_source_that_was_edited_since_is_not_believed(tmp_path):
    file = tmp_path / "edited.py"
    file.write_text("import sgrt\n@sgrt.function\ndef f(s):\n    s += 'old'\n")
    program = runpy.run_path(str(file))["f"]
    file.write_text("import sgrt\n@sgrt.function\ndef f(s):\n    s += 'new'\n")
    plan = program.compile()
    assert not plan.is_whole and "its source has changed" in str(plan)
    assert plan.run(backend=BACKEND).text() == "old"


def test_plan_of_code_without_source_runs_the_function():
    made = {}
    exec("def typed_in(s, x):\n    s += x\n", {"sgrt": sgrt}, made)
    plan = sgrt.function(made["typed_in"]).compile()
    assert not plan.is_whole and "its source cannot be found" in str(plan)
    assert plan.run("a", backend=BACKEND).text() == "a"
    assert isinstance(plan, Plan)
