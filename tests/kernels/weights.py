"""Random weights in every format, drawn as bytes so that every code and scale occurs."""

from __future__ import annotations

import torch

from sgrt_kernels.quant import Format, RawWeight

_FLOATS = {
    Format.F32: torch.float32,
    Format.F16: torch.float16,
    Format.BF16: torch.bfloat16,
}
# Per format: offsets of its float16 fields, and what brings the values near 1 / sqrt(columns).
_HALVES = {
    Format.Q8_0: ((0,), 0.014),
    Format.Q4_0: ((0,), 0.22),
    Format.Q4_1: ((0, 2), 0.12),
    Format.Q4_K: ((0, 2), 0.004),
    Format.Q6_K: ((208,), 0.0008),
}


def random_weight(fmt: Format, rows: int, cols: int) -> RawWeight:
    """A matrix whose products with unit activations are near 1. Uses torch's global generator."""
    scale = cols**-0.5
    if fmt in _FLOATS:
        return RawWeight.from_tensor((torch.randn(rows, cols) * scale).to(_FLOATS[fmt]))
    shape = (rows, cols // fmt.block_size, fmt.block_bytes)
    data = torch.randint(0, 256, shape, dtype=torch.uint8)
    offsets, unit = _HALVES[fmt]
    for at in offsets:
        values = (torch.randn(*shape[:2], 1) * unit * scale).to(torch.float16)
        data[..., at : at + 2] = values.view(torch.uint8)
    return RawWeight(data.view(-1), fmt, (rows, cols))
