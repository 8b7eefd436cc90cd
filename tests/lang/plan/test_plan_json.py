"""Plans as text: what they keep, and what they cannot be made to do."""

import copy
import enum
import json
import random
import resource
import time
from typing import get_args

import pytest
from pydantic import BaseModel

import sgrt
from sgrt import constraint_json
from sgrt.core import Constraint, Lark, Regex, RepeatOf, SequenceOf, StructuralTag, Structure
from sgrt.errors import PlanError, SgrtError
from sgrt.lang.plan import code, constants
from sgrt.lang.plan.bounded import Limits
from sgrt.lang.plan.plan import Plan

DATE = SequenceOf((Regex("[0-9]{4}"), "-", RepeatOf(Regex("[0-9]"), 1, 2, separator="x")))


class Answer(BaseModel):
    text: str


class Colour(enum.Enum):
    RED = "red"


def new_backend():
    return sgrt.ScriptedBackend(
        lambda prompt, constraint, params: '{"text":"t"}' if constraint else "said",
        scores=lambda prompt, option: -1.0,
    )


@sgrt.function
def program(s, x, items=("a", "b"), *rest, flag=False, **more):
    s += f"{x!r:>5}" + sgrt.gen("a", max_tokens=4)
    for i, item in enumerate(items):
        s += f"{i}{item}" + " ".join(str(r) for r in rest) + more.get("y", "-")
    if flag and s["a"] == "said":
        s += sgrt.gen("b", output=Answer) + Colour.RED.value
        return s["b"].text, 1.5, float("inf")
    child = s.fork(2)
    child += lambda i: sgrt.select("c", ["p", "q"])
    child.join()
    total = 0
    while total < 3:
        total += 1
    return s["c"], total


def written():
    return json.loads(program.compile().to_json())


def test_plan_read_again_runs_with_new_arguments():
    plan = Plan.from_json(program.compile().to_json())
    for args, named in [(("v",), {}), (("v", ["c"], 1, 2), {"flag": True, "y": "z"})]:
        a = program.run(*args, **named, backend=new_backend())
        b = plan.run(*args, **named, backend=new_backend())
        assert a.text() == b.text()
        if not named:
            assert a.value == b.value
    assert b.value == ("t", 1.5, float("inf"))
    assert any("Answer became its JSON schema" in note for note in plan.notes)
    assert Plan.from_json(plan.to_json()).to_json() == plan.to_json()


def test_plan_text_names_no_directories():
    assert "/" not in json.loads(program.compile().to_json())["procedures"][0]["file"]


def test_errors_of_a_plan_read_again_have_its_lines():
    @sgrt.function
    def failing(s, x):
        s += x
        s += sgrt.gen("a", regex="[0-9]+")
        return s["b"]

    plan = Plan.from_json(failing.compile().to_json())
    with pytest.raises(sgrt.ProgramError) as here:
        failing.run("x", backend=new_backend())
    with pytest.raises(sgrt.ProgramError) as there:
        plan.run("x", backend=new_backend())
    line = here.value.location.rpartition(":")[2]
    assert there.value.location == f"<plan test_plan_json.py>:{line}"


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 3, -1.5, "text", [1, [2]], (1, ("a",)), {1, 2}, {"a": {"b": [1]}, 1: 2}),
        *(float("inf"), DATE, Lark("sql_select"), int, bool),
        StructuralTag((Structure("<f>", sgrt.core.JsonSchema("{}"), "</f>"),), ("<f>",)),
    ],
)
def test_constant_is_read_as_it_was(value):
    text = json.dumps(constants.Writer().write(value))
    again = constants.read(json.loads(text))
    assert again == value and type(again) is type(value)


def test_every_kind_of_constraint_can_be_written():
    assert set(get_args(Constraint)) < set(constraint_json.KINDS.values())
    with pytest.raises(PlanError, match="the parts of SequenceOf"):
        constants.read({"constraint": {"is": "SequenceOf", "parts": {"tuple": [1]}}})
    with pytest.raises(PlanError, match="the at_least of RepeatOf"):
        fields = {"part": "a", "at_least": True, "at_most": None, "separator": ""}
        constants.read({"constraint": {"is": "RepeatOf", **fields}})


@pytest.mark.parametrize("value", [object(), lambda: 1, 1j, b"b", Answer(text="x"), print])
def test_constant_without_json_is_refused(value):
    with pytest.raises(PlanError, match="cannot be part of a plan's text"):
        constants.Writer().write(value)


def test_plan_that_needs_python_is_not_written():
    @sgrt.function
    def noisy(s, x):
        s += x
        print(x)

    with pytest.raises(PlanError, match=r"needs Python at .*test_plan_json.py:\d+: print"):
        noisy.compile().to_json()

    thing = object()

    @sgrt.function
    def outside(s):
        s += f"{thing}"

    with pytest.raises(PlanError, match=r"test_plan_json.py:\d+: <object"):
        outside.compile().to_json()


