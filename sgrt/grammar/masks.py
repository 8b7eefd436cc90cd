"""Masks of a whole batch, filled in one go, most of it without the GIL."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import llguidance
import numpy as np
from numpy.typing import NDArray

from sgrt.errors import GrammarBudgetExceeded
from sgrt.grammar.engines.llguidance_ import LLMatcher
from sgrt.grammar.matcher import Matcher
from sgrt.grammar.vocabulary import Vocabulary

Ids = Sequence[int] | NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Masks:
    """What the rows of a batch allow next; R rows, M of them with a mask.

    Attributes:
        listed: rows whose tokens are known without a mask: ids, ascending.
        errors: rows that have neither; their matchers cannot be used again.
        masked: the other rows, M of them, ascending.
        bitmask: [M, W] uint32, their masks; the next batch overwrites it.
    """

    listed: dict[int, Ids]
    errors: dict[int, Exception]
    masked: list[int]
    bitmask: NDArray[np.uint32]


class MaskBuffer:
    """Memory for the masks of one batch at a time: fresh pages cost more than the masks.

    Args:
        vocab_size: V of the masks; at least that of the matchers' vocabulary.
        num_threads: threads of the engine; pays from some hundred rows on.
    """

    def __init__(self, vocab_size: int, *, num_threads: int = 1) -> None:
        self._num_threads = num_threads
        self._bitmask = np.zeros((8, (vocab_size + 31) // 32), np.uint32)

    def fill(self, matchers: Sequence[Matcher]) -> Masks:
        """What each matcher allows next.

        A matcher that ran out of fuel, or whose engine broke, gives its error; the others are
        not affected.

        Cost: the engine's masks, without the GIL, and some 2 µs a row.
        """
        listed: dict[int, Ids] = {}
        masked: list[int] = []
        for row, matcher in enumerate(matchers):
            ids = matcher.allowed()
            if ids is None:
                masked.append(row)
            else:
                listed[row] = ids
        if len(masked) > len(self._bitmask):
            num_rows = max(len(masked), 2 * len(self._bitmask))
            self._bitmask = np.zeros((num_rows, self._bitmask.shape[1]), np.uint32)
        bitmask = self._bitmask[: len(masked)]
        found = fill_batch([matchers[r] for r in masked], bitmask, num_threads=self._num_threads)
        errors = {masked[i]: error for i, error in found.items()}
        if errors:
            keep = [i for i in range(len(masked)) if i not in found]
            masked, bitmask = [masked[i] for i in keep], bitmask[keep]
        return Masks(listed, errors, masked, bitmask)


def fill_batch(
    matchers: Sequence[Matcher], bitmask: NDArray[np.uint32], *, num_threads: int = 1
) -> dict[int, Exception]:
    """Write the masks of a batch.

    Args:
        matchers: one per row, R of them.
        bitmask: [R, W] uint32, C-contiguous.
        num_threads: threads of the engine.

    Returns:
        Rows without a mask, with the error: `GrammarBudgetExceeded` where it took too long.
        Their words mean nothing.

    Mutates:
        bitmask.
    """
    if bitmask.dtype != np.uint32 or bitmask.ndim != 2 or not bitmask.flags.c_contiguous:
        raise ValueError(
            f"bitmask is {bitmask.dtype} {bitmask.shape}, not contiguous [R, W] uint32"
        )
    if len(bitmask) != len(matchers):
        raise ValueError(f"bitmask has {len(bitmask)} rows for {len(matchers)} matchers")
    errors: dict[int, Exception] = {}
    together: dict[int, LLMatcher] = {}
    for row, matcher in enumerate(matchers):
        if isinstance(matcher, LLMatcher) and matcher.needs_engine():
            together[row] = matcher
            continue
        try:
            matcher.fill(bitmask[row])
        except Exception as error:
            errors[row] = error
    _fill_together(together, bitmask, num_threads, errors)
    return errors


def _fill_together(
    matchers: dict[int, LLMatcher],
    bitmask: NDArray[np.uint32],
    num_threads: int,
    errors: dict[int, Exception],
) -> None:
    """The engine writes the rows of these matchers; what is left to do is done for all at once."""
    if not matchers:
        return
    rows: dict[Vocabulary, list[int]] = {}
    for row, matcher in matchers.items():
        rows.setdefault(matcher.vocabulary, []).append(row)
    num_words = bitmask.shape[1]
    for vocabulary, its_rows in rows.items():
        if vocabulary.num_words > num_words:
            raise ValueError(f"masks of {num_words} words, not {vocabulary.num_words}")
        todo = [(matchers[row].engine, row) for row in its_rows]
        _compute(todo, bitmask, vocabulary.num_words, num_threads)
        vocabulary.clear_special_inplace(bitmask, its_rows)
        if vocabulary.num_words < num_words:
            bitmask[its_rows, vocabulary.num_words :] = 0
    for row, matcher in matchers.items():
        if matcher.engine.is_error():
            try:
                matcher.finish_fill(bitmask[row])
            except GrammarBudgetExceeded as error:
                errors[row] = error


def _compute(
    todo: list[tuple[Any, int]], bitmask: NDArray[np.uint32], num_words: int, num_threads: int
) -> None:
    """Let engines write the first words of their rows."""
    start, stride = bitmask.ctypes.data, bitmask.strides[0]
    if num_threads > 1 and num_words == bitmask.shape[1]:
        _executor(num_threads).unsafe_compute_mask_ptr(todo, start, stride, len(bitmask))
        return
    for engine, row in todo:
        engine.unsafe_compute_mask_ptr(start + row * stride, num_words * 4)


@functools.cache
def _executor(num_threads: int) -> llguidance.LLExecutor:
    return llguidance.LLExecutor(num_threads)
