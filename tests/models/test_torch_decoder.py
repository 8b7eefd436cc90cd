"""Laws of a decoder step that need no reference: what it reads, writes and refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sgrt import ops
from sgrt.models.llama import TorchDecoder
from sgrt.models.loader import load
from tests.models.schedules import in_chunks, run_schedule
from tests.models.tiny import tiny_model_dir


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> TorchDecoder:
    model = load(tiny_model_dir(tmp_path_factory.mktemp("model"), "qwen3"))
    return TorchDecoder(model.spec, model.weights)


def step(**changes: Any) -> ops.DecoderBatch:
    """Three new tokens of one sequence, one of another, in pages of 4."""
    fields = {
        "token_ids": [5, 6, 7, 8],
        "query_start": [0, 3, 4],
        "context_len": [3, 6],
        "page_table": [[1, 0], [2, 3]],
        "out_rows": [2, 3],
    } | changes
    return ops.DecoderBatch(**{k: torch.tensor(v, dtype=torch.int32) for k, v in fields.items()})


def pages(decoder: TorchDecoder) -> ops.PagedKV:
    return ops.PagedKV.allocate(decoder.spec, 4, 4, dtype=torch.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_ids": [5, 6, 7, 384]}, r"token ids 5..384 are not in 0..383"),
        ({"token_ids": [5, -1, 7, 8]}, r"token ids -1"),
        ({"page_table": [[1, 0], [2, 4]]}, r"pages 0..4 are not in 0..3"),
        ({"page_table": [[1, 0], [2, -3]]}, r"pages -3"),
        ({"out_rows": [4]}, r"out rows 4..4 are not in 0..3"),
        ({"context_len": [2, 6]}, r"context of 2 for 3 new tokens"),
        ({"context_len": [3, 9]}, r"context of 9 .* pages for 8"),
        ({"query_start": [0, 3, 5]}, r"does not divide 4 tokens"),
        ({"query_start": [1, 3, 4]}, r"does not divide 4 tokens"),
        ({"query_start": [0, 0, 4]}, r"does not divide 4 tokens"),
        ({"query_start": [0, 4]}, r"1 sequences, context_len 2"),
        ({"page_table": [[1, 0]]}, r"page_table 1"),
    ],
)
def test_step_that_names_what_does_not_exist_is_refused(
    decoder: TorchDecoder, changes: dict[str, Any], message: str
) -> None:
    kv = pages(decoder)
    with pytest.raises(ValueError, match=message):
        decoder.forward(step(**changes), kv)
    assert not kv.k.any(), "nothing may be written"


def test_step_pages_of_another_model_are_refused(decoder: TorchDecoder) -> None:
    kv = ops.PagedKV(torch.zeros(1, 4, 2, 16, 4), torch.zeros(1, 4, 2, 4, 16))
    with pytest.raises(ValueError, match=r"\(1, 2, 16\), the model \(2, 2, 16\)"):
        decoder.forward(step(), kv)


def test_step_writes_exactly_the_new_positions(decoder: TorchDecoder) -> None:
    kv = pages(decoder)
    decoder.forward(step(), kv)
    written = kv.v.abs().amax(dim=(0, 2, 4)) > 0  # [P, S]
    assert written.nonzero().tolist() == [[1, 0], [1, 1], [1, 2], [3, 1]]
    assert torch.equal(kv.k.abs().amax(dim=(0, 2, 3)) > 0, written)


@pytest.mark.parametrize("rows", [[], [3], [2, 0], [1, 1, 3]])
def test_step_out_rows_choose_rows_in_their_order(decoder: TorchDecoder, rows: list[int]) -> None:
    everything = decoder.forward(step(out_rows=[0, 1, 2, 3]), pages(decoder))
    chosen = decoder.forward(step(out_rows=rows), pages(decoder))
    assert chosen.dtype == torch.float32 and chosen.shape == (len(rows), decoder.spec.hidden)
    torch.testing.assert_close(chosen, everything[rows], atol=1e-5, rtol=0)


def test_step_sequence_is_blind_to_its_neighbours(decoder: TorchDecoder) -> None:
    """NaN in a neighbour's pages, and in positions never written, changes nothing."""
    alone, poisoned = pages(decoder), pages(decoder)
    poisoned.k[:, [0, 2, 3]] = poisoned.v[:, [0, 2, 3]] = float("nan")
    poisoned.k[:, 1, :, :, 3] = poisoned.v[:, 1, :, 3] = float("nan")
    changed = decoder.forward(step(), poisoned)
    expected = decoder.forward(step(), alone)
    torch.testing.assert_close(changed[0], expected[0], atol=1e-5, rtol=0)
    assert changed[1].isnan().all(), "the neighbour does read its own pages"


