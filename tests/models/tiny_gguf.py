"""Tiny GGUF files, written with the `gguf` package from a tiny model directory.

Names come from the package's own name map and q/k rows are permuted as llama.cpp's converter
does, so that the loader is compared with somebody else's reading of the format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf.quants import dequantize, quantize
from safetensors.torch import load_file

from tests.models.tiny import CHAT_TEMPLATE, SPECIAL

_ARCH = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}


def write_tiny_gguf(
    folder: Path,
    path: Path,
    *,
    matrices: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    rope_freqs: np.ndarray | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, torch.Tensor]:
    """Convert a tiny model directory.

    Args:
        matrices: type of all matrices; norms and biases are F32.
        rope_freqs: [C/2] float32 divisors of the frequencies.
        extra: metadata, ``{arch}`` in keys filled in; overrides what was there.

    Returns:
        The weights under their transformers names, as the file's types store them.
    """
    config = json.loads((folder / "config.json").read_text())
    arch = _ARCH[config["model_type"]]
    weights = load_file(str(folder / "model.safetensors"))
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    _metadata(writer, gguf.MODEL_ARCH_NAMES[arch], config, extra or {})
    _vocabulary(writer, json.loads((folder / "tokenizer.json").read_text()), config["vocab_size"])
    stored = {
        name: _add(writer, arch, config, name, tensor.numpy(), matrices)
        for name, tensor in weights.items()
    }
    if rope_freqs is not None:
        writer.add_tensor("rope_freqs.weight", rope_freqs)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


def _metadata(
    writer: gguf.GGUFWriter, arch: str, config: dict[str, Any], extra: Mapping[str, Any]
) -> None:
    values: dict[str, Any] = {
        "{arch}.block_count": config["num_hidden_layers"],
        "{arch}.context_length": config["max_position_embeddings"],
        "{arch}.embedding_length": config["hidden_size"],
        "{arch}.feed_forward_length": config["intermediate_size"],
        "{arch}.attention.head_count": config["num_attention_heads"],
        "{arch}.attention.head_count_kv": config["num_key_value_heads"],
        "{arch}.attention.key_length": config["head_dim"],
        "{arch}.attention.value_length": config["head_dim"],
        "{arch}.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "{arch}.rope.freq_base": config["rope_theta"],
        "{arch}.rope.dimension_count": config["head_dim"],
    } | dict(extra)
    add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for key, value in values.items():
        add[type(value)](key.format(arch=arch), value)


def _vocabulary(writer: gguf.GGUFWriter, tokenizer: dict[str, Any], num_rows: int) -> None:
    tokens = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    types = [3 if t in SPECIAL else 1 for t in tokens]
    tokens += [f"[PAD{i}]" for i in range(len(tokens), num_rows)]
    types += [5] * (num_rows - len(types))  # unused, as the converter pads
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(m) for m in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _add(
    writer: gguf.GGUFWriter,
    arch: gguf.MODEL_ARCH,
    config: dict[str, Any],
    name: str,
    data: np.ndarray,
    matrices: gguf.GGMLQuantizationType,
) -> torch.Tensor:
    """Store one tensor; the values that the file holds, in transformers' row order."""
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    target = names.get_name(name, try_suffixes=(".weight", ".bias"))
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    stored, values = data, data
    if data.ndim == 2 and matrices != gguf.GGMLQuantizationType.F32:
        stored = quantize(data, matrices)
        values = dequantize(stored, matrices)
    if arch == gguf.MODEL_ARCH.LLAMA:
        for part, field in heads.items():
            if part in name:
                stored = _pairs(stored, config[field])
    writer.add_tensor(target, stored, raw_dtype=matrices if data.ndim == 2 else None)
    return torch.from_numpy(values.copy())


def _pairs(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """Half-split rows of each head to pairs: what the converter calls permute."""
    split = rows.reshape(num_heads, 2, rows.shape[0] // num_heads // 2, *rows.shape[1:])
    return split.swapaxes(1, 2).reshape(rows.shape)
