"""The definition of `head_sample`, in plain torch.

It keeps dense [R, V] logits and spells out every step; implementations compute less, never
something else. Works on any device; the plan lives on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sgrt_kernels.head_sample import exact
from sgrt_kernels.head_sample.rows import (
    BadLogits,
    Drawn,
    MaskPlan,
    NoAllowedToken,
    RowKind,
    SamplingRows,
)


def head_sample(
    hidden: torch.Tensor,  # [N, D] float32
    matrix: torch.Tensor,  # [V, D] float32, bfloat16 or float16
    hidden_row: NDArray[np.int32],  # [R]
    plan: MaskPlan,
    rows: SamplingRows,
) -> Drawn:
    """Draw one token per row; see `sgrt_kernels.head_sample.head_sample`.

    Cost: a row of kind FORCED computes nothing, FEW its own rows of the head (all of them where
    log-probabilities are unmasked), the others the whole head.
    """
    few, full = head_needs(plan, rows)
    logits = torch.zeros(plan.num_rows, matrix.shape[0], device=matrix.device)  # [R, V] float32
    source = _on(hidden_row.astype(np.int64), logits)
    num_computed = 0
    full_rows = _on(np.flatnonzero(full), logits)
    if len(full_rows):
        logits[full_rows] = project(hidden[source[full_rows]], matrix)
        num_computed += logits[full_rows].numel()
    if few.any():
        at, ids = _entries(plan.few_ids, plan.few_start, logits)
        used = _on(few, logits)[at]
        at, ids = at[used], ids[used]
        products = hidden[source[at]] * matrix[ids].to(torch.float32)
        logits[at, ids] = products.sum(-1)
        num_computed += len(ids)
    unsound = None
    if (few | full).any():
        unsound = _on(few | full, logits) & ~hidden.isfinite().all(-1)[source]
    return sample_logits(logits, plan, rows, num_computed=num_computed, unsound=unsound)


def head_needs(plan: MaskPlan, rows: SamplingRows) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which rows need only their listed rows of the head, and which need more than that."""
    full = (plan.kind <= RowKind.BITMASK) | (rows.unmasked & wants_logprob(rows))
    return (plan.kind == RowKind.FEW) & ~full, full


def wants_logprob(rows: SamplingRows) -> NDArray[np.bool_]:
    """Rows that report log-probabilities."""
    wanted: NDArray[np.bool_] = (rows.num_top >= 0) | rows.has_targets
    return wanted


def project(
    hidden: torch.Tensor,  # [N, D] float32
    matrix: torch.Tensor,  # [V, D]
) -> torch.Tensor:
    """Logits with fp32 accumulation: [N, V] float32."""
    if matrix.dtype == torch.float32:
        return hidden @ matrix.T
    if matrix.is_cuda:
        return torch.mm(hidden.to(matrix.dtype), matrix.T, out_dtype=torch.float32)
    return hidden @ matrix.T.to(torch.float32)


def sample_logits(
    logits: torch.Tensor,  # [R, V] float32
    plan: MaskPlan,
    rows: SamplingRows,
    *,
    num_computed: int = 0,
    unsound: torch.Tensor | None = None,  # [R] bool
) -> Drawn:
    """Draw from given logits.

    Args:
        num_computed: what `Drawn.rows_computed` says.
        unsound: rows known to be without sound logits.

    Raises:
        NoAllowedToken, BadLogits: naming the rows.
    """
    allowed = allowed_tokens(plan, rows, logits)
    adjusted = adjust(logits, rows)
    _refuse(NoAllowedToken, ~allowed.any(-1))
    read = allowed | _on(rows.unmasked & wants_logprob(rows), logits).unsqueeze(-1)
    bad = ((~logits.isfinite() & read) | (~adjusted.isfinite() & allowed)).any(-1)
    _refuse(BadLogits, bad if unsound is None else bad | unsound)
    token_ids = adjusted.masked_fill(~allowed, -torch.inf).argmax(-1)  # ties: the first, lowest id
    token_ids[_on(rows.has_targets, logits)] = -1
    drawn = np.flatnonzero((rows.temperature > 0) & ~rows.has_targets)
    if len(drawn):
        at = _on(drawn, logits)
        token_ids[at] = _draw(adjusted[at], allowed[at], rows, drawn)
    result = Drawn.empty(rows)
    result.rows_computed = num_computed
    result.token_ids[:] = token_ids.cpu().numpy()
    _report(result, logits, allowed, rows)
    return result


def allowed_tokens(plan: MaskPlan, rows: SamplingRows, like: torch.Tensor) -> torch.Tensor:
    """The mask, less the banned tokens: [R, V] bool on the device of `like` [R, V]."""
    allowed = torch.zeros(like.shape, dtype=torch.bool, device=like.device)
    allowed[_on(plan.kind == RowKind.FREE, like)] = True
    masked = np.flatnonzero(plan.kind == RowKind.BITMASK)
    if len(masked):
        assert plan.bitmask is not None  # checked by MaskPlan
        at = masked if plan.mask_row is None else plan.mask_row[masked]
        used, at = np.unique(at, return_inverse=True)  # a mask that rows share travels once
        words = _on(plan.bitmask[used].view(np.int32), like).unsqueeze(-1)  # [m, W, 1]
        bits = (words >> torch.arange(32, device=like.device)) & 1
        masks = bits.flatten(1)[:, : like.shape[1]].bool()  # [m, V]
        allowed[_on(masked, like)] = masks[_on(at, like)]
    allowed[_entries(plan.few_ids, plan.few_start, like)] = True
    allowed[_entries(rows.banned_ids, rows.banned_start, like)] = False
    return allowed


