"""From a model's own configuration to `ops.DecoderSpec`.

Every field that changes the arithmetic is honoured or refused by name. Fields of config.json that
the reference class does not know are ignored, as the reference does; the ``<architecture>.*`` keys
of a GGUF file are all known or refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from sgrt import ops
from sgrt.errors import ModelError
from sgrt.models.registry import Architecture

MAX_SIZE = (1 << 31) - 1
MAX_HIDDEN = 1 << 20
MAX_LAYERS = 4096
MAX_HEAD_DIM = 4096
MAX_REAL = 1e20
MIN_TURNS = 1e-6
"""Bounds of what a configuration may ask for: the kernels' int32, and what can be allocated
before the tensors themselves contradict a wrong number."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What a configuration says: the arithmetic, and the two facts beside it.

    Args:
        decoder: the arithmetic.
        context_len: most positions that the model was made for.
        tied: the head is the embedding.
    """

    decoder: ops.DecoderSpec
    context_len: int
    tied: bool


class Fields:
    """Typed reading of a configuration; errors name its source, the field and the value."""

    def __init__(self, source: str, values: Mapping[str, Any]) -> None:
        self.source = source
        self.values = values

    def refuse(self, field: str, why: str) -> NoReturn:
        raise ModelError(f"{self.source}: {field}={self.values.get(field)!r} {why}")

    def integer(
        self, field: str, default: int | None = None, *, low: int = 1, high: int = MAX_SIZE
    ) -> int:
        value = self.values.get(field)
        if value is None:
            if default is None:
                raise ModelError(f"{self.source}: {field} is missing")
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.refuse(field, f"must be an integer in {low}..{high}")
        return value

    def real(self, field: str, default: float | None = None, *, low: float = 0.0) -> float:
        value = self.values.get(field)
        if value is None:
            if default is None:
                raise ModelError(f"{self.source}: {field} is missing")
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self.refuse(field, "must be a number")
        if not low < value <= MAX_REAL:  # NaN is refused here too
            self.refuse(field, f"must be a number above {low:g}, at most {MAX_REAL:g}")
        return float(value)

    def flag(self, field: str, default: bool = False) -> bool:
        value = self.values.get(field)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.refuse(field, "must be true or false")
        return value

    def require_neutral(self, neutral: Mapping[str, tuple[object, ...]]) -> None:
        """Refuse fields whose value is none of those that leave the arithmetic as it is."""
        for field, allowed in neutral.items():
            if self.values.get(field) is not None and self.values[field] not in allowed:
                self.refuse(field, "is not supported")


# ---------------------------------------------------------------- config.json

_HF_NEUTRAL: dict[str, tuple[object, ...]] = {
    "hidden_act": ("silu", "swish"),
    "hidden_activation": ("silu", "swish"),
    "mlp_bias": (False,),
    "quantization_config": (),
    "partial_rotary_factor": (1, 1.0),
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "num_local_experts": (0,),
    "num_experts": (0,),
    "n_routed_experts": (0,),
    "embedding_multiplier": (1, 1.0),
    "residual_multiplier": (1, 1.0),
    "attention_multiplier": (),
    "logits_scaling": (1, 1.0),
    "logit_scale": (1, 1.0),
    "attention_chunk_size": (),
    "is_encoder_decoder": (False,),
}
"""Field of config.json → values (beside null) that change nothing."""


def from_config(arch: Architecture, config: Mapping[str, Any]) -> ModelSpec:
    """Read config.json as transformers' class for this architecture does.

    Raises:
        ModelError: a field is missing, ill-typed or asks for something that is not implemented.
    """
    f = Fields("config.json", config)
    f.require_neutral(_HF_NEUTRAL)
    hidden = f.integer("hidden_size", high=MAX_HIDDEN)
    heads = f.integer("num_attention_heads")
    layers = f.integer("num_hidden_layers", high=MAX_LAYERS)
    head_dim = f.integer(
        "head_dim", arch.default_head_dim or max(hidden // heads, 1), high=MAX_HEAD_DIM
    )
    context_len = f.integer("max_position_embeddings")
    rope = hf_rope(f, context_len)
    inv_freq, rope_scale = rope.frequencies(head_dim)
    window, sliding_layers = _hf_windows(arch, f, layers)
    bias = f.flag("attention_bias")
    if bias and arch.qkv_bias != "config":
        f.refuse("attention_bias", f"is not supported for {arch.name}")
    decoder = _decoder_spec(
        f.source,
        num_layers=layers,
        hidden=hidden,
        num_heads=heads,
        num_kv_heads=f.integer("num_key_value_heads", arch.default_kv_heads or heads),
        head_dim=head_dim,
        intermediate=f.integer("intermediate_size"),
        vocab_size=f.integer("vocab_size"),
        rms_eps=f.real("rms_norm_eps", 1e-6),
        inv_freq=inv_freq,
        rope_scale=rope_scale,
        qk_norm=arch.qk_norm,
        qkv_bias=bias if arch.qkv_bias == "config" else arch.qkv_bias,
        o_bias=bias if arch.o_bias == "config" else arch.o_bias,
        sliding_window=window,
        sliding_layers=sliding_layers,
    )
    return ModelSpec(
        decoder=decoder,
        context_len=rope.context_len(context_len),
        tied=f.flag("tie_word_embeddings"),
    )


def _decoder_spec(source: str, **fields: Any) -> ops.DecoderSpec:
    try:
        return ops.DecoderSpec(**fields)
    except ValueError as error:
        raise ModelError(f"{source}: {error}") from error


def _hf_windows(
    arch: Architecture, f: Fields, layers: int
) -> tuple[int | None, tuple[bool, ...] | None]:
    """The window and, where only some layers have it, which."""
    on = arch.windows == "all" or (arch.windows == "by_layer" and f.flag("use_sliding_window"))
    window = f.integer("sliding_window", 0) or None if on else None
    if arch.windows == "none":
        f.require_neutral({"sliding_window": (), "use_sliding_window": (False,)})
    types = f.values.get("layer_types")
    if types is None:
        if window is None or arch.windows == "all":
            return window, None
        first = f.integer("max_window_layers", 28, low=0)
        return window, tuple(i >= first for i in range(layers))
    flags = _layer_types(f, types, layers)
    if window is None and any(flags):
        f.refuse("layer_types", "has sliding_attention without a window")
    if arch.windows == "all" and window is not None and not all(flags):
        f.refuse("layer_types", f"is not supported for {arch.name}")
    return window, flags if window is not None else None


def _layer_types(f: Fields, types: object, layers: int) -> tuple[bool, ...]:
    known = {"full_attention": False, "sliding_attention": True}
    if not isinstance(types, list) or len(types) != layers:
        f.refuse("layer_types", f"must name the kind of {layers} layers")
    if any(not isinstance(t, str) or t not in known for t in types):
        f.refuse("layer_types", f"is not supported; known: {', '.join(known)}")
    return tuple(known[t] for t in types)


# ---------------------------------------------------------------- rotary embedding


@dataclass(frozen=True, kw_only=True)
class Rope:
    """A rotary embedding: base frequencies and how they are scaled.

    Args:
        kind: "default", "linear", "llama3" or "yarn".
        theta: base.
        factor: by which the context was stretched.
        original_len: context before it was stretched.
        low, high: llama3's frequency factors, or yarn's beta_slow and beta_fast.
        attention_factor: multiplies cos and sin (yarn).
        truncate: round yarn's ramp to whole channels.
        divisors: per frequency, from a GGUF file; None for none.
    """

    kind: str
    theta: float
    factor: float = 1.0
    original_len: int = 1
    low: float = 1.0
    high: float = 1.0
    attention_factor: float = 1.0
    truncate: bool = True
    divisors: torch.Tensor | None = None  # [C/2] float32

    def frequencies(self, head_dim: int) -> tuple[tuple[float, ...], float]:
        """Radians per position of each of the C/2 pairs, and what multiplies cos and sin.

        Computed in float32, step by step as the reference does, so that angles agree at far
        positions too.
        """
        exponent = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        base = 1.0 / (self.theta**exponent)  # [C/2]
        if self.divisors is not None:
            base = base / self.divisors
        scaled = _SCALINGS[self.kind](self, base)
        return tuple(scaled.tolist()), self.attention_factor

    def context_len(self, stated: int) -> int:
        """Positions the model can use; yarn configurations keep stating the original length."""
        return max(stated, int(self.original_len * self.factor)) if self.kind == "yarn" else stated


def _linear(rope: Rope, base: torch.Tensor) -> torch.Tensor:
    return base / rope.factor


def _llama3(rope: Rope, base: torch.Tensor) -> torch.Tensor:
    """Slow channels are stretched, fast ones kept, a ramp between (Llama 3.1 model card code)."""
    turns = rope.original_len * base / (2 * math.pi)
    keep = ((turns - rope.low) / (rope.high - rope.low)).clamp(0, 1)
    return base * (keep + (1 - keep) / rope.factor)


def _yarn(rope: Rope, base: torch.Tensor) -> torch.Tensor:
    """As llama3, but the ramp is linear in the channel number. Source: arXiv 2309.00071."""
    dim = 2 * base.numel()

    def channel(turns: float) -> float:  # that makes this many turns in the original context
        return (
            dim * math.log(rope.original_len / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))
        )

    first, last = channel(rope.high), channel(rope.low)
    if rope.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    width = (last - first) or 0.001
    keep = 1 - ((torch.arange(base.numel(), dtype=torch.float32) - first) / width).clamp(0, 1)
    return base / rope.factor * (1 - keep) + base * keep


_SCALINGS: dict[str, Callable[[Rope, torch.Tensor], torch.Tensor]] = {
    "default": lambda rope, base: base,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}

_ROPE_FIELDS = {
    "default": frozenset[str](),
    "linear": frozenset({"factor"}),
    "llama3": frozenset(
        {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}
    ),
    "yarn": frozenset(
        {
            "factor",
            "original_max_position_embeddings",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
        }
    ),
}
_ROPE_ALWAYS = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor"})


def hf_rope(f: Fields, context_len: int) -> Rope:
    """``rope_parameters`` (transformers 5) or ``rope_theta`` and ``rope_scaling`` (older)."""
    name = "rope_parameters" if f.values.get("rope_parameters") else "rope_scaling"
    given = f.values.get(name) or {}
    if not isinstance(given, Mapping):
        f.refuse(name, "must be an object")
    kind = given.get("rope_type") or given.get("type") or "default"
    if not isinstance(kind, str) or kind not in _ROPE_FIELDS:
        f.refuse(name, f"has rope_type {kind!r}; supported: {', '.join(_ROPE_FIELDS)}")
    unknown = {k for k, v in given.items() if v is not None} - _ROPE_FIELDS[kind] - _ROPE_ALWAYS
    if unknown:
        f.refuse(name, f"has {sorted(unknown)[0]!r}, which rope_type {kind!r} does not take")
    r = Fields(f"config.json {name}", given)
    r.require_neutral({"partial_rotary_factor": (1, 1.0)})
    theta = r.real("rope_theta", f.real("rope_theta", 10000.0, low=1.0), low=1.0)
    original = f.integer(
        "original_max_position_embeddings",
        r.integer("original_max_position_embeddings", context_len),
    )
    return _scaled_rope(r, kind, theta, original, context_len)


def _scaled_rope(r: Fields, kind: str, theta: float, original: int, context_len: int) -> Rope:
    if kind == "default":
        return Rope(kind=kind, theta=theta)
    if kind == "linear":
        return Rope(kind=kind, theta=theta, factor=r.real("factor"))
    if kind == "llama3":
        low, high = r.real("low_freq_factor"), r.real("high_freq_factor")
        if low >= high:
            r.refuse("low_freq_factor", f"must be below high_freq_factor={high}")
        factor = r.real("factor")
        return Rope(
            kind=kind, theta=theta, factor=factor, original_len=original, low=low, high=high
        )
    factor = r.real("factor", context_len / original)
    return Rope(
        kind=kind,
        theta=theta,
        factor=factor,
        original_len=original,
        low=r.real("beta_slow", 1.0, low=MIN_TURNS),
        high=r.real("beta_fast", 32.0, low=MIN_TURNS),
        attention_factor=r.real("attention_factor", _yarn_attention_factor(r, factor)),
        truncate=r.flag("truncate", True),
    )


def _yarn_attention_factor(r: Fields, factor: float) -> float:
    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if r.values.get("mscale") and r.values.get("mscale_all_dim"):
        return mscale(r.real("mscale")) / mscale(r.real("mscale_all_dim"))
    return mscale(1.0)


# ---------------------------------------------------------------- GGUF metadata

_GGUF_NEUTRAL: dict[str, tuple[object, ...]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "use_parallel_residual": (False,),
    "attn_logit_softcapping": (0, 0.0),
    "final_logit_softcapping": (0, 0.0),
    "logit_scale": (0, 0.0, 1, 1.0),
    "residual_scale": (0, 0.0, 1, 1.0),
    "embedding_scale": (0, 0.0, 1, 1.0),
    "attention.scale": (0, 0.0),
    "attention.clamp_kqv": (0, 0.0),
    "attention.max_alibi_bias": (0, 0.0),
    "attention.causal": (True,),
    "attention.sliding_window": (0,),
    "rope.scaling.attn_factor": (1, 1.0),
    "rope.scaling.yarn_log_multiplier": (0, 0.0),
    "rope.scaling.yarn_ext_factor": (1, 1.0),
    "rope.scaling.yarn_attn_factor": (1, 1.0),
}
_GGUF_READ = frozenset(
    {
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "vocab_size",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.value_length",
        "attention.layer_norm_rms_epsilon",
        "rope.dimension_count",
        "rope.freq_base",
        "rope.scale_linear",
        "rope.scaling.type",
        "rope.scaling.factor",
        "rope.scaling.original_context_length",
        "rope.scaling.yarn_beta_fast",
        "rope.scaling.yarn_beta_slow",
        "rope.scaling.finetuned",  # a remark
        "tensor_data_layout",  # a remark of old converters
    }
)


def from_gguf(
    arch: Architecture,
    metadata: Mapping[str, Any],
    *,
    vocab_size: int,
    qkv_bias: bool,
    o_bias: bool,
    tied: bool,
    rope_divisors: torch.Tensor | None,  # [C/2] float32
) -> ModelSpec:
    """Read the ``<architecture>.*`` keys of a GGUF file.

    Args:
        vocab_size: rows of the embedding.
        qkv_bias, o_bias, tied: what the tensors say, since the metadata do not.
        rope_divisors: the tensor ``rope_freqs.weight``, or None.

    Raises:
        ModelError: a key is missing, ill-typed or asks for something that is not implemented.
    """
    f = _gguf_fields(arch, metadata)
    hidden = f.integer("embedding_length", high=MAX_HIDDEN)
    heads = f.integer("attention.head_count")
    head_dim = f.integer("attention.key_length", max(hidden // heads, 1), high=MAX_HEAD_DIM)
    for field in ("attention.value_length", "rope.dimension_count"):
        if f.integer(field, head_dim) != head_dim:
            f.refuse(field, f"differs from the head dimension {head_dim}, which is not supported")
    if f.integer("vocab_size", vocab_size) != vocab_size:
        f.refuse("vocab_size", f"differs from the {vocab_size} rows of the embedding")
    rope = _gguf_rope(f, rope_divisors, head_dim)
    inv_freq, rope_scale = rope.frequencies(head_dim)
    decoder = _decoder_spec(
        f.source,
        num_layers=f.integer("block_count", high=MAX_LAYERS),
        hidden=hidden,
        num_heads=heads,
        num_kv_heads=f.integer("attention.head_count_kv", heads),
        head_dim=head_dim,
        intermediate=f.integer("feed_forward_length"),
        vocab_size=vocab_size,
        rms_eps=f.real("attention.layer_norm_rms_epsilon"),
        inv_freq=inv_freq,
        rope_scale=rope_scale,
        qk_norm=arch.qk_norm,
        qkv_bias=qkv_bias,
        o_bias=o_bias,
    )
    context_len = rope.context_len(f.integer("context_length"))
    return ModelSpec(decoder=decoder, context_len=context_len, tied=tied)


def _gguf_fields(arch: Architecture, metadata: Mapping[str, Any]) -> Fields:
    prefix = f"{arch.name}."
    values = {k[len(prefix) :]: v for k, v in metadata.items() if k.startswith(prefix)}
    f = Fields(f"GGUF metadata {arch.name}.*", values)
    f.require_neutral(_GGUF_NEUTRAL)
    for field in values:
        if field not in _GGUF_READ and field not in _GGUF_NEUTRAL:
            f.refuse(field, "is not known")
    return f


def _gguf_rope(f: Fields, divisors: torch.Tensor | None, head_dim: int) -> Rope:
    kind = f.values.get("rope.scaling.type") or "linear"  # llama.cpp's reading of an absent type
    if kind not in ("none", "linear", "yarn"):
        f.refuse("rope.scaling.type", "is not supported; supported: none, linear, yarn")
    if divisors is not None and divisors.shape != (head_dim // 2,):
        raise ModelError(
            f"GGUF rope_freqs.weight has shape {tuple(divisors.shape)}, not ({head_dim // 2},)"
        )
    if divisors is not None and not bool((divisors.isfinite() & (divisors > 0)).all()):
        raise ModelError("GGUF rope_freqs.weight holds numbers that are not finite and above 0")
    theta = f.real("rope.freq_base", 10000.0, low=1.0)
    factor = f.real("rope.scaling.factor", f.real("rope.scale_linear", 1.0))
    if kind == "yarn":
        original = f.integer("rope.scaling.original_context_length")
        return Rope(
            kind=kind,
            theta=theta,
            factor=factor,
            original_len=original,
            low=f.real("rope.scaling.yarn_beta_slow", 1.0, low=MIN_TURNS),
            high=f.real("rope.scaling.yarn_beta_fast", 32.0, low=MIN_TURNS),
            attention_factor=_yarn_attention_factor(f, factor),
            divisors=divisors,
        )
    return Rope(
        kind="linear", theta=theta, factor=1.0 if kind == "none" else factor, divisors=divisors
    )
