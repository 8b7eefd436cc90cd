"""Layers shared by the torch models: norms, rotary embedding, attention over pages.

Key: B sequences · T tokens in the flat batch · D hidden · H query heads · K kv heads ·
G = H / K query heads per kv head · C head dim · P pages · S page size · N context.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from sgrt import ops


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x²) + eps) · weight over the last dimension, in float32."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


@dataclass(frozen=True)
class Rotation:
    """Cosines and sines of a batch's positions: [T, 1, C/2] float32 each."""

    cos: torch.Tensor
    sin: torch.Tensor

    @classmethod
    def at(cls, positions: torch.Tensor, inv_freq: torch.Tensor, scale: float) -> Rotation:
        """Angles position · inv_freq.

        Args:
            positions: [T] int64.
            inv_freq: [C/2] float32, radians per position.
            scale: multiplies both.
        """
        angle = positions.to(torch.float32)[:, None, None] * inv_freq
        return cls(angle.cos() * scale, angle.sin() * scale)

    def apply(self, x: torch.Tensor) -> torch.Tensor:  # [T, heads, C] float32 -> the same
        """Turn channel i with channel i + C/2."""
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * self.cos - b * self.sin, b * self.cos + a * self.sin), dim=-1)


@dataclass(frozen=True)
class Group:
    """Sequences of a batch that bring the same number n of tokens and attend together.

    Args:
        rows: [b·n] int64 into the flat batch; None means all of it.
        pages: [b, p] int64, enough for the longest context of the group.
        query_pos: [b, n] int64.
        max_context: N, the longest context.
        padded: whether some context is shorter than N.
        masks: which keys a query sees, by window; filled on demand.
    """

    rows: torch.Tensor | None
    pages: torch.Tensor
    query_pos: torch.Tensor
    max_context: int
    padded: bool
    masks: dict[int | None, torch.Tensor | None] = field(default_factory=dict)

    def mask(self, window: int | None) -> torch.Tensor | None:
        """[b, n, N] bool, or None where every query sees every key."""
        if window not in self.masks:
            self.masks[window] = self._mask(window)
        return self.masks[window]

    def _mask(self, window: int | None) -> torch.Tensor | None:
        one_query = self.query_pos.shape[1] == 1
        if one_query and not self.padded and (window is None or window >= self.max_context):
            return None
        key_pos = torch.arange(self.max_context, device=self.query_pos.device)
        query_pos = self.query_pos.unsqueeze(-1)
        seen = key_pos <= query_pos
        return seen if window is None else seen & (key_pos > query_pos - window)