def test_fork_shared_pages_equal_separate_ones(decoder: TorchDecoder) -> None:
    prefix, endings = list(range(40, 48)), ([1, 2, 3], [9, 8, 7])
    whole = run_schedule(
        decoder, [prefix + e for e in endings], in_chunks([11, 11], 100), page_size=4
    )
    kv = ops.PagedKV.allocate(decoder.spec, 8, 4, dtype=torch.float32)
    decoder.forward(ops.DecoderBatch.from_lists([prefix], [8], [[5, 2]]), kv)
    out = decoder.forward(
        ops.DecoderBatch.from_lists(endings, [11, 11], [[5, 2, 0], [5, 2, 7]]), kv
    )
    torch.testing.assert_close(out, torch.stack([h[-1] for h in whole]), atol=1e-4, rtol=0)


def test_copied_page_continues_like_the_original(decoder: TorchDecoder) -> None:
    kv = pages(decoder)
    decoder.forward(ops.DecoderBatch.from_lists([[5, 6, 7]], [3], [[1]]), kv)
    kv.copy_page(1, 3)
    tail = [ops.DecoderBatch.from_lists([[9]], [4], [[page]]) for page in (1, 3)]
    first, second = (decoder.forward(batch, kv) for batch in tail)
    assert torch.equal(first, second)


def test_spec_scales_equal_scaled_weights(tmp_path: Path) -> None:
    """embed_scale and softmax_scale do what scaling the embedding and q would."""
    model = load(tiny_model_dir(tmp_path))
    layers = tuple(replace(w, q=scaled(w.q, 3.0)) for w in model.weights.layers)
    by_weights = replace(model.weights, embed=scaled(model.weights.embed, 0.5), layers=layers)
    by_spec = replace(model.spec, embed_scale=0.5, softmax_scale=3.0 * model.spec.scale)
    first = TorchDecoder(model.spec, by_weights)
    second = TorchDecoder(by_spec, model.weights)
    for a, b in zip(first_pass(first), first_pass(second), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def scaled(raw: ops.RawWeight, factor: float) -> ops.RawWeight:
    return ops.RawWeight.from_tensor(ops.dequantize(raw) * factor)


def first_pass(decoder: TorchDecoder) -> list[torch.Tensor]:
    return run_schedule(decoder, [list(range(9))], [[5], [4]], page_size=4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_to_exact(
    decoder: TorchDecoder, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = load(tiny_model_dir(tmp_path, "qwen3"))
    half = TorchDecoder(model.spec, model.weights, dtype=dtype)
    texts, steps = [list(range(30)), [7] * 9], in_chunks([30, 9], 4)
    exact = torch.cat(run_schedule(decoder, texts, steps, page_size=16))
    got = torch.cat(run_schedule(half, texts, steps, page_size=16, kv_dtype=torch.float16))
    cosine = torch.nn.functional.cosine_similarity(exact, got, dim=-1)
    assert cosine.min() > 0.99


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gpu_hidden_states_equal_the_cpu(
    decoder: TorchDecoder, dtype: torch.dtype, tmp_path: Path
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = load(tiny_model_dir(tmp_path, "qwen3"))
    on_gpu = TorchDecoder(model.spec, model.weights, device="cuda", dtype=dtype)
    texts, steps = [list(range(30)), [7] * 9, [3]], in_chunks([30, 9, 1], 4)
    exact = torch.cat(run_schedule(decoder, texts, steps, page_size=16))
    got = torch.cat(run_schedule(on_gpu, texts, steps, page_size=16, device="cuda")).cpu()
    if dtype == torch.float32:
        torch.testing.assert_close(got, exact, atol=1e-3, rtol=0)
    assert torch.nn.functional.cosine_similarity(exact, got, dim=-1).min() > 0.99
