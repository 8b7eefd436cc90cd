"""head_sample on the CPU: one call into the native library per batch.

The weights stay in their storage format; see `native/src/sample.h` for the other side.
"""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sgrt_kernels.head_sample.head import Head
from sgrt_kernels.head_sample.rows import BadLogits, Drawn, MaskPlan, NoAllowedToken, SamplingRows
from sgrt_kernels.native import Library
from sgrt_kernels.quant import RawWeight

_LAYOUT = 4  # kSampleLayout of sample.h
_TILE_ROWS = 16
_NO_ALLOWED_TOKEN, _BAD_LOGITS = 1, 2  # RowStatus of sample.h

_ROW_ARRAYS = (
    *("temperature", "top_k", "top_p", "min_p", "seed", "position"),
    *("repetition", "presence", "frequency", "num_top", "unmasked"),
)
_LISTS = {
    "banned": ("banned_ids", "banned_start"),
    "history": (
        *("history_ids", "history_prompt_counts", "history_output_counts"),
        "history_start",
    ),
    "bias": ("bias_ids", "bias_values", "bias_start"),
    "target": ("target_ids", "target_start"),
}
_LIST_ARRAYS = tuple(name for names in _LISTS.values() for name in names)


class _Request(ctypes.Structure):
    """SampleRequest of sample.h, field by field."""

    _fields_ = (
        ("num_rows", ctypes.c_int64),
        ("vocab_size", ctypes.c_int64),
        ("hidden_row", ctypes.c_void_p),
        ("kind", ctypes.c_void_p),
        ("bitmask", ctypes.c_void_p),
        ("mask_words", ctypes.c_int64),
        ("mask_row", ctypes.c_void_p),
        ("few_ids", ctypes.c_void_p),
        ("few_start", ctypes.c_void_p),
        *((name, ctypes.c_void_p) for name in _LIST_ARRAYS),
        *((name, ctypes.c_void_p) for name in _ROW_ARRAYS),
        ("max_top", ctypes.c_int64),
    )


_RESULT_ARRAYS = ("token_ids", "logprobs", "top_ids", "top_logprobs", "target_logprobs")


class _Result(ctypes.Structure):
    """SampleResult of sample.h."""

    _fields_ = (
        ("status", ctypes.c_void_p),
        *((name, ctypes.c_void_p) for name in _RESULT_ARRAYS),
    )


def _check_layout(library: Library) -> None:
    """Refuse a library built from other sources than this file, before it reads wild pointers."""
    layout = library.function("sgrt_sample_layout", ctypes.c_int64, [])()
    if layout != _LAYOUT:
        raise RuntimeError(
            f"{library} was built from other sources (layout {layout}, not {_LAYOUT}): build again"
        )


