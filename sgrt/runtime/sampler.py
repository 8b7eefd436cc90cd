"""From hidden states to tokens: masks filled beside the forward pass, one draw per row."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import islice
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgrt import ops
from sgrt.errors import EngineError
from sgrt.grammar.masks import MaskBuffer, Masks
from sgrt.grammar.matcher import Matcher
from sgrt.runtime.model_runner import Runner
from sgrt.runtime.sequence import Sequence

FEW = 256
"""Rows that allow at most so many tokens are drawn from a list of them."""


@dataclass(frozen=True, slots=True)
class Row:
    """One token to be drawn.

    Args:
        position: where in ``seq`` it will stand.
        matcher: whose mask it must satisfy; None for any token.
        end_ids: tokens outside the grammar that may end the text here.
    """

    seq: Sequence
    position: int
    sampling: ops.SamplingRow
    matcher: Matcher | None = None
    end_ids: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Token:
    """A drawn token; ``logprob`` is NaN and ``top`` empty where they were not asked for.

    Args:
        targets: log-probabilities of the row's targets, by id; there is no token then.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    targets: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Filled:
    """The masks of a step, until the next one is filled.

    Args:
        plan: of all rows; those with an error count as free.
        errors: rows without a mask, and why.
    """

    plan: ops.MaskPlan
    errors: Mapping[int, Exception]


class MaskFiller:
    """A thread that fills the masks of a step while the loop is in the forward pass."""

    def __init__(self, vocab_size: int) -> None:
        self.seconds = 0.0
        """Time spent filling, in all."""
        self._buffer = MaskBuffer(vocab_size, lambda masks: list_few(masks, vocab_size))
        self._orders: SimpleQueue[Seq[Row] | None] = SimpleQueue()
        self._results: SimpleQueue[Filled | BaseException] = SimpleQueue()
        threading.Thread(target=self._run, name="sgrt-masks", daemon=True).start()

    def order(self, rows: Seq[Row]) -> None:
        """Begin to fill; `take` must follow."""
        self._orders.put(rows)

    def take(self) -> Filled:
        """Wait for what was ordered."""
        result = self._results.get()
        if isinstance(result, BaseException):
            raise result
        return result

    def close(self) -> None:
        """End the thread."""
        self._orders.put(None)

    def _run(self) -> None:
        while (rows := self._orders.get()) is not None:
            start = time.perf_counter()
            try:
                result: Filled | BaseException = self._fill(rows)
            except BaseException as error:  # whatever it is, the loop must not wait for ever
                result = error
            self._results.put(result)
            self.seconds += time.perf_counter() - start

    def _fill(self, rows: Seq[Row]) -> Filled:
        at = [r for r, row in enumerate(rows) if row.matcher is not None]
        matchers = [row.matcher for row in rows if row.matcher is not None]
        masks = self._buffer.fill(matchers, [rows[r].end_ids for r in at])
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
    kind = np.zeros(num_rows, np.uint8)
    mask_row = np.zeros(num_rows, np.int32)
    few_len = np.zeros(num_rows + 1, np.int32)
    for i, mask in masks.mask_row.items():
        kind[at[i]] = ops.RowKind.BITMASK
        mask_row[at[i]] = mask
    for i, ids in masks.listed.items():
        kind[at[i]] = ops.RowKind.FORCED if len(ids) == 1 else ops.RowKind.FEW
        few_len[at[i] + 1] = len(ids)
    lists = [masks.listed[i] for i in sorted(masks.listed)]
    few_ids = (
        np.concatenate(lists, dtype=np.int32, casting="unsafe") if lists else np.zeros(0, np.int32)
    )
    few_start = np.cumsum(few_len, dtype=np.int32)
    return ops.MaskPlan(kind, masks.bitmask, few_ids, few_start, mask_row)


