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


FEW = 5


def list_few(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lists = [ids_of(mask) for mask in masks]
    counts = [len(ids) if len(ids) <= FEW else -1 for ids in lists]
    flat = [i for ids in lists if len(ids) <= FEW for i in ids]
    return np.array(counts, np.int32), np.array(flat, np.int32)


def buffer_of(size: int, num_threads: int = 1) -> MaskBuffer:
    return MaskBuffer(size, list_few, num_threads=num_threads)


def rows_of(
    buffer: MaskBuffer, matchers: list[Matcher], end_ids: list[frozenset[int]] | None = None
) -> list[list[int] | Exception]:
    """The ids of each row, or its error."""
    masks = buffer.fill(matchers, end_ids)
    rows: dict[int, list[int] | Exception] = {**masks.errors}
    rows |= {row: list(ids) for row, ids in masks.listed.items()}
    rows |= {row: ids_of(masks.bitmask[m]) for row, m in masks.mask_row.items()}
    assert len(rows) == len(masks.errors) + len(masks.listed) + len(masks.mask_row)
    return [rows[r] for r in range(len(matchers))]


@pytest.mark.parametrize("num_threads", [1, 2])
def test_rows_of_a_batch_equal_single_masks(num_threads: int) -> None:
    vocabulary = bpe_vocabulary()
    buffer = buffer_of(len(vocabulary), num_threads)
    for seed, count in enumerate((23, 3, 40, 1, 0)):  # whatever an earlier batch left behind
        matchers = some_matchers(count, seed)
        expected = [ids_of(mask_of(m, vocabulary)) for m in matchers]
        assert rows_of(buffer, matchers) == expected


def test_masks_of_two_vocabularies_in_one_batch_keep_their_own_special_tokens() -> None:
    size = len(bpe_vocabulary())
    matchers = [grammar(RECORD, name).matcher() for name in ("bytes", "bpe")]
    expected = [ids_of(mask_of(m, m.vocabulary)) for m in matchers]  # type: ignore[attr-defined]
    assert rows_of(buffer_of(size), matchers) == expected


def test_mask_shorter_than_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="words"):
        buffer_of(100).fill([grammar(RECORD, "bpe").matcher()])


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
    buffer = buffer_of(257, num_threads)
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


def test_rows_at_one_place_share_a_mask_which_is_kept_and_end_tokens_keep_them_apart() -> None:
    vocabulary = bpe_vocabulary()
    buffer, eos = buffer_of(len(vocabulary)), vocabulary.eos_id
    compiled = grammar(RECORD, "bpe")
    matchers = [compiled.matcher() for _ in range(3)]
    for matcher, name in zip(matchers, ("ab", "cd", "éf"), strict=True):
        matcher.accept(vocabulary.encode('{"name":"' + name))
    assert len({m.place for m in matchers}) == 1
    plain, ended = frozenset[int](), frozenset({eos})
    expected = ids_of(mask_of(matchers[0], vocabulary))
    for _ in range(3):
        masks = buffer.fill(matchers, [plain, ended, plain])
        assert masks.mask_row[0] == masks.mask_row[2] != masks.mask_row[1]
        assert rows_of(buffer, matchers, [plain, ended, plain]) == [
            expected,
            [*expected, eos],
            expected,
        ]
    kept = buffer.fill(matchers).mask_row[0]
    buffer.fill(some_matchers(40, 9))
    assert ids_of(buffer.fill(matchers).bitmask[kept]) == expected


def test_more_places_than_are_kept_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgrt.grammar.masks._SLOTS", 3)
    monkeypatch.setattr("sgrt.grammar.masks._MAX_PLACES", 20)
    vocabulary = bpe_vocabulary()
    buffer = buffer_of(len(vocabulary))
    for seed in range(12):
        matchers = some_matchers(12, seed % 4)
        expected = [ids_of(mask_of(m, vocabulary)) for m in matchers]
        assert rows_of(buffer, matchers) == expected


def test_place_is_filled_once_and_a_wide_one_twice_where_room_is_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sgrt.grammar.masks._SLOTS", 3)
    vocabulary, num_filled = bpe_vocabulary(), 0

    def lister(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        nonlocal num_filled
        num_filled += len(masks)
        return list_few(masks)

    buffer = MaskBuffer(len(vocabulary), lister)
    few, wide, other = '{"name":"ab","age":1,"kind":"', '{"name":"', '{"name":"abcdefg'
    for text, num_fills in ((few, 1), (wide, 1), (other, 2)):
        num_filled = 0
        for _ in range(4):
            matcher = grammar(RECORD, "bpe").matcher()
            matcher.accept(vocabulary.encode(text))
            buffer.fill([matcher])
        assert num_filled == num_fills, text
