"""Data that every implementation of the decoder shares.

Key: B sequences · R rows wanted · T tokens in the flat batch · V vocabulary · D hidden ·
H query heads · K kv heads · C head dim · L layers · P pages · S page size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sgrt_kernels.quant import RawWeight


@dataclass(frozen=True, kw_only=True)
class DecoderSpec:
    """The arithmetic of a Llama-like decoder.

    Per layer: RMSNorm, q/k/v, (RMSNorm of each head of q and k), rotary embedding on half-split
    pairs (channel i turns with channel i + C/2), causal attention with grouped kv heads, output
    projection, residual; RMSNorm, down(silu(gate) * up), residual. A last RMSNorm at the end.

    Args:
        hidden: D.
        num_heads: H, a multiple of num_kv_heads.
        head_dim: C, even.
        intermediate: width of gate and up.
        rms_eps: added to the mean square.
        inv_freq: C/2 angles in radians per position.
        rope_scale: multiplies cos and sin.
        qk_norm: RMSNorm on each head of q and k before the rotary embedding.
        qkv_bias: q, k and v have biases.
        o_bias: the output projection has a bias.
        sliding_window: in windowed layers a query sees this many positions, its own included.
        sliding_layers: which layers are windowed; None means all where sliding_window is set.
        softmax_scale: of q·k; None means C ** -0.5.
        embed_scale: multiplies the embedding rows.

    Raises:
        ValueError: sizes that do not fit together.
    """

    num_layers: int
    hidden: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate: int
    vocab_size: int
    rms_eps: float
    inv_freq: tuple[float, ...]
    rope_scale: float = 1.0
    qk_norm: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    sliding_window: int | None = None
    sliding_layers: tuple[bool, ...] | None = None
    softmax_scale: float | None = None
    embed_scale: float = 1.0

    def __post_init__(self) -> None:
        for name in _SIZES:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be >= 1")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads={self.num_heads} is not a multiple of num_kv_heads={self.num_kv_heads}"
            )
        if self.head_dim % 2 or len(self.inv_freq) != self.head_dim // 2:
            raise ValueError(
                f"head_dim={self.head_dim} needs {self.head_dim / 2:g} inv_freq values, "
                f"not {len(self.inv_freq)}"
            )
        if self.sliding_window is not None and self.sliding_window < 1:
            raise ValueError(f"sliding_window={self.sliding_window}: must be >= 1")
        if self.sliding_layers is not None and len(self.sliding_layers) != self.num_layers:
            raise ValueError(
                f"{len(self.sliding_layers)} sliding_layers flags for {self.num_layers} layers"
            )

    @property
    def scale(self) -> float:
        """What q·k is multiplied by."""
        return self.head_dim**-0.5 if self.softmax_scale is None else self.softmax_scale

    def window(self, layer: int) -> int | None:
        """Positions that a query of this layer sees, its own included; None for all."""
        if self.sliding_layers is not None and not self.sliding_layers[layer]:
            return None
        return self.sliding_window


_SIZES = (
    "num_layers",
    "hidden",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "intermediate",
    "vocab_size",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerWeights:
    """One layer. Norms and biases are float32, matrices are as in the file ([outputs, inputs])."""

    attn_norm: torch.Tensor  # [D]
    q: RawWeight  # [H*C, D]
    k: RawWeight  # [K*C, D]
    v: RawWeight  # [K*C, D]
    o: RawWeight  # [D, H*C]
    mlp_norm: torch.Tensor  # [D]
    gate: RawWeight  # [intermediate, D]
    up: RawWeight  # [intermediate, D]
    down: RawWeight  # [D, intermediate]
    q_bias: torch.Tensor | None = None  # [H*C]
    k_bias: torch.Tensor | None = None  # [K*C]
    v_bias: torch.Tensor | None = None  # [K*C]
    o_bias: torch.Tensor | None = None  # [D]
    q_norm: torch.Tensor | None = None  # [C]
    k_norm: torch.Tensor | None = None  # [C]


@dataclass(frozen=True, kw_only=True, eq=False)
class DecoderWeights:
    """A whole model. A tied head is the same object as the embedding."""

    embed: RawWeight  # [V, D]
    layers: tuple[LayerWeights, ...]
    final_norm: torch.Tensor  # [D] float32
    head: RawWeight  # [V, D]


@dataclass(frozen=True, eq=False)
class PagedKV:
    """Keys and values of all layers, in pages of S positions.

    Keys are transposed inside a page, so that one vector load holds one channel of 16 positions.

    Args:
        k: [L, P, K, C, S], contiguous.
        v: [L, P, K, S, C], contiguous; same dtype (float16 or float32) and device as k.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together.
    """

    k: torch.Tensor
    v: torch.Tensor

    def __post_init__(self) -> None:
        k, v = self.k, self.v
        if k.dim() != 5 or v.shape != (*k.shape[:3], k.shape[4], k.shape[3]):
            raise ValueError(
                f"k {tuple(k.shape)} and v {tuple(v.shape)} are not [L, P, K, C, S] and "
                "[L, P, K, S, C]"
            )
        if k.dtype != v.dtype or k.dtype not in (torch.float16, torch.float32):
            raise ValueError(f"KV pages are float16 or float32, not k {k.dtype} and v {v.dtype}")
        if k.device != v.device:
            raise ValueError(f"k is on {k.device}, v on {v.device}")
        if not (k.is_contiguous() and v.is_contiguous()):
            raise ValueError("KV pages must be contiguous")

    @classmethod
    def allocate(
        cls,
        spec: DecoderSpec,
        num_pages: int,
        page_size: int,
        *,
        dtype: torch.dtype = torch.float16,
        device: torch.device | str = "cpu",
    ) -> PagedKV:
        """Zeroed pages for a model; main memory is taken only as pages are written."""
        lead = (spec.num_layers, num_pages, spec.num_kv_heads)
        return cls(
            _zeros((*lead, spec.head_dim, page_size), dtype, device),
            _zeros((*lead, page_size, spec.head_dim), dtype, device),
        )

    @staticmethod
    def page_bytes(spec: DecoderSpec, page_size: int, dtype: torch.dtype = torch.float16) -> int:
        """Bytes that one page of a model takes in all layers together."""
        return 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim * page_size * dtype.itemsize

    @property
    def num_pages(self) -> int:
        return self.k.shape[1]

    @property
    def page_size(self) -> int:
        return self.k.shape[4]

    def copy_page(self, src: int, dst: int) -> None:
        """Copy one page to another in all layers.

        Mutates: page dst.

        Raises:
            ValueError: a page that does not exist.
        """
        for page in (src, dst):
            if not 0 <= page < self.num_pages:
                raise ValueError(f"page {page} of {self.num_pages}")
        self.k[:, dst].copy_(self.k[:, src])
        self.v[:, dst].copy_(self.v[:, src])


@dataclass(frozen=True, kw_only=True, eq=False)
class DecoderBatch:
    """One step: new tokens of B sequences, laid out flat. All int32, on the CPU, contiguous.

    Sequence b brings tokens query_start[b]:query_start[b+1]; the last of them stands at position
    context_len[b] - 1. Their keys and values are written into the pages of page_table[b]
    (position p lies in page page_table[b, p // S] at p % S), and earlier positions are read there.

    Args:
        token_ids: [T].
        query_start: [B+1], starts at 0, ends at T, every sequence has at least one token.
        context_len: [B], KV length after this step.
        page_table: [B, Pmax], padded with 0.
        out_rows: [R] indices into T whose hidden states are wanted, in the order wanted.
    """

    token_ids: torch.Tensor
    query_start: torch.Tensor
    context_len: torch.Tensor
    page_table: torch.Tensor
    out_rows: torch.Tensor

    @classmethod
    def from_lists(
        cls,
        tokens: Sequence[Sequence[int]],
        context_len: Sequence[int],
        pages: Sequence[Sequence[int]],
        out_rows: Sequence[int] | None = None,
    ) -> DecoderBatch:
        """Build the flat form.

        Args:
            tokens: new tokens of each sequence.
            context_len: KV length of each sequence after this step.
            pages: page ids of each sequence.
            out_rows: indices into the flat tokens; None takes the last token of each sequence.
        """
        starts = [0]
        for t in tokens:
            starts.append(starts[-1] + len(t))
        width = max((len(p) for p in pages), default=0)
        table = [[*p, *([0] * (width - len(p)))] for p in pages]
        rows = [s - 1 for s in starts[1:]] if out_rows is None else list(out_rows)
        return cls(
            token_ids=_int32([i for t in tokens for i in t]),
            query_start=_int32(starts),
            context_len=_int32(context_len),
            page_table=_int32(table).view(len(tokens), width),
            out_rows=_int32(rows),
        )

    @property
    def num_sequences(self) -> int:
        return self.context_len.numel()

    @property
    def num_tokens(self) -> int:
        return self.token_ids.numel()


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str) -> torch.Tensor:
    if torch.device(device).type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # numpy asks the system for zeroed memory; torch would write the zeros, gigabytes of them
    return torch.from_numpy(np.zeros(shape, {torch.float16: "f2", torch.float32: "f4"}[dtype]))


def _int32(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)
