"""Masks of a whole batch, filled in one go, most of it without the GIL."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import llguidance
import numpy as np
from numpy.typing import NDArray

from sgrt.errors import GrammarBudgetExceeded
from sgrt.grammar.engines.llguidance_ import LLMatcher
from sgrt.grammar.matcher import Matcher
from sgrt.grammar.vocabulary import Vocabulary

Ids = Sequence[int] | NDArray[np.int32]
Starting = Callable[[int], None]

Lister = Callable[[NDArray[np.uint32]], tuple[NDArray[np.int32], NDArray[np.int32]]]
"""Masks [M, W] → how many tokens each allows, -1 for many; and the ids of the others, flat."""

_SLOTS = 256
_MAX_PLACES = 8_192


@dataclass(frozen=True, slots=True)
class Masks:
    """What the rows of a batch allow next; each row is in one of three.

    Attributes:
        listed: rows that allow few tokens: ids, ascending.
        mask_row: rows that allow many, each with its row of ``bitmask``; rows may share one.
        errors: rows that have neither; their matchers cannot be used again.
        bitmask: [M, W] uint32; the next batch overwrites some of it.
    """

    listed: dict[int, Ids]
    mask_row: dict[int, int]
    errors: dict[int, Exception]
    bitmask: NDArray[np.uint32]


Known = Ids | int
"""What a place allows: ids, or a row of the bitmask."""


class MaskBuffer:
    """The masks of one batch at a time, and those of places that come again.

    Rows that stand at one place are filled once. A place is remembered, so a mask of the next step
    is mostly a look-up. Wide masks that come again lie in the first rows of the bitmask, each
    content once, and stay there: a device can keep them.

    Args:
        vocab_size: V of the masks; at least that of the matchers' vocabulary.
        lister: finds the tokens of masks that allow few.
        num_threads: threads of the engine; pays from some hundred different rows on.
    """

    def __init__(self, vocab_size: int, lister: Lister, *, num_threads: int = 1) -> None:
        self._lister = lister
        self._num_threads = num_threads
        self._bitmask = np.zeros((_SLOTS + 8, (vocab_size + 31) // 32), np.uint32)
        self._known: dict[Hashable, Known | None] = {}  # None: met once
        self._slots: dict[bytes, int] = {}

    def fill(
        self,
        matchers: Sequence[Matcher],
        end_ids: Sequence[frozenset[int]] | None = None,
        starting: Starting = lambda row: None,
    ) -> Masks:
        """What each row allows next.

        A matcher that ran out of fuel, or whose engine broke, gives its error; the others are
        not affected.

        Args:
            matchers: one per row.
            end_ids: per row, tokens that are allowed besides.
            starting: called with each row whose mask is filled, right before that. What it
                raises ends the filling. Not called where the engine's own threads do it.

        Cost: for each place not remembered the engine's mask, without the GIL; some 3 µs a row.
        """
        ends = end_ids or [frozenset()] * len(matchers)
        if len(self._known) > _MAX_PLACES or len(self._slots) >= _SLOTS:
            self._known.clear()
            self._slots.clear()
        result = Masks({}, {}, {}, self._bitmask)
        groups: dict[Hashable, list[int]] = {}
        for row, (matcher, end) in enumerate(zip(matchers, ends, strict=True)):
            ids = matcher.allowed()
            if ids is not None:
                result.listed[row] = _with(ids, end)
                continue
            place = matcher.place
            if place is None:
                groups[row] = [row]
                continue
            key = (place, end) if end else place
            known = self._known.get(key)
            if known is None:
                groups.setdefault(key, []).append(row)
            elif isinstance(known, int):
                result.mask_row[row] = known
            else:
                result.listed[row] = known
        if not groups:
            return result
        return self._fill_groups(groups, matchers, ends, starting, result)

    def _fill_groups(
        self,
        groups: dict[Hashable, list[int]],
        matchers: Sequence[Matcher],
        ends: Sequence[frozenset[int]],
        starting: Starting,
        result: Masks,
    ) -> Masks:
        """One mask for each group of rows that stand at one place."""
        if len(self._bitmask) < _SLOTS + len(groups):
            more = np.zeros((_SLOTS + 2 * len(groups), self._bitmask.shape[1]), np.uint32)
            more[:_SLOTS] = self._bitmask[:_SLOTS]
            self._bitmask = more
        result = replace(result, bitmask=self._bitmask)
        masks = self._bitmask[_SLOTS : _SLOTS + len(groups)]
        first = [rows[0] for rows in groups.values()]
        errors = fill_batch(
            [matchers[r] for r in first],
            masks,
            num_threads=self._num_threads,
            starting=lambda i: starting(first[i]),
        )
        for i, row in enumerate(first):
            for token_id in ends[row]:
                masks[i, token_id // 32] |= np.uint32(1 << (token_id % 32))
        counts, flat = self._lister(masks)
        at = 0
        for i, (key, rows) in enumerate(groups.items()):
            count = int(counts[i])
            found: Known = _SLOTS + i if count < 0 else flat[at : at + count]
            at += max(count, 0)
            if i in errors:
                result.errors.update(dict.fromkeys(rows, errors[i]))
                continue
            if not isinstance(key, int):
                found = self._remember(key, found, len(rows))
            if isinstance(found, int):
                result.mask_row.update(dict.fromkeys(rows, found))
            else:
                result.listed.update(dict.fromkeys(rows, found))
        return result

    def _remember(self, key: Hashable, found: Known, num_rows: int) -> Known:
        """Keep what a place allows; where room for masks gets short, one that no other place has
        is kept from the second time on only."""
        if isinstance(found, int):
            words = self._bitmask[found].tobytes()
            slot = self._slots.get(words)
            if slot is None:
                is_new = num_rows == 1 and key not in self._known
                if len(self._slots) >= (_SLOTS // 2 if is_new else _SLOTS):
                    self._known.setdefault(key, None)
                    return found
                self._slots[words] = slot = len(self._slots)
                self._bitmask[slot] = self._bitmask[found]
            found = slot
        else:
            found = np.array(found, np.int32)  # not a part of the whole batch's
        self._known[key] = found
        return found


def _with(ids: Ids, end_ids: frozenset[int]) -> Ids:
    """These ids and some more, ascending."""
    return sorted({*ids, *end_ids}) if end_ids else ids


def fill_batch(
    matchers: Sequence[Matcher],
    bitmask: NDArray[np.uint32],
    *,
    num_threads: int = 1,
    starting: Starting = lambda row: None,
) -> dict[int, Exception]:
    """Write the masks of a batch.

    Args:
        matchers: one per row, R of them.
        bitmask: [R, W] uint32, C-contiguous.
        num_threads: threads of the engine.
        starting: as for `MaskBuffer.fill`.

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
        starting(row)
        try:
            matcher.fill(bitmask[row])
        except Exception as error:
            errors[row] = error
    _fill_together(together, bitmask, num_threads, starting, errors)
    return errors


def _fill_together(
    matchers: dict[int, LLMatcher],
    bitmask: NDArray[np.uint32],
    num_threads: int,
    starting: Starting,
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
        _compute(todo, bitmask, vocabulary.num_words, num_threads, starting)
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
    todo: list[tuple[Any, int]],
    bitmask: NDArray[np.uint32],
    num_words: int,
    num_threads: int,
    starting: Starting,
) -> None:
    """Let engines write the first words of their rows."""
    start, stride = bitmask.ctypes.data, bitmask.strides[0]
    if num_threads > 1 and num_words == bitmask.shape[1]:
        _executor(num_threads).unsafe_compute_mask_ptr(todo, start, stride, len(bitmask))
        return
    for engine, row in todo:
        starting(row)
        engine.unsafe_compute_mask_ptr(start + row * stride, num_words * 4)


@functools.cache
def _executor(num_threads: int) -> llguidance.LLExecutor:
    return llguidance.LLExecutor(num_threads)
