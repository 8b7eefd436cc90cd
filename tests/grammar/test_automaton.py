"""Automata against `re` on enumerated strings."""

from __future__ import annotations

import itertools
import re

import pytest

from sgrt.errors import GrammarBudgetExceeded, GrammarSyntaxError
from sgrt.grammar import automaton, charset, formats, regex, unparse
from sgrt.grammar.automaton import Automaton

PATTERNS = [
    "a", "^a+$", "b$", "[^a]", "a|^b$", "^(?:a|bc)*$", "(ab)+", "a{2,3}", "^$", "x?y*", "^a.c$",
    "(^a|b$)", "^(a?b){1,2}c*$", "[a-b]{2}|c",
]  # fmt: skip
TEXTS = ["".join(letters) for n in range(5) for letters in itertools.product("abcx", repeat=n)]


def _compile(pattern: str) -> Automaton:
    return automaton.compile(regex.rewrite(pattern, regex.JSON_PATTERN))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_automaton_of_a_pattern_matches_what_re_finds(pattern: str) -> None:
    compiled = _compile(pattern)
    for text in TEXTS:
        assert compiled.matches(text) == bool(re.search(pattern, text)), text


@pytest.mark.parametrize("pattern", PATTERNS)
def test_automaton_complement_written_back_is_the_complement(pattern: str) -> None:
    compiled = _compile(pattern)
    again = automaton.compile(unparse.to_pattern(~compiled))
    assert all(compiled.matches(t) != again.matches(t) for t in [*TEXTS, "é", "😀", "\n"])
    assert (compiled & again).is_empty()


def test_automaton_of_two_patterns_is_the_set_operation() -> None:
    for left, right in itertools.combinations(PATTERNS, 2):
        a, b = _compile(left), _compile(right)
        meet, join = a & b, a | b
        for text in TEXTS[::7]:
            assert meet.matches(text) == (a.matches(text) and b.matches(text))
            assert join.matches(text) == (a.matches(text) or b.matches(text))
        assert meet.is_empty() <= (not any(meet.matches(t) for t in TEXTS))


def test_automaton_of_any_operation_has_no_state_and_no_class_too_many() -> None:
    """Where two states accept the same texts, some row of the table would be there twice."""
    ends_in_b = _compile("b$")
    for one in (ends_in_b & _compile("^a"), ends_in_b | automaton.of_texts(["ab", "aab", "b"])):
        assert len(set(zip(one.accepting, one.table, strict=True))) == len(one.table)
        columns = list(zip(*one.table, strict=True))
        assert len(set(columns)) == len(columns) == len(set(one.classes))
        assert all(a != b for a, b in itertools.pairwise(one.classes))
    assert len((ends_in_b | ~ends_in_b).table) == len((ends_in_b & ~ends_in_b).table) == 1
    words = automaton.of_texts(f"{first}{'x' * 20}y" for first in "abcdef")
    assert len(words.table) == 1 + 21 + 1 + 1  # start, one path that all share, end, dead end


@pytest.mark.parametrize("escape", [r"\d", r"\w", r"\s"])
def test_automaton_class_of_a_shorthand_holds_what_re_matches(escape: str) -> None:
    ranges = charset.python_class(escape)
    assert charset.charset(ranges) == ranges
    chars = {
        chr(c)
        for c in (*range(0x3000), *(edge + d for r in ranges for edge in r for d in (-1, 0, 1)))
        if c >= 0 and not 0xD800 <= c <= 0xDFFF
    }
    held = {c for c in chars if any(low <= ord(c) <= high for low, high in ranges)}
    assert held == {c for c in chars if re.match(escape, c)}


def test_automaton_of_texts_and_lengths_holds_exactly_them() -> None:
    texts = automaton.of_texts(["ab", "", "a.c"])
    assert [t for t in TEXTS if texts.matches(t)] == ["", "ab"]
    assert texts.matches("a.c")
    lengths = automaton.of_length(1, 2)
    assert [n for n in range(5) if lengths.matches("😀" * n)] == [1, 2]


@pytest.mark.parametrize("name", ["date", "time", "duration", "uuid", "ipv4"])
def test_automaton_of_a_format_matches_what_its_regex_does(name: str) -> None:
    pattern = formats.REGULAR_FORMATS[name]
    compiled = automaton.compile(pattern)
    for text in ["2024-02-29", "2023-02-29", "23:59:59Z", "PT1H", "P", "1.2.3.4", "1.2.3.256"]:
        assert compiled.matches(text) == bool(re.fullmatch(pattern, text))


