"""Weights as model files store them, and what they mean.

`Format` names a storage format, `RawWeight` is a matrix in it (bytes, possibly memory-mapped),
`dequantize` is the definition of its values.
"""

from sgrt_kernels.quant.formats import Format, RawWeight
from sgrt_kernels.quant.linear import PackedLinear
from sgrt_kernels.quant.reference import dequantize, quantize_activations

__all__ = ["Format", "PackedLinear", "RawWeight", "dequantize", "quantize_activations"]
