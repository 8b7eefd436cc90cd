"""Plans with calls of the user's own Python: once each, in their place, as the function makes them."""

import json
import logging
import re
import sys

import pytest

import sgrt
from sgrt.errors import PlanError

LOG = []
TOOLS = {"add": lambda a, b: int(a) + int(b), "fail": lambda a, b: 1 / 0}
log = logging.getLogger("tests.plan")


def note(*values, **named):
    """Says who calls, with what."""
    frame = sys._getframe(1)
    LOG.append((values, named, frame.f_code.co_name, frame.f_lineno, frame.f_globals is globals()))
    return "|".join(map(str, values))


def countdown(n):
    return n if n <= 0 else countdown(n - 1)


class Notebook:
    def __init__(self):
        self.lines = []
        self.last = None

    def add(self, line, *, tag="-"):
        self.lines.append((line, tag))
        return self

    def __enter__(self):
        note("enter")
        return self

    def __exit__(self, kind, error, trace):
        note("exit", kind)
        return kind is KeyError


class Own(Exception):
    pass


@sgrt.function
def prints(s, x):
    print("begin", x, sep=":")
    s += f"{x} is " + sgrt.gen("a")
    print(f"got {s['a']}", *[1, 2], file=sys.stdout)
    s += " end" + sgrt.gen("b")


@sgrt.function
def patterns(s, x):
    import re as regex
    from json import dumps

    s += x + sgrt.gen("a")
    found = regex.search(r"[a-z]+", s["a"])
    if found is not None and re.fullmatch(".*", found.group(0)):
        s += found.group() + dumps({"k": found.span()})
        s["n"] = sorted([3, 1, 2], key=lambda v: -v)
    s += sgrt.gen("b")
    return json.loads("[1]")


@sgrt.function
def tools(s, x):
    book = Notebook()
    s += x + sgrt.gen("tool", regex="add|fail")
    try:
        result = TOOLS[s["tool"]]("1", "2")
    except ZeroDivisionError as error:
        result = error
    book.add(s["tool"]).add("again", tag=note(result))
    book.last = result
    book.lines[0] = s["tool"]
    s += f"{result} {book.lines} {book.last}" + sgrt.gen("b")
    return countdown(9)


@sgrt.function
def managers(s, x):
    with Notebook() as book, s.var_scope("all"):
        s += x + sgrt.gen("a")
        book.add(s["a"])
        if s["a"] == "one":
            raise Own(note("raised"))
        s += {}["missing"] if s["a"] == "two" else "no"
    s += "after" + sgrt.gen("b")


@sgrt.function
def runs_another(s, x):
    other = prints.run(x)
    s += other.text() + other["a"] + sgrt.gen("c")
    log.info("%s", s["c"])
    return s.call(note, other["b"], tag=1)


class Agent:
    def __init__(self):
        self.num_calls = 0

    def step(self, text):
        self.num_calls += 1
        return f"{self.num_calls}:{text}"

    @sgrt.function
    def act(self, s, x):
        s += self.step(x) + sgrt.gen("a")
        for i in range(2):
            s += self.step(s["a"]) + f"{i}"
        return self._hidden()

    def _hidden(self):
        return self.num_calls


def outcome(run, x, answers, capsys, caplog):
    LOG.clear()
    caplog.clear()
    backend = sgrt.ScriptedBackend(lambda p, c, q: answers[len(p) % len(answers)])
    try:
        state = run(x, backend=backend)
        told = state.text(), {n: str(state[n]) for n in state.variables()}, state.value
    except Exception as error:
        lines, trace = [], error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == __file__:
                lines.append((trace.tb_frame.f_code.co_name, trace.tb_lineno))
            trace = trace.tb_next
        told = type(error), str(error), lines[-1]
    shown = [(r.message, r.pathname, r.lineno, r.funcName) for r in caplog.records]
    asked = [(call.prompt, call.constraint) for call in backend.calls]
    return told, [*LOG], capsys.readouterr().out, shown, asked