def adjust(
    logits: torch.Tensor,  # [R, V] float32
    rows: SamplingRows,
) -> torch.Tensor:
    """Penalties, then bias, each step rounded to float32: [R, V] float32."""
    adjusted = logits.clone()
    at, ids = _entries(rows.history_ids, rows.history_start, logits)
    if len(ids):
        value = adjusted[at, ids]
        factor = _on(rows.repetition, logits)[at]
        output = _on(rows.history_output_counts, logits)
        seen = (_on(rows.history_prompt_counts, logits) > 0) | (output > 0)
        value = torch.where(seen, torch.where(value > 0, value / factor, value * factor), value)
        value = value - _on(rows.frequency, logits)[at] * output.to(torch.float32)
        value = torch.where(output > 0, value - _on(rows.presence, logits)[at], value)
        adjusted[at, ids] = value
    at, ids = _entries(rows.bias_ids, rows.bias_start, logits)
    adjusted[at, ids] += _on(rows.bias_values, logits)
    return adjusted


def _draw(
    adjusted: torch.Tensor,  # [n, V] float32
    allowed: torch.Tensor,  # [n, V] bool
    rows: SamplingRows,
    index: NDArray[np.int64],  # [n] rows drawn
) -> torch.Tensor:
    """[n] int64: the highest of logit / temperature + noise over the kept tokens."""
    values = adjusted.to(torch.float64).masked_fill(~allowed, -torch.inf)
    temperature = _on(rows.temperature[index].astype(np.float64), adjusted).unsqueeze(-1)
    # relative to the best, so that a tiny temperature leaves the noise its bits
    scores = (values - values.amax(-1, keepdim=True)) / temperature  # [n, V] float64
    kept = allowed & _kept(values, scores, rows, index)
    at, ids = kept.nonzero(as_tuple=True)
    seed = _on(rows.seed[index].view(np.int64), adjusted)
    position = _on(rows.position[index], adjusted)
    noisy = torch.full_like(scores, -torch.inf)
    noisy[at, ids] = scores[at, ids] + exact.gumbel(seed[at], position[at], ids)
    return noisy.argmax(-1)


def _kept(
    values: torch.Tensor,  # [n, V] float64, -inf where not allowed
    scores: torch.Tensor,  # [n, V] float64 <= 0
    rows: SamplingRows,
    index: NDArray[np.int64],
) -> torch.Tensor:
    """[n, V] bool: what top-k, then top-p, then min-p leave. Rank: value, then lowest id."""
    filters = (rows.top_k > 0) | (rows.top_p < 1) | (rows.min_p > 0)
    if not filters[index].any():
        return torch.ones_like(values, dtype=torch.bool)
    top_k = _on(rows.top_k[index], values).unsqueeze(-1)
    top_p = _on(rows.top_p[index], values).unsqueeze(-1)
    min_p = _on(rows.min_p[index], values).unsqueeze(-1)
    order = values.sort(dim=-1, descending=True, stable=True).indices
    weights = exact.weight(scores).gather(-1, order)  # by rank
    rank = torch.arange(values.shape[1], device=values.device)
    by_rank = (rank < top_k) | (top_k <= 0)
    weights = weights * by_rank
    before = (weights.cumsum(-1) - weights).to(torch.float64)
    mass = top_p * weights.sum(-1, keepdim=True).to(torch.float64)
    by_rank &= (before < mass) | (top_p >= 1)
    by_rank &= weights.to(torch.float64) >= min_p * 2.0**exact.WEIGHT_BITS
    return torch.zeros_like(by_rank).scatter(-1, order, by_rank)


def _report(
    result: Drawn,
    logits: torch.Tensor,  # [R, V] float32, the model's own
    allowed: torch.Tensor,  # [R, V] bool
    rows: SamplingRows,
) -> None:
    """Fill in the log-probabilities that rows ask for."""
    index = np.flatnonzero(wants_logprob(rows))
    if not len(index):
        return
    at = _on(index, logits)
    counted = allowed[at] | _on(rows.unmasked[index], logits).unsqueeze(-1)
    values = logits[at].to(torch.float64).masked_fill(~counted, -torch.inf)
    logprobs = values.log_softmax(-1)  # [n, V]
    took = result.token_ids[index] >= 0
    taken = _on(result.token_ids[index[took]].astype(np.int64), logits)
    result.logprobs[index[took]] = logprobs[_on(took, logits), taken].cpu().numpy()
    if len(rows.target_ids):
        rank = np.cumsum(wants_logprob(rows)) - 1  # where in `index` a row stands
        of_row, ids = _entries(rows.target_ids, rows.target_start, logits)
        result.target_logprobs[:] = logprobs[_on(rank, logits)[of_row], ids].cpu().numpy()
    width = min(rows.max_top, logits.shape[1])
    if width == 0:
        return
    order = values.sort(dim=-1, descending=True, stable=True).indices[:, :width]
    best = logprobs.gather(-1, order).cpu().numpy()
    shown = np.isfinite(best) & (np.arange(width) < rows.num_top[index, None])
    result.top_ids[index, :width] = np.where(shown, order.cpu().numpy(), -1)
    result.top_logprobs[index, :width] = np.where(shown, best, np.nan)


def _on(array: NDArray[Any], like: torch.Tensor) -> torch.Tensor:
    """The array as a tensor on the device of `like`."""
    return torch.from_numpy(array).to(like.device)


def _entries(
    ids: NDArray[np.int32], start: NDArray[np.int32], like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and ids of flat entries, as two [n] int64 index tensors."""
    at = np.repeat(np.arange(len(start) - 1), np.diff(start))
    return _on(at, like), _on(ids.astype(np.int64), like)


def _refuse(error: type[NoAllowedToken] | type[BadLogits], at_fault: torch.Tensor) -> None:
    found: Sequence[int] = at_fault.nonzero().flatten().tolist()
    if found:
        raise error(found)
