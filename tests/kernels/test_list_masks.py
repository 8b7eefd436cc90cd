"""Masks as lists of ids, and plans whose rows share masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sgrt_kernels import head_sample as hs
from sgrt_kernels.head_sample import native
from sgrt_kernels.native import Library
from sgrt_kernels.quant import Format, RawWeight
from tests.kernels.sampling import ISAS, Row, bits, library_or_skip, noise, some_ids, torch_draw


def library_of(name: str) -> Library | None:
    return None if name == "numpy" else library_or_skip(name)


@pytest.mark.parametrize("name", ["numpy", *ISAS])
@pytest.mark.parametrize("vocab_size", [1, 31, 32, 33, 255, 256, 257, 1000, 49152])
def test_listed_ids_are_exactly_the_set_bits(name: str, vocab_size: int) -> None:
    rng = np.random.default_rng(vocab_size)
    shares = (0.0, 0.001, 0.02, 0.5, 1.0)
    lists = [np.flatnonzero(rng.random(vocab_size) < share).tolist() for share in shares]
    masks = np.stack([bits(ids, vocab_size) for ids in lists])
    padded = np.hstack([masks, np.zeros((len(masks), 9), np.uint32)])
    padded[:, -3] = 7  # beyond the vocabulary: means nothing
    for few in (0, 1, len(lists[2]), vocab_size):
        counts, ids = hs.list_masks(padded, vocab_size, few, library_of(name))
        assert counts.tolist() == [len(x) if len(x) <= few else -1 for x in lists]
        assert ids.tolist() == [i for x in lists if len(x) <= few for i in x]


@pytest.mark.parametrize("name", ["numpy", *ISAS])
def test_bits_beyond_the_vocabulary_in_its_last_word_are_ignored(name: str) -> None:
    masks = np.full((2, 2), 0xFFFFFFFF, np.uint32)
    masks[1, 0] = 0
    counts, ids = hs.list_masks(masks, 33, 2, library_of(name))
    assert counts.tolist() == [-1, 1] and ids.tolist() == [32]


def test_masks_of_another_kind_are_refused() -> None:
    for masks in (np.zeros((1, 2), np.int64), np.zeros(2, np.uint32)):
        with pytest.raises(ValueError, match="bitmask"):
            hs.list_masks(masks, 33, 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="too short"):
        hs.list_masks(np.zeros((1, 2), np.uint32), 65, 2)


@pytest.mark.parametrize("isa", ISAS)
def test_rows_that_share_masks_draw_as_with_masks_of_their_own(isa: str) -> None:
    library, vocab_size = library_or_skip(isa), 1000
    table = np.stack([bits(some_ids(vocab_size, 300, i), vocab_size) for i in range(3)])
    mask_row = np.array([2, 0, 2, 1, 0, 2], np.int32)
    kind = np.full(6, hs.RowKind.BITMASK, np.uint8)
    kind[1] = hs.RowKind.FREE
    shared = hs.MaskPlan(kind, table, mask_row=mask_row)
    own = hs.MaskPlan(kind, table[mask_row])
    rows = hs.SamplingRows.build([Row(temperature=1.0, seed=i) for i in range(6)])
    logits = noise(6, vocab_size)
    expected = torch_draw(logits, own, rows).token_ids.tolist()
    assert torch_draw(logits, shared, rows).token_ids.tolist() == expected
    assert native.sample_logits(library, logits, shared, rows).token_ids.tolist() == expected
    matrix = noise(vocab_size, 64, seed=5)
    raw = RawWeight(matrix.view(torch.uint8).flatten(), Format.F32, (vocab_size, 64))
    head, hidden = hs.Head.pack(raw, library), noise(6, 64, seed=6)
    drawn = hs.head_sample(hidden, head, shared, rows)
    assert drawn.token_ids.tolist() == hs.head_sample(hidden, head, own, rows).token_ids.tolist()
    assert drawn.rows_computed == hs.head_sample(hidden, head, own, rows).rows_computed


def test_rows_taken_from_a_plan_draw_as_in_the_whole() -> None:
    masks = [None, bits([3, 77, 512], 1000), [7], [1, 2, 900], None, bits([5, 6], 1000)]
    plan = hs.MaskPlan.build(masks)
    rows = [Row(temperature=1.0, seed=i) for i in range(6)]
    logits = noise(6, 1000)
    whole = torch_draw(logits, plan, hs.SamplingRows.build(rows)).token_ids
    for some in ([], [0], [5, 2], [3, 1, 4], list(range(6))):
        part = plan.take(some)
        sampling = hs.SamplingRows.build([rows[i] for i in some])
        drawn = torch_draw(logits[some], part, sampling) if some else None
        assert drawn is None or drawn.token_ids.tolist() == whole[some].tolist()
        assert part.num_rows == len(some)


def test_mask_rows_outside_the_table_are_refused() -> None:
    table, kind = np.zeros((2, 4), np.uint32), np.array([1, 0], np.uint8)
    for bad in ([2, 0], [-1, 0]):
        with pytest.raises(ValueError, match="row 0 has mask"):
            hs.MaskPlan(kind, table, mask_row=np.array(bad, np.int32))
    with pytest.raises(ValueError, match="mask_row has shape"):
        hs.MaskPlan(kind, table, mask_row=np.zeros(3, np.int32))
    hs.MaskPlan(kind, table, mask_row=np.array([1, -1], np.int32))  # free rows have none