@pytest.mark.parametrize("program", [prints, patterns, tools, managers, runs_another])
@pytest.mark.parametrize("answers", [["one"], ["two", "add"], ["fail", "one"]])
def test_plan_with_python_does_once_what_its_function_does(program, answers, capsys, caplog):
    caplog.set_level("INFO")
    plan = program.compile()
    assert plan.is_whole, str(plan)
    assert "calls Python" in str(plan)
    if program is runs_another:  # which has no backend but that of the run around it
        sgrt.set_default_backend(None)
    expected = outcome(program.run, "x", answers, capsys, caplog)
    assert outcome(plan.run, "x", answers, capsys, caplog) == expected


def test_methods_of_the_programs_object_are_called_by_the_plan(capsys, caplog):
    by_function, by_plan = Agent(), Agent()
    plan = by_plan.act.compile()
    assert plan.is_whole, str(plan)
    expected = outcome(by_function.act.run, "x", ["one"], capsys, caplog)
    assert outcome(plan.run, "x", ["one"], capsys, caplog) == expected
    assert by_plan.num_calls == by_function.num_calls == 3


def test_nothing_of_the_user_runs_when_a_plan_is_made_warmed_shown_or_written():
    @sgrt.function
    def program(s, x):
        s += "begin "
        note("side")
        s += f"more {len(RULES)} " + note(x) + sgrt.gen("a", regex=note("[a-z]"))
        RULES.append(x)

    RULES = []
    LOG.clear()
    plan = program.compile()
    backend = sgrt.ScriptedBackend(["a"])
    with plan.warm(backend) as warm:
        assert "".join(part.text for part in warm.prefix) == "begin more 0 "
    assert [g.constraint for g in plan.grammars()] == [None]
    with pytest.raises(PlanError, match=r"needs Python at .*: note\('side'\)"):
        plan.to_json()
    assert str(plan) and not LOG and not RULES


def test_prefix_ends_where_the_outside_may_change_what_it_says():
    @sgrt.function
    def program(s):
        rules = ["a"]
        s += "begin"
        note(rules)
        s += rules[0] + sgrt.gen("a")

    with program.compile().warm(sgrt.ScriptedBackend(["a"])) as warm:
        assert "".join(part.text for part in warm.prefix) == "begin"


@pytest.mark.parametrize(
    "used", ["note(s)", "note([s])", "note(s.fork(1))", "locals()", "eval('s')"]
)
def test_call_that_could_reach_the_state_stays_with_the_function(used, tmp_path):
    path = tmp_path / "reaches.py"
    path.write_text(f"def program(s, note):\n    s += 'a'\n    _ = {used}\n    s += 'b'\n")
    names = {}
    exec(compile(path.read_text(), str(path), "exec"), names)
    plan = sgrt.function(names["program"]).compile()
    assert not plan.is_whole
    assert "partial: the function runs" in str(plan)


def test_unused_generations_stay_where_the_outside_holds_states_or_may_generate():
    @sgrt.function
    def holds(s):
        kept = [s]
        s += sgrt.gen("a")
        note(kept)

    @sgrt.function
    def makes(s):
        s += sgrt.gen("a")
        s += TOOLS["gen"]()

    @sgrt.function
    def only_told(s):
        s += sgrt.gen("a")
        print(s["a"], end="")
        s += sgrt.gen("b")

    assert holds.compile(drop_unused=True).dropped == ()
    assert makes.compile(drop_unused=True).dropped == ()
    assert only_told.compile(drop_unused=True).dropped == ("b",)


@pytest.mark.parametrize("name", ["note", "len", "countdown"])
def test_deeply_nested_calls_are_read_once_each(name, tmp_path):
    path = tmp_path / "deep.py"
    path.write_text(f"def program(s, x):\n    s += {name + '('}{(name + '(') * 50}*x{')' * 51}\n")
    names = {"note": note, "countdown": countdown}
    exec(compile(path.read_text(), str(path), "exec"), names)
    assert sgrt.function(names["program"]).compile().is_whole
    path = tmp_path / "other.py"
    path.write_text(f"async def program(s, x):\n    s += {(name + '(') * 50}await x{')' * 50}\n")
    exec(compile(path.read_text(), str(path), "exec"), names)
    assert not sgrt.function(names["program"]).compile().is_whole


def test_plan_says_why_segments_end():
    shown = str(prints.compile())
    assert "| 'a' is read" in shown
    assert "s['n'] = " in (
        line := next(x for x in str(patterns.compile()).splitlines() if "'n'" in x)
    )
    assert "|" not in line  # it is given a value
