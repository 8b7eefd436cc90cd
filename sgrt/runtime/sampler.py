"""From hidden states to tokens: one draw per row, under its mask."""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sgrt import ops
from sgrt.errors import EngineError
from sgrt.runtime.masking import Filled, MaskFiller
from sgrt.runtime.masking import Row as Row
from sgrt.runtime.model_runner import Runner


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
