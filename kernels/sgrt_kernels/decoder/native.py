"""The decoder on the native CPU kernels: one call computes one step."""

from __future__ import annotations

import weakref
from ctypes import POINTER, Structure, byref, c_float, c_int, c_int32, c_int64, c_void_p

import numpy as np
import torch

from sgrt_kernels.decoder.types import (
    DecoderBatch,
    DecoderSpec,
    DecoderWeights,
    LayerWeights,
    PagedKV,
)
from sgrt_kernels.native import Library, load
from sgrt_kernels.quant import RawWeight

_MATRICES = ("q", "k", "v", "o", "gate", "up", "down")
_VECTORS = (
    "attn_norm",
    "mlp_norm",
    "q_bias",
    "k_bias",
    "v_bias",
    "o_bias",
    "q_norm",
    "k_norm",
)
_FINAL_NORM = len(_VECTORS)
_OUT_OF_MEMORY = 1
_FAULTS = {
    2: "query_start[{0}]={1}: must start at 0, end at the number of tokens, and ascend",
    3: "token_ids[{0}]={1}: not in the vocabulary of {vocab}",
    4: "context_len[{0}]={1}: fewer than its new tokens, or more than its page table holds",
    5: "page_table[{0}] holds page {1}: the pool has {pages}",
    6: "out_rows[{0}]={1}: the batch has {tokens} tokens",
}


class _Spec(Structure):
    _fields_ = (
        ("num_layers", c_int32),
        ("hidden", c_int32),
        ("num_heads", c_int32),
        ("num_kv_heads", c_int32),
        ("head_dim", c_int32),
        ("intermediate", c_int32),
        ("vocab_size", c_int32),
        ("num_threads", c_int32),
        ("rms_eps", c_float),
        ("rope_scale", c_float),
        ("softmax_scale", c_float),
        ("embed_scale", c_float),
        ("inv_freq", POINTER(c_float)),
        ("windows", POINTER(c_int32)),
    )


class _Batch(Structure):
    _fields_ = (
        ("token_ids", c_void_p),
        ("query_start", c_void_p),
        ("context_len", c_void_p),
        ("page_table", c_void_p),
        ("out_rows", c_void_p),
        ("num_tokens", c_int32),
        ("num_sequences", c_int32),
        ("table_width", c_int32),
        ("num_out", c_int32),
    )


class _Pool(Structure):
    _fields_ = (
        ("k", c_void_p),
        ("v", c_void_p),
        ("half", c_int32),
        ("num_pages", c_int32),
        ("page_size", c_int32),
    )


