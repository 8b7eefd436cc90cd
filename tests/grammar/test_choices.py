"""Choices: exactly the options, whatever one is a prefix of."""

from __future__ import annotations

import time

import pytest
from grammar_support import bpe_vocabulary, compiler, grammar

from sgrt.core import Choices
from sgrt.errors import ConstraintError, GrammarBudgetExceeded
from sgrt.grammar.matcher import Matcher


def texts_of(options: tuple[str, ...], name: str) -> list[str]:
    """All texts a matcher can spell, by walking every path."""
    vocabulary = compiler(name).vocabulary
    found, todo = [], [(grammar(Choices(options), name).matcher(), b"")]
    while todo:
        matcher, text = todo.pop()
        if matcher.is_complete:
            found.append(text.decode())
        for token_id in matcher.allowed() or ():
            after: Matcher = matcher.fork()
            after.accept([token_id])
            todo.append((after, text + vocabulary.tokens[token_id]))
    return found


@pytest.mark.parametrize("name", ["bytes", "bpe"])
@pytest.mark.parametrize(
    "options",
    [
        ("a",),
        ("cat", "catfish", "ca"),
        ("é", "è", "日本", "日"),
        (" x", "x", "  x"),
        ("a", "b", "a"),
    ],
)
def test_choices_spell_exactly_the_options_each_once(options: tuple[str, ...], name: str) -> None:
    assert sorted(texts_of(options, name)) == sorted(set(options))


def test_choices_prefix_of_another_is_complete_but_not_final() -> None:
    matcher = grammar(Choices(("cat", "catfish"))).matcher()
    matcher.accept(list(b"cat"))
    assert matcher.is_complete and not matcher.is_final and matcher.forced() == []
    matcher.accept(list(b"f"))
    assert bytes(matcher.forced()) == b"ish" and not matcher.is_complete


def test_choices_take_canonical_tokens_only() -> None:
    vocabulary = bpe_vocabulary()
    matcher = grammar(Choices(("hello world",)), "bpe").matcher()
    assert matcher.forced() == vocabulary.encode("hello world")
    with pytest.raises(ConstraintError):
        matcher.accept([vocabulary.tokens.index(b"h")])


@pytest.mark.parametrize(
    ("options", "reason"),
    [((), "at least one"), (("a", ""), "''"), (("a", "\ud800"), "surrogate"), (("a", 3), "3")],
)
def test_choices_that_mean_nothing_are_refused(options: tuple[str, ...], reason: str) -> None:
    with pytest.raises(ConstraintError, match=reason):
        grammar(Choices(options))


def test_choices_too_many_or_too_long_are_over_budget() -> None:
    for options in (tuple(map(str, range(20_001))), ("x" * 2_000_000,)):
        with pytest.raises(GrammarBudgetExceeded):
            grammar(Choices(options))


def test_choices_of_twenty_thousand_options_compile_within_seconds() -> None:
    start = time.process_time()
    matcher = grammar(Choices(tuple(f"option number {i}" for i in range(20_000))), "bpe").matcher()
    matcher.accept(matcher.forced())
    assert 0 < len(matcher.allowed() or ()) <= 110
    assert time.process_time() - start < 10


def test_choices_shortest_completion_is_the_nearest_option_below_the_text() -> None:
    matcher = grammar(Choices(("abcdef", "abx", "abxyz", "q"))).matcher()
    assert bytes(matcher.shortest_completion() or ()) == b"q"
    matcher.accept(list(b"ab"))
    assert bytes(matcher.shortest_completion() or ()) == b"x"
    matcher.accept(list(b"x"))
    assert matcher.shortest_completion() == [] and not matcher.is_final
    matcher.accept(list(b"y"))
    assert bytes(matcher.shortest_completion() or ()) == b"z" == bytes(matcher.forced())