# ---------------------------------------------------------------- what others may send


def node(kind, **fields):
    return {"is": kind, "line": 1, **fields}


def const(value):
    return {"is": "Const", "value": value}


def local(name):
    return {"is": "Local", "name": name}


def call(function, *args, **named):
    return node(
        "Call", function=function, args=list(args), names=list(named), values=list(named.values())
    )


def method(value, name, *args):
    return node("Method", value=value, name=name, args=list(args), names=[], values=[])


def plan_of(*body, **changes):
    procedure = {
        "name": "f",
        "file": "f.py",
        "line": 1,
        "parameters": [{"name": "s", "kind": 1}, {"name": "x", "kind": 1}],
        "body": list(body),
    }
    return {"sgrt_plan": 1, "notes": [], "procedures": [procedure], **changes}


def do(value):
    return node("Do", value=value)


def assign(name, value):
    return node("Assign", target=local(name), value=value)


def binary(op, left, right):
    return node("Binary", op=op, left=left, right=right)


def try_(body, *errors, **changes):
    handler = node("Except", errors=list(errors or ("Exception",)), names=[], body=[do(const(1))])
    return node("Try", **{"body": body, "handlers": [handler], "other": [], "final": []} | changes)


def deep(depth):
    value = const(1)
    for _ in range(depth):
        value = {"is": "Unary", "op": "-", "value": value, "line": 1}
    return do(value)


@pytest.mark.parametrize(
    "body",
    [
        try_([], "BaseException"),
        try_([], "open"),
        try_([], handlers=[]),
        try_([], handlers=[do(const(1))]),
        try_(try_([])["handlers"]),
        try_([])["handlers"][0],
        try_([], handlers=[{**try_([])["handlers"][0], "names": ["a", "b"]}]),
        try_([], handlers=[{**try_([])["handlers"][0], "errors": []}]),
    ],
    ids=json.dumps,
)
def test_handler_that_is_none_is_refused(body):
    with pytest.raises(PlanError):
        Plan.from_json(json.dumps(plan_of(body)))


@pytest.mark.parametrize(
    "text",
    [
        *("", "null", "[]", "{", '"x"', "1", "{}", "[" * 100_000, b"\xff\xfe", '{"sgrt_plan": 1}'),
        json.dumps(plan_of(sgrt_plan=2)),
        json.dumps(plan_of(sgrt_plan=True)),
        json.dumps(plan_of(extra=1)),
        json.dumps(plan_of(procedures=[])),
        json.dumps(plan_of(do(local("__class__")))),
        json.dumps(plan_of(do(local("if")))),
        json.dumps(plan_of(do({"is": "Global", "name": "open"}))),
        json.dumps(plan_of({"is": "Python", "line": 1, "last": 1, "reason": "", "calls": []})),
        json.dumps(plan_of(do(call("eval", const("1"))))),
        json.dumps(plan_of(do(call("__import__", const("os"))))),
        json.dumps(plan_of(do(method(const(""), "format", local("s"))))),
        json.dumps(plan_of(do(method(local("s"), "__init__")))),
        json.dumps(plan_of(do(method(local("s"), "call")))),
        json.dumps(plan_of(do(binary("**", const(9), const(9))))),
        json.dumps(plan_of(do(node("Attr", value=local("s"), name="__dict__")))),
        json.dumps(plan_of(node("Assign", target=const(1), value=const(1)))),
        json.dumps(plan_of(node("Append", target=const(1), value=const(1)))),
        json.dumps(plan_of(node("Assign", target=local("a"), value=const(1), line=-1))),
        json.dumps(plan_of(node("Raise", value=local("x")))),
        json.dumps(plan_of(node("Raise", value=call("len", const(""))))),
        json.dumps(plan_of(do(const({"constraint": {"is": "Regex", "pattern": 5}})))),
        json.dumps(plan_of(do(const({"constraint": {"is": "Regex"}})))),
        json.dumps(plan_of(do(const({"set": [{"list": []}]})))),
        json.dumps(plan_of(do(const({"schema": {"name": "A", "schema": "not json"}})))),
        json.dumps(plan_of(do(const({"type": "object"})))),
        json.dumps(plan_of(do(const([1])))),
        json.dumps(plan_of(do(const({"float": "1e5"})))),
        json.dumps(plan_of()).replace('"x"', '"backend"'),
        json.dumps(plan_of(deep(200))),
        json.dumps(plan_of(*[do(const(1))] * 26_000)),
        json.dumps(plan_of(do(node("Inline", procedure=0, args=[], names=[], values=[])))),
        json.dumps(plan_of(do(node("Inline", procedure=1, args=[], names=[], values=[])))),
    ],
    ids=lambda text: str(text[-60:]),
)
def test_text_that_is_no_plan_is_refused(text):
    with pytest.raises(PlanError):
        Plan.from_json(text)


