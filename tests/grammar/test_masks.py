"""Batches of masks: each row is what its matcher alone would say."""

from __future__ import annotations

import random

import numpy as np
import pytest
from grammar_support import (
    allowed_ids,
    bpe_vocabulary,
    byte_vocabulary,
    grammar,
    ids_of,
    mask_of,
)
from test_matcher import CONSTRAINTS, RECORD

from sgrt.core import Regex
from sgrt.errors import GrammarBudgetExceeded
from sgrt.grammar.masks import MaskBuffer, fill_batch
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


def rows_of(buffer: MaskBuffer, matchers: list[Matcher]) -> list[list[int] | Exception]:
    """The ids of each row, or its error."""
    masks = buffer.fill(matchers)
    rows: dict[int, list[int] | Exception] = {**masks.errors}
    rows |= {row: list(ids) for row, ids in masks.listed.items()}
    rows |= {row: ids_of(m) for row, m in zip(masks.masked, masks.bitmask, strict=True)}
    assert masks.masked == sorted(masks.masked) and sorted(rows) == list(range(len(matchers)))
    return [rows[r] for r in range(len(matchers))]


@pytest.mark.parametrize("num_threads", [1, 2])
def test_rows_of_a_batch_equal_single_masks(num_threads: int) -> None:
    vocabulary = bpe_vocabulary()
    buffer = MaskBuffer(len(vocabulary), num_threads=num_threads)
    for seed, count in enumerate((23, 3, 40, 1, 0)):  # whatever an earlier batch left behind
        matchers = some_matchers(count, seed)
        expected = [ids_of(mask_of(m, vocabulary)) for m in matchers]
        assert rows_of(buffer, matchers) == expected


def test_masks_of_two_vocabularies_in_one_batch_keep_their_own_special_tokens() -> None:
    size = len(bpe_vocabulary())
    matchers = [grammar(RECORD, name).matcher() for name in ("bytes", "bpe")]
    expected = [ids_of(mask_of(m, m.vocabulary)) for m in matchers]  # type: ignore[attr-defined]
    assert rows_of(MaskBuffer(size), matchers) == expected


def test_mask_shorter_than_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="words"):
        MaskBuffer(100).fill([grammar(RECORD, "bpe").matcher()])


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
    buffer = MaskBuffer(257, num_threads=num_threads)
    for _ in range(100):
        rows = rows_of(buffer, [others[0], greedy, *others[1:]])
        assert rows[0] == rows[2] == rows[3] == [97, 98, 99]
        if isinstance(rows[1], GrammarBudgetExceeded):
            failed = rows[1]
            break
        greedy.accept([97])
    assert failed is not None


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
    assert matcher.is_complete and ids_of(row) == [97]
