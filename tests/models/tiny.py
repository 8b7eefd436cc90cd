"""Complete tiny models on disk: random weights, a byte-level BPE tokenizer, a chat template.

They need no network and no transformers, so any test of the loader, the runtime or the server
can have a real model directory in a few milliseconds.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_CORPUS = (
    "The quick brown fox jumps over the lazy dog. The invoice number is 12345 and the total",
    'amount due is 99.50 EUR, payable in 30 days. {"name": "Ada", "age": 36, "city": "Paris"}',
    "In the beginning there was a model, and the model was tiny; it read and it wrote and then",
    "it answered: yes, no, maybe, true, false, null. What is the date of the event in the text?",
    "Die Straße führt über den Fluss. Où est la bibliothèque? def main(): return [x for x in y]",
)


def tiny_model_dir(
    path: Path,
    arch: str = "llama",
    vocab: int = 384,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **overrides: Any,
) -> Path:
    """Write a model directory and return it.

    Args:
        path: parent; the model goes to a new folder in it.
        arch: a key of `ARCHITECTURES`.
        vocab: rows of the embedding; the tokenizer has at most as many ids (at least 259).
        seed: of the weights.
        dtype: in which the weights are stored.
        overrides: fields of config.json, e.g. ``num_hidden_layers=1``.
    """
    config = tiny_config(arch, vocab, **overrides)
    folder = Path(path) / f"tiny-{arch}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(
        {name: t.to(dtype) for name, t in tiny_weights(config, seed).items()},
        str(folder / "model.safetensors"),
        metadata={"format": "pt"},
    )
    write_tokenizer(folder, vocab, config["max_position_embeddings"])
    return folder


def write_tokenizer(folder: Path, vocab: int = 384, context_len: int = 2048) -> None:
    """The tokenizer's files of a model directory: at most `vocab` ids, with a chat template."""
    (folder / "tokenizer.json").write_text(_tokenizer_json(vocab))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": SPECIAL[1],
                "eos_token": SPECIAL[2],
                "pad_token": SPECIAL[0],
                "add_bos_token": False,
                "clean_up_tokenization_spaces": False,
                "model_max_length": context_len,
                "chat_template": CHAT_TEMPLATE,
            }
        )
    )
    (folder / "generation_config.json").write_text(
        json.dumps({"bos_token_id": 1, "eos_token_id": [2, 0]})
    )


def tiny_config(arch: str, vocab: int = 384, **overrides: Any) -> dict[str, Any]:
    """The fields of config.json, in the spelling of older transformers."""
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[arch]],
        "model_type": arch,
        "vocab_size": vocab,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    }
    if arch == "mistral":
        config["sliding_window"] = None
    return config | overrides


def tiny_weights(config: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    """Random weights, scaled so that every layer matters to the result."""
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, cols: int) -> torch.Tensor:
        return torch.randn(rows, cols, generator=generator) * (1.5 / cols**0.5)

    def vector(size: int, center: float) -> torch.Tensor:
        return center + 0.2 * torch.randn(size, generator=generator)

    d, f, c = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * c, config["num_key_value_heads"] * c
    weights = {
        "model.embed_tokens.weight": matrix(config["vocab_size"], d) * (d**0.5 / 2),
        "model.norm.weight": vector(d, 1.0),
    }
    if not config["tie_word_embeddings"]:
        weights["lm_head.weight"] = 2 * matrix(config["vocab_size"], d)
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}."
        weights[p + "input_layernorm.weight"] = vector(d, 1.0)
        weights[p + "post_attention_layernorm.weight"] = vector(d, 1.0)
        for name, rows, cols in (("q", q, d), ("k", kv, d), ("v", kv, d), ("o", d, q)):
            weights[f"{p}self_attn.{name}_proj.weight"] = matrix(rows, cols)
            qwen2 = config["model_type"] == "qwen2" and name != "o"
            if qwen2 or config.get("attention_bias"):
                weights[f"{p}self_attn.{name}_proj.bias"] = vector(rows, 0.0)
        for name, rows, cols in (("gate", f, d), ("up", f, d), ("down", d, f)):
            weights[f"{p}mlp.{name}_proj.weight"] = matrix(rows, cols)
        if config["model_type"] == "qwen3":
            for name in ("q_norm", "k_norm"):
                weights[f"{p}self_attn.{name}.weight"] = vector(c, 1.0)
    return weights


@lru_cache
def _tokenizer_json(vocab: int) -> str:
    """A byte-level BPE in the manner of GPT-2, learnt from a few lines; special ids come first."""
    if vocab < len(SPECIAL) + 256:
        raise ValueError(f"vocab={vocab}: bytes and special tokens need {len(SPECIAL) + 256}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        min_frequency=1,
        show_progress=False,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return str(tokenizer.to_str())
