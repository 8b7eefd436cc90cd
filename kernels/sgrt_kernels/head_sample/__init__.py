"""head_sample: one token per row from hidden states, computing only what the mask leaves open.

`reference.py` is the definition (any device); `native.py` the CPU implementation. A draw is a
function of the row's logits, its settings and (seed, position): the same in every batch, for
every way to write the same mask, on every device and in every implementation.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from sgrt_kernels.head_sample import reference
from sgrt_kernels.head_sample.head import Head
from sgrt_kernels.head_sample.listing import list_masks
from sgrt_kernels.head_sample.rows import (
    BadLogits,
    Drawn,
    MaskPlan,
    NoAllowedToken,
    RowError,
    RowKind,
    SamplingRow,
    SamplingRows,
)

__all__ = [
    "BadLogits",
    "Drawn",
    "Head",
    "MaskPlan",
    "NoAllowedToken",
    "RowError",
    "RowKind",
    "SamplingRow",
    "SamplingRows",
    "head_sample",
    "list_masks",
    "logits",
]


def head_sample(
    hidden: torch.Tensor,  # [N, D] float32
    head: Head,
    plan: MaskPlan,
    rows: SamplingRows,
    hidden_row: NDArray[np.int32] | None = None,  # [R]
) -> Drawn:
    """Draw one token for each of R rows from hidden states, under a mask.

    Args:
        hidden: [N, D] float32 on the head's device, after the final norm.
        head: the packed LM head.
        plan: which tokens each row may take.
        rows: how each row takes one.
        hidden_row: [R] int32, the hidden state of each row; -1 where none is needed (FORCED
            rows that report no unmasked log-probabilities). None means row r has state r.

    Returns:
        Tokens and log-probabilities, on the CPU.

    Raises:
        NoAllowedToken: the mask of the named rows is empty.
        BadLogits: hidden states or logits of the named rows are NaN or infinite.
        ValueError: shapes or ids that do not fit together.

    Cost: dot products of the hidden state with the rows of the head that the mask leaves open
        (in tiles of 16 in the native implementation), as `Drawn.rows_computed` counts them.

    Source: the noise is Gumbel-max sampling (Gumbel 1954; Yellott 1977) with a counter-based
        generator (`exact.py`).
    """
    source = _checked_source(hidden, head, plan, rows, hidden_row)
    plan.check_vocabulary(head.vocab_size)
    rows.check_vocabulary(head.vocab_size)
    return head.sample(hidden, source, plan, rows)


def logits(
    hidden: torch.Tensor,  # [N, D] float32
    head: Head,
) -> torch.Tensor:
    """All logits of each hidden state: [N, V] float32 on the head's device.

    Raises:
        ValueError: hidden is not [N, D] float32.
    """
    _check_hidden(hidden, head)
    return head.logits(hidden)


def _check_hidden(hidden: torch.Tensor, head: Head) -> None:
    if hidden.dtype != torch.float32 or hidden.dim() != 2 or hidden.shape[1] != head.hidden_size:
        raise ValueError(
            f"hidden is {hidden.dtype} {tuple(hidden.shape)}, not float32 [N, {head.hidden_size}]"
        )


def _checked_source(
    hidden: torch.Tensor,
    head: Head,
    plan: MaskPlan,
    rows: SamplingRows,
    hidden_row: NDArray[np.int32] | None,
) -> NDArray[np.int32]:
    """[R] int32 hidden row of each row, in range wherever the row needs one."""
    _check_hidden(hidden, head)
    if plan.num_rows != rows.num_rows:
        raise ValueError(f"the plan has {plan.num_rows} rows, the sampling {rows.num_rows}")
    if hidden_row is None:
        hidden_row = np.arange(plan.num_rows, dtype=np.int32)
    source = np.ascontiguousarray(hidden_row, dtype=np.int32)
    if source.shape != (plan.num_rows,):
        raise ValueError(f"hidden_row has shape {source.shape}, not ({plan.num_rows},)")
    few, full = reference.head_needs(plan, rows)
    missing = (few | full) & ((source < 0) | (source >= hidden.shape[0]))
    if missing.any():
        row = int(missing.argmax())
        raise ValueError(
            f"row {row} needs a hidden state, but hidden_row is {source[row]} "
            f"of {hidden.shape[0]} states"
        )
    return source
