"""The seam to the kernels: the only module that imports `sgrt_kernels`.

Everything the models and the runtime compute with comes through here, so that which
implementation runs is decided in one place.
"""

from __future__ import annotations

from sgrt_kernels.decoder import (
    DecoderBatch,
    DecoderSpec,
    DecoderWeights,
    LayerWeights,
    PagedKV,
)
from sgrt_kernels.head_sample import (
    BadLogits,
    Drawn,
    Head,
    MaskPlan,
    NoAllowedToken,
    RowError,
    SamplingRow,
    SamplingRows,
    head_sample,
)
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
    "MaskPlan",
    "NoAllowedToken",
    "PagedKV",
    "RawWeight",
    "RowError",
    "SamplingRow",
    "SamplingRows",
    "dequantize",
    "head_sample",
]
