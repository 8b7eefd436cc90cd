"""What ordinary programs are written with: by plan and as written, the same comes out."""

# ruff: noqa: B012, B904, SIM401  (the programs are written as users write)

import math
from enum import Enum

import pytest
from test_plan_law import answer, outcome_of

import sgrt
from sgrt.lang.plan.plan import Plan


class Mood(Enum):
    CALM = "calm"
    WILD = "wild"


PROGRAMS = []


def case(*args, **kwargs):
    def keep(program):
        PROGRAMS.append(pytest.param(program, args, kwargs, id=f"{program._name}-{len(PROGRAMS)}"))
        return program

    return keep


@case("add", 1)
@case("neg", 1)
@case("sub", 1)
@case("sub", 5)
@case(None, 1)
@case("other", 1)
@sgrt.function
def matches(s, op, n):
    match op:
        case "add":
            s += "+" + sgrt.gen("plus")
        case "sub" | "neg" if n > 3:
            s += "-" + sgrt.gen("minus")
        case "sub":
            return "small"
        case None:
            s += "nothing"
        case what:
            s += f"{what}?" + sgrt.gen("what")
    match s.text()[-1]:
        case "!":
            s += "never"
    return op


@case(Mood.WILD)
@case(Mood.CALM)
@case(1)
@sgrt.function
def matches_what_was_written(s, mood):
    s += "Mood: " + sgrt.select("pick", ["yes", "no"])
    match s["pick"]:
        case "yes":
            s += " indeed"
        case _:
            s += " not"
    match mood:
        case Mood.WILD:
            s += "wild" + sgrt.gen("a")
        case 1 | 2:
            s += "number"


@case("abc")
@case("")
@sgrt.function
def names_on_the_way(s, x):
    if (n := len(x)) > 2 and (y := x.upper()):
        s += f"{n}{y}"
    while (n := n - 1) > 0:
        s += f"{n}" + sgrt.gen(f"g{n}")
    s += f"{(z := n * 2)}{z}" + sgrt.gen("a")
    if "4" in (found := s["a"]):
        s += found
    return n, z, found


@case([1, 2, 3], "ab")
@case([], "")
@sgrt.function
def comprehensions(s, xs, ys):
    pairs = [(x, y) for x in xs if x != 2 for y in ys]
    table = {f"{x}{y}": x for y in ys for x in xs if x > 1}
    s += " ".join(f"{x}{y}{z}" for x in xs for y in ys for z in range(x) if z != 1)
    s += str(sorted({y for x in xs for y in [x, x + 1]})) + sgrt.gen("a")
    return pairs, table, [x for row in [xs, xs] for x in row], any(x for x in xs for _ in ys)


@case([[1], [2, 3]])
@case([[1], 2])
@sgrt.function
def comprehension_that_may_fail(s, rows):
    s += "a" + sgrt.gen("a")
    s += str([x for row in rows for x in row])


@case("q", ["r", "t"])
@case("q", 3)
@sgrt.function
def displays(s, x, xs):
    s += "".join([x, *xs, x, *x]) + sgrt.gen("a")
    return [*xs], (*xs, x), sorted({*xs, *x})


@case("q")
@sgrt.function
def assignments(s, x):
    count: int
    a = b = x + "!"
    c = d = []
    c.append(1)
    _it8 = e = len(d)
    count = f = 0
    s += a + b + str(d) + sgrt.gen("a")
    return a, b, c, d, _it8, e, count, f


@case(10)
@case(-1)
@sgrt.function
def numbers(s, n):
    s += f"{math.sqrt(n):.2f} {math.floor(n / 3)} {math.log(n, 10)} {divmod(n, 3)}" + sgrt.gen("a")


@case("4", ["x"])
@case("four", ["x"])
@case("four", [])
@sgrt.function
def errors(s, x, xs):
    try:
        n = int(x)
        s += f"{n}" + sgrt.gen("n")
    except ValueError as error:
        s += f"no number ({error})"
        n = 0
    else:
        s += " fine"
    finally:
        s += "." + sgrt.gen("end")
    for y in (1, 0, 2, 3):
        try:
            if y == 2:
                continue
            if y == 3:
                break
            s += f"{6 // y}"
        except (KeyError, ZeroDivisionError):
            s += "zero"
        finally:
            s += "|"
    try:
        try:
            return xs[0]
        finally:
            s += "first"
    except LookupError:
        s += s["missing"] if "missing" in s else "none"
    return n


