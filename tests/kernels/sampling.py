"""What the tests of head_sample share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from sgrt_kernels import head_sample as hs
from sgrt_kernels.head_sample import reference
from sgrt_kernels.native import Library, available, load

Row = hs.SamplingRow


ISAS = available() or ("native",)


def library_or_skip(isa: str) -> Library:
    if isa not in available():
        pytest.skip("the native kernels are not built")
    library = load(isa)
    assert library is not None and library.isa == isa
    return library


def torch_draw(logits: torch.Tensor, plan: hs.MaskPlan, rows: hs.SamplingRows) -> hs.Drawn:
    return reference.sample_logits(logits, plan, rows)


def noise(*shape: int, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def bits(ids: Sequence[int], vocab_size: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
    flags = np.zeros((vocab_size + 31) // 32 * 32, np.uint8)
    flags[list(ids)] = 1
    return np.packbits(flags, bitorder="little").view(np.uint32)


def some_ids(vocab_size: int, count: int, seed: int = 0) -> list[int]:
    rng = np.random.default_rng(seed)
    return sorted(rng.choice(vocab_size, min(count, vocab_size), replace=False).tolist())
