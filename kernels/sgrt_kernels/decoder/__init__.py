"""The Llama-family decoder: what it computes (`DecoderSpec`), on which weights, KV and batch."""

from sgrt_kernels.decoder.native import NativeDecoder, refusal
from sgrt_kernels.decoder.types import (
    DecoderBatch,
    DecoderSpec,
    DecoderWeights,
    LayerWeights,
    PagedKV,
)

__all__ = [
    "DecoderBatch",
    "DecoderSpec",
    "DecoderWeights",
    "LayerWeights",
    "NativeDecoder",
    "PagedKV",
    "refusal",
]
