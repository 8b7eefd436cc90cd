"""What configurations mean, and that nothing in a model's files is silently ignored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import load_file, save_file

from sgrt import ops
from sgrt.errors import CorruptModel, ModelError, ModelNotFound, RequestError
from sgrt.models import registry
from sgrt.models.build import build_decoder, build_head, choose_precision, kv_dtype
from sgrt.models.llama import TorchDecoder
from sgrt.models.loader import load
from sgrt.models.spec import from_config, from_gguf
from sgrt.models.weights import half_split_rows, read_weights
from tests.models.tiny import ARCHITECTURES, SPECIAL, tiny_config, tiny_model_dir, tiny_weights
from tests.models.tiny_gguf import write_tiny_gguf

# ---------------------------------------------------------------- config.json


def spec_of(config: dict[str, Any]) -> ops.DecoderSpec:
    return from_config(registry.by_hf_class(config["architectures"]), config).decoder


@pytest.mark.parametrize(
    ("arch", "field", "value"),
    [
        ("llama", "hidden_act", "gelu"),
        ("llama", "mlp_bias", True),
        ("llama", "quantization_config", {"quant_method": "gptq"}),
        ("llama", "partial_rotary_factor", 0.5),
        ("llama", "attn_logit_softcapping", 30.0),
        ("llama", "final_logit_softcapping", 30.0),
        ("llama", "num_local_experts", 8),
        ("llama", "logits_scaling", 8.0),
        ("llama", "sliding_window", 128),
        ("llama", "layer_types", ["full_attention", "sliding_attention"]),
        ("llama", "rope_scaling", {"rope_type": "dynamic", "factor": 2.0}),
        ("llama", "rope_scaling", {"rope_type": "longrope", "short_factor": [1.0]}),
        ("llama", "rope_scaling", {"rope_type": "linear", "factor": 2.0, "mrope_section": [2]}),
        ("llama", "rope_scaling", "linear"),
        ("llama", "rope_parameters", {"full_attention": {"rope_type": "default"}}),
        ("mistral", "attention_bias", True),
        ("mistral", "sliding_window", -1),
        ("qwen2", "attention_bias", True),
        ("qwen2", "layer_types", ["full_attention"]),
        ("qwen2", "layer_types", ["full_attention", "chunked_attention"]),
        ("qwen2", "layer_types", ["full_attention", "sliding_attention"]),
        ("qwen3", "use_sliding_window", "yes"),
        ("llama", "hidden_size", 64.0),
        ("llama", "hidden_size", True),
        ("llama", "num_hidden_layers", 0),
        ("llama", "rms_norm_eps", float("nan")),
        ("llama", "rope_theta", -1.0),
    ],
)
def test_config_field_that_is_not_implemented_is_refused_by_name(
    arch: str, field: str, value: object
) -> None:
    with pytest.raises(ModelError) as caught:
        spec_of(tiny_config(arch) | {field: value})
    assert field in str(caught.value)


WEIRD = (
    *(None, True, False, -1, 0, 1, 2, 3, 1 << 20, 1 << 31, 1 << 70, 10**400),
    *(0.0, 0.5, 1e-320, 1e300, float("inf"), float("nan"), "x", "", [], {}, [1], [[]], {"a": 1}),
)
ROPES: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 2.0},
    "llama3": {"factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": dict.fromkeys(("factor", "attention_factor", "beta_fast", "beta_slow"), 2.0)
    | {"original_max_position_embeddings": 64, "mscale": 1.0, "mscale_all_dim": 1.0},
}


@pytest.mark.parametrize("arch", list(ARCHITECTURES))
def test_config_any_value_of_any_field_is_taken_or_refused(arch: str) -> None:
    extra = ("layer_types", "use_sliding_window", "sliding_window", "rope_parameters")
    taken = 0
    for field in (*tiny_config(arch), *extra, "max_window_layers", "rope_scaling"):
        for value in WEIRD:
            taken += not refused(tiny_config(arch) | {field: value})
    assert taken > 0


@pytest.mark.parametrize("kind", list(ROPES))
def test_rope_any_value_of_any_field_is_taken_or_refused(kind: str) -> None:
    scaling = {"rope_type": kind, "rope_theta": 10000.0} | ROPES[kind]
    assert not refused(tiny_config("llama", rope_parameters=scaling))
    for field in (*scaling, "type", "truncate", "partial_rotary_factor"):
        for value in WEIRD:
            config = tiny_config("llama", rope_parameters=scaling | {field: value})
            if not refused(config):
                assert len(spec_of(config).inv_freq) == 8


def refused(config: dict[str, Any]) -> bool:
    try:
        spec_of(config)
    except ModelError:
        return True
    return False


@pytest.mark.parametrize("inner", [{"factor": None}, {"rope_type": "llama3", "factor": 8.0}])
def test_config_rope_scaling_without_its_numbers_names_the_missing_one(inner: Any) -> None:
    scaling = {"rope_type": "linear"} | inner
    with pytest.raises(ModelError, match="factor is missing"):
        spec_of(tiny_config("llama", rope_scaling=scaling))


@pytest.mark.parametrize(
    "field",
    ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"],
)
def test_config_without_a_size_names_it(field: str) -> None:
    config = tiny_config("llama")
    del config[field]
    with pytest.raises(ModelError, match=f"{field} is missing"):
        spec_of(config)


@pytest.mark.parametrize("arch", list(ARCHITECTURES))
def test_config_absent_fields_take_the_defaults_of_transformers(arch: str) -> None:
    from transformers import AutoConfig

    config = tiny_config(arch, hidden_size=4096, num_attention_heads=64)
    for field in ("rms_norm_eps", "rope_theta", "num_key_value_heads", "head_dim", "hidden_act"):
        del config[field]
    theirs = AutoConfig.for_model(arch, **{k: v for k, v in config.items() if k != "model_type"})
    ours = spec_of(config)
    head_dim = getattr(theirs, "head_dim", None) or 4096 // 64
    assert (ours.num_kv_heads, ours.head_dim) == (theirs.num_key_value_heads, head_dim)
    assert ours.rms_eps == theirs.rms_norm_eps
    theta = theirs.rope_parameters["rope_theta"]
    assert ours.inv_freq == spec_of(config | {"rope_theta": theta}).inv_freq


@pytest.mark.parametrize(
    "scaling",
    [
        {},
        {"rope_type": "linear", "factor": 3.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
    ],
)
def test_rope_old_and_new_spelling_mean_the_same(scaling: dict[str, Any]) -> None:
    old = tiny_config("llama", rope_theta=3e4, rope_scaling=scaling or None)
    new = tiny_config(
        "llama", rope_parameters={"rope_theta": 3e4, "rope_type": "default"} | scaling
    )
    del new["rope_theta"]
    assert spec_of(old) == spec_of(new)


def test_rope_theta_changes_frequencies() -> None:
    assert (
        spec_of(tiny_config("llama", rope_theta=1e6)).inv_freq
        != spec_of(tiny_config("llama")).inv_freq
    )


def test_config_sizes_that_do_not_fit_are_refused_with_both() -> None:
    with pytest.raises(ModelError, match=r"num_heads=4.*num_kv_heads=3"):
        spec_of(tiny_config("llama", num_key_value_heads=3))


def test_config_unknown_architecture_lists_the_known() -> None:
    with pytest.raises(ModelError, match=r"GPT2LMHeadModel.*\n.*LlamaForCausalLM"):
        registry.by_hf_class(["GPT2LMHeadModel"])


@pytest.mark.parametrize("names", [None, "LlamaForCausalLM", []])
def test_config_without_architectures_is_refused(names: object) -> None:
    with pytest.raises(ModelError, match="architectures"):
        registry.by_hf_class(names)


def test_qwen_windows_begin_at_max_window_layers() -> None:
    window = {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}
    spec = spec_of(tiny_config("qwen2", num_hidden_layers=3, **window))
    assert [spec.window(i) for i in range(3)] == [None, 9, 9]


def test_qwen_layer_types_win_over_max_window_layers() -> None:
    window = {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 0}
    types = ["sliding_attention", "full_attention"]
    spec = spec_of(tiny_config("qwen3", layer_types=types, **window))
    assert [spec.window(i) for i in range(2)] == [9, None]


def test_yarn_context_is_the_stretched_one() -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
    config = tiny_config("llama", rope_scaling=scaling)
    assert from_config(registry.by_hf_class(config["architectures"]), config).context_len == 8192


# ---------------------------------------------------------------- GGUF metadata


def gguf_metadata(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "block_count": 2,
        "context_length": 512,
        "embedding_length": 64,
        "feed_forward_length": 96,
        "attention.head_count": 4,
        "attention.layer_norm_rms_epsilon": 1e-5,
    } | {key.replace("__", "."): value for key, value in changes.items()}
    return {f"llama.{key}": value for key, value in values.items() if value is not None}


def spec_of_gguf(metadata: dict[str, Any]) -> ops.DecoderSpec:
    return from_gguf(
        registry.by_gguf_name("llama"),
        metadata,
        vocab_size=384,
        qkv_bias=False,
        o_bias=False,
        tied=True,
        rope_divisors=None,
    ).decoder


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("expert_count", 8),
        ("attn_logit_softcapping", 30.0),
        ("attention.sliding_window", 128),
        ("attention.causal", False),
        ("attention.value_length", 8),
        ("rope.dimension_count", 8),
        ("rope.scaling.type", "longrope"),
        ("rope.scaling.attn_factor", 1.5),
        ("vocab_size", 385),
        ("attention.head_count", [4, 2]),
        ("feed_forward_length", [96, 48]),
        ("something.new", 1),
    ],
)
def test_gguf_key_that_is_not_implemented_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ModelError) as caught:
        spec_of_gguf(gguf_metadata() | {f"llama.{key}": value})
    assert key in str(caught.value)


@pytest.mark.parametrize("key", ["block_count", "attention.layer_norm_rms_epsilon"])
def test_gguf_without_a_key_names_it(key: str) -> None:
    metadata = gguf_metadata()
    del metadata[f"llama.{key}"]
    with pytest.raises(ModelError, match=f"{key} is missing"):
        spec_of_gguf(metadata)


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({"rope__scaling__type": "linear", "rope__scaling__factor": 4.0}, 4.0),
        ({"rope__scaling__factor": 4.0}, 4.0),  # an absent type reads as linear
        ({"rope__scale_linear": 2.0}, 2.0),
        ({"rope__scaling__type": "none", "rope__scaling__factor": 4.0}, 1.0),
        ({}, 1.0),
    ],
)
def test_gguf_linear_scaling_divides_frequencies(changes: dict[str, Any], factor: float) -> None:
    plain = torch.tensor(spec_of_gguf(gguf_metadata()).inv_freq)
    scaled = torch.tensor(spec_of_gguf(gguf_metadata(**changes)).inv_freq)
    assert torch.equal(scaled, plain / factor)


@pytest.mark.parametrize("name", ["mamba", "mistral", None, 3])
def test_gguf_unknown_architecture_is_refused(name: object) -> None:
    with pytest.raises(ModelError, match=r"general.architecture"):
        registry.by_gguf_name(name)


@pytest.mark.parametrize(("heads", "dim"), [(1, 2), (1, 8), (3, 4), (4, 64)])
def test_half_split_rows_undo_the_converters_pairs(heads: int, dim: int) -> None:
    rows = np.arange(heads * dim)
    pairs = rows.reshape(heads, 2, dim // 2).swapaxes(1, 2).reshape(-1)
    assert pairs[half_split_rows(heads, dim).numpy()].tolist() == rows.tolist()


def test_gguf_frequency_divisors_of_wrong_length_are_refused(tmp_path: Path) -> None:
    folder = tiny_model_dir(tmp_path)
    write_tiny_gguf(folder, tmp_path / "t.gguf", rope_freqs=np.ones(5, np.float32))
    with pytest.raises(ModelError, match=r"\(5,\), not \(8,\)"):
        load(tmp_path / "t.gguf")


# ---------------------------------------------------------------- tensors


Weights = dict[str, torch.Tensor]


def edit(folder: Path, change: Callable[[Weights], object]) -> Path:
    """Change the weights of a model directory."""
    file = str(folder / "model.safetensors")
    weights = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})
    return folder


def test_load_missing_tensor_is_named(tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    folder = edit(tiny_model_dir(tmp_path), lambda w: w.pop(name))
    with pytest.raises(CorruptModel, match=f"{name}.*missing"):
        load(folder)


def test_load_untied_model_without_head_is_refused(tmp_path: Path) -> None:
    folder = edit(tiny_model_dir(tmp_path), lambda w: w.pop("lm_head.weight"))
    with pytest.raises(CorruptModel, match=r"lm_head.weight.*missing"):
        load(folder)


def test_load_misshapen_tensor_names_both_shapes(tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.k_proj.weight"
    folder = edit(tiny_model_dir(tmp_path), lambda w: w.update({name: torch.zeros(16, 64)}))
    with pytest.raises(CorruptModel, match=rf"{name}.*\(16, 64\), not \(32, 64\)"):
        load(folder)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.2.mlp.up_proj.weight",
        "model.layers.0.mlp.experts.0.w1",
    ],
)
def test_load_tensor_that_would_be_ignored_is_refused(name: str, tmp_path: Path) -> None:
    folder = edit(tiny_model_dir(tmp_path), lambda w: w.update({name: torch.zeros(64)}))
    with pytest.raises(CorruptModel, match=f"{name}.*not part"):
        load(folder)


def test_load_frequency_buffers_of_old_checkpoints_are_ignored(tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    load(edit(tiny_model_dir(tmp_path), lambda w: w.update({name: torch.zeros(8)})))


def test_load_tied_model_shares_one_weight(tmp_path: Path) -> None:
    model = load(tiny_model_dir(tmp_path, tie_word_embeddings=True))
    assert model.weights.head is model.weights.embed


def test_load_tied_model_with_equal_head_is_taken_and_other_head_refused(tmp_path: Path) -> None:
    folder = tiny_model_dir(tmp_path, tie_word_embeddings=True)

    def add_equal(w: Weights) -> None:
        w["lm_head.weight"] = w["model.embed_tokens.weight"].clone()

    def spoil(w: Weights) -> None:
        w["lm_head.weight"][3, 5] += 1

    assert load(edit(folder, add_equal)).weights.head is not None
    with pytest.raises(CorruptModel, match=r"lm_head.weight.*differs"):
        load(edit(folder, spoil))


def test_load_gguf_biases_that_the_architecture_lacks_are_honoured(tmp_path: Path) -> None:
    """llama files say by their tensors whether there are biases; q and k biases are in pairs too."""
    folder = tiny_model_dir(tmp_path, attention_bias=True)
    expected = load(folder).weights.layers[1]
    write_tiny_gguf(folder, tmp_path / "t.gguf")
    model = load(tmp_path / "t.gguf")
    assert model.spec.qkv_bias and model.spec.o_bias
    for name in ("q_bias", "k_bias", "v_bias", "o_bias"):
        assert torch.equal(getattr(model.weights.layers[1], name), getattr(expected, name))


class Tensors(dict[str, ops.RawWeight]):
    """A source of weights in memory."""

    path = Path("memory")

    def names(self) -> list[str]:
        return list(self)

    def shape(self, name: str) -> tuple[int, ...]:
        return self[name].shape

    def raw(self, name: str) -> ops.RawWeight:
        return self[name]


def test_read_weights_quantised_norm_is_refused() -> None:
    config = tiny_config("llama")
    spec = spec_of(config)
    source = Tensors({k: ops.RawWeight.from_tensor(t) for k, t in tiny_weights(config, 0).items()})
    options = {"tied": False, "interleaved": False}
    assert read_weights(source, registry.HF_NAMES, spec, **options).final_norm.shape == (64,)
    blocks = torch.zeros(2 * 34, dtype=torch.uint8)
    source["model.norm.weight"] = ops.RawWeight(blocks, ops.Format.Q8_0, (64,))
    with pytest.raises(CorruptModel, match=r"model.norm.weight.*Q8_0"):
        read_weights(source, registry.HF_NAMES, spec, **options)


# ---------------------------------------------------------------- the whole model


@pytest.mark.parametrize("arch", list(ARCHITECTURES))
def test_load_directory_and_its_gguf_conversion_are_the_same_model(
    arch: str, tmp_path: Path
) -> None:
    folder = tiny_model_dir(tmp_path, arch, rms_norm_eps=2.0**-16)  # GGUF has float32 only
    write_tiny_gguf(folder, tmp_path / "t.gguf")
    one, other = load(folder), load(tmp_path / "t.gguf")
    assert one.spec == other.spec
    assert one.context_len == other.context_len == 2048
    for a, b in zip(one.weights.layers, other.weights.layers, strict=True):
        for name in ("q", "k", "v", "o", "gate", "up", "down"):
            assert torch.equal(getattr(a, name).data, getattr(b, name).data), name
    text = "The invoice number is 12345."
    assert one.tokenizer.encode(text) == other.tokenizer.encode(text)


def test_load_directory_declares_its_tokens_and_template(tmp_path: Path) -> None:
    model = load(tiny_model_dir(tmp_path))
    ids = {text: model.tokenizer.special_id(text) for text in SPECIAL}
    assert model.eos_ids == {ids["<|endoftext|>"], ids["<|im_end|>"]}
    assert (model.bos_id, model.add_bos) == (ids["<|im_start|>"], False)
    assert model.chat_template is not None
    assert (model.name, model.architecture) == ("tiny-llama-0", "llama")


def test_load_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    folder = tiny_model_dir(tmp_path, vocab=384)
    small = tiny_model_dir(tmp_path, "qwen2", vocab=300)
    (small / "tokenizer.json").write_text((folder / "tokenizer.json").read_text())
    with pytest.raises(CorruptModel, match=r"384 ids.*300 rows"):
        load(small)


def test_load_head_of_a_padded_embedding_has_only_real_tokens(tmp_path: Path) -> None:
    model = load(tiny_model_dir(tmp_path, vocab=1000))
    assert model.tokenizer.vocab_size < 1000
    assert build_head(model).vocab_size == model.tokenizer.vocab_size


def test_build_head_float32_is_exact_on_quantised_files(tmp_path: Path) -> None:
    folder = tiny_model_dir(tmp_path)
    write_tiny_gguf(folder, tmp_path / "t.gguf", matrices=GGMLQuantizationType.Q8_0)
    model = load(tmp_path / "t.gguf")
    hidden = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    exact = hidden @ ops.dequantize(model.weights.head).T
    head = build_head(model, precision="float32")
    torch.testing.assert_close(head.logits(hidden), exact[:, : head.vocab_size], atol=1e-5, rtol=0)


def test_load_nothing_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        load(tmp_path / "missing.gguf")
    with pytest.raises(ModelNotFound, match=r"config.json"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '"x"', "\x00"])
def test_load_config_that_is_no_object_is_corrupt(text: str, tmp_path: Path) -> None:
    folder = tiny_model_dir(tmp_path)
    (folder / "config.json").write_text(text)
    with pytest.raises(CorruptModel, match=r"config.json"):
        load(folder)


# ---------------------------------------------------------------- placement


def test_precision_auto_is_the_fast_one_of_the_device() -> None:
    assert choose_precision("cpu") == "quantized"
    assert choose_precision("cuda") == "bfloat16"
    assert choose_precision("cpu", "float32") == "float32"


def test_precision_quantized_on_a_gpu_is_refused() -> None:
    with pytest.raises(RequestError, match=r"quantized.*cuda"):
        choose_precision("cuda", "quantized")


def test_kv_is_exact_only_in_the_exact_mode() -> None:
    assert kv_dtype("float32") == torch.float32
    assert {kv_dtype(p) for p in ("quantized", "bfloat16", "float16")} == {torch.float16}


def test_build_decoder_takes_native_code_where_there_is_any(tmp_path: Path) -> None:
    model = load(tiny_model_dir(tmp_path))
    native = ops.native_library() is not None
    for precision in ("quantized", "float32"):
        decoder = build_decoder(model, precision=precision)
        assert isinstance(decoder, ops.NativeDecoder if native else TorchDecoder)
    assert isinstance(build_decoder(model, precision="bfloat16"), TorchDecoder)
