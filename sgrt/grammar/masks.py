"""Masks of a whole batch: filled in one call without the GIL, short ones given as lists of ids."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import llguidance
import numpy as np
from numpy.typing import NDArray

from sgrt.errors import GrammarBudgetExceeded
from sgrt.grammar.engines.llguidance_ import LLMatcher
from sgrt.grammar.matcher import Matcher

FEW = 256
"""Rows that allow at most so many tokens are given as ids."""

RowMask = Sequence[int] | NDArray[np.uint32] | GrammarBudgetExceeded
"""Allowed ids, ascending; or a mask of W words, uint32; or why there is neither."""


def fill_rows(
    matchers: Sequence[Matcher], vocab_size: int, *, num_threads: int = 1, few: int = FEW
) -> list[RowMask]:
    """What each matcher allows next.

    Args:
        matchers: one per row.
        vocab_size: V of the masks; at least that of the matchers' vocabulary.
        num_threads: threads of the engine.
        few: most ids to list; rows that allow more come as masks.

    Returns:
        Per row its mask, which the caller owns. A row that allows nothing is an empty list. A
        matcher that ran out of fuel gives its error and cannot be used again; the others are
        not affected.

    Cost: the engine's masks, without the GIL, and some 10 µs a row.
    """
    result: list[RowMask] = [()] * len(matchers)
    lazy: list[int] = []
    for row, matcher in enumerate(matchers):
        ids = matcher.allowed()
        if ids is None or len(ids) > few:
            lazy.append(row)
        else:
            result[row] = ids
    if lazy:
        bitmask = np.zeros((len(lazy), (vocab_size + 31) // 32), np.uint32)
        errors = fill_batch([matchers[row] for row in lazy], bitmask, num_threads=num_threads)
        for i, row in enumerate(lazy):
            ids = None if i in errors else classify(bitmask[i], few)
            result[row] = errors.get(i) or (bitmask[i] if ids is None else ids)
    return result


def fill_batch(
    matchers: Sequence[Matcher], bitmask: NDArray[np.uint32], *, num_threads: int = 1
) -> dict[int, GrammarBudgetExceeded]:
    """Write the masks of a batch.

    Args:
        matchers: one per row, R of them.
        bitmask: [R, W] uint32, C-contiguous.
        num_threads: threads of the engine.

    Returns:
        Rows whose mask took too long, with the error; their words mean nothing.

    Mutates:
        bitmask.
    """
    if bitmask.dtype != np.uint32 or bitmask.ndim != 2 or not bitmask.flags.c_contiguous:
        raise ValueError(
            f"bitmask is {bitmask.dtype} {bitmask.shape}, not contiguous [R, W] uint32"
        )
    if len(bitmask) != len(matchers):
        raise ValueError(f"bitmask has {len(bitmask)} rows for {len(matchers)} matchers")
    num_rows, num_words = bitmask.shape
    together: dict[int, LLMatcher] = {}
    if num_threads > 1:
        for row, m in enumerate(matchers):
            if isinstance(m, LLMatcher) and m.needs_engine(num_words):
                together[row] = m
    if together:
        _executor(num_threads).unsafe_compute_mask_ptr(
            [(m.engine, row) for row, m in together.items()],
            bitmask.ctypes.data,
            num_words * 4,
            num_rows,
        )
    errors = {}
    for row, matcher in enumerate(matchers):
        try:
            if row in together:
                together[row].finish_fill(bitmask[row])
            else:
                matcher.fill(bitmask[row])
        except GrammarBudgetExceeded as error:
            errors[row] = error
    return errors


@functools.cache
def _executor(num_threads: int) -> llguidance.LLExecutor:
    return llguidance.LLExecutor(num_threads)


def classify(row: NDArray[np.uint32], few: int = FEW) -> list[int] | None:
    """The ids a mask allows, ascending, or None where there are more than ``few``.

    Args:
        row: [W] uint32.
    """
    words = row.nonzero()[0]
    if len(words) > few:  # each holds at least one bit
        return None
    bits = np.unpackbits(row[words].astype("<u4", copy=False).view(np.uint8), bitorder="little")
    at = bits.nonzero()[0]
    return None if len(at) > few else (words[at >> 5] * 32 + (at & 31)).tolist()
