"""The compiler: once per constraint, whoever asks, and errors that do not stick."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from grammar_support import byte_vocabulary

from sgrt.core import Choices, JsonSchema, Lark, Regex
from sgrt.errors import ConstraintError, ModelError, UnsupportedSchema
from sgrt.grammar import compiler as compiler_module
from sgrt.grammar.compiler import GrammarCompiler
from sgrt.grammar.vocabulary import Vocabulary


def test_compile_asked_for_by_many_at_once_builds_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, started, go_on = [], threading.Event(), threading.Event()
    source_of = compiler_module.source_of

    def slow(constraint: Any) -> str:
        calls.append(constraint)
        started.set()
        assert go_on.wait(10)
        return source_of(constraint)

    monkeypatch.setattr(compiler_module, "source_of", slow)
    compiler = GrammarCompiler(byte_vocabulary())
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(compiler.compile, Lark("start: /a+/")) for _ in range(8)]
        assert started.wait(10)
        go_on.set()
        grammars = {id(f.result(10)) for f in futures}
    assert len(grammars) == len(calls) == 1
    assert (compiler.stats.num_compiled, compiler.stats.num_cached) == (1, 7)
    assert compiler.stats.seconds >= compiler.stats.longest_seconds > 0


def test_compile_keeps_the_most_recently_used() -> None:
    compiler = GrammarCompiler(byte_vocabulary(), max_cached=2)
    a = compiler.compile(Regex("a"))
    compiler.compile(Regex("b"))
    assert compiler.compile(Regex("a")) is a
    compiler.compile(Regex("c"))  # b goes
    assert compiler.compile(Regex("a")) is a
    compiler.compile(Regex("b"))
    assert compiler.stats.num_compiled == 4


def test_compile_refusal_is_remembered_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, now = GrammarCompiler(byte_vocabulary()), [1000.0]
    monkeypatch.setattr(compiler_module.time, "monotonic", lambda: now[0])
    for seconds, num_refused, num_cached in ((0, 1, 0), (59, 1, 1), (2, 2, 1)):
        now[0] += seconds
        with pytest.raises(UnsupportedSchema):
            compiler.compile(JsonSchema('{"type":"nothing"}'))
        assert (compiler.stats.num_refused, compiler.stats.num_cached) == (num_refused, num_cached)


def test_compile_that_breaks_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no verdict on the constraint says nothing about the next time."""
    compiler = GrammarCompiler(byte_vocabulary())
    with monkeypatch.context() as patch:
        patch.setattr(compiler_module, "source_of", lambda constraint: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            compiler.compile(Lark('start: "a"'))
    assert compiler.compile(Lark('start: "a"')).matcher().forced() == [ord("a")]


def test_compile_forgets_the_least_recently_used_when_bytes_run_out() -> None:
    compiler = GrammarCompiler(byte_vocabulary(), max_bytes=900_000)
    large = Choices(("a" * 5_000,))  # counts as some 390 kB
    first = compiler.compile(large)
    for letter in "bcd":
        compiler.compile(Regex(letter))  # some 70 kB each
    assert compiler.compile(large) is first
    compiler.compile(Choices(("e" * 5_000,)))
    assert compiler.compile(large) is first
    for letter in "bcd":
        compiler.compile(Regex(letter))
    assert compiler.stats.num_compiled == 8


def test_compile_of_something_else_is_refused() -> None:
    with pytest.raises(ConstraintError, match="str is not a constraint"):
        GrammarCompiler(byte_vocabulary()).compile("a+")  # type: ignore[arg-type]


def test_vocabulary_with_a_special_id_out_of_range_is_refused() -> None:
    with pytest.raises(ModelError, match="300"):
        Vocabulary([b"a", b""], [300], 1, lambda text: [0], "x")


@pytest.mark.parametrize("size", [2, 31, 32, 33, 1000])
def test_vocabulary_of_any_size_masks_as_many_words(size: int) -> None:
    tokens = [b"", b"a"] + [b"x%d" % i for i in range(size - 2)]
    vocabulary = Vocabulary(tokens, [0], 0, lambda text: [1] * len(text), "sized")
    assert vocabulary.num_words == -(-size // 32)
    matcher = GrammarCompiler(vocabulary).compile(Regex("aa")).matcher()
    assert matcher.forced() == [1, 1]
