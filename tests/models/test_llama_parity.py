"""Logits equal transformers', however the tokens are fed, for every member of the family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from sgrt import ops
from sgrt.models.build import build_decoder, dequantized
from sgrt.models.llama import TorchDecoder
from sgrt.models.loader import LoadedModel, load
from tests.models.schedules import Decoder, in_chunks, mixed, run_schedule
from tests.models.tiny import tiny_model_dir, write_tokenizer
from tests.models.tiny_gguf import write_tiny_gguf

TOLERANCE = 1e-4  # logits are around 12; float32 rounding measured 3e-5
LENGTHS = (19, 10, 1, 26)
VOCAB = 384

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 64}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-one-kv-head": ("llama", {"num_key_value_heads": 1}),
    "llama-bias": ("llama", {"attention_bias": True}),
    "llama-no-gqa": ("llama", {"num_key_value_heads": 4}),
    "llama-head-dim": ("llama", {"head_dim": 8}),
    "llama-rope-linear": ("llama", {"rope_scaling": {"type": "linear", "factor": 4.0}}),
    "llama-rope-llama3": ("llama", {"rope_theta": 5e5, "rope_scaling": LLAMA3}),
    "llama-rope-yarn": ("llama", {"rope_scaling": YARN}),
    "llama-rope-yarn-mscale": (
        "llama",
        {"rope_scaling": YARN | {"mscale": 0.7, "mscale_all_dim": 0.3, "beta_fast": 16.0}},
    ),
    "mistral-window": ("mistral", {"sliding_window": 7}),
    "qwen2-bias": ("qwen2", {}),
    "qwen2-some-windows": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen3-qk-norm": ("qwen3", {"num_attention_heads": 8}),
    "qwen3-bias": ("qwen3", {"attention_bias": True}),
}


def texts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, VOCAB, (n,), generator=generator).tolist() for n in LENGTHS]


@torch.no_grad()
def reference_logits(model: Any, ids: list[list[int]]) -> list[torch.Tensor]:
    return [model(torch.tensor([i])).logits[0] for i in ids]


def from_pretrained(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def native_decoder(model: LoadedModel) -> Decoder:
    if ops.native_library() is None:
        pytest.skip("no native library on this machine")
    decoder = build_decoder(model, device="cpu", precision="float32")
    if not isinstance(decoder, ops.NativeDecoder):
        pytest.skip("the native decoder does not take this model")
    return decoder


def torch_decoder(model: LoadedModel) -> Decoder:
    return TorchDecoder(model.spec, model.weights)


def worst(
    decoder: Decoder, model: LoadedModel, expected: list[torch.Tensor], **options: Any
) -> float:
    """Largest difference of a logit from the reference."""
    head = ops.dequantize(model.weights.head)
    hidden = run_schedule(decoder, texts(), **options)
    # torch.max, unlike Python's, does not lose a NaN.
    return float((torch.cat(hidden) @ head.T - torch.cat(expected)).abs().max())


@pytest.fixture(scope="module", params=list(CASES))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    arch, overrides = CASES[request.param]
    folder = tiny_model_dir(tmp_path_factory.mktemp("model"), arch, VOCAB, **overrides)
    return load(folder), reference_logits(from_pretrained(folder), texts())


@pytest.mark.parametrize("make", [torch_decoder, native_decoder])
@pytest.mark.parametrize(
    ("page_size", "steps"),
    [
        pytest.param(16, in_chunks(LENGTHS, 100), id="prefill"),
        pytest.param(1, in_chunks(LENGTHS, 7, delay=1), id="chunks-of-7-page-1"),
        pytest.param(16, in_chunks(LENGTHS, 1, delay=2), id="one-by-one"),
        pytest.param(16, mixed(LENGTHS), id="mixed"),
    ],
)
def test_logits_any_schedule_equal_transformers(
    case: Any, make: Any, page_size: int, steps: list[list[int]]
) -> None:
    model, expected = case
    options = {"steps": steps, "page_size": page_size, "poison": True}
    assert worst(make(model), model, expected, **options) <= TOLERANCE


@pytest.mark.parametrize("arch", ["Llama", "Mistral", "Qwen2", "Qwen3"])
def test_logits_directory_saved_by_transformers_equal_transformers(
    arch: str, tmp_path: Path
) -> None:
    import transformers

    torch.manual_seed(3)
    config = getattr(transformers, f"{arch}Config")(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        initializer_range=0.2,
        **({"sliding_window": 9} if arch == "Mistral" else {}),
    )
    reference = getattr(transformers, f"{arch}ForCausalLM")(config).eval()
    reference.save_pretrained(tmp_path)
    write_tokenizer(tmp_path, VOCAB)
    model = load(tmp_path)
    expected = reference_logits(reference, texts())
    options = {"steps": mixed(LENGTHS), "page_size": 16}
    assert worst(torch_decoder(model), model, expected, **options) <= TOLERANCE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_half_precision_weights_equal_transformers_in_float32(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    folder = tiny_model_dir(tmp_path, "llama", VOCAB, dtype=dtype)
    model = load(folder)
    expected = reference_logits(from_pretrained(folder).float(), texts())
    options = {"steps": mixed(LENGTHS), "page_size": 16}
    assert worst(torch_decoder(model), model, expected, **options) <= TOLERANCE


@pytest.mark.parametrize(
    ("arch", "kind"),
    [
        ("llama", "F32"),
        ("llama", "Q8_0"),
        ("llama", "Q4_1"),
        ("mistral", "F16"),
        ("qwen2", "F32"),
        ("qwen2", "Q4_0"),
        ("qwen3", "BF16"),
    ],
)
def test_logits_gguf_file_equal_transformers_on_its_values(
    arch: str, kind: str, tmp_path: Path
) -> None:
    folder = tiny_model_dir(tmp_path, arch, VOCAB)
    matrices = gguf.GGMLQuantizationType[kind]
    values = write_tiny_gguf(folder, tmp_path / "tiny.gguf", matrices=matrices)
    model = load(tmp_path / "tiny.gguf")
    reference = from_pretrained(folder)
    reference.load_state_dict(values)
    expected = reference_logits(reference, texts())
    options = {"steps": mixed(LENGTHS), "page_size": 16}
    assert worst(torch_decoder(model), model, expected, **options) <= TOLERANCE
    if ops.native_library() is not None:
        assert worst(native_decoder(model), model, expected, **options) <= TOLERANCE


def test_logits_gguf_with_frequency_divisors_equal_llama3_scaling(tmp_path: Path) -> None:
    folder = tiny_model_dir(tmp_path, "llama", VOCAB, rope_theta=5e5, rope_scaling=LLAMA3)
    scaled = torch.tensor(load(folder).spec.inv_freq)
    plain = tiny_model_dir(tmp_path / "plain", "llama", VOCAB, rope_theta=5e5)
    divisors = (torch.tensor(load(plain).spec.inv_freq) / scaled).numpy()
    write_tiny_gguf(plain, tmp_path / "tiny.gguf", rope_freqs=divisors)
    model = load(tmp_path / "tiny.gguf")
    expected = reference_logits(from_pretrained(folder), texts())
    options = {"steps": in_chunks(LENGTHS, 100), "page_size": 16}
    assert worst(torch_decoder(model), model, expected, **options) <= TOLERANCE


def test_logits_gguf_yarn_metadata_equal_transformers_yarn(tmp_path: Path) -> None:
    folder = tiny_model_dir(tmp_path, "llama", VOCAB, rope_scaling=YARN)
    extra = {
        "{arch}.rope.scaling.type": "yarn",
        "{arch}.rope.scaling.factor": 32.0,
        "{arch}.rope.scaling.original_context_length": 64,
    }
    write_tiny_gguf(folder, tmp_path / "tiny.gguf", extra=extra)
    model = load(tmp_path / "tiny.gguf")
    expected = reference_logits(from_pretrained(folder), texts())
    options = {"steps": in_chunks(LENGTHS, 100), "page_size": 16}
    assert worst(torch_decoder(model), model, expected, **options) <= TOLERANCE


def test_dequantized_weights_tied_model_stay_tied(tmp_path: Path) -> None:
    model = load(tiny_model_dir(tmp_path, "llama", VOCAB, tie_word_embeddings=True))
    exact = dequantized(model.weights)
    assert exact.head is exact.embed
    assert exact.layers[0].q.format is ops.Format.F32
