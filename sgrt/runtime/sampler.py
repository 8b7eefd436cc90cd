"""From hidden states to tokens: masks filled beside the forward pass, one draw per row."""

from __future__ import annotations

import time
from collections.abc import Sequence as Seq
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgrt import ops
from sgrt.errors import EngineError, SgrtError
from sgrt.grammar.masks import fill_rows
from sgrt.grammar.matcher import Matcher
from sgrt.runtime.model_runner import Runner
from sgrt.runtime.sequence import Sequence

RowMask = Seq[int] | NDArray[np.uint32] | None
"""Allowed ids, or a mask of W words, or None for any token."""


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
    """A drawn token; ``logprob`` is NaN and ``top`` empty where they were not asked for."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class Masks:
    """The masks of one step, being filled."""

    def __init__(self, future: Future[list[RowMask | SgrtError]] | None, num_rows: int) -> None:
        self._future = future
        self._num_rows = num_rows
        self.seconds = 0.0

    def wait(self) -> list[RowMask | SgrtError]:
        """One entry per row: its mask, or why it has none."""
        return [None] * self._num_rows if self._future is None else self._future.result()


class Sampler:
    """Draws the tokens of a step.

    Masks are filled on one thread beside the forward pass; both release the GIL. Every draw
    depends on its own row only, so a row that cannot be drawn does not disturb the others.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._filler = ThreadPoolExecutor(1, thread_name_prefix="sgrt-masks")

    def start_masks(self, rows: Seq[Row]) -> Masks:
        """Begin to fill the masks of these rows."""
        if all(row.matcher is None for row in rows):
            return Masks(None, len(rows))
        masks = Masks(None, len(rows))

        def fill() -> list[RowMask | SgrtError]:
            start = time.perf_counter()
            try:
                return self._fill(rows)
            finally:
                masks.seconds = time.perf_counter() - start

        masks._future = self._filler.submit(fill)
        return masks

    def _fill(self, rows: Seq[Row]) -> list[RowMask | SgrtError]:
        matchers = [row.matcher for row in rows if row.matcher is not None]
        filled = iter(fill_rows(matchers, self._runner.vocab_size))
        return [
            None if row.matcher is None else _with_end(next(filled), row.end_ids) for row in rows
        ]

    def draw(
        self, hidden: Any, rows: Seq[Row], masks: Masks
    ) -> tuple[list[Token | Exception], int]:
        """Draw one token per row.

        Args:
            hidden: what the runner's forward returned, one per row.

        Returns:
            Per row the token, or why there is none; and the head rows computed.
        """
        allowed = masks.wait()
        tokens: list[Token | Exception] = [EngineError("not drawn")] * len(rows)
        open_rows = []
        for i, mask in enumerate(allowed):
            if isinstance(mask, SgrtError):
                tokens[i] = mask
            else:
                open_rows.append(i)
        head_rows = 0
        while open_rows:
            try:
                drawn = self._draw(hidden, rows, allowed, open_rows)
            except ops.RowError as error:
                bad = [open_rows[r] for r in error.rows]
                for i in bad:
                    tokens[i] = EngineError(f"cannot draw a token: {error.reason}")
                open_rows = [i for i in open_rows if i not in bad]
                continue
            head_rows = drawn.rows_computed
            for r, i in enumerate(open_rows):
                tokens[i] = _token(drawn, r, rows[i].sampling.num_top)
            break
        return tokens, head_rows

    def _draw(
        self, hidden: Any, rows: Seq[Row], allowed: Seq[Any], open_rows: list[int]
    ) -> ops.Drawn:
        if len(open_rows) < len(rows):
            hidden = hidden[open_rows]
        plan = ops.MaskPlan.build([allowed[i] for i in open_rows])
        sampling = ops.SamplingRows.build([rows[i].sampling for i in open_rows])
        return self._runner.sample(hidden, plan, sampling)

    def close(self) -> None:
        """Stop the filling thread."""
        self._filler.shutdown()


def _with_end(mask: Any, end_ids: frozenset[int]) -> RowMask | SgrtError:
    """A mask or ids as `fill_rows` gives them, with the tokens that may end the text."""
    if isinstance(mask, SgrtError):
        return mask
    if not (isinstance(mask, np.ndarray) and mask.dtype == np.uint32):
        return [*map(int, mask), *end_ids]
    for i in end_ids:
        mask[i // 32] |= np.uint32(1 << (i % 32))
    return mask


def _token(drawn: ops.Drawn, r: int, num_top: int) -> Token:
    top: tuple[tuple[int, float], ...] = ()
    if num_top > 0:
        ids, values = drawn.top_ids[r].tolist(), drawn.top_logprobs[r].tolist()
        top = tuple((i, p) for i, p in zip(ids[:num_top], values, strict=False) if i >= 0)
    return Token(int(drawn.token_ids[r]), float(drawn.logprobs[r]), top)