big = assign("big", binary("*", const("x"), const(1_000_000)))
forever = [node("While", test=const(True), body=[do(const(1))], other=[])]


def grow(op_value, times=60):
    """``x = [1]``, then ``x = op(x)`` again and again."""
    return [
        assign("v", {"is": "Items", "kind": "list", "items": [const(1)]}),
        *[assign("v", op_value)] * times,
    ]


twice = {"is": "Items", "kind": "list", "items": [local("v"), local("v")]}


@pytest.mark.parametrize(
    "body",
    [
        forever,
        [node("While", test=const(True), body=[node("Append", target=local("s"), value=const("x"))], other=[])],
        [do(binary("*", const("x"), const(10**9)))],
        [do(binary("*", {"is": "Items", "kind": "list", "items": [const(1)]}, const(10**9)))],
        [big, do(method(local("big"), "replace", const("x"), local("big")))],
        [big, do(method(local("big"), "join", method(local("big"), "split", const("x"))))],
        [big, do(call("json.dumps", local("big"), indent=const(10**9)))],
        [big, *[do(method(local("big"), "upper"))] * 50],
        [do(method(const("x"), "ljust", const(10**9)))],
        [do(method(const("x"), "zfill", const(10**9)))],
        [do(node("Format", value=const(1), conversion="", spec=const("1000000000d")))],
        [do(node("Format", value=const(1.0), conversion="", spec=const(".1000000f")))],
        [do(binary("%", const("%1000000000d"), const(1)))],
        [do(binary("%", const("%*d"), const({"tuple": [10**9, 1]})))],
        [do(binary("%", const("%.999999999f"), const(1.0)))],
        [big, do(binary("%", const("%(a)s" * 1000), {"is": "Dict", "keys": [const("a")], "values": [local("big")]}))],
        [do(call("list", call("range", const(10**12))))],
        [do(call("sum", call("range", const(10**12))))],
        [do(call("sorted", call("range", const(10**30))))],
        [do(call("round", const(1), const(-(10**9))))],
        [assign("v", const(3)), *[assign("v", binary("*", local("v"), local("v")))] * 60],
        [*grow(twice), do(call("str", local("v")))],
        [*grow(twice), do(call("json.dumps", local("v")))],
        [*grow(twice), do(node("Compare", left=local("v"), ops=["=="], rights=[local("v")]))],
        [*grow(twice), do(node("Format", value=local("v"), conversion="r", spec=None))],
        [*grow(twice), node("Assign", target=node("Item", value=local("s"), index=local("v")), value=const(1))],
        grow(binary("+", local("v"), local("v"))),
        [*grow(local("v"), 1), *[do(method(local("v"), "extend", local("v")))] * 40],
        [do(method(local("s"), "fork", const(10**9)))],
        [do(method(local("s"), "fork", const(100)))] * 3,
        [node("Append", target=local("s"), value=call("gen", n=const(10**9)))],
        [node("Append", target=local("s"), value=call("gen", choices=call("list", call("range", const(90_000)))))],
        [node("For", target=local("i"), items=call("range", const(2000)), other=[],
              body=[node("Append", target=local("s"), value=call("gen"))])],
        [node("Append", target=local("x"), value=const("a"))],
        [do(node("Attr", value=local("s"), name="run"))],
        [do(node("Attr", value=local("x"), name="gi_frame"))],
        [do(method(local("x"), "user"))],
        [do(node("Item", value=call("enumerate", const("a")), index=const(0)))],
        [do(binary("+", call("gen"), local("s")))],
        [try_(forever)],
        [node("While", test=const(True), body=[try_([big])], other=[])],
    ],
    ids=lambda body: json.dumps(body[-1])[-80:],
)  # fmt: skip
def test_plan_that_does_too_much_is_stopped(body):
    plan = Plan.from_json(json.dumps(plan_of(*body)))
    begun, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((PlanError, TypeError)) as raised:
        plan.run("x", backend=new_backend())
    assert raised.type is PlanError or raised.match("unsupported|can only|NoneType")
    assert time.process_time() - begun < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 500_000


def each(kind, element, items):
    named = {"kind": kind, "element": element, "target": local("q"), "items": items, "tests": []}
    return {"is": "Each", "line": 1, **named}


