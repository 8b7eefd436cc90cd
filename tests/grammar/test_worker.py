"""Risky constraints: tried in a process that can be killed; nothing they do reaches this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from grammar_support import ENDLESS, byte_vocabulary, compiler_that_hangs

from sgrt.core import (
    Choices,
    Constraint,
    JsonSchema,
    Lark,
    OneOf,
    Regex,
    RepeatOf,
    SequenceOf,
    Substring,
)
from sgrt.errors import (
    ConstraintError,
    GrammarBudgetExceeded,
    GrammarSyntaxError,
    UnsupportedSchema,
)
from sgrt.grammar import compiler as compiler_module
from sgrt.grammar import limits
from sgrt.grammar.compiler import GrammarCompiler, build
from sgrt.grammar.risk import MAX_BYTES, risk
from sgrt.grammar.worker import Budget, CompileProcess, decode, decode_error, encode, encode_error

COSTLY = JsonSchema('{"type":"integer","multipleOf":249989}')  # a second, 100 MB
RISKY = JsonSchema('{"type":"integer","multipleOf":20011}')  # 0.1 s
REFUSED = JsonSchema('{"type":"integer","multipleOf":20011,"minimum":"x"}')


@pytest.fixture(scope="module")
def compiler() -> Iterator[GrammarCompiler]:
    compiler = compiler_that_hangs(2.5)
    yield compiler
    compiler.close()


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_worker_ends_a_compile_that_never_would(compiler: GrammarCompiler) -> None:
    compiler.compile(RISKY)
    pid = compiler.process.pid
    assert pid is not None
    start = time.monotonic()
    with pytest.raises(GrammarBudgetExceeded, match="seconds"):
        compiler.compile(ENDLESS)
    assert 2.4 < time.monotonic() - start < 60
    assert not is_running(pid)
    start = time.monotonic()
    with pytest.raises(GrammarBudgetExceeded, match="seconds"):
        compiler.compile(ENDLESS)  # remembered
    assert time.monotonic() - start < 2.4
    again = JsonSchema(RISKY.schema + " ")
    assert compiler.compile(again).matcher().fork().shortest_completion() == [ord("0")]


def test_worker_passes_on_what_is_within_the_budget(compiler: GrammarCompiler) -> None:
    assert compiler.compile(RISKY).matcher().completes(list(b"40022"))
    with pytest.raises(UnsupportedSchema, match="minimum") as caught:
        compiler.compile(REFUSED)
    with pytest.raises(UnsupportedSchema) as here:
        build(REFUSED, byte_vocabulary())
    assert vars(caught.value) == vars(here.value) and str(caught.value) == str(here.value)
    before = compiler.stats.num_proved
    compiler.compile(JsonSchema('{"type":"integer","multipleOf":7}'))
    assert compiler.stats.num_proved == before


def test_worker_takes_over_where_the_audit_takes_long(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = JsonSchema('{"type":"object","properties":{"late":{"type":"boolean"}}}')
    before = compiler.stats.num_proved
    monkeypatch.setattr(compiler_module, "_PATIENCE", 0.0)
    monkeypatch.setattr(limits, "_CALLS_PER_LOOK", 1)
    grammar = compiler.compile(small)
    assert compiler.stats.num_proved == before + 1
    assert grammar.matcher().completes(list(b'{"late":true}'))
    with limits.patience(1000):
        limits.check_patience()
    limits.check_patience()  # over with the block


ERRORS = [
    ConstraintError("a", hint="b"),
    UnsupportedSchema("\ud800", pointer="/a~1b", keyword="not", hint=None),
    GrammarSyntaxError("c", line=2, column=3),
    GrammarBudgetExceeded("bytes", 3.5, 2, hint="d"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_refusal_as_json_and_back_is_the_same(error: ConstraintError) -> None:
    again = decode_error(json.loads(json.dumps(encode_error(error))))
    assert (type(again), vars(again), str(again)) == (type(error), vars(error), str(error))


def test_worker_asked_by_many_at_once_answers_each(compiler: GrammarCompiler) -> None:
    constraints = [JsonSchema(f'{{"type":"integer","multipleOf":{20_000 + i}}}') for i in range(6)]
    with ThreadPoolExecutor(6) as pool:
        grammars = list(pool.map(compiler.compile, constraints))
    for i, grammar in enumerate(grammars):
        assert grammar.matcher().completes(list(str((20_000 + i) * 3).encode()))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the size of a process")
def test_worker_ends_a_compile_that_takes_too_much_memory() -> None:
    process = CompileProcess(byte_vocabulary(), Budget(seconds=30, memory=32 << 20))
    try:
        with pytest.raises(GrammarBudgetExceeded, match="bytes of memory"):
            process.prove(COSTLY)
        process.prove(RISKY)
    finally:
        process.close()


CRASH = (
    "import os, sgrt.grammar.worker as w; "
    "w.source_of = lambda c: os.kill(os.getpid(), 11) if 'x' in c.schema else 'start: \"a\"'; "
    "w.main()"
)


def test_worker_crash_is_named_and_ends_nothing_else() -> None:
    process = CompileProcess(byte_vocabulary(), Budget(), command=(sys.executable, "-c", CRASH))
    try:
        process.prove(JsonSchema("{}"))
        first = process.pid
        with pytest.raises(ConstraintError, match="SIGSEGV"):
            process.prove(JsonSchema('{"x":1}'))
        process.prove(JsonSchema("{}"))
        assert process.pid not in (None, first)
    finally:
        process.close()


@pytest.mark.parametrize("command", [("/nowhere/python",), (sys.executable, "-c", "")])
def test_worker_that_cannot_run_means_risky_is_refused(command: tuple[str, ...]) -> None:
    compiler = GrammarCompiler(byte_vocabulary())
    compiler.process = CompileProcess(byte_vocabulary(), Budget(), command=command)
    with pytest.raises(ConstraintError, match="cannot run"):
        compiler.compile(RISKY)
    assert compiler.process.pid is None
    compiler.compile(Regex("a+"))


def test_worker_ends_with_its_parent_and_when_closed() -> None:
    code = (
        "import sys, os; sys.path.insert(0, 'tests/grammar')\n"
        "from test_worker import *\n"
        "c = GrammarCompiler(byte_vocabulary()); c.compile(RISKY)\n"
        "print(c.process.pid, flush=True); os._exit(0)"
    )
    root = __file__.rsplit("/tests/", 1)[0]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert_ends(int(done.stdout))
    own = GrammarCompiler(byte_vocabulary())
    own.compile(RISKY)
    pid = own.process.pid
    assert pid is not None and is_running(pid)
    own.close()
    own.close()
    assert own.process.pid is None and not is_running(pid)


def assert_ends(pid: int) -> None:
    end = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < end, f"process {pid} outlives its parent"
        time.sleep(0.02)


def test_worker_imports_no_torch() -> None:
    code = "import sgrt.grammar.worker, sgrt.grammar.compiler, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "sgrt.grammar.worker" in done.stdout
    assert not {"torch", "transformers", "tokenizers"} & set(done.stdout.split())


CONSTRAINTS: list[Constraint] = [
    JsonSchema('{"const":"é\\n"}'),
    Regex("a\ud800\x00"),
    Choices(("a", "b")),
    Lark("start: /a/"),
    Substring("a b", by="words"),
    SequenceOf(("x", OneOf((Regex("a"), "b")), RepeatOf(Choices(("c",)), 1, None, ","))),
]


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=lambda c: type(c).__name__)
def test_constraint_as_json_and_back_is_the_same(constraint: Constraint) -> None:
    assert decode(json.loads(json.dumps(encode(constraint)))) == constraint


def test_something_else_as_json_is_refused() -> None:
    for value in (b"bytes", object(), Budget(), (1, {2})):
        with pytest.raises(ConstraintError, match="is not a constraint"):
            encode(value)


@pytest.mark.parametrize(
    ("constraint", "why"),
    [
        (RISKY, "multipleOf of 20011"),
        (JsonSchema('{"allOf":[{"multipleOf":503},{"multiple\\u004ff":20.9}]}'), "multipleOf"),
        (Lark("start: " + '"a"' * (MAX_BYTES // 3 + 1)), "bytes"),
        (SequenceOf(("a", RISKY)), "multipleOf"),
        (RepeatOf(RepeatOf("a", 200, 200), 0, 90), "repeats"),
        (Lark("start: A{300}\nA: /a{1,300}/"), "repeats"),
        (Lark("start: A~300\nA: B ~ 2..300\nB: /b/"), "repeats"),
    ],
)
def test_risk_of_what_multiplies_is_seen(constraint: Constraint, why: str) -> None:
    assert why in str(risk(constraint))


@pytest.mark.parametrize(
    "constraint",
    [
        Regex("(a{300}){300}"),
        Choices(("a" * MAX_BYTES,) * 2),
        JsonSchema('{"type":"number","multipleOf":0.01,"maximum":1e300}'),
        JsonSchema('{"properties":{"multipleOf":{"maxLength":100000}}}'),
        JsonSchema('{"anyOf":[{"multipleOf":5000},{"multipleOf":2500},{"multipleOf":5000}]}'),
        JsonSchema("not json"),
        JsonSchema('{"const":"' + "a" * MAX_BYTES + '"}'),
        Substring("1,000,000 and 2,000,000 and {9000}"),
    ],
)
def test_risk_of_what_is_bounded_elsewhere_is_none(constraint: Constraint) -> None:
    assert risk(constraint) is None
