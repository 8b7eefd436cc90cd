"""Deltas concatenate to the whole text, and stop strings never leak."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgrt.runtime.detokenizer import Detokenizer


def _split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(c % (len(data) + 1) for c in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def _feed(pieces: list[bytes], stops: tuple[str, ...] = ()) -> tuple[str, Detokenizer]:
    """Show pieces until a stop string appears; returns what was shown."""
    detokenizer = Detokenizer(pieces.__getitem__, stops)
    shown = ""
    for i in range(len(pieces)):
        shown += detokenizer.push([i])
        if detokenizer.match:
            break
    return shown + detokenizer.finish(), detokenizer


@settings(max_examples=400, derandomize=True)
@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=20))
def test_deltas_for_any_bytes_and_any_split_concatenate_to_the_text(
    data: bytes, cuts: list[int]
) -> None:
    shown, detokenizer = _feed(_split(data, cuts))
    assert shown == detokenizer.text == data.decode("utf-8", "replace")


@settings(max_examples=400, derandomize=True)
@given(
    st.text("abcé☃", max_size=30),
    st.lists(st.text("abcé☃", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.integers(0, 90), max_size=30),
)
def test_stop_strings_across_token_borders_cut_exactly_before_them(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    data = text.encode()
    pieces = _split(data, cuts)
    shown, detokenizer = _feed(pieces, tuple(stops))
    first = _first_stop(pieces, stops)
    if first is None:
        assert detokenizer.match is None and shown == text
    else:
        assert detokenizer.match is not None
        assert shown.encode() == data[: first[0]]
        assert detokenizer.match.stop == first[1]


def _first_stop(pieces: list[bytes], stops: list[str]) -> tuple[int, str] | None:
    """Brute force: the first token that completes stops, then the earliest and longest."""
    seen = b""
    for piece in pieces:
        seen += piece
        found = [(seen.find(s.encode()), -len(s.encode()), s) for s in stops if s.encode() in seen]
        if found:
            at, _, stop = min(found)
            return at, stop
    return None


@settings(max_examples=300, derandomize=True)
@given(st.text("ab☃", max_size=12), st.text("ab☃", max_size=5), st.lists(st.integers(0, 60)))
def test_kept_tokens_and_rest_before_a_stop_string_spell_the_text(
    head: str, tail: str, cuts: list[int]
) -> None:
    pieces = _split((head + "STOP" + tail).encode(), cuts)
    shown, detokenizer = _feed(pieces, ("STOP",))
    match = detokenizer.match
    assert match is not None
    assert b"".join(pieces[: match.num_tokens]).decode() + match.rest == shown == head


def test_text_that_may_begin_a_stop_string_is_held_back_until_it_does_not() -> None:
    detokenizer = Detokenizer([b"ab", b"S", b"T", b"x"].__getitem__, ("STOP",))
    assert [detokenizer.push([i]) for i in range(4)] == ["ab", "", "", "STx"]


@pytest.mark.parametrize("seed", range(20))
def test_forced_runs_pushed_together_show_what_single_tokens_show(seed: int) -> None:
    rng = random.Random(seed)
    pieces = [
        rng.choice([b"a", b"b", b"ab", "é".encode()[:1], "é".encode()[1:]]) for _ in range(30)
    ]
    single, _ = _feed(pieces)
    together = Detokenizer(pieces.__getitem__)
    assert together.push(range(30)) + together.finish() == single
