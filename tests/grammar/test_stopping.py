"""Stop patterns: the first complete match, wherever it begins and however the text is cut."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgrt.errors import InvalidSamplingParams
from sgrt.grammar import stopping
from sgrt.runtime.detokenizer import Detokenizer

PATTERNS = [
    "ab",
    "a+b",
    "a|bb",
    "ab*c",
    "[ab]c",
    "a.?b",
    "(ab)+c",
    "b{2,3}a",
    r"[bc]\s*$",
    "é",
    "[^a]c",
]


def _first_match(pattern: str, text: str) -> tuple[int, int] | None:
    """By trial: the earliest end, and of those the earliest beginning."""
    whole = re.compile(pattern)
    for end in range(1, len(text) + 1):
        for start in range(end):
            if whole.fullmatch(text, start, end):
                return start, end
    return None


def _pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for begin, end in itertools.pairwise(places):
        yield data[begin:end]


def _written(pattern: str, data: bytes, cuts: list[int]) -> tuple[Detokenizer, str]:
    """What a text in pieces has come to, and what was shown of it before its end."""
    pieces = list(_pieces(data, cuts))
    detokenizer = Detokenizer(lambda i: pieces[i], (), [stopping.compile(pattern)])
    shown = ""
    for i in range(len(pieces)):
        shown += detokenizer.push([i])
        if detokenizer.match is not None:
            break
    return detokenizer, shown


@pytest.mark.parametrize("pattern", PATTERNS)
@given(text=st.text("abc é\n", max_size=12), cuts=st.lists(st.integers(0, 30), max_size=6))
def test_text_ends_before_its_first_complete_match(
    pattern: str, text: str, cuts: list[int]
) -> None:
    detokenizer, shown = _written(pattern, text.encode(), cuts)
    found = _first_match(pattern, text)
    shown += detokenizer.finish()
    assert shown == detokenizer.text == (text if found is None else text[: found[0]])
    assert (detokenizer.match is None) == (found is None)
    if detokenizer.match is not None:
        assert detokenizer.match.stop == pattern


@pytest.mark.parametrize("pattern", PATTERNS)
@given(text=st.text("abc é\n", max_size=10), rest=st.text("abc é\n", max_size=4))
def test_what_is_shown_is_never_taken_back(pattern: str, text: str, rest: str) -> None:
    _, shown = _written(pattern, text.encode(), list(range(40)))
    whole = text + rest
    found = _first_match(pattern, whole)
    assert whole.startswith(shown)
    assert found is None or len(shown) <= found[0]


@given(st.binary(max_size=12))
def test_bytes_that_are_no_text_are_shown_as_without_a_pattern(data: bytes) -> None:
    detokenizer, shown = _written("zzz", data, list(range(12)))
    assert shown + detokenizer.finish() == data.decode("utf-8", "replace")


@pytest.mark.parametrize(
    "pattern",
    ["", "a*", "(", "^a", r"\Aa", "(a|^b)", r"a\bc", "(?=a)b", "a(?!b)", r"(a)\1", "x" * 2000,
     "[ab]*a[ab]{12}", "(a{50}){50}", "\ud800"],
)  # fmt: skip
def test_pattern_that_cannot_be_followed_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidSamplingParams, match="stop_regex"):
        stopping.compile(pattern)


def test_caret_in_a_class_or_escaped_is_no_anchor() -> None:
    for pattern in ("[^a]", r"\^", "[a^]"):
        stopping.compile(pattern)
