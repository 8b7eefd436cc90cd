"""From hidden states to tokens: masks filled beside the forward pass, one draw per row."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import islice
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgrt import ops
from sgrt.errors import EngineError
from sgrt.grammar.masks import fill_rows
from sgrt.grammar.matcher import Matcher
from sgrt.runtime.model_runner import Runner
from sgrt.runtime.sequence import Sequence

RowMask = NDArray[np.int32] | NDArray[np.uint32] | None
"""Allowed ids, ascending, int32; or a mask of W words, uint32; or None for any token."""


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


Filled = list[RowMask | Exception]
"""Per row its mask, or why it has none."""


class MaskFiller:
    """A thread that fills the masks of a step while the loop is in the forward pass."""

    def __init__(self, vocab_size: int) -> None:
        self.seconds = 0.0
        """Time spent filling, in all."""
        self._vocab_size = vocab_size
        self._orders: SimpleQueue[Seq[Row] | None] = SimpleQueue()
        self._results: SimpleQueue[Filled] = SimpleQueue()
        threading.Thread(target=self._run, name="sgrt-masks", daemon=True).start()

    def order(self, rows: Seq[Row]) -> None:
        """Begin to fill; `take` must follow."""
        self._orders.put(rows)

    def take(self) -> Filled:
        """Wait for what was ordered."""
        return self._results.get()

    def close(self) -> None:
        """End the thread."""
        self._orders.put(None)

    def _run(self) -> None:
        while (rows := self._orders.get()) is not None:
            start = time.perf_counter()
            self._results.put(self._fill(rows))
            self.seconds += time.perf_counter() - start

    def _fill(self, rows: Seq[Row]) -> Filled:
        matchers = [row.matcher for row in rows if row.matcher is not None]
        try:
            filled = iter(fill_rows(matchers, self._vocab_size))
        except Exception as error:
            if len(rows) == 1:
                return [error]
            return [mask for row in rows for mask in self._fill([row])]
        return [
            None if row.matcher is None else _with_end(next(filled), row.end_ids) for row in rows
        ]


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
            return lambda: [None] * len(rows)
        self._filler.order(rows)
        return self._filler.take

    def draw(
        self, hidden: Any, rows: Seq[Row], allowed: Filled
    ) -> tuple[list[Token | Exception], int]:
        """Draw one token per row.

        Args:
            hidden: what the runner's forward returned, one per row.
            allowed: the masks, or why there is none.

        Returns:
            Per row the token, or why there is none; and the head rows computed.
        """
        tokens: list[Token | Exception] = [
            mask if isinstance(mask, Exception) else _NOT_DRAWN for mask in allowed
        ]
        open_rows = [i for i, token in enumerate(tokens) if token is _NOT_DRAWN]
        return tokens, self._draw_into(tokens, hidden, rows, allowed, open_rows)

    def _draw_into(
        self,
        tokens: list[Token | Exception],
        hidden: Any,
        rows: Seq[Row],
        allowed: Filled,
        open_rows: list[int],
    ) -> int:
        """Draw some of the rows; where that fails, all but those at fault again."""
        if not open_rows:
            return 0
        try:
            drawn = self._draw(hidden, rows, allowed, open_rows)
        except ops.RowError as error:
            bad = {open_rows[r] for r in error.rows}
            for i in bad:
                tokens[i] = EngineError(f"cannot draw a token: {error.reason}")
            rest = [i for i in open_rows if i not in bad]
            return self._draw_into(tokens, hidden, rows, allowed, rest)
        except Exception as error:
            if len(open_rows) == 1:
                tokens[open_rows[0]] = error
                return 0
            return sum(self._draw_into(tokens, hidden, rows, allowed, [i]) for i in open_rows)
        for r, i in enumerate(open_rows):
            tokens[i] = _token(drawn, r, rows[i].sampling.num_top)
        _add_targets(tokens, drawn, rows, open_rows)
        return drawn.rows_computed

    def _draw(
        self, hidden: Any, rows: Seq[Row], allowed: Seq[Any], open_rows: list[int]
    ) -> ops.Drawn:
        if len(open_rows) < len(rows):
            hidden = hidden[open_rows]
        plan = _plan([allowed[i] for i in open_rows], (self._runner.vocab_size + 31) // 32)
        sampling = ops.SamplingRows.build([rows[i].sampling for i in open_rows])
        return self._runner.sample(hidden, plan, sampling)

    def close(self) -> None:
        """Stop the filling thread."""
        self._filler.close()


_NOT_DRAWN = EngineError("not drawn")


def _with_end(mask: Any, end_ids: frozenset[int]) -> RowMask | Exception:
    """A mask or ids as `fill_rows` gives them, with the tokens that may end the text."""
    if isinstance(mask, Exception):
        return mask
    if not (isinstance(mask, np.ndarray) and mask.dtype == np.uint32):
        ids = np.asarray(mask, np.int32)
        return np.union1d(ids, sorted(end_ids)).astype(np.int32) if end_ids else ids
    for i in end_ids:
        mask[i // 32] |= np.uint32(1 << (i % 32))
    return mask


def _plan(masks: Seq[RowMask], num_words: int) -> ops.MaskPlan:
    """The masks of the rows to draw, as arrays."""
    kind = np.zeros(len(masks), np.uint8)
    bitmask = None
    few: list[RowMask] = []
    few_start = np.zeros(len(masks) + 1, np.int32)
    for r, mask in enumerate(masks):
        if mask is None:
            continue
        if mask.dtype == np.uint32:
            kind[r] = ops.RowKind.BITMASK
            if bitmask is None:
                bitmask = np.empty((len(masks), num_words), np.uint32)
            bitmask[r] = mask
        else:
            kind[r] = ops.RowKind.FORCED if len(mask) == 1 else ops.RowKind.FEW
            few_start[r + 1] = len(mask)
            few.append(mask)
    few_ids = np.concatenate(few) if few else np.zeros(0, np.int32)  # type: ignore[arg-type]
    return ops.MaskPlan(kind, bitmask, few_ids, np.cumsum(few_start, dtype=np.int32))


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
            tokens[i] = Token(-1, math.nan, (), targets)


def _token(drawn: ops.Drawn, r: int, num_top: int) -> Token:
    top: tuple[tuple[int, float], ...] = ()
    if num_top > 0:
        ids, values = drawn.top_ids[r].tolist(), drawn.top_logprobs[r].tolist()
        top = tuple((i, p) for i, p in zip(ids[:num_top], values, strict=False) if i >= 0)
    return Token(int(drawn.token_ids[r]), float(drawn.logprobs[r]), top)
