"""Batches of masks: each row is what its matcher alone would say."""

from __future__ import annotations

import random

import numpy as np
import pytest
from grammar_support import allowed_ids, bpe_vocabulary, byte_vocabulary, grammar, mask_of
from test_matcher import CONSTRAINTS

from sgrt.core import Regex
from sgrt.errors import GrammarBudgetExceeded
from sgrt.grammar.masks import FEW, classify, fill_batch, fill_rows
from sgrt.grammar.matcher import Matcher


def some_matchers(count: int, seed: int) -> list[Matcher]:
    rng = random.Random(seed)
    matchers = []
    for i in range(count):
        matcher = grammar(CONSTRAINTS[i % len(CONSTRAINTS)], "bpe").matcher()
        for _ in range(rng.randint(0, 8)):
            allowed = allowed_ids(matcher, bpe_vocabulary())
            if allowed:
                matcher.accept([rng.choice(allowed)])
        if rng.random() < 0.5:
            _ = matcher.is_final  # may leave a mask behind
        matchers.append(matcher)
    return matchers


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("few", [0, 3, FEW])
def test_rows_of_a_batch_equal_single_masks(num_threads: int, few: int) -> None:
    matchers = some_matchers(23, num_threads)
    vocabulary = bpe_vocabulary()
    expected = [mask_of(m, vocabulary) for m in matchers]
    rows = fill_rows(matchers, len(vocabulary), num_threads=num_threads, few=few)
    for row, mask in zip(rows, expected, strict=True):
        ids = classify(mask, 10_000)
        assert ids is not None
        if len(ids) <= few:
            assert list(row) == ids
        else:
            assert isinstance(row, np.ndarray) and row.tobytes() == mask.tobytes()


@pytest.mark.parametrize("num_threads", [1, 2])
def test_rows_for_a_padded_head_have_no_bits_beyond_the_vocabulary(num_threads: int) -> None:
    matchers = some_matchers(6, 3)
    padded = np.full((6, bpe_vocabulary().num_words + 3), 0xFFFFFFFF, np.uint32)
    assert fill_batch(matchers, padded, num_threads=num_threads) == {}
    for row, matcher in zip(padded, matchers, strict=True):
        assert row[:-3].tobytes() == mask_of(matcher, bpe_vocabulary()).tobytes()
        assert not row[-3:].any()


@pytest.mark.parametrize("num_threads", [1, 2])
def test_row_out_of_fuel_fails_alone(num_threads: int) -> None:
    greedy = grammar(Regex("((a?){50}){50}a{2000}")).matcher()
    others = [grammar(Regex("[a-c]+")).matcher() for _ in range(3)]
    failed = None
    for _ in range(100):
        rows = fill_rows([others[0], greedy, *others[1:]], 257, num_threads=num_threads)
        assert rows[0] == rows[2] == rows[3] == [97, 98, 99]
        if isinstance(rows[1], GrammarBudgetExceeded):
            failed = rows[1]
            break
        greedy.accept([97])
    assert failed is not None


@pytest.mark.parametrize("size", [1, 31, 32, 33, 1000])
def test_classify_lists_exactly_the_set_bits(size: int) -> None:
    rng = np.random.default_rng(size)
    for share in (0.0, 0.02, 0.5, 1.0):
        bits = rng.random(size) < share
        row = np.zeros((size + 31) // 32, np.uint32)
        for i in np.flatnonzero(bits):
            row[i // 32] |= np.uint32(1) << np.uint32(i % 32)
        expected = np.flatnonzero(bits).tolist()
        assert classify(row, size) == expected
        assert classify(row, len(expected)) == expected
        assert len(expected) == 0 or classify(row, len(expected) - 1) is None


def test_batch_refuses_a_mask_of_another_kind() -> None:
    matcher = grammar(Regex("a")).matcher()
    for bitmask in (
        np.zeros((1, 9), np.int32),
        np.zeros((2, 9), np.uint32),
        np.zeros(9, np.uint32),
    ):
        with pytest.raises(ValueError, match="bitmask"):
            fill_batch([matcher], bitmask)  # type: ignore[arg-type]


def test_special_tokens_stay_clear_when_the_engine_allows_the_end() -> None:
    matcher = grammar(Regex("a*")).matcher()
    row = mask_of(matcher, byte_vocabulary())
    assert matcher.is_complete and classify(row) == [97]