@pytest.mark.parametrize("pattern", ["(a|b)*a(a|b){30}", "(?:a{1000}){30}", "a.{12}b"])
def test_automaton_too_large_is_refused(pattern: str) -> None:
    with pytest.raises(GrammarBudgetExceeded):
        unparse.to_pattern(~_compile(pattern))


LOOK_AHEADS = [
    r"^(?!a)", r"^(?!.*b)[ab]*$", r"^a(?=b)", r"(?!ab)a", r"^(?=a*$)", r"^(?:a(?!b)|b(?=a))+?$",
    r"^[ab](?:(?!.*aa)[ab]*b)?$", r"^(?!a)(?!b).", r"^(?=.a)^b", r"(a(?!a)){2}", r"^(?!(?=b)ba)",
    r"(?=a)b", r"^(?!a$|b$)",
]  # fmt: skip


@pytest.mark.parametrize("pattern", LOOK_AHEADS)
def test_look_ahead_allows_the_texts_that_python_finds(pattern: str) -> None:
    if "+?" in pattern:
        with pytest.raises(GrammarSyntaxError, match="look-ahead in an endless repeat"):
            _compile(pattern)
        return
    allowed = _compile(pattern)
    for text in TEXTS:
        assert allowed.matches(text) == bool(re.search(pattern, text)), text


def test_look_ahead_that_readers_disagree_about_excludes_what_any_of_them_finds() -> None:
    # "." takes a line end for nobody, U+2028 for Python alone, so its presence proves nothing.
    allowed = _compile(r"^(?!.*x)")
    assert not allowed.matches("\u2028x") and not allowed.matches("ax")
    assert allowed.matches("\nx") and allowed.matches("\u2028y")


def test_automata_are_equal_exactly_where_they_accept_the_same_texts() -> None:
    patterns = ["a", "a|a", "(a|b)*", "[ab]*", "(b|a)+|", "a{1,3}", "a(a(a)?)?", "^[^a]", "[^ab]|b"]
    automata = [_compile(f"^(?:{pattern.lstrip('^')})$") for pattern in patterns]
    for one in automata:
        for other in automata:
            differ = (one & ~other) | (~one & other)
            assert one.is_same(other) == differ.is_empty()


def test_texts_of_an_automaton_are_listed_or_too_many() -> None:
    assert _compile("^(a|bc?){1,2}$").texts(20) == sorted(
        t for t in TEXTS if re.fullmatch("(a|bc?){1,2}", t)
    )
    assert _compile("^a*$").texts(1000) is None and _compile("^.$").texts(1000) is None
    assert automaton.NOTHING.texts(0) == []


_LANGUAGES = ("a*", "b", "(?:a|b){2,3}", "[a-c]*c", "(?:ab)+")


def test_cells_of_any_languages_hold_each_text_once_and_as_said() -> None:
    languages = [automaton.compile(pattern) for pattern in _LANGUAGES]
    named = [(language, frozenset((i,))) for i, language in enumerate(languages)]
    cells = automaton.cells(named, lambda one, other: one | other, frozenset[int]())
    for text in map(
        "".join, itertools.chain(*(itertools.product("abcd", repeat=n) for n in range(5)))
    ):
        held = frozenset(i for i, language in enumerate(languages) if language.matches(text))
        assert [name for name, cell in cells.items() if cell.matches(text)] == [held]
    assert not any(cell.is_empty() for cell in cells.values())


@pytest.mark.parametrize("one", _LANGUAGES)
@pytest.mark.parametrize("other", _LANGUAGES)
def test_languages_meet_where_their_intersection_is_not_empty(one: str, other: str) -> None:
    a, b = automaton.compile(one), automaton.compile(other)
    assert a.meets(b) == (not (a & b).is_empty())


@pytest.mark.parametrize("pattern", [*_LANGUAGES, "a{5}", "(?:a{4})*", "[ab]{0,3}"])
@pytest.mark.parametrize(("low", "high"), [(0, None), (0, 3), (2, 4), (5, None), (3, 2)])
def test_texts_of_some_lengths_are_counted_as_they_are_listed(
    pattern: str, low: int, high: int | None
) -> None:
    language = automaton.compile(pattern)
    listed = [
        text
        for n in range(low, 6 if high is None else high + 1)
        for text in map("".join, itertools.product("abc", repeat=n))
        if language.matches(text)
    ]
    count = language.num_texts(low, high, 10)
    assert count == len(listed) if count <= 10 else len(listed) > 10 or high is None
