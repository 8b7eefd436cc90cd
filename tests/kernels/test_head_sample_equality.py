"""Every implementation of head_sample draws the reference's tokens, to the last bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from sgrt_kernels import head_sample as hs
from sgrt_kernels.head_sample import exact, native
from sgrt_kernels.quant import Format, RawWeight, dequantize
from tests.kernels.sampling import ISAS, Row, bits, library_or_skip, noise, some_ids, torch_draw


def hard_logits(kind: str, vocab_size: int, seed: int) -> torch.Tensor:
    """Logits [8, V] that strain an implementation: ties, one peak, all equal, huge spreads."""
    logits = noise(8, vocab_size, seed=seed)
    if kind == "ties":
        return (logits * 2).round() / 2
    if kind == "peak":
        return logits + 40.0 * (torch.arange(vocab_size) == vocab_size // 2)
    if kind == "equal":
        return torch.full_like(logits, -3.0)
    if kind == "huge":
        return torch.sinh(logits * 7).clamp(-3e38, 3e38)
    return logits


def random_rows(count: int, vocab_size: int, seed: int) -> hs.SamplingRows:
    rng, rows = np.random.default_rng(seed), []
    for i in range(count):
        seen = {t: (int(rng.integers(2)), int(rng.integers(3))) for t in some_ids(vocab_size, 9, i)}
        rows.append(
            Row(
                temperature=float(rng.choice([0.0, 1e-30, 0.3, 1.0, 4.0, 1e4])),
                top_k=int(rng.choice([0, 1, 2, 50, vocab_size])),
                top_p=float(rng.choice([1e-9, 0.3, 0.95, 1.0])),
                min_p=float(rng.choice([0.0, 1e-4, 0.5])),
                seed=int(rng.integers(1 << 63)),
                position=int(rng.integers(1 << 40)),
                repetition=float(rng.choice([1.0, 1.3])),
                presence=float(rng.choice([0.0, 0.5])),
                frequency=float(rng.choice([0.0, -0.3])),
                history=seen,
                bias={t: float(rng.normal()) for t in some_ids(vocab_size, 3, seed + i)},
                num_top=int(rng.choice([-1, 0, 5])),
                unmasked=bool(rng.integers(2)),
            )
        )
    return hs.SamplingRows.build(rows)


@pytest.mark.parametrize("kind", ["plain", "ties", "peak", "equal", "huge"])
@pytest.mark.parametrize("isa", ISAS)
def test_native_equals_the_reference_token_for_token(isa: str, kind: str) -> None:
    library = library_or_skip(isa)
    for seed, vocab_size in enumerate((1, 31, 33, 1000, 1000, 1000, 1000, 49152)):
        logits = hard_logits(kind, vocab_size, seed)
        masks: list[Any] = [some_ids(vocab_size, 40, i) for i in range(8)]
        masks[::3] = [None] * 3
        masks[1::3] = [bits(ids, vocab_size) for ids in masks[1::3]]
        plan, rows = hs.MaskPlan.build(masks), random_rows(8, vocab_size, seed)
        expected = torch_draw(logits, plan, rows)
        drawn = native.sample_logits(library, logits, plan, rows)
        assert drawn.token_ids.tolist() == expected.token_ids.tolist()
        np.testing.assert_array_equal(drawn.top_ids, expected.top_ids)
        np.testing.assert_allclose(drawn.logprobs, expected.logprobs, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(drawn.top_logprobs, expected.top_logprobs, rtol=1e-6, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", ["plain", "ties", "peak", "equal", "huge"])
def test_reference_on_cuda_equals_the_cpu_token_for_token(kind: str) -> None:
    for seed, vocab_size in enumerate((1, 33, 1000, 49152)):
        logits, rows = hard_logits(kind, vocab_size, seed), random_rows(8, vocab_size, seed)
        plan = hs.MaskPlan.build([None, bits(some_ids(vocab_size, 40), vocab_size)] * 4)
        expected, drawn = torch_draw(logits, plan, rows), torch_draw(logits.cuda(), plan, rows)
        assert drawn.token_ids.tolist() == expected.token_ids.tolist()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reference_on_cuda_logits_are_float32_products(dtype: torch.dtype) -> None:
    matrix, hidden = noise(1000, 64, scale=0.2).to(dtype), noise(5, 64).to(dtype).float()
    head = hs.Head.pack(RawWeight.from_tensor(matrix), device="cuda", dtype=dtype)
    got = hs.logits(hidden.cuda(), head)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.cpu(), hidden @ matrix.float().T, atol=1e-3, rtol=1e-4)
    ids = hs.MaskPlan.build([[3, 500], None, [7], [1, 2], None])
    drawn = hs.head_sample(hidden.cuda(), head, ids, hs.SamplingRows.greedy(5))
    assert drawn.token_ids[0] in (3, 500) and drawn.token_ids[2] == 7


def signed(seeds: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(seeds.astype(np.int64))


@pytest.mark.parametrize("isa", ISAS)
def test_native_noise_equals_the_reference_to_the_last_bits(isa: str) -> None:
    """Two tokens whose scores differ by about 1e-12: any other noise draws other tokens."""
    count, rng = 300, np.random.default_rng(1)
    seeds, positions = rng.integers(0, 1 << 63, count), rng.integers(0, 1 << 40, count)
    g = [
        exact.gumbel(signed(seeds), signed(positions), torch.full((count,), i)).numpy()
        for i in range(2)
    ]
    lower = (g[1] > g[0]).astype(np.int64)  # the token with more noise gets the lower logit
    gap = -np.abs(g[0] - g[1])
    temperatures = rng.uniform(0.5, 2.0, 30_000).astype(np.float32)
    logits, rows = torch.zeros(count, 2), []
    for i in range(count):
        below = (gap[i] * temperatures).astype(np.float32)
        best = int(np.abs(below / temperatures.astype(np.float64) - gap[i]).argmin())
        logits[i, lower[i]] = float(below[best])
        temperature = float(temperatures[best])
        rows.append(Row(temperature=temperature, seed=int(seeds[i]), position=int(positions[i])))
    plan, sampling = hs.MaskPlan.free(count), hs.SamplingRows.build(rows)
    expected = torch_draw(logits, plan, sampling)
    assert 0.3 < float((expected.token_ids == lower).mean()) < 0.7  # really at the border
    drawn = native.sample_logits(library_or_skip(isa), logits, plan, sampling)
    assert drawn.token_ids.tolist() == expected.token_ids.tolist()


@pytest.mark.parametrize("isa", ISAS)
def test_native_masses_equal_the_reference_to_the_last_bits(isa: str) -> None:
    """top_p half a unit of fixed-point mass around the border between two tokens."""
    count, rng = 600, np.random.default_rng(2)
    logits, rows = torch.from_numpy(rng.uniform(-3, 3, (count, 5)).astype(np.float32)), []
    for i in range(count):
        temperature = float(np.float32(rng.uniform(0.8, 4.0)))
        values = logits[i].double().sort(descending=True).values
        weights = exact.weight((values - values[0]) / temperature)
        border = int(weights[: int(rng.integers(1, 5))].sum())
        p = (border + float(rng.choice([-0.5, 0.5]))) / int(weights.sum())
        rows.append(Row(temperature=temperature, top_p=p, seed=i))
    plan, sampling = hs.MaskPlan.free(count), hs.SamplingRows.build(rows)
    expected = torch_draw(logits, plan, sampling)
    drawn = native.sample_logits(library_or_skip(isa), logits, plan, sampling)
    assert drawn.token_ids.tolist() == expected.token_ids.tolist()


def random_q8(rows: int, cols: int) -> RawWeight:
    rng = np.random.default_rng(5)
    blocks = np.empty(rows * cols // 32, [("scale", "<f2"), ("quants", "i1", 32)])
    blocks["scale"] = rng.uniform(1e-3, 1e-2, len(blocks))
    blocks["quants"] = rng.integers(-127, 128, (len(blocks), 32))
    data = torch.from_numpy(np.frombuffer(blocks.tobytes(), np.uint8).copy())
    return RawWeight(data, Format.Q8_0, (rows, cols))


@pytest.mark.parametrize("isa", ISAS)
def test_native_quantised_head_draws_a_row_alone_as_in_any_batch(isa: str) -> None:
    library, vocab_size, num_rows = library_or_skip(isa), 3001, 70
    head = hs.Head.pack(random_q8(vocab_size, 64), library)
    hidden = noise(num_rows, 64, seed=2)
    masks: list[Any] = []
    for i in range(num_rows):
        ids = some_ids(vocab_size, 50, seed=i)
        masks.append(
            (None, ids, bits(ids, vocab_size), bits(range(i, vocab_size), vocab_size))[i % 4]
        )
    rows = [Row(temperature=(i % 2) * 1.0, seed=i, num_top=i % 4 - 1) for i in range(num_rows)]

    def draw(index: Sequence[int], threads: int) -> hs.Drawn:
        library.set_num_threads(threads)
        plan = hs.MaskPlan.build([masks[i] for i in index])
        sampling = hs.SamplingRows.build([rows[i] for i in index])
        return hs.head_sample(hidden, head, plan, sampling, np.array(index, np.int32))

    threaded, together = draw(range(num_rows), 2), draw(range(num_rows), 1)
    assert together.token_ids.tolist() == threaded.token_ids.tolist()
    for i in range(num_rows):
        alone = draw([i], 1)
        assert alone.token_ids[0] == together.token_ids[i]
        np.testing.assert_array_equal(alone.logprobs, together.logprobs[i : i + 1])  # to the bit
    full = hs.logits(hidden, head)
    exact = hidden @ dequantize(random_q8(vocab_size, 64)).T
    assert float((full - exact).abs().max()) < 0.02 * float(exact.abs().max())