@case("b", 1)
@case("b", 0)
@sgrt.function
def errors_that_pass(s, x, n):
    s += x + sgrt.gen("a")
    try:
        try:
            s += f"{1 // n}"
        except ZeroDivisionError:
            raise ValueError(f"{x} by nothing")
        except ValueError:
            s += "not caught here"
    finally:
        s += "left"


@case("b")
@sgrt.function
def errors_of_the_model(s, x):
    s += x + sgrt.gen("a")
    try:
        found = s["a"]
    except sgrt.ProgramError as error:
        return error.variable
    try:
        return found + s["unknown"]
    except KeyError:
        return "?"
    except sgrt.SgrtError:
        return "sgrt"


@case("b")
@sgrt.function
def last_word(s, x):
    s += x + sgrt.gen("a")
    while True:
        try:
            s += x[7]
        finally:
            break
    try:
        return 1
    finally:
        try:
            s += x[8]
        except IndexError:
            return s["a"]


@case(2)
@sgrt.function
def forks_in_comprehensions(s, n):
    s += "q"
    groups = [s.fork(n) for _ in range(2)]
    texts = []
    for group in groups:
        for i, branch in enumerate(group):
            branch += f"{i}" + sgrt.gen("v")
            texts.append(branch["v"])
    return texts


@pytest.mark.parametrize("fail_on", [None, "a", "q"])
@pytest.mark.parametrize(("program", "args", "kwargs"), PROGRAMS)
def test_ordinary_program_by_plan_is_as_written(program, args, kwargs, fail_on):
    plan = program.compile()
    expected = outcome_of(program.run, args, kwargs, fail_on=fail_on)
    assert outcome_of(plan.run, args, kwargs, fail_on=fail_on) == expected
    if fail_on is None and not isinstance(args[0], Enum):  # errors name the plan, not its file
        again = Plan.from_json(plan.to_json())
        assert outcome_of(again.run, args, kwargs) == expected


def test_ordinary_programs_are_whole():
    assert all(p.values[0].compile().is_whole for p in PROGRAMS)


def written(tmp_path, body):
    """A program of these lines, in a file that pytest does not rewrite."""
    file = tmp_path / "written.py"
    text = f"import sgrt\n\n@sgrt.function\ndef program(s, x):\n    {body}\n"
    file.write_text(text)
    space = {}
    exec(compile(text, str(file), "exec"), space)
    return space["program"]


@pytest.mark.parametrize("x", ["", "x", "xy"])
def test_assertion_by_plan_holds_or_fails_as_written(x, tmp_path):
    program = written(
        tmp_path,
        "assert len(x) < 2\n    s += x + sgrt.gen('a')\n    assert x, f'{x!r} is nothing'",
    )
    plan = program.compile()
    assert plan.is_whole
    assert outcome_of(plan.run, (x,), {}) == outcome_of(program.run, (x,), {})


def test_name_given_to_what_is_not_known_is_not_known():
    @sgrt.function
    def program(s, x):
        n = "old"
        text = f"{(n := x)}"
        s += f"Begin {n} {text}" + sgrt.gen("a")

    backend = sgrt.ScriptedBackend(answer)
    assert "".join(t.text for t in program.compile().prefix(backend)) == "Begin "
    assert "".join(t.text for t in program.compile().prefix(backend, {"x": "X"})) == "Begin X X"


@pytest.mark.parametrize(
    "source",
    [
        "match x:\n        case [a, b]: s += a",
        "match x:\n        case {'k': v}: s += v",
        "match x:\n        case str(): s += x",
        "match x:\n        case v if v: s += v",
        "first, *rest = x",
        "try: s += x[5]\n    except: s += 'none'",
        "try: s += x[5]\n    except (lambda: IndexError)(): s += 'none'",
        "s += ''.join(y for i in range(2) if (y := x))",
    ],
)
def test_what_only_python_can_do_still_runs_by_the_function(source, tmp_path):
    program = written(tmp_path, f"{source}\n    s += sgrt.gen('a')")
    plan = program.compile()
    assert not plan.is_whole
    expected = outcome_of(program.run, ("xy",), {})
    assert outcome_of(plan.run, ("xy",), {}) == expected
