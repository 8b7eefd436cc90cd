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
from sgrt.grammar.masks import Ids, MaskBuffer
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
        self._vocab_size = vocab_size
        self._buffer = MaskBuffer(vocab_size)
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
        masks = self._buffer.fill([m for row in rows if (m := row.matcher) is not None])
        for i, mask in zip(masks.masked, masks.bitmask, strict=True):
            for token_id in rows[at[i]].end_ids:
                mask[token_id // 32] |= np.uint32(1 << (token_id % 32))
        listed = {at[i]: _with(ids, rows[at[i]].end_ids) for i, ids in masks.listed.items()}
        masked = [at[i] for i in masks.masked]
        plan = plan_of(len(rows), masked, masks.bitmask, listed, self._vocab_size)
        return Filled(plan, {at[i]: error for i, error in masks.errors.items()})


def _with(ids: Ids, end_ids: frozenset[int]) -> Ids:
    """These ids and some more, ascending."""
    return sorted({*ids, *end_ids}) if end_ids else ids


def plan_of(
    num_rows: int,
    masked: Seq[int],
    bitmask: NDArray[np.uint32],
    listed: Mapping[int, Ids],
    vocab_size: int,
) -> ops.MaskPlan:
    """The plan of rows of which some have a mask, some a list of ids, and the rest neither.

    Args:
        masked: rows that have a mask, ascending.
        bitmask: [M, W] uint32, their masks; those that allow few become lists.
        listed: row → ids, ascending.
    """
    counts, ids = ops.list_masks(bitmask, vocab_size, FEW, ops.native_library())
    kind = np.zeros(num_rows, np.uint8)
    mask_row = np.zeros(num_rows, np.int32)
    few_len = np.zeros(num_rows + 1, np.int32)
    at = np.array(masked, np.intp)
    mask_row[at] = np.arange(len(at), dtype=np.int32)
    kind[at] = np.choose(np.clip(counts + 1, 0, 3), _KIND_BY_COUNT)
    few_len[at + 1] = np.maximum(counts, 0)
    if listed:
        ends = np.cumsum(few_len[at + 1])
        lists = dict(zip(masked, np.split(ids, ends[:-1]), strict=True)) if masked else {}
        for row, its_ids in listed.items():
            lists[row] = np.asarray(its_ids, np.int32)
            few_len[row + 1] = len(its_ids)
            kind[row] = ops.RowKind.FORCED if len(its_ids) == 1 else ops.RowKind.FEW
        ids = np.concatenate([lists[row] for row in sorted(lists)])
    return ops.MaskPlan(kind, bitmask, ids, np.cumsum(few_len, dtype=np.int32), mask_row)


_KIND_BY_COUNT = (ops.RowKind.BITMASK, ops.RowKind.FEW, ops.RowKind.FORCED, ops.RowKind.FEW)
"""Of masks that allow more than `FEW` tokens (count -1), none, one, several."""


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
