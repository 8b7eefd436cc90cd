"""Products with weights in their storage format, on the native kernels."""

from __future__ import annotations

import ctypes
import weakref

import torch

from sgrt_kernels.native import Library
from sgrt_kernels.quant.formats import RawWeight

_TILE = 16


class PackedLinear:
    """A matrix repacked for the native kernels.

    Float formats multiply float activations; quantised formats quantise each activation row to
    int8 with one scale per 32 columns (see `quantize_activations`). A row's result does not
    depend on the other rows, to the last bit.

    Args:
        library: from `sgrt_kernels.native.load`.
        raw: a matrix [rows, cols]; copied.

    Raises:
        ValueError: not a matrix, or empty, or its columns are not whole blocks.
        MemoryError: no memory for the copy.

    Cost: one pass over the bytes.
    """

    def __init__(self, library: Library, raw: RawWeight) -> None:
        if len(raw.shape) != 2 or 0 in raw.shape:
            raise ValueError(f"a linear weight is a matrix with rows and columns, not {raw.shape}")
        self.shape = raw.shape
        self.format = raw.format
        new = library.function("sgrt_linear_new", ctypes.c_void_p, _NEW)
        self._handle = new(raw.format.ggml_type, raw.rows, raw.cols, raw.data.data_ptr())
        if not self._handle:
            raise MemoryError(f"no memory for a {raw.format.name} weight of shape {raw.shape}")
        self._run = library.function("sgrt_linear_run", ctypes.c_int, _RUN)
        free = library.function("sgrt_linear_free", None, [ctypes.c_void_p])
        weakref.finalize(self, free, self._handle)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x @ weight.T.

        Args:
            x: [N, cols] float32, on the CPU.

        Returns:
            [N, rows] float32.

        Raises:
            ValueError: x has another dtype, device or width.
        """
        rows, cols = self.shape
        if x.dim() != 2 or x.shape[1] != cols or x.dtype != torch.float32 or x.device.type != "cpu":
            raise ValueError(
                f"activations must be [N, {cols}] float32 on the cpu, "
                f"not {tuple(x.shape)} {x.dtype} on {x.device}"
            )
        x = x.contiguous()
        padded = -(-rows // _TILE) * _TILE
        out = torch.empty(x.shape[0], padded)
        if self._run(self._handle, x.data_ptr(), x.shape[0], out.data_ptr(), padded):
            raise MemoryError(f"no memory for {x.shape[0]} rows of {cols} activations")
        return out[:, :rows]


_NEW = (ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
_RUN = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_int64)
