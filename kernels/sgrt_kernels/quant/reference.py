"""What stored bytes mean: the definition of every format, in plain torch.

Source of the block layouts: the GGUF specification and the descriptions of the ggml block types;
tests compare every format with the `gguf` package.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from sgrt_kernels.quant.formats import Format, RawWeight

ACTIVATION_GROUP = 32
"""Columns that share one activation scale."""

_TINY = 1e-30


def dequantize(raw: RawWeight) -> torch.Tensor:
    """The values of a weight.

    Returns:
        A new tensor of `raw.shape`, float32, on the device of `raw.data`.

    Cost: one pass over the bytes.
    """
    fmt = raw.format
    if not fmt.is_quantized:
        return raw.data.view(_DTYPES[fmt]).reshape(raw.shape).to(torch.float32, copy=True)
    blocks = raw.data.view(-1, fmt.block_bytes)  # [N, bytes]
    return _DECODERS[fmt](blocks).reshape(raw.shape)


def quantize_activations(
    x: torch.Tensor,  # [N, D] float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric int8 with one scale per row and group of 32 columns.

    The scale is max|x| / 127 and values round half to even. A group whose largest value is below
    1e-30 becomes zeros; one that holds NaN or infinity gets the scale NaN.

    Returns:
        q [N, D] int8 and scale [N, D / 32] float32, with x close to q * scale.

    Raises:
        ValueError: D is not a multiple of 32.
    """
    n, d = x.shape
    if d % ACTIVATION_GROUP:
        raise ValueError(f"activations of {d} columns: not a multiple of {ACTIVATION_GROUP}")
    groups = x.reshape(n, -1, ACTIVATION_GROUP)
    amax = groups.abs().amax(-1)
    finite = torch.isfinite(amax)
    used = finite & (amax >= _TINY)
    # Not 127 / amax: torch turns a number over a tensor into a product with a rounded reciprocal.
    inverse = torch.where(used, torch.full_like(amax, 127.0) / amax, 0.0).unsqueeze(-1)
    q = torch.round(torch.where(used.unsqueeze(-1), groups, 0.0) * inverse).to(torch.int8)
    scale = torch.where(
        used, amax / torch.full_like(amax, 127.0), torch.where(finite, 0.0, torch.nan)
    )
    return q.view(n, d), scale


def _half(two_bytes: torch.Tensor) -> torch.Tensor:  # [N, 2] uint8 -> [N, 1] float32
    return two_bytes.contiguous().view(torch.float16).to(torch.float32)


def _nibbles(packed: torch.Tensor) -> torch.Tensor:  # [..., n] uint8 -> [..., 2n]: low, then high
    return torch.cat((packed & 15, packed >> 4), dim=-1).to(torch.float32)


def _q8_0(blocks: torch.Tensor) -> torch.Tensor:
    return _half(blocks[:, :2]) * blocks[:, 2:].contiguous().view(torch.int8).to(torch.float32)


def _q4_0(blocks: torch.Tensor) -> torch.Tensor:
    return _half(blocks[:, :2]) * (_nibbles(blocks[:, 2:]) - 8.0)


def _q4_1(blocks: torch.Tensor) -> torch.Tensor:
    return _half(blocks[:, :2]) * _nibbles(blocks[:, 4:]) + _half(blocks[:, 2:4])


def _q4_k(blocks: torch.Tensor) -> torch.Tensor:
    scale, minimum = _six_bit_pairs(blocks[:, 4:16])  # [N, 8] each
    values = _nibbles(blocks[:, 16:].view(-1, 4, 32)).view(-1, 8, 32)
    d = (_half(blocks[:, :2]) * scale).unsqueeze(-1)
    m = (_half(blocks[:, 2:4]) * minimum).unsqueeze(-1)
    return d * values - m


def _six_bit_pairs(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eight 6-bit scales and eight 6-bit minima from 12 bytes: [N, 12] -> two [N, 8] float32."""
    first, second, rest = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scale = torch.cat((first & 63, (rest & 15) | ((first >> 6) << 4)), dim=-1)
    minimum = torch.cat((second & 63, (rest >> 4) | ((second >> 6) << 4)), dim=-1)
    return scale.to(torch.float32), minimum.to(torch.float32)


def _q6_k(blocks: torch.Tensor) -> torch.Tensor:
    low = blocks[:, :128].view(-1, 2, 1, 64)
    low = torch.cat((low & 15, low >> 4), dim=2)  # [N, 2, 2, 64]
    high = blocks[:, 128:192].view(-1, 2, 1, 32)
    high = torch.cat([(high >> shift) & 3 for shift in (0, 2, 4, 6)], dim=2)  # [N, 2, 4, 32]
    values = (low.reshape(-1, 256) | (high.reshape(-1, 256) << 4)).to(torch.float32) - 32.0
    scale = blocks[:, 192:208].contiguous().view(torch.int8).to(torch.float32)  # [N, 16]
    d = (_half(blocks[:, 208:210]) * scale).unsqueeze(-1)
    return d * values.view(-1, 16, 16)


_DTYPES = {
    Format.F32: torch.float32,
    Format.F16: torch.float16,
    Format.BF16: torch.bfloat16,
}
_DECODERS: dict[Format, Callable[[torch.Tensor], torch.Tensor]] = {
    Format.Q8_0: _q8_0,
    Format.Q4_0: _q4_0,
    Format.Q4_1: _q4_1,
    Format.Q4_K: _q4_k,
    Format.Q6_K: _q6_k,
}
