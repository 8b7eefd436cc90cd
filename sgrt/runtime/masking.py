"""The masks of a step, filled on a thread of their own beside the forward pass.

A mask that takes too long does not hold up the step: its row is left out and gets it later, and
another thread fills what is left.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from itertools import accumulate
from queue import Empty, SimpleQueue

import numpy as np
from numpy.typing import NDArray

from sgrt import ops
from sgrt.grammar.masks import MaskBuffer, Masks
from sgrt.grammar.matcher import Matcher
from sgrt.runtime.sequence import Sequence

_BITMASK, _FEW, _FORCED = map(int, (ops.RowKind.BITMASK, ops.RowKind.FEW, ops.RowKind.FORCED))
FEW = 256
"""Rows that allow at most so many tokens are drawn from a list of them."""

PATIENCE_S = 0.01
"""A row whose mask is not there so long after the forward pass is left out of the step."""


@dataclass(frozen=True, slots=True)
class Row:
    """One token to be drawn.

    Args:
        position: where in ``seq`` it will stand.
        matcher: whose mask it must satisfy, or that mask; None for any token.
        end_ids: tokens outside the grammar that may end the text here.
    """

    seq: Sequence
    position: int
    sampling: ops.SamplingRow
    matcher: Matcher | ReadyMask | None = None
    end_ids: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Filled:
    """The masks of a step, until the next one is filled.

    Args:
        plan: of all rows; those with an error count as free.
        errors: rows without a mask, and why; a `LateMask` where it is still to come.
    """

    plan: ops.MaskPlan
    errors: Mapping[int, Exception]


class LateMask(Exception):
    """A mask that was not there in time.

    Args:
        matcher: whose mask it is; nobody else may touch it before the mask is there.
    """

    def __init__(self, matcher: Matcher) -> None:
        super().__init__("the mask takes too long")
        self.matcher = matcher
        self._lock = threading.Lock()
        self._outcome: tuple[NDArray[np.uint32] | None, Exception | None] | None = None
        self._callback: Callable[[], None] | None = None

    def done(self) -> bool:
        return self._outcome is not None

    def fill(self, num_words: int) -> None:
        """Fill it, and call back."""
        words, error = np.zeros(num_words, np.uint32), None
        try:
            fill_one(self.matcher, words)
        except Exception as raised:
            error = raised
        with self._lock:
            self._outcome, callback = (words, error), self._callback
        if callback is not None:
            callback()

    def when_done(self, callback: Callable[[], None]) -> None:
        """Call back once it is there, from any thread."""
        with self._lock:
            if self._outcome is None:
                self._callback = callback
                return
        callback()

    def ready(self) -> ReadyMask:
        """The mask, which is there.

        Raises:
            Exception: why there is none.
        """
        assert self._outcome is not None
        words, error = self._outcome
        if error is not None:
            raise error
        assert words is not None
        return ReadyMask(words)


def fill_one(matcher: Matcher, words: NDArray[np.uint32]) -> None:
    """Write the mask of one matcher, whichever way it tells it.

    Args:
        words: [W] uint32, zeroed.
    """
    ids = matcher.allowed()
    if ids is None:
        matcher.fill(words)
        return
    at = np.asarray(ids, np.int64)
    np.bitwise_or.at(words, at // 32, np.left_shift(np.uint32(1), (at % 32).astype(np.uint32)))


class ReadyMask:
    """Stands in for a matcher whose mask has been filled.

    Args:
        words: [W] uint32.
    """

    place = None

    def __init__(self, words: NDArray[np.uint32]) -> None:
        self._words = words

    def allowed(self) -> None:
        return None

    def fill(self, row: NDArray[np.uint32]) -> None:
        row[:] = self._words


class _Abandoned(BaseException):
    """The loop does not wait for this filling any more."""


class _Filling:
    """The masks of some rows, on their way.

    Whether a row has begun is decided under a lock, so that a row is filled by one thread only.
    """

    def __init__(self, rows: Seq[Row]) -> None:
        self.rows = rows
        self.matchers = [row.matcher for row in rows if row.matcher is not None]
        self.result: SimpleQueue[Filled | BaseException] = SimpleQueue()
        self._lock = threading.Lock()
        self._at: int | None = None  # in matchers
        self._late: LateMask | None = None

    def starting(self, index: int) -> None:
        """The mask of this matcher is about to be filled."""
        with self._lock:
            if self._late is not None:
                raise _Abandoned
            self._at = index

    def is_at(self) -> int | None:
        return self._at

    def abandon(self, at: int) -> LateMask | None:
        """Stop waiting, where it still is at this matcher; its mask is then late."""
        with self._lock:
            if self._at != at:
                return None
            self._late = LateMask(self.matchers[at])  # type: ignore[arg-type]
            return self._late

    def end(self) -> LateMask | None:
        """The filling is over; returns the mask that nobody waited for."""
        with self._lock:
            self._at = None
            return self._late


class MaskFiller:
    """Fills the masks of a step while the loop is in the forward pass.

    Args:
        vocab_size: V of the masks.
    """

    def __init__(self, vocab_size: int) -> None:
        self.seconds = 0.0
        """Time spent filling, in all."""
        self._vocab_size = vocab_size
        self._filling: _Filling | None = None
        self._orders = self._start_thread()

    def _start_thread(self) -> SimpleQueue[_Filling | None]:
        orders: SimpleQueue[_Filling | None] = SimpleQueue()
        thread = threading.Thread(target=self._run, args=(orders,), name="sgrt-masks", daemon=True)
        thread.start()
        return orders

    def order(self, rows: Seq[Row]) -> None:
        """Begin to fill; `take` must follow."""
        self._filling = _Filling(rows)
        self._orders.put(self._filling)

    def take(self) -> Filled:
        """Wait for what was ordered, but for no single row longer than `PATIENCE_S`."""
        filling, late = self._filling, dict[int, Exception]()
        assert filling is not None
        while True:
            result = self._wait(filling)
            if isinstance(result, BaseException):
                raise result
            if isinstance(result, Filled):
                return Filled(result.plan, {**result.errors, **late}) if late else result
            row, mask = result
            late[row] = mask
            rest = [
                replace(r, matcher=None) if i in late else r for i, r in enumerate(filling.rows)
            ]
            filling = _Filling(rest)
            self._orders.put(None)  # that thread ends with the mask that it is at
            self._orders = self._start_thread()
            self._orders.put(filling)

    def _wait(self, filling: _Filling) -> Filled | BaseException | tuple[int, LateMask]:
        """The masks; or the row that holds them up, and its mask to come."""
        seen: int | None = None
        while True:
            try:
                return filling.result.get(timeout=PATIENCE_S)
            except Empty:
                at, seen_before = filling.is_at(), seen
                seen = at
                if at is None or at != seen_before:
                    continue
            mask = filling.abandon(at)
            if mask is not None:
                rows = [i for i, row in enumerate(filling.rows) if row.matcher is not None]
                return rows[at], mask

    def close(self) -> None:
        """End the thread."""
        self._orders.put(None)

    def _run(self, orders: SimpleQueue[_Filling | None]) -> None:
        buffer = MaskBuffer(self._vocab_size, lambda masks: list_few(masks, self._vocab_size))
        while (filling := orders.get()) is not None:
            start = time.perf_counter()
            result: Filled | BaseException
            try:
                result = self._fill(filling, buffer)
            except BaseException as error:  # whatever it is, the loop must not wait for ever
                result = error
            late = filling.end()
            if late is not None:
                late.fill((self._vocab_size + 31) // 32)
            else:
                filling.result.put(result)
            self.seconds += time.perf_counter() - start

    def _fill(self, filling: _Filling, buffer: MaskBuffer) -> Filled:
        rows = filling.rows
        at = [r for r, row in enumerate(rows) if row.matcher is not None]
        ends = [rows[r].end_ids for r in at]
        masks = buffer.fill(filling.matchers, ends, filling.starting)  # type: ignore[arg-type]
        plan = plan_of(len(rows), at, masks)
        return Filled(plan, {at[i]: error for i, error in masks.errors.items()})


def list_few(
    masks: NDArray[np.uint32], vocab_size: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The tokens of masks that allow at most `FEW`: see `ops.list_masks`."""
    return ops.list_masks(masks, vocab_size, FEW, ops.native_library())


def plan_of(num_rows: int, at: Seq[int], masks: Masks) -> ops.MaskPlan:
    """The plan of a step.

    Args:
        num_rows: R.
        at: which of them each row of ``masks`` is, ascending; the others are free.
    """
    kind, mask_row, few_len = [0] * num_rows, [0] * num_rows, [0] * (num_rows + 1)
    for i, mask in masks.mask_row.items():
        kind[at[i]] = _BITMASK
        mask_row[at[i]] = mask
    lists = [masks.listed[i] for i in sorted(masks.listed)]
    for i, ids in masks.listed.items():
        kind[at[i]] = _FORCED if len(ids) == 1 else _FEW
        few_len[at[i] + 1] = len(ids)
    few_ids = (
        np.concatenate(lists, dtype=np.int32, casting="unsafe") if lists else np.zeros(0, np.int32)
    )
    few_start = np.array(list(accumulate(few_len)), np.int32)
    return ops.MaskPlan(
        np.array(kind, np.uint8), masks.bitmask, few_ids, few_start, np.array(mask_row, np.int32)
    )