class NativeDecoder:
    """A decoder whose weights are packed for the native kernels.

    Quantised matrices multiply int8 activations (one scale per 32 columns), float matrices float
    activations. A row's result does not depend on the batch, on how its prompt was cut into
    chunks, on the number of threads or on which pages hold its keys, to the last bit. Steps may be
    asked for from any thread; one runs at a time.

    Args:
        spec: the arithmetic.
        weights: matrices are copied; the embedding is not, its rows are read as they are needed.
        num_threads: threads of a step, the calling one included.
        library: from `sgrt_kernels.native.load`; None loads the best one.

    Raises:
        ValueError: weights that do not fit the spec or that the kernels cannot take, or no library.
        MemoryError: no memory for the copies.

    Cost: one pass over the weights.
    """

    def __init__(
        self,
        spec: DecoderSpec,
        weights: DecoderWeights,
        *,
        num_threads: int = 1,
        library: Library | None = None,
    ) -> None:
        library = library or load()
        reason = "no native library was built" if library is None else refusal(spec, weights)
        if reason is not None or library is None:
            raise ValueError(reason)
        if num_threads < 1:
            raise ValueError(f"num_threads={num_threads}: must be >= 1")
        self.spec = spec
        self.library = library
        self._embed = weights.embed  # the native side reads its bytes
        self._bind(library)
        self._handle = self._create(num_threads)
        weakref.finalize(self, self._free, self._handle)
        for index, layer in enumerate(weights.layers):
            self._add_layer(index, layer)
        self._set_vector(0, _FINAL_NORM, weights.final_norm)
        self._set_embedding(self._handle, self._embed.format.ggml_type, self._embed.data.data_ptr())

    def _bind(self, library: Library) -> None:
        function = library.function
        self._new = function("sgrt_decoder_new", c_void_p, [POINTER(_Spec)])
        self._free = function("sgrt_decoder_free", None, [c_void_p])
        matrix = [c_void_p, c_int, c_int, c_int, c_int, c_int, c_void_p]
        self._matrix = function("sgrt_decoder_set_matrix", c_int, matrix)
        vector = [c_void_p, c_int, c_int, c_void_p, c_int]
        self._vector = function("sgrt_decoder_set_vector", None, vector)
        self._set_embedding = function(
            "sgrt_decoder_set_embedding", None, [c_void_p, c_int, c_void_p]
        )
        step = [c_void_p, POINTER(_Batch), POINTER(_Pool), c_void_p, POINTER(c_int64)]
        self._forward = function("sgrt_decoder_forward", c_int, step)

    def _create(self, num_threads: int) -> int:
        s = self.spec
        windows = [s.window(i) or 0 for i in range(s.num_layers)]
        native = _Spec(
            num_layers=s.num_layers,
            hidden=s.hidden,
            num_heads=s.num_heads,
            num_kv_heads=s.num_kv_heads,
            head_dim=s.head_dim,
            intermediate=s.intermediate,
            vocab_size=s.vocab_size,
            num_threads=num_threads,
            rms_eps=s.rms_eps,
            rope_scale=s.rope_scale,
            softmax_scale=s.scale,
            embed_scale=s.embed_scale,
            inv_freq=(c_float * len(s.inv_freq))(*s.inv_freq),
            windows=(c_int32 * len(windows))(*windows),
        )
        handle = self._new(byref(native))
        if not handle:
            raise MemoryError("no memory for a decoder")
        return int(handle)

    def _add_layer(self, index: int, layer: LayerWeights) -> None:
        for which, name in enumerate(_MATRICES):
            raw: RawWeight = getattr(layer, name)
            fmt, rows, cols = raw.format.ggml_type, raw.rows, raw.cols
            if self._matrix(self._handle, index, which, fmt, rows, cols, raw.data.data_ptr()):
                raise MemoryError(f"no memory for {name} of layer {index}, shape {raw.shape}")
        for which, name in enumerate(_VECTORS):
            values: torch.Tensor | None = getattr(layer, name)
            if values is not None:
                self._set_vector(index, which, values)

    def _set_vector(self, layer: int, which: int, values: torch.Tensor) -> None:
        values = values.detach().to("cpu", torch.float32).contiguous()
        self._vector(self._handle, layer, which, values.data_ptr(), values.numel())

    def forward(self, batch: DecoderBatch, kv: PagedKV) -> torch.Tensor:
        """One step.

        Args:
            batch: what to compute.
            kv: pages on the CPU.

        Returns:
            [R, D] float32: states after the final norm of `batch.out_rows`, in that order.

        Raises:
            ValueError: tensors of other shapes or types than the spec says, or an id, length or
                page out of range; nothing has been computed or written then.
            MemoryError: no memory for the step.

        Mutates: the pages that hold the new positions.
        """
        reason = _mismatch(self.spec, batch, kv)
        if reason is not None:
            raise ValueError(reason)
        # numpy keeps the interpreter lock; torch.empty would hand it to another thread and wait
        out = torch.from_numpy(np.empty((batch.out_rows.numel(), self.spec.hidden), np.float32))
        complaint = (c_int64 * 2)()
        fault = self._forward(
            self._handle,
            byref(_native_batch(batch)),
            byref(_native_pool(kv)),
            out.data_ptr(),
            complaint,
        )
        if fault == _OUT_OF_MEMORY:
            raise MemoryError(f"no memory for a step of {batch.num_tokens} tokens")
        if fault:
            sizes = {
                "vocab": self.spec.vocab_size,
                "pages": kv.num_pages,
                "tokens": batch.num_tokens,
            }
            raise ValueError(_FAULTS[fault].format(*complaint, **sizes))
        return out