class NativeHead(Head):
    """A head packed by the native library, which owns a copy of the weights.

    Raises:
        ValueError: the library does not take this format and shape.
        MemoryError: no memory for the copy.
        RuntimeError: the library is older or newer than this module.
    """

    def __init__(self, raw: RawWeight, vocab_size: int, library: Library) -> None:
        _check_layout(library)
        rows, self.hidden_size = raw.shape
        self.vocab_size = vocab_size
        if self.hidden_size % raw.format.block_size or raw.data.device.type != "cpu":
            raise ValueError(
                f"no native head for {raw.format.name} {raw.shape} on {raw.data.device}"
            )
        new = library.function(
            "sgrt_linear_new",
            ctypes.c_void_p,
            [ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_void_p],
        )
        self._handle = new(raw.format.value, rows, self.hidden_size, raw.data.data_ptr())
        if not self._handle:
            raise MemoryError(f"no memory to pack a head of {raw.data.numel()} bytes")
        free = library.function("sgrt_linear_free", None, [ctypes.c_void_p])
        weakref.finalize(self, free, self._handle)
        self._stride = -(-rows // _TILE_ROWS) * _TILE_ROWS
        pointer = ctypes.c_void_p
        self._run = library.function(
            "sgrt_linear_run",
            ctypes.c_int,
            [pointer, pointer, ctypes.c_int, pointer, ctypes.c_int64],
        )
        self._sample = library.function(
            "sgrt_head_sample",
            ctypes.c_int64,
            [pointer, pointer, ctypes.c_int64, pointer, pointer],
        )

    def sample(
        self,
        hidden: torch.Tensor,
        hidden_row: NDArray[np.int32],
        plan: MaskPlan,
        rows: SamplingRows,
    ) -> Drawn:
        hidden = hidden.contiguous()
        request = _request(self.vocab_size, hidden_row, plan, rows)

        def call(request: Any, result: Any) -> int:
            return int(self._sample(self._handle, hidden.data_ptr(), len(hidden), request, result))

        return _drawn(call, request, rows)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden.contiguous()
        out = torch.empty(len(hidden), self._stride)  # [N, V rounded up to tiles] float32
        failed = self._run(
            self._handle, hidden.data_ptr(), len(hidden), out.data_ptr(), self._stride
        )
        if failed:
            raise MemoryError(f"no memory for the logits of {len(hidden)} hidden states")
        return out[:, : self.vocab_size]


def sample_logits(
    library: Library,
    logits: torch.Tensor,  # [R, V] float32
    plan: MaskPlan,
    rows: SamplingRows,
) -> Drawn:
    """Draw from given logits, as `reference.sample_logits` does; for comparing the two."""
    _check_layout(library)
    logits = logits.contiguous()
    pointer = ctypes.c_void_p
    sample = library.function(
        "sgrt_sample_logits", ctypes.c_int64, [pointer, ctypes.c_int64, pointer, pointer]
    )
    source = np.arange(plan.num_rows, dtype=np.int32)
    request = _request(logits.shape[1], source, plan, rows)
    return _drawn(
        lambda request, result: int(sample(logits.data_ptr(), logits.shape[1], request, result)),
        request,
        rows,
    )


def _request(
    vocab_size: int, hidden_row: NDArray[np.int32], plan: MaskPlan, rows: SamplingRows
) -> _Request:
    """The arguments as C sees them; valid as long as the arrays live."""
    request = _Request(plan.num_rows, vocab_size, hidden_row.ctypes.data, plan.kind.ctypes.data)
    if plan.bitmask is not None:
        request.bitmask, request.mask_words = plan.bitmask.ctypes.data, plan.bitmask.shape[1]
        if plan.mask_row is not None:
            request.mask_row = plan.mask_row.ctypes.data
    if len(plan.few_ids):
        request.few_ids, request.few_start = plan.few_ids.ctypes.data, plan.few_start.ctypes.data
    for names in _LISTS.values():
        if len(getattr(rows, names[0])):  # null means that no row has a list
            for name in names:
                setattr(request, name, getattr(rows, name).ctypes.data)
    for name in _ROW_ARRAYS:
        setattr(request, name, getattr(rows, name).ctypes.data)
    request.max_top = rows.max_top
    return request


def _drawn(call: Any, request: _Request, rows: SamplingRows) -> Drawn:
    """Run a call, turn bad rows into errors."""
    drawn = Drawn.empty(rows)
    status = np.zeros(rows.num_rows, np.uint8)
    arrays = (status, *(getattr(drawn, name) for name in _RESULT_ARRAYS))
    result = _Result(*(array.ctypes.data for array in arrays))
    computed = call(ctypes.byref(request), ctypes.byref(result))
    if computed < 0:
        raise MemoryError(f"no memory for the logits of {rows.num_rows} rows")
    if status.any():
        empty = np.flatnonzero(status == _NO_ALLOWED_TOKEN)
        if len(empty):
            raise NoAllowedToken(empty.tolist())
        raise BadLogits(np.flatnonzero(status == _BAD_LOGITS).tolist())
    drawn.rows_computed = computed
    return drawn