@dataclass(frozen=True)
class StepPlan:
    """Where the tokens of a batch stand and whom they see: computed once, used by all layers.

    Args:
        positions: [T] int64.
        page, slot: [T] int64, where each token's key and value go.
        groups: together they cover all tokens.
    """

    positions: torch.Tensor
    page: torch.Tensor
    slot: torch.Tensor
    groups: tuple[Group, ...]

    @classmethod
    def of(cls, batch: ops.DecoderBatch, page_size: int, device: torch.device) -> StepPlan:
        """Plan on the CPU, then move: the device is never waited for."""
        num_new = batch.query_start.diff().to(torch.int64)  # [B]
        sequence = torch.repeat_interleave(torch.arange(batch.num_sequences), num_new)  # [T]
        shift = batch.context_len - batch.query_start[1:]  # [B]: position minus flat index
        positions = torch.arange(batch.num_tokens) + shift[sequence]
        page = batch.page_table[sequence, positions // page_size].to(torch.int64)
        groups = [
            _group(batch, members, positions, page_size, device) for members in _members(num_new)
        ]
        return cls(
            positions.to(device),
            page.to(device),
            (positions % page_size).to(device),
            tuple(groups),
        )


def _members(num_new: torch.Tensor) -> list[list[int]]:
    """Sequences with one token attend in one batch, each longer one by itself."""
    counts = num_new.tolist()
    decode = [b for b, n in enumerate(counts) if n == 1]
    return ([decode] if decode else []) + [[b] for b, n in enumerate(counts) if n > 1]


def _group(
    batch: ops.DecoderBatch,
    members: list[int],
    positions: torch.Tensor,
    page_size: int,
    device: torch.device,
) -> Group:
    index = torch.tensor(members)
    starts = batch.query_start[index]
    n = int(batch.query_start[members[0] + 1] - starts[0])
    rows = (starts[:, None] + torch.arange(n)).to(torch.int64)  # [b, n]
    context = batch.context_len[index]
    longest = int(context.max())
    num_pages = -(-longest // page_size)
    return Group(
        rows=None if rows.numel() == batch.num_tokens else rows.view(-1).to(device),
        pages=batch.page_table[index, :num_pages].to(torch.int64).to(device),
        query_pos=positions[rows].to(device),
        max_context=longest,
        padded=bool((context != longest).any()),
    )


def write_kv(
    kv: ops.PagedKV,
    layer: int,
    plan: StepPlan,
    k: torch.Tensor,  # [T, K, C]
    v: torch.Tensor,  # [T, K, C]
) -> None:
    """Store the keys and values of a batch.

    Mutates: the pages that `plan` names, in this layer.
    """
    kv.k[layer][plan.page, :, :, plan.slot] = k.to(kv.k.dtype)
    kv.v[layer][plan.page, :, plan.slot] = v.to(kv.v.dtype)


def attend(
    q: torch.Tensor,  # [T, H, C]
    kv: ops.PagedKV,
    layer: int,
    plan: StepPlan,
    *,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """Causal attention of each token over its own sequence, whose keys and values are in pages.

    Positions that a sequence does not have are not read as numbers: whatever their memory
    holds, NaN included, changes nothing.

    Returns:
        [T, H, C], dtype of q.

    Cost: gathers the pages of every sequence once.
    """
    out = torch.empty_like(q)
    for group in plan.groups:
        rows = q if group.rows is None else q.index_select(0, group.rows)
        result = _attend_group(rows, kv, layer, group, scale, window)
        if group.rows is None:
            return result
        out.index_copy_(0, group.rows, result)
    return out


def _attend_group(
    q: torch.Tensor,  # [b·n, H, C]
    kv: ops.PagedKV,
    layer: int,
    group: Group,
    scale: float,
    window: int | None,
) -> torch.Tensor:  # [b·n, H, C]
    (b, n), (heads, dim) = group.query_pos.shape, q.shape[1:]
    num_kv = kv.k.shape[2]
    shared = heads // num_kv
    k, v = _gather(kv, layer, group, q.dtype)  # [b, K, N, C]
    # One kv head per batch entry, its G query heads as heads: the keys are expanded, not copied.
    grouped = q.view(b, n, num_kv, shared, dim).permute(0, 2, 3, 1, 4)
    grouped = grouped.reshape(b * num_kv, shared, n, dim)
    mask = group.mask(window)
    if mask is not None:
        mask = mask[:, None].expand(b, num_kv, n, -1).reshape(b * num_kv, 1, n, -1)
    result = F.scaled_dot_product_attention(
        grouped,
        k.reshape(b * num_kv, 1, -1, dim).expand(-1, shared, -1, -1),
        v.reshape(b * num_kv, 1, -1, dim).expand(-1, shared, -1, -1),
        attn_mask=mask,
        scale=scale,
    )  # [b·K, G, n, C]
    result = result.view(b, num_kv, shared, n, dim).permute(0, 3, 1, 2, 4)
    return result.reshape(b * n, heads, dim)


def _gather(
    kv: ops.PagedKV, layer: int, group: Group, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of a group's sequences: [b, K, N, C] each, zero beyond a context."""
    b, p = group.pages.shape
    num_kv, dim = kv.k.shape[2:4]
    index = group.pages.view(-1)
    k = kv.k[layer].index_select(0, index).view(b, p, num_kv, dim, -1)
    v = kv.v[layer].index_select(0, index).view(b, p, num_kv, -1, dim)
    k = k.permute(0, 2, 1, 4, 3).reshape(b, num_kv, -1, dim)[:, :, : group.max_context]
    v = v.permute(0, 2, 1, 3, 4).reshape(b, num_kv, -1, dim)[:, :, : group.max_context]
    k, v = k.to(dtype), v.to(dtype)
    if group.padded:
        beyond = torch.arange(group.max_context, device=k.device) > group.query_pos[:, -1:]
        beyond = beyond[:, None, :, None]  # [b, 1, N, 1]
        k, v = k.masked_fill(beyond, 0), v.masked_fill(beyond, 0)
    return k, v
