"""The LM head, packed for the implementation that will read it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray

from sgrt_kernels.head_sample import reference
from sgrt_kernels.head_sample.rows import Drawn, MaskPlan, SamplingRows
from sgrt_kernels.native import Library
from sgrt_kernels.quant import RawWeight, dequantize


class Head(ABC):
    """The matrix that turns hidden states into logits. Token ids from `vocab_size` on do not
    exist: rows that only pad the stored matrix are never read."""

    vocab_size: int
    hidden_size: int

    @staticmethod
    def pack(
        raw: RawWeight,
        library: Library | None = None,
        *,
        vocab_size: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Head:
        """Prepare a head for drawing.

        Args:
            raw: [rows, D] as the model file stores it.
            library: native kernels, which keep the weights in their format and quantise hidden
                states to int8 where the weights are quantised; None for plain torch.
            vocab_size: tokens that exist; None takes all rows.
            device: where hidden states will be; "cpu" for a library.
            dtype: of the dequantised matrix; logits are accumulated in float32 anyway. float32
                for a library, which keeps the stored format.

        Raises:
            ValueError: not a matrix, fewer rows than tokens, or a device, dtype or format that
                the library does not take.
        """
        vocab_size = raw.shape[0] if vocab_size is None else vocab_size
        if len(raw.shape) != 2 or not 0 < vocab_size <= raw.rows:
            raise ValueError(f"a head of shape {raw.shape} has no {vocab_size} tokens")
        if library is not None:
            if torch.device(device).type != "cpu" or dtype != torch.float32:
                raise ValueError(f"native kernels take float32 on the cpu, not {dtype} on {device}")
            from sgrt_kernels.head_sample.native import NativeHead

            return NativeHead(raw, vocab_size, library)
        return TorchHead(dequantize(raw)[:vocab_size].to(device, dtype))

    @abstractmethod
    def sample(
        self,
        hidden: torch.Tensor,  # [N, D] float32
        hidden_row: NDArray[np.int32],  # [R]
        plan: MaskPlan,
        rows: SamplingRows,
    ) -> Drawn:
        """`head_sample` on checked arguments."""

    @abstractmethod
    def logits(
        self,
        hidden: torch.Tensor,  # [N, D] float32
    ) -> torch.Tensor:
        """All logits: [N, V] float32."""


class TorchHead(Head):
    """The reference on a dequantised matrix, on any device.

    Args:
        matrix: [V, D] float32, bfloat16 or float16.
    """

    def __init__(self, matrix: torch.Tensor) -> None:
        self.matrix = matrix
        self.vocab_size, self.hidden_size = matrix.shape

    def sample(
        self,
        hidden: torch.Tensor,
        hidden_row: NDArray[np.int32],
        plan: MaskPlan,
        rows: SamplingRows,
    ) -> Drawn:
        return reference.head_sample(hidden, self.matrix, hidden_row, plan, rows)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return reference.project(hidden, self.matrix)
