"""Which architectures run, under which names, and how their weights are called.

Adding a Llama-like model is an entry here. What differs between members of the family and is not
a size is a field of `Architecture`; the arithmetic itself is `ops.DecoderSpec`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sgrt.errors import ModelError

Flag = bool | Literal["config"]
Windows = Literal["none", "all", "by_layer"]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One member of the family.

    Args:
        name: as GGUF files spell it (``general.architecture``) and as we call it.
        hf_classes: names in the ``architectures`` field of config.json.
        qkv_bias, o_bias: whether these projections have biases; "config" asks the field
            ``attention_bias``. (GGUF files say it by holding the tensors.)
        qk_norm: RMSNorm on each head of q and k.
        windows: where ``sliding_window`` applies: nowhere, in all layers, or by layer.
        default_kv_heads: where config.json has no ``num_key_value_heads``; None: as many as heads.
        default_head_dim: where config.json has no ``head_dim``; None: hidden size / heads.
        gguf_interleaved: GGUF files hold q and k rows in pairs (channel 2i turns with 2i + 1).
    """

    name: str
    hf_classes: tuple[str, ...]
    qkv_bias: Flag = False
    o_bias: Flag = False
    qk_norm: bool = False
    windows: Windows = "none"
    default_kv_heads: int | None = None
    default_head_dim: int | None = None
    gguf_interleaved: bool = False


ARCHITECTURES = (
    Architecture(
        name="llama",
        hf_classes=("LlamaForCausalLM",),
        qkv_bias="config",
        o_bias="config",
        gguf_interleaved=True,
    ),
    # GGUF has no name of its own for Mistral: it is converted as "llama".
    Architecture(
        name="mistral", hf_classes=("MistralForCausalLM",), windows="all", default_kv_heads=8
    ),
    Architecture(
        name="qwen2",
        hf_classes=("Qwen2ForCausalLM",),
        qkv_bias=True,
        windows="by_layer",
        default_kv_heads=32,
    ),
    Architecture(
        name="qwen3",
        hf_classes=("Qwen3ForCausalLM",),
        qkv_bias="config",
        o_bias="config",
        qk_norm=True,
        windows="by_layer",
        default_kv_heads=32,
        default_head_dim=128,
    ),
)

_BY_CLASS = {cls: arch for arch in ARCHITECTURES for cls in arch.hf_classes}
_BY_GGUF_NAME = {arch.name: arch for arch in ARCHITECTURES if arch.name != "mistral"}


def by_hf_class(names: object) -> Architecture:
    """The architecture that config.json names.

    Raises:
        ModelError: none, or one that is not in the table.
    """
    if isinstance(names, list):
        for name in names:
            if isinstance(name, str) and name in _BY_CLASS:
                return _BY_CLASS[name]
    raise ModelError(
        f"config.json: architectures={names!r} is not supported",
        hint=f"supported: {', '.join(sorted(_BY_CLASS))}",
    )


def by_gguf_name(name: object) -> Architecture:
    """The architecture that ``general.architecture`` names.

    Raises:
        ModelError: one that is not in the table.
    """
    if isinstance(name, str) and name in _BY_GGUF_NAME:
        return _BY_GGUF_NAME[name]
    raise ModelError(
        f"GGUF general.architecture={name!r} is not supported",
        hint=f"supported: {', '.join(sorted(_BY_GGUF_NAME))}",
    )


@dataclass(frozen=True, kw_only=True)
class WeightNames:
    """How one kind of file calls the tensors; ``{i}`` is the layer.

    Args:
        layer: our name of each tensor of a layer (a field of `ops.LayerWeights`) → theirs.
        ignored: endings of tensor names that hold nothing the arithmetic needs.
    """

    embed: str
    final_norm: str
    head: str
    layer: dict[str, str]
    ignored: tuple[str, ...] = ()


HF_NAMES = WeightNames(
    embed="model.embed_tokens.weight",
    final_norm="model.norm.weight",
    head="lm_head.weight",
    layer={
        "attn_norm": "model.layers.{i}.input_layernorm.weight",
        "q": "model.layers.{i}.self_attn.q_proj.weight",
        "k": "model.layers.{i}.self_attn.k_proj.weight",
        "v": "model.layers.{i}.self_attn.v_proj.weight",
        "o": "model.layers.{i}.self_attn.o_proj.weight",
        "q_bias": "model.layers.{i}.self_attn.q_proj.bias",
        "k_bias": "model.layers.{i}.self_attn.k_proj.bias",
        "v_bias": "model.layers.{i}.self_attn.v_proj.bias",
        "o_bias": "model.layers.{i}.self_attn.o_proj.bias",
        "q_norm": "model.layers.{i}.self_attn.q_norm.weight",
        "k_norm": "model.layers.{i}.self_attn.k_norm.weight",
        "mlp_norm": "model.layers.{i}.post_attention_layernorm.weight",
        "gate": "model.layers.{i}.mlp.gate_proj.weight",
        "up": "model.layers.{i}.mlp.up_proj.weight",
        "down": "model.layers.{i}.mlp.down_proj.weight",
    },
    ignored=(".rotary_emb.inv_freq",),  # a buffer of old checkpoints; computed from the config
)

GGUF_NAMES = WeightNames(
    embed="token_embd.weight",
    final_norm="output_norm.weight",
    head="output.weight",
    layer={
        "attn_norm": "blk.{i}.attn_norm.weight",
        "q": "blk.{i}.attn_q.weight",
        "k": "blk.{i}.attn_k.weight",
        "v": "blk.{i}.attn_v.weight",
        "o": "blk.{i}.attn_output.weight",
        "q_bias": "blk.{i}.attn_q.bias",
        "k_bias": "blk.{i}.attn_k.bias",
        "v_bias": "blk.{i}.attn_v.bias",
        "o_bias": "blk.{i}.attn_output.bias",
        "q_norm": "blk.{i}.attn_q_norm.weight",
        "k_norm": "blk.{i}.attn_k_norm.weight",
        "mlp_norm": "blk.{i}.ffn_norm.weight",
        "gate": "blk.{i}.ffn_gate.weight",
        "up": "blk.{i}.ffn_up.weight",
        "down": "blk.{i}.ffn_down.weight",
    },
    ignored=("rope_freqs.weight",),  # read by `spec.from_gguf`
)