class Sampler:
    """Draws the tokens of a step.

    Every draw depends on its own row only, so a row that cannot be drawn does not disturb the
    others.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._filler = MaskFiller(runner.vocab_size)

    @property
    def mask_s(self) -> float:
        """Seconds spent filling masks."""
        return self._filler.seconds

    def start_masks(self, rows: Seq[Row]) -> Callable[[], Filled]:
        """Begin to fill the masks of these rows.

        Returns:
            Waits for them; must be called once.
        """
        if all(row.matcher is None for row in rows):
            return lambda: Filled(ops.MaskPlan.free(len(rows)), {})
        self._filler.order(rows)
        return self._filler.take

    def draw(
        self, hidden: Any, rows: Seq[Row], filled: Filled
    ) -> tuple[list[Token | Exception], int]:
        """Draw one token per row.

        Args:
            hidden: what the runner's forward returned, one per row.
            filled: the masks of these rows.

        Returns:
            Per row the token, or why there is none; and the head rows computed.
        """
        tokens: list[Token | Exception] = [
            filled.errors.get(i, _NOT_DRAWN) for i in range(len(rows))
        ]
        open_rows = [i for i in range(len(rows)) if i not in filled.errors]
        return tokens, self._draw_into(tokens, hidden, rows, filled.plan, open_rows)

    def _draw_into(
        self,
        tokens: list[Token | Exception],
        hidden: Any,
        rows: Seq[Row],
        plan: ops.MaskPlan,
        open_rows: list[int],
    ) -> int:
        """Draw some of the rows; where that fails, all but those at fault again."""
        if not open_rows:
            return 0
        try:
            drawn = self._draw(hidden, rows, plan, open_rows)
        except ops.RowError as error:
            bad = {open_rows[r] for r in error.rows}
            for i in bad:
                tokens[i] = EngineError(f"cannot draw a token: {error.reason}")
            rest = [i for i in open_rows if i not in bad]
            return self._draw_into(tokens, hidden, rows, plan, rest)
        except Exception as error:
            if len(open_rows) == 1:
                tokens[open_rows[0]] = error
                return 0
            return sum(self._draw_into(tokens, hidden, rows, plan, [i]) for i in open_rows)
        for r, i in enumerate(open_rows):
            tokens[i] = _token(drawn, r, rows[i].sampling.num_top)
        _add_targets(tokens, drawn, rows, open_rows)
        return drawn.rows_computed

    def _draw(
        self, hidden: Any, rows: Seq[Row], plan: ops.MaskPlan, open_rows: list[int]
    ) -> ops.Drawn:
        if len(open_rows) < len(rows):
            hidden, plan = hidden[open_rows], plan.take(open_rows)
        sampling = ops.SamplingRows.build([rows[i].sampling for i in open_rows])
        return self._runner.sample(hidden, plan, sampling)

    def close(self) -> None:
        """Stop the filling thread."""
        self._filler.close()


_NOT_DRAWN = EngineError("not drawn")


def _add_targets(
    tokens: list[Token | Exception], drawn: ops.Drawn, rows: Seq[Row], drawn_rows: Seq[int]
) -> None:
    """Give the rows that have targets their log-probabilities."""
    if not len(drawn.target_logprobs):
        return
    found = iter(drawn.target_logprobs.tolist())
    for i in drawn_rows:
        targets = tuple(islice(found, len(rows[i].sampling.targets)))
        if targets:
            token = tokens[i]
            assert isinstance(token, Token)
            tokens[i] = Token(-1, math.nan, token.top, targets)


def _token(drawn: ops.Drawn, r: int, num_top: int) -> Token:
    top: tuple[tuple[int, float], ...] = ()
    if num_top > 0:
        ids, values = drawn.top_ids[r].tolist(), drawn.top_logprobs[r].tolist()
        top = tuple((i, p) for i, p in zip(ids[:num_top], values, strict=False) if i >= 0)
    return Token(int(drawn.token_ids[r]), float(drawn.logprobs[r]), top)
