"""Storage formats of weight matrices and the matrices in them."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import torch


class Format(enum.Enum):
    """How numbers are stored: plain floats, or blocks of integers with shared scales.

    Values are the type ids of the GGUF format (source: the GGUF specification, ggml_type).
    """

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q8_0 = 8
    Q4_K = 12
    Q6_K = 14
    BF16 = 30

    @property
    def ggml_type(self) -> int:
        """Type id in GGUF files."""
        return self.value

    @property
    def block_size(self) -> int:
        """Consecutive elements of a row that share a block."""
        return _GEOMETRY[self][0]

    @property
    def block_bytes(self) -> int:
        """Bytes that one block takes."""
        return _GEOMETRY[self][1]

    @property
    def is_quantized(self) -> bool:
        return self.block_size > 1

    def row_bytes(self, cols: int) -> int:
        """Bytes of one row.

        Raises:
            ValueError: cols is not a whole number of blocks.
        """
        if cols % self.block_size:
            raise ValueError(
                f"{self.name}: {cols} columns are not a multiple of the block size {self.block_size}"
            )
        return cols // self.block_size * self.block_bytes


_GEOMETRY = {
    Format.F32: (1, 4),
    Format.F16: (1, 2),
    Format.BF16: (1, 2),
    Format.Q8_0: (32, 2 + 32),
    Format.Q4_0: (32, 2 + 16),
    Format.Q4_1: (32, 2 + 2 + 16),
    Format.Q4_K: (256, 2 + 2 + 12 + 128),
    Format.Q6_K: (256, 128 + 64 + 16 + 2),
}

_FLOATS = {
    torch.float32: Format.F32,
    torch.float16: Format.F16,
    torch.bfloat16: Format.BF16,
}


@dataclass(frozen=True, eq=False)
class RawWeight:
    """A tensor as a file stores it; the last dimension is contiguous in blocks.

    Args:
        data: [bytes] uint8, contiguous; may be memory-mapped and is never written.
        format: how `data` is to be read.
        shape: row-major, output rows first for a matrix.

    Raises:
        ValueError: data has another dtype, rank or length than format and shape say.
    """

    data: torch.Tensor  # [bytes] uint8
    format: Format
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.data.dtype != torch.uint8 or self.data.dim() != 1 or not self.data.is_contiguous():
            raise ValueError(
                f"RawWeight data must be contiguous 1-D uint8, not {self.data.dtype} "
                f"of shape {tuple(self.data.shape)}"
            )
        if not self.shape or any(n < 0 for n in self.shape):
            raise ValueError(f"RawWeight shape {self.shape} must be one or more sizes >= 0")
        expected = self.rows * self.row_bytes
        if self.data.numel() != expected:
            raise ValueError(
                f"{self.format.name} weight of shape {self.shape} takes {expected} bytes, "
                f"not {self.data.numel()}"
            )

    @classmethod
    def from_tensor(cls, tensor: torch.Tensor) -> RawWeight:
        """A float tensor as it is; shares memory where it is contiguous.

        Raises:
            ValueError: the dtype is not float32, float16 or bfloat16.
        """
        if tensor.dtype not in _FLOATS:
            raise ValueError(f"no weight format stores {tensor.dtype}")
        data = tensor.contiguous().reshape(-1).view(torch.uint8)
        return cls(data, _FLOATS[tensor.dtype], tuple(tensor.shape))

    @property
    def rows(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def cols(self) -> int:
        return self.shape[-1]

    @property
    def row_bytes(self) -> int:
        return self.format.row_bytes(self.cols)

    def take_rows(self, index: torch.Tensor) -> RawWeight:
        """A copy that holds these rows of a matrix, byte for byte.

        Args:
            index: [n] int64, rows in the order wanted.

        Raises:
            ValueError: the weight is not a matrix.
            IndexError: an index is outside the rows.
        """
        if len(self.shape) != 2:
            raise ValueError(f"take_rows needs a matrix, not shape {self.shape}")
        data = self.data.view(self.rows, self.row_bytes).index_select(0, index)
        return RawWeight(data.view(-1), self.format, (int(index.numel()), self.cols))