def tower(op_value):
    """``v = op(v)`` 5,000 times, then all of it is read."""
    loop = node(
        "For", target=local("i"), items=call("range", const(5_000)), other=[],
        body=[assign("v", op_value)],
    )  # fmt: skip
    return [assign("v", call("range", const(1))), loop, do(call("str", call("list", local("v"))))]


@pytest.mark.parametrize(
    "body",
    [
        tower(each("iter", local("q"), local("v"))),
        tower(each("chain", {"is": "Items", "kind": "list", "items": [local("q")]}, local("v"))),
        tower(call("enumerate", local("v"))),
        tower(call("zip", local("v"))),
        tower(call("reversed", call("list", local("v")))),
        tower({"is": "Items", "kind": "list", "items": [local("v")]}),
        [do(each("list", const(1), each("chain", call("range", const(99_999)), call("range", const(99_999)))))],
        [do(call("any", each("chain", each("iter", const(0), call("range", const(99_999))), call("range", const(99_999)))))],
    ],
    ids=lambda body: json.dumps(body[-2:])[-80:],
)  # fmt: skip
def test_values_built_on_values_end_or_are_stopped(body):
    plan = Plan.from_json(json.dumps(plan_of(*body)))
    plan.prefix(new_backend())
    begun = time.process_time()
    try:
        plan.run("x", backend=new_backend())
    except PlanError as error:
        assert "limit" in str(error) or "too deeply" in str(error)
    assert time.process_time() - begun < 10


def test_foreign_plan_iterates_what_is_lazy_as_python_does():
    @sgrt.function
    def lazily(s, xs):
        for i in reversed(range(3)):
            s += f"{i}"
        for i, (a, b) in enumerate(zip(xs, (x * 2 for x in xs), strict=False)):
            s += f"{i}{a}{b}"
        s += ",".join(str(x) for x in (y + 1 for y in xs if y)) + sgrt.gen("a")

    again = Plan.from_json(lazily.compile().to_json())
    texts = [p.run([1, 2], backend=new_backend()).text() for p in (lazily, again)]
    assert texts[0] == texts[1]


def test_looking_at_a_foreign_plan_stays_within_limits():
    bomb = call("gen", regex=binary("*", const("x"), const(10**10)))
    plan = Plan.from_json(json.dumps(plan_of(node("Append", target=local("s"), value=bomb))))
    assert [grammar.constraint for grammar in plan.grammars()] == [None]
    assert "10000000000" in str(plan)


def test_limits_are_the_readers_choice():
    text = json.dumps(plan_of(*[node("Append", target=local("s"), value=const("ab"))] * 10))
    assert Plan.from_json(text).run("x", backend=new_backend()).text() == "ab" * 10
    with pytest.raises(PlanError, match="limit of 20 steps"):
        Plan.from_json(text, limits=Limits(steps=20)).run("x", backend=new_backend())


def test_arguments_of_a_foreign_plan_are_plain_values():
    plan = Plan.from_json(program.compile().to_json())
    with pytest.raises(PlanError, match="plain values, not on object"):
        plan.run(object(), backend=new_backend())


def _places(value, found):
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            found.append((value, key))
            _places(value[key], found)
    return found


def _kind(value):
    """Values that may stand in for each other."""
    if isinstance(value, dict):
        return "statement" if str(value.get("is")) in code.STATEMENTS else "is" in value
    return type(value)


def test_damaged_plan_is_refused_or_runs_within_its_limits():
    choose = random.Random(3)
    valid = written()
    junk = [None, True, -1, 7, 1e300, "", "s", "__class__", [], {}, "gen", "str", {"list": []}]
    num_read = 0
    for _ in range(150):
        plan = copy.deepcopy(valid)
        places = _places(plan, [])
        for _ in range(choose.randint(1, 3)):
            container, key = choose.choice(places)
            alike = [v for c, k in places if _kind(v := c[k]) == _kind(container[key])]
            value = choose.choice(junk if choose.random() < 0.1 else alike)
            container[key] = copy.deepcopy(value)
        try:
            read = Plan.from_json(json.dumps(plan), limits=Limits(steps=5_000))
        except PlanError:
            continue
        num_read += 1
        str(read), read.grammars(), read.prefix(new_backend())
        try:
            read.run("x", backend=new_backend()).error()
        except SgrtError:
            pass
        except Exception as error:  # what the same Python would raise
            assert isinstance(
                error, (TypeError, ValueError, LookupError, NameError, AttributeError)
            )
    assert num_read > 30


def test_every_node_can_be_written_and_read():
    kinds = {
        type(n).__name__ for p in program.compile().image.procedures for n in code.walk(*p.body)
    }
    assert {
        "Append",
        "For",
        "If",
        "While",
        "Lambda",
        "Each",
        "Format",
        "Method",
        "Augment",
    } <= kinds
