"""The masks of a step: whatever rows say, the plan allows exactly that."""

from __future__ import annotations

import numpy as np
import pytest

from sgrt import ops
from sgrt.core import Choices, Regex
from sgrt.errors import GrammarBudgetExceeded
from sgrt.grammar.masks import Masks
from sgrt.grammar.matcher import Matcher
from sgrt.runtime.masking import FEW, MaskFiller, Row, plan_of
from tests.grammar.grammar_support import bpe_vocabulary, grammar, ids_of, mask_of

WORDS = (FEW * 2 + 31) // 32


def some_mask(rng: np.random.Generator, count: int) -> np.ndarray:
    flags = np.zeros(WORDS * 32, np.uint8)
    flags[rng.choice(FEW * 2, count, replace=False)] = 1
    return np.packbits(flags, bitorder="little").view(np.uint32)


def described(plan: ops.MaskPlan, row: int) -> tuple[int, list[int] | None]:
    """Kind and allowed tokens of a row."""
    ids = plan.few_ids[plan.few_start[row] : plan.few_start[row + 1]].tolist()
    if plan.kind[row] == ops.RowKind.BITMASK:
        assert plan.bitmask is not None and plan.mask_row is not None and not ids
        ids = ids_of(plan.bitmask[plan.mask_row[row]])
    return int(plan.kind[row]), None if plan.kind[row] == ops.RowKind.FREE else ids


def kind_of(ids: list[int]) -> int:
    if len(ids) > FEW:
        return ops.RowKind.BITMASK
    return ops.RowKind.FORCED if len(ids) == 1 else ops.RowKind.FEW


@pytest.mark.parametrize("seed", range(8))
def test_plan_of_mixed_rows_allows_what_each_row_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    wanted: dict[int, list[int]] = {}
    bitmask = np.stack([some_mask(rng, FEW + 1 + i) for i in range(4)])
    at = sorted(rng.choice(20, 15, replace=False).tolist())  # the others are free
    masks = Masks({}, {}, {}, bitmask)
    for i, row in enumerate(at):
        if rng.random() < 0.5:
            masks.mask_row[i] = int(rng.integers(4))
            wanted[row] = ids_of(bitmask[masks.mask_row[i]])
        else:
            count = int(rng.choice([0, 1, 2, FEW]))
            wanted[row] = sorted(rng.choice(FEW * 2, count, replace=False).tolist())
            masks.listed[i] = wanted[row] if seed % 2 else np.array(wanted[row], np.int32)
    plan = plan_of(20, at, masks)
    for row in range(20):
        ids = wanted.get(row)
        kind = ops.RowKind.FREE if ids is None else kind_of(ids)
        assert described(plan, row) == (kind, ids)


def test_rows_that_may_end_allow_the_end_tokens_too_and_failed_rows_say_why() -> None:
    class Broken:
        place = None

        def allowed(self) -> None:
            return None

        def fill(self, row: np.ndarray) -> None:
            raise GrammarBudgetExceeded("steps", 2, 1)

    vocabulary = bpe_vocabulary()
    eos = vocabulary.eos_id
    matchers: list[Matcher | None] = [
        grammar(Regex("[a-c]*"), "bpe").matcher(),
        None,
        Broken(),  # type: ignore[list-item]
        grammar(Choices(("cat", "catfish")), "bpe").matcher(),
    ]
    ends = [frozenset({eos}), frozenset(), frozenset(), frozenset({eos})]
    filler = MaskFiller(len(vocabulary))
    rows = [
        Row(None, 0, ops.SamplingRow(), m, end)  # type: ignore[arg-type]
        for m, end in zip(matchers, ends, strict=True)
    ]
    filler.order(rows)
    filled = filler.take()
    filler.close()
    assert list(filled.errors) == [2]
    for row in (0, 3):
        matcher = matchers[row]
        assert matcher is not None
        assert described(filled.plan, row)[1] == [*ids_of(mask_of(matcher, vocabulary)), eos]
    assert described(filled.plan, 1) == (ops.RowKind.FREE, None)


def test_filler_hands_on_what_breaks_it() -> None:
    filler = MaskFiller(100)
    for _ in range(2):  # and lives on
        filler.order([Row(None, 0, ops.SamplingRow(), 7)])  # type: ignore[arg-type]
        with pytest.raises(AttributeError):
            filler.take()
    filler.close()
