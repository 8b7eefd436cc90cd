"""The Llama family in torch: the definition of `ops.NativeDecoder`, and the way to run on a GPU.

Architecture invariant: both decoders take the same spec, weights, batch and pages, and return the
same hidden states but for rounding.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from sgrt import ops
from sgrt.models.layers import Rotation, StepPlan, attend, rms_norm, write_kv


@dataclass(frozen=True, eq=False)
class _Layer:
    """One layer, dequantised; projections that read the same input are one matrix."""

    attn_norm: torch.Tensor  # [D] float32
    qkv: torch.Tensor  # [(H + 2K)·C, D]
    qkv_bias: torch.Tensor | None  # [(H + 2K)·C]
    q_norm: torch.Tensor | None  # [C] float32
    k_norm: torch.Tensor | None  # [C] float32
    o: torch.Tensor  # [D, H·C]
    o_bias: torch.Tensor | None  # [D]
    mlp_norm: torch.Tensor  # [D] float32
    gate_up: torch.Tensor  # [2·intermediate, D]
    down: torch.Tensor  # [D, intermediate]


class TorchDecoder:
    """The decoder that `ops.DecoderSpec` describes, on dequantised weights.

    The residual stream, norms and rotary embedding are float32; matrix products and attention are
    in `dtype`.

    Args:
        spec: the arithmetic.
        weights: copied to `device` as `dtype`.
        device: where it runs; the KV pages must be there too.
        dtype: float32 is exact; bfloat16 or float16 for GPUs.
    """

    def __init__(
        self,
        spec: ops.DecoderSpec,
        weights: ops.DecoderWeights,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.spec = spec
        self.device = torch.device(device)
        self.dtype = dtype
        self._embed = self._matrix(weights.embed)  # [V, D]
        self._layers = [self._layer(w) for w in weights.layers]
        self._final_norm = weights.final_norm.to(self.device)
        self._inv_freq = torch.tensor(spec.inv_freq, dtype=torch.float32, device=self.device)

    def _matrix(self, *raws: ops.RawWeight) -> torch.Tensor:
        """The rows of these matrices, one below the other."""
        return torch.cat([ops.dequantize(raw).to(self.device, self.dtype) for raw in raws])

    def _bias(self, *biases: torch.Tensor | None) -> torch.Tensor | None:
        present = [b for b in biases if b is not None]
        return torch.cat(present).to(self.device, self.dtype) if present else None

    def _layer(self, w: ops.LayerWeights) -> _Layer:
        return _Layer(
            attn_norm=w.attn_norm.to(self.device),
            qkv=self._matrix(w.q, w.k, w.v),
            qkv_bias=self._bias(w.q_bias, w.k_bias, w.v_bias),
            q_norm=None if w.q_norm is None else w.q_norm.to(self.device),
            k_norm=None if w.k_norm is None else w.k_norm.to(self.device),
            o=self._matrix(w.o),
            o_bias=self._bias(w.o_bias),
            mlp_norm=w.mlp_norm.to(self.device),
            gate_up=self._matrix(w.gate, w.up),
            down=self._matrix(w.down),
        )

    @torch.no_grad()
    def forward(self, batch: ops.DecoderBatch, kv: ops.PagedKV) -> torch.Tensor:
        """Run one step.

        Args:
            batch: new tokens; see `ops.DecoderBatch`.
            kv: pages of this model, on the same device.

        Returns:
            [R, D] float32: hidden states after the final norm of the rows in `batch.out_rows`.

        Raises:
            ValueError: batch or pages do not fit the model, or name what does not exist.

        Mutates: the pages of the batch's sequences, at the new positions.
        """
        check_step(self.spec, batch, kv)
        plan = StepPlan.of(batch, kv.page_size, self.device)
        rotation = Rotation.at(plan.positions, self._inv_freq, self.spec.rope_scale)
        out_rows = batch.out_rows.to(self.device, torch.int64)
        x = F.embedding(batch.token_ids.to(self.device, torch.int64), self._embed).float()
        x = x * self.spec.embed_scale  # [T, D]
        for i, layer in enumerate(self._layers):
            attended = self._attention(i, layer, x, rotation, kv, plan)  # [T, H·C]
            if i == len(self._layers) - 1:  # only rows that are wanted go on
                x, attended = x[out_rows], attended[out_rows]
            x = x + F.linear(attended, layer.o, layer.o_bias)
            x = x + self._mlp(layer, x)
        return rms_norm(x, self._final_norm, self.spec.rms_eps)

    def _attention(
        self,
        index: int,
        layer: _Layer,
        x: torch.Tensor,  # [T, D] float32
        rotation: Rotation,
        kv: ops.PagedKV,
        plan: StepPlan,
    ) -> torch.Tensor:  # [T, H·C]
        spec = self.spec
        normed = rms_norm(x, layer.attn_norm, spec.rms_eps).to(self.dtype)
        qkv = F.linear(normed, layer.qkv, layer.qkv_bias).float()
        qkv = qkv.view(x.shape[0], -1, spec.head_dim)
        h, kh = spec.num_heads, spec.num_kv_heads
        q, k, v = qkv[:, :h], qkv[:, h : h + kh], qkv[:, h + kh :]
        if layer.q_norm is not None and layer.k_norm is not None:
            q = rms_norm(q, layer.q_norm, spec.rms_eps)
            k = rms_norm(k, layer.k_norm, spec.rms_eps)
        write_kv(kv, index, plan, rotation.apply(k), v)
        q = rotation.apply(q).to(self.dtype)
        out = attend(q, kv, index, plan, scale=spec.scale, window=spec.window(index))
        return out.reshape(x.shape[0], -1)

    def _mlp(self, layer: _Layer, x: torch.Tensor) -> torch.Tensor:  # [T, D] -> [T, D]
        normed = rms_norm(x, layer.mlp_norm, self.spec.rms_eps).to(self.dtype)
        gate, up = F.linear(normed, layer.gate_up).chunk(2, dim=-1)
        return F.linear(F.silu(gate) * up, layer.down)


def check_step(spec: ops.DecoderSpec, batch: ops.DecoderBatch, kv: ops.PagedKV) -> None:
    """Refuse a batch that would read or write outside the model, its pages or its sequences.

    Raises:
        ValueError: naming both numbers that do not fit.
    """
    shape = (kv.k.shape[0], *kv.k.shape[2:4])
    expected = (spec.num_layers, spec.num_kv_heads, spec.head_dim)
    if shape != expected:
        raise ValueError(f"KV pages have (L, K, C) = {shape}, the model {expected}")
    starts, lens = batch.query_start.tolist(), batch.context_len.tolist()
    counts = [b - a for a, b in itertools.pairwise(starts)]
    if len(counts) != len(lens) or len(lens) != len(batch.page_table):
        raise ValueError(
            f"query_start has {len(counts)} sequences, context_len {len(lens)}, "
            f"page_table {len(batch.page_table)}"
        )
    if starts[0] != 0 or starts[-1] != batch.num_tokens or min(counts, default=1) < 1:
        raise ValueError(f"query_start {starts} does not divide {batch.num_tokens} tokens")
    capacity = batch.page_table.shape[1] * kv.page_size
    for n, length in zip(counts, lens, strict=True):
        if not n <= length <= capacity:
            raise ValueError(f"context of {length} for {n} new tokens, pages for {capacity}")
    _check_range("token id", batch.token_ids, spec.vocab_size)
    _check_range("page", batch.page_table, kv.num_pages)
    _check_range("out row", batch.out_rows, batch.num_tokens)


def _check_range(what: str, values: torch.Tensor, limit: int) -> None:
    if values.numel() and not 0 <= int(values.min()) <= int(values.max()) < limit:
        raise ValueError(
            f"{what}s {int(values.min())}..{int(values.max())} are not in 0..{limit - 1}"
        )
