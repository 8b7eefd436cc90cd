"""The embedded model: logits on real text equal transformers' on the same weights.

The reference is built by hand, so that it shares nothing with our loader but the bytes: values by
the `gguf` package's dequantisation, rows by the inverse of llama.cpp's permutation, arithmetic by
transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from sgrt import ops
from sgrt.models.build import build_decoder, build_head
from sgrt.models.gguf import GgufFile
from sgrt.models.llama import TorchDecoder
from sgrt.models.loader import LoadedModel, load
from tests.models.schedules import in_chunks, mixed, run_schedule

pytestmark = pytest.mark.model

TOLERANCE = 1e-3  # logits reach 36; float32 rounding measured 1e-4
TEXTS = (
    "The invoice of 12 March 2024 was sent by Acme GmbH, Berlin, to Ms. Ada Lovelace. It lists "
    "three items: a lamp, two chairs and a desk; the total amount due is 1,299.50 EUR.",
    '{"name": "Grace Hopper", "born": "1906-12-09", "languages": ["COBOL", "FLOW-MATIC"]}\n',
    "def fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n",
)
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def reference_model(path: Path) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    file = GgufFile.open(path)

    def of(key: str) -> Any:
        return file.metadata[f"llama.{key}"]

    config = LlamaConfig(
        vocab_size=file.tensors["token_embd.weight"].shape[0],
        hidden_size=of("embedding_length"),
        intermediate_size=of("feed_forward_length"),
        num_hidden_layers=of("block_count"),
        num_attention_heads=of("attention.head_count"),
        num_key_value_heads=of("attention.head_count_kv"),
        max_position_embeddings=of("context_length"),
        rms_norm_eps=of("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": of("rope.freq_base")},
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.to_empty(device="cpu")
    model.load_state_dict(reference_state(file, config), strict=False)
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its buffers are not weights
    return model.eval()


def reference_state(file: GgufFile, config: Any) -> dict[str, torch.Tensor]:
    state = {
        "model.embed_tokens.weight": values(file, "token_embd.weight"),
        "model.norm.weight": values(file, "output_norm.weight"),
    }
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for i in range(config.num_hidden_layers):
        for theirs, ours in LAYER_NAMES.items():
            tensor = values(file, f"blk.{i}.{ours}.weight")
            if ours in heads:
                pairs = tensor.view(heads[ours], -1, 2, tensor.shape[-1])
                tensor = pairs.transpose(1, 2).reshape(tensor.shape)
            state[f"model.layers.{i}.{theirs}.weight"] = tensor
    assert len(state) == len(file.tensors), "the reference must use every tensor"
    return state


def values(file: GgufFile, name: str) -> torch.Tensor:
    tensor = file.tensors[name]
    data = np.frombuffer(file.data(name), dtype=np.uint8)
    kind = GGMLQuantizationType(tensor.ggml_type)
    return torch.from_numpy(dequantize(data, kind).reshape(tensor.shape).copy())


@pytest.fixture(scope="module")
def model(smollm2: Path) -> LoadedModel:
    return load(smollm2)


@pytest.fixture(scope="module")
def ids(model: LoadedModel) -> list[list[int]]:
    return [model.tokenizer.encode(text) for text in TEXTS]


@pytest.fixture(scope="module")
def expected(smollm2: Path, ids: list[list[int]]) -> list[torch.Tensor]:
    reference = reference_model(smollm2)
    with torch.no_grad():
        return [reference(torch.tensor([i])).logits[0] for i in ids]


@pytest.fixture(scope="module", params=[pytest.param("torch", marks=pytest.mark.slow), "native"])
def exact(request: pytest.FixtureRequest, model: LoadedModel) -> Any:
    if request.param == "torch":
        return TorchDecoder(model.spec, model.weights)
    return native(model, "float32")


def native(model: LoadedModel, precision: Any) -> Any:
    decoder = build_decoder(model, precision=precision)
    if isinstance(decoder, TorchDecoder):
        pytest.skip("no native library on this machine")
    return decoder


@pytest.mark.parametrize("schedule", ["prefill", "chunks-of-13", "mixed"])
def test_smollm2_float32_logits_equal_transformers(
    exact: Any,
    model: LoadedModel,
    ids: list[list[int]],
    expected: list[torch.Tensor],
    schedule: str,
) -> None:
    if schedule == "mixed":  # many small steps
        ids, expected = [i[:20] for i in ids], [e[:20] for e in expected]
    lengths = [len(i) for i in ids]
    steps = {
        "prefill": in_chunks(lengths, 1000),
        "chunks-of-13": in_chunks(lengths, 13),
        "mixed": mixed(lengths),
    }[schedule]
    head = ops.dequantize(model.weights.head)
    hidden = run_schedule(exact, ids, steps, page_size=16)
    difference = torch.cat(hidden) @ head.T - torch.cat(expected)
    assert float(difference.abs().max()) <= TOLERANCE


def test_smollm2_quantized_logits_are_near_the_exact_ones(
    model: LoadedModel, ids: list[list[int]], expected: list[torch.Tensor]
) -> None:
    """The error of int8 activations and float16 KV that `models/build.py` states, with room."""
    decoder, head = native(model, "quantized"), build_head(model, precision="quantized")
    hidden = run_schedule(
        decoder, ids, in_chunks([len(i) for i in ids], 64), page_size=16, kv_dtype=torch.float16
    )
    got, want = head.logits(torch.cat(hidden)), torch.cat(expected)[:, : head.vocab_size]
    cosine = torch.nn.functional.cosine_similarity(got, want, dim=-1)
    assert float(cosine.min()) >= 0.98
    assert float(cosine.mean()) >= 0.998
    assert float((got.argmax(-1) == want.argmax(-1)).float().mean()) >= 0.95


def test_smollm2_loads_with_its_own_facts(model: LoadedModel) -> None:
    assert (model.architecture, model.context_len) == ("llama", 8192)
    assert model.weights.head is model.weights.embed
    assert model.eos_ids == {2} and not model.add_bos
    assert model.chat_template is not None
