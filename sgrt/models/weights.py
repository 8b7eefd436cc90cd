"""Named tensors of a file → `ops.DecoderWeights`, every one checked.

Matrices stay as the file stores them, memory-mapped; norms and biases become float32.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import torch

from sgrt import ops
from sgrt.errors import CorruptModel
from sgrt.models.registry import WeightNames

_VECTORS = ("attn_norm", "mlp_norm", "q_bias", "k_bias", "v_bias", "o_bias", "q_norm", "k_norm")


class TensorSource(Protocol):
    """Files that hold named tensors."""

    @property
    def path(self) -> Path: ...

    def names(self) -> Iterable[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def raw(self, name: str) -> ops.RawWeight: ...


def layer_shapes(spec: ops.DecoderSpec) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor that a layer of this spec has, by field of `ops.LayerWeights`."""
    d, inner = spec.hidden, spec.intermediate
    q, kv = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm": (d,),
        "q": (q, d),
        "k": (kv, d),
        "v": (kv, d),
        "o": (d, q),
        "mlp_norm": (d,),
        "gate": (inner, d),
        "up": (inner, d),
        "down": (d, inner),
    }
    if spec.qkv_bias:
        shapes |= {"q_bias": (q,), "k_bias": (kv,), "v_bias": (kv,)}
    if spec.o_bias:
        shapes["o_bias"] = (d,)
    if spec.qk_norm:
        shapes |= {"q_norm": (spec.head_dim,), "k_norm": (spec.head_dim,)}
    return shapes


def read_weights(
    source: TensorSource,
    names: WeightNames,
    spec: ops.DecoderSpec,
    *,
    tied: bool,
    interleaved: bool,
) -> ops.DecoderWeights:
    """Read all weights of a model.

    Args:
        source: where they are.
        names: how they are called there.
        spec: which tensors there must be, and their shapes.
        tied: the head is the embedding; a head in the file must then hold the same bytes.
        interleaved: rows of q and k are in pairs and are put in half-split order.

    Raises:
        CorruptModel: a tensor is missing, has another shape or type, or is not part of the model.
        ModelError: a tensor type that cannot be computed with.
    """
    _check_directory(source, names, spec, tied=tied)
    embed = source.raw(names.embed)
    return ops.DecoderWeights(
        embed=embed,
        layers=tuple(
            _read_layer(source, names, spec, i, interleaved) for i in range(spec.num_layers)
        ),
        final_norm=_vector(source, names.final_norm),
        head=_tied_head(source, names, embed) if tied else source.raw(names.head),
    )


def _check_directory(
    source: TensorSource, names: WeightNames, spec: ops.DecoderSpec, *, tied: bool
) -> None:
    expected = _expected(names, spec, tied=tied)
    present = set(source.names())
    for name, shape in expected.items():
        if name not in present:
            raise CorruptModel(source.path, f"tensor {name!r} is missing")
        if source.shape(name) != shape:
            raise CorruptModel(
                source.path, f"tensor {name!r} has shape {source.shape(name)}, not {shape}"
            )
    for name in sorted(present - expected.keys()):
        if not name.endswith(names.ignored) and not (tied and name == names.head):
            raise CorruptModel(
                source.path,
                f"tensor {name!r} is not part of this architecture",
                hint="the file holds weights that the model's configuration does not announce",
            )


def _expected(
    names: WeightNames, spec: ops.DecoderSpec, *, tied: bool
) -> dict[str, tuple[int, ...]]:
    table: dict[str, tuple[int, ...]] = {
        names.embed: (spec.vocab_size, spec.hidden),
        names.final_norm: (spec.hidden,),
    }
    if not tied:
        table[names.head] = (spec.vocab_size, spec.hidden)
    shapes = layer_shapes(spec)
    for i in range(spec.num_layers):
        table |= {names.layer[field].format(i=i): shape for field, shape in shapes.items()}
    return table


def _read_layer(
    source: TensorSource, names: WeightNames, spec: ops.DecoderSpec, i: int, interleaved: bool
) -> ops.LayerWeights:
    heads = {"q": spec.num_heads, "k": spec.num_kv_heads} if interleaved else {}
    fields: dict[str, Any] = {}
    for field in layer_shapes(spec):
        name = names.layer[field].format(i=i)
        value = _vector(source, name) if field in _VECTORS else source.raw(name)
        num_heads = heads.get(field.removesuffix("_bias"))
        if num_heads is not None:
            rows = half_split_rows(num_heads, spec.head_dim)
            value = value[rows] if isinstance(value, torch.Tensor) else value.take_rows(rows)
        fields[field] = value
    return ops.LayerWeights(**fields)


def half_split_rows(num_heads: int, head_dim: int) -> torch.Tensor:
    """[heads·C] int64: where each row of a half-split q or k is in one stored in pairs.

    Pairs (0, 1), (2, 3), … of a head become (0, C/2), (1, C/2 + 1), ….
    """
    index = torch.arange(num_heads * head_dim).view(num_heads, head_dim // 2, 2)
    return index.transpose(1, 2).reshape(-1)


def _vector(source: TensorSource, name: str) -> torch.Tensor:  # [n] float32
    raw = source.raw(name)
    if raw.format.is_quantized:
        raise CorruptModel(source.path, f"tensor {name!r} is {raw.format.name}, not a float type")
    return ops.dequantize(raw)


def _tied_head(source: TensorSource, names: WeightNames, embed: ops.RawWeight) -> ops.RawWeight:
    if names.head in set(source.names()):
        head = source.raw(names.head)
        if head.format != embed.format or not torch.equal(head.data, embed.data):
            raise CorruptModel(
                source.path,
                f"tensor {names.head!r} differs from {names.embed!r}, "
                "which the configuration says it is tied to",
            )
    return embed
