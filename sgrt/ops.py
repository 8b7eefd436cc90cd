"""The seam to the kernels: the only module that imports `sgrt_kernels`.

Everything the models and the runtime compute with comes through here, so that which
implementation runs is decided in one place.
"""

from __future__ import annotations

from functools import cache

from sgrt.config import env
from sgrt.errors import RequestError
from sgrt_kernels.decoder import (
    DecoderBatch,
    DecoderSpec,
    DecoderWeights,
    LayerWeights,
    NativeDecoder,
    PagedKV,
)
from sgrt_kernels.head_sample import (
    BadLogits,
    Drawn,
    Head,
    MaskPlan,
    NoAllowedToken,
    RowError,
    RowKind,
    SamplingRow,
    SamplingRows,
    head_sample,
    list_masks,
)
from sgrt_kernels.native import Library, load
from sgrt_kernels.quant import Format, RawWeight, dequantize

__all__ = [
    "BadLogits",
    "DecoderBatch",
    "DecoderSpec",
    "DecoderWeights",
    "Drawn",
    "Format",
    "Head",
    "LayerWeights",
    "Library",
    "MaskPlan",
    "NativeDecoder",
    "NoAllowedToken",
    "PagedKV",
    "RawWeight",
    "RowError",
    "RowKind",
    "SamplingRow",
    "SamplingRows",
    "dequantize",
    "head_sample",
    "list_masks",
    "native_library",
]


@cache
def native_library() -> Library | None:
    """The native CPU kernels: the best this CPU has, or those that SGRT_CPU_ISA names.

    Returns:
        None where none were built, or SGRT_CPU_ISA is "none".

    Raises:
        RequestError: SGRT_CPU_ISA names what is not there.
    """
    try:
        return load(env("SGRT_CPU_ISA"))
    except ValueError as error:
        raise RequestError(f"SGRT_CPU_ISA: {error}") from error