def refusal(spec: DecoderSpec, weights: DecoderWeights) -> str | None:
    """Why the native decoder cannot take a model; None where it can."""
    if len(weights.layers) != spec.num_layers:
        return f"{len(weights.layers)} layers of weights, the spec says {spec.num_layers}"
    if spec.scale <= 0:
        return f"softmax_scale={spec.scale:g}: must be above 0"
    for name, raw, shape in _matrices(spec, weights):
        if raw.shape != shape:
            return f"{name} has shape {raw.shape}, the spec says {shape}"
        if raw.data.device.type != "cpu":
            return f"{name} is on {raw.data.device}, not on the cpu"
    for name, values, size in _vectors(spec, weights):
        if (values is None) != (size is None):
            return f"{name} is {'missing' if values is None else 'not in the spec'}"
        if values is not None and tuple(values.shape) != (size,):
            return f"{name} has shape {tuple(values.shape)}, the spec says ({size},)"
    return None


def _matrices(
    spec: DecoderSpec, weights: DecoderWeights
) -> list[tuple[str, RawWeight, tuple[int, int]]]:
    d, i = spec.hidden, spec.intermediate
    q, kv = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    shapes = ((q, d), (kv, d), (kv, d), (d, q), (i, d), (i, d), (d, i))
    found = [("embed", weights.embed, (spec.vocab_size, d))]
    for index, layer in enumerate(weights.layers):
        for name, shape in zip(_MATRICES, shapes, strict=True):
            found.append((f"{name} of layer {index}", getattr(layer, name), shape))
    return found


def _vectors(
    spec: DecoderSpec, weights: DecoderWeights
) -> list[tuple[str, torch.Tensor | None, int | None]]:
    d, c = spec.hidden, spec.head_dim
    q, kv = spec.num_heads * c, spec.num_kv_heads * c
    bias, norm = spec.qkv_bias, spec.qk_norm
    sizes = (
        d,
        d,
        q if bias else None,
        kv if bias else None,
        kv if bias else None,
        d if spec.o_bias else None,
        c if norm else None,
        c if norm else None,
    )
    found: list[tuple[str, torch.Tensor | None, int | None]] = [
        ("final_norm", weights.final_norm, d)
    ]
    for index, layer in enumerate(weights.layers):
        for name, size in zip(_VECTORS, sizes, strict=True):
            found.append((f"{name} of layer {index}", getattr(layer, name), size))
    return found


def _mismatch(spec: DecoderSpec, batch: DecoderBatch, kv: PagedKV) -> str | None:
    """What of a batch cannot be handed to the native side; ranges are checked over there."""
    expected = (spec.num_layers, kv.num_pages, spec.num_kv_heads, spec.head_dim, kv.page_size)
    if kv.k.shape != expected or kv.k.device.type != "cpu":
        return f"KV pages {tuple(kv.k.shape)} on {kv.k.device}, expected {expected} on the cpu"
    b = batch.num_sequences
    for name, tensor, shape in (
        ("token_ids", batch.token_ids, (batch.num_tokens,)),
        ("query_start", batch.query_start, (b + 1,)),
        ("context_len", batch.context_len, (b,)),
        ("page_table", batch.page_table, (b, batch.page_table.shape[-1])),
        ("out_rows", batch.out_rows, (batch.out_rows.numel(),)),
    ):
        if tensor.shape != shape or tensor.dtype != torch.int32:
            return f"{name} is {tensor.dtype} {tuple(tensor.shape)}, expected int32 {shape}"
        if not tensor.is_contiguous() or tensor.device.type != "cpu":
            return f"{name} must be contiguous and on the cpu"
    return None


def _native_batch(batch: DecoderBatch) -> _Batch:
    return _Batch(
        batch.token_ids.data_ptr(),
        batch.query_start.data_ptr(),
        batch.context_len.data_ptr(),
        batch.page_table.data_ptr(),
        batch.out_rows.data_ptr(),
        batch.num_tokens,
        batch.num_sequences,
        batch.page_table.shape[-1],
        batch.out_rows.numel(),
    )


def _native_pool(kv: PagedKV) -> _Pool:
    half = kv.k.dtype == torch.float16
    return _Pool(kv.k.data_ptr(), kv.v.data_ptr(), half, kv.num_pages, kv.page_size)
