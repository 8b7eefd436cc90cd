"""The native decoder against a plain torch decoder, and its laws: nothing about the batch shows."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from sgrt_kernels import native
from sgrt_kernels.decoder import (
    DecoderBatch,
    DecoderSpec,
    DecoderWeights,
    LayerWeights,
    NativeDecoder,
    PagedKV,
)
from sgrt_kernels.quant import Format, RawWeight, dequantize, quantize_activations
from tests.kernels.weights import random_weight

ISAS = native.available()
pytestmark = pytest.mark.skipif(not ISAS, reason="no native library was built")

BASE = DecoderSpec(
    num_layers=2,
    hidden=64,
    num_heads=6,
    num_kv_heads=2,
    head_dim=32,
    intermediate=96,
    vocab_size=50,
    rms_eps=1e-5,
    inv_freq=tuple(100.0 ** (-i / 16) for i in range(16)),
)
ODD = replace(BASE, head_dim=6, inv_freq=(1.0, 0.3, 0.05), hidden=20, intermediate=37)
SPECS = {
    "grouped heads": BASE,
    "odd sizes": ODD,
    "bias": replace(BASE, qkv_bias=True, o_bias=True),
    "odd bias": replace(ODD, qkv_bias=True, o_bias=True),
    "qk norm": replace(BASE, qk_norm=True),
    "window": replace(BASE, sliding_window=5),
    "one windowed layer": replace(BASE, sliding_window=70, sliding_layers=(False, True)),
    "scales": replace(BASE, softmax_scale=0.1, rope_scale=1.2, embed_scale=3.0),
    "wide heads": replace(BASE, head_dim=80, inv_freq=tuple(0.9**i for i in range(40))),
}


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=ISAS)
def library(request: pytest.FixtureRequest) -> Iterator[native.Library]:
    found = native.load(request.param)
    assert found is not None
    yield found
    found.set_num_threads(1)


def make_weights(spec: DecoderSpec, fmt: Format = Format.F32) -> DecoderWeights:
    d, c, i = spec.hidden, spec.head_dim, spec.intermediate
    q, kv = spec.num_heads * c, spec.num_kv_heads * c

    def vector(n: int, used: bool = True) -> torch.Tensor | None:
        return torch.randn(n) * 0.3 + 1 if used else None

    def norm(n: int) -> torch.Tensor:
        return torch.rand(n) + 0.5

    layers = tuple(
        LayerWeights(
            attn_norm=norm(d),
            q=random_weight(fmt, q, d),
            k=random_weight(fmt, kv, d),
            v=random_weight(fmt, kv, d),
            o=random_weight(fmt, d, q),
            mlp_norm=norm(d),
            gate=random_weight(fmt, i, d),
            up=random_weight(fmt, i, d),
            down=random_weight(fmt, d, i),
            q_bias=vector(q, spec.qkv_bias),
            k_bias=vector(kv, spec.qkv_bias),
            v_bias=vector(kv, spec.qkv_bias),
            o_bias=vector(d, spec.o_bias),
            q_norm=vector(c, spec.qk_norm),
            k_norm=vector(c, spec.qk_norm),
        )
        for _ in range(spec.num_layers)
    )
    embed = random_weight(fmt, spec.vocab_size, d)
    return DecoderWeights(embed=embed, layers=layers, final_norm=norm(d), head=embed)


# ---------------------------------------------------------------- the reference


def rms(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def rotated(spec: DecoderSpec, x: torch.Tensor) -> torch.Tensor:  # [T, heads, C]
    angle = torch.arange(len(x), dtype=torch.float32)[:, None, None] * torch.tensor(spec.inv_freq)
    cos, sin = angle.cos() * spec.rope_scale, angle.sin() * spec.rope_scale
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def attend(
    spec: DecoderSpec, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> torch.Tensor:
    group = spec.num_heads // spec.num_kv_heads
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = torch.einsum("thc,shc->hts", q, k) * spec.scale
    position = torch.arange(len(q))
    distance = position[:, None] - position[None, :]
    window = spec.window(layer)
    seen = (distance >= 0) & (distance < (window or len(q)))
    return torch.einsum("hts,shc->thc", scores.masked_fill(~seen, -torch.inf).softmax(-1), v)


def reference(spec: DecoderSpec, weights: DecoderWeights, ids: list[int]) -> torch.Tensor:
    """Hidden states [T, D] of one whole sequence; quantised weights meet int8 activations."""

    def project(x: torch.Tensor, raw: RawWeight, bias: torch.Tensor | None = None) -> torch.Tensor:
        if raw.format.is_quantized:
            q, scale = quantize_activations(x)
            x = (q.view(len(x), -1, 32) * scale.unsqueeze(-1)).view(x.shape)
        return torch.nn.functional.linear(x, dequantize(raw), bias)

    x = dequantize(weights.embed)[ids] * spec.embed_scale
    for index, w in enumerate(weights.layers):
        h = rms(x, w.attn_norm, spec.rms_eps)
        q = project(h, w.q, w.q_bias).view(len(ids), -1, spec.head_dim)
        k = project(h, w.k, w.k_bias).view(len(ids), -1, spec.head_dim)
        v = project(h, w.v, w.v_bias).view(len(ids), -1, spec.head_dim)
        if w.q_norm is not None and w.k_norm is not None:
            q, k = rms(q, w.q_norm, spec.rms_eps), rms(k, w.k_norm, spec.rms_eps)
        mixed = attend(spec, index, rotated(spec, q), rotated(spec, k), v)
        x = x + project(mixed.flatten(1), w.o, w.o_bias)
        h = rms(x, w.mlp_norm, spec.rms_eps)
        x = x + project(torch.nn.functional.silu(project(h, w.gate)) * project(h, w.up), w.down)
    return rms(x, weights.final_norm, spec.rms_eps)


# ---------------------------------------------------------------- running the native decoder


class Pages:
    """Shuffled pages for sequences that grow."""

    def __init__(
        self, spec: DecoderSpec, page_size: int, num: int = 400, dtype: torch.dtype = torch.float32
    ) -> None:
        self.kv = PagedKV.allocate(spec, num, page_size, dtype=dtype)
        self.kv.k.fill_(torch.nan)  # what was never written must never be read
        self.kv.v.fill_(torch.nan)
        self.free = random.Random(1).sample(range(num), num)
        self.page_size = page_size

    def take(self, length: int) -> list[int]:
        return [self.free.pop() for _ in range(-(-length // self.page_size))]


def random_ids(spec: DecoderSpec, n: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(spec.vocab_size) for _ in range(n)]


def run_in_chunks(
    decoder: NativeDecoder, pages: Pages, ids: list[int], cuts: list[int]
) -> torch.Tensor:
    """Hidden states of a sequence computed in chunks that end at `cuts`."""
    table, out, start = pages.take(len(ids)), [], 0
    for end in cuts:
        rows = range(end - start)
        batch = DecoderBatch.from_lists([ids[start:end]], [end], [table], rows)
        out.append(decoder.forward(batch, pages.kv))
        start = end
    return torch.cat(out)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("page_size", [1, 16])
def test_decoder_float_equals_torch(library: native.Library, name: str, page_size: int) -> None:
    spec = SPECS[name]
    weights = make_weights(spec)
    decoder = NativeDecoder(spec, weights, library=library)
    ids = random_ids(spec, 150)
    got = run_in_chunks(decoder, Pages(spec, page_size), ids, [len(ids)])
    torch.testing.assert_close(got, reference(spec, weights, ids), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("fmt", list(Format))
def test_decoder_of_every_format_equals_torch(library: native.Library, fmt: Format) -> None:
    spec = replace(BASE, num_layers=1, hidden=256, num_heads=8, intermediate=256)
    weights = make_weights(spec, fmt)
    decoder = NativeDecoder(spec, weights, library=library)
    ids = random_ids(spec, 40)
    got = run_in_chunks(decoder, Pages(spec, 16), ids, [40])
    want = reference(spec, weights, ids)
    error = (got - want).norm(dim=-1) / want.norm(dim=-1)
    # The last bit of a sum decides now and then to which side an activation rounds.
    assert error.max() < (1e-2 if fmt.is_quantized else 1e-5)
    assert error.median() < 1e-5


@pytest.mark.parametrize("name", ["grouped heads", "odd sizes", "window", "one windowed layer"])
@pytest.mark.parametrize("page_size", [1, 8, 16, 128])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_chunks_of_any_size_give_the_same_bits(
    library: native.Library, name: str, page_size: int, dtype: torch.dtype
) -> None:
    spec = SPECS[name]
    decoder = NativeDecoder(spec, make_weights(spec), library=library)
    ids = random_ids(spec, 140)
    pages = Pages(spec, page_size, num=1000, dtype=dtype)
    whole = run_in_chunks(decoder, pages, ids, [140])
    assert torch.isfinite(whole).all()
    for cuts in ([1, 64, 65, 140], [7, 100, 130, 140], [130, *range(131, 141)]):
        assert torch.equal(run_in_chunks(decoder, pages, ids, cuts), whole)


def test_page_size_does_not_show(library: native.Library) -> None:
    decoder = NativeDecoder(BASE, make_weights(BASE), library=library)
    ids = random_ids(BASE, 140)
    results = [run_in_chunks(decoder, Pages(BASE, size), ids, [140]) for size in (1, 5, 16, 64)]
    for result in results[1:]:
        assert torch.equal(result, results[0])


def mixed_batch(
    spec: DecoderSpec, decoder: NativeDecoder, pages: Pages, lengths: list[int], prefix: int
) -> tuple[list[list[int]], torch.Tensor]:
    """Sequences that share the pages of a prefix, each then continued in one mixed batch."""
    size = pages.page_size
    assert prefix % size == 0
    shared_ids, shared = random_ids(spec, prefix, seed=99), pages.take(prefix)
    first = DecoderBatch.from_lists([shared_ids], [prefix], [shared])
    decoder.forward(first, pages.kv)
    tails = [random_ids(spec, n, seed=i) for i, n in enumerate(lengths)]
    tables = [shared + pages.take(n) for n in lengths]
    rows = range(sum(lengths))
    batch = DecoderBatch.from_lists(tails, [prefix + n for n in lengths], tables, rows)
    return [shared_ids + t for t in tails], decoder.forward(batch, pages.kv)


@pytest.mark.parametrize("fmt", [Format.F32, Format.Q4_1, Format.Q8_0])
@pytest.mark.parametrize("page_size", [1, 16])
def test_batch_threads_and_shared_pages_do_not_show(
    library: native.Library, fmt: Format, page_size: int
) -> None:
    weights = make_weights(BASE, fmt)
    decoder = NativeDecoder(BASE, weights, num_threads=3, library=library)
    alone = NativeDecoder(BASE, weights, library=library)
    pages = Pages(BASE, page_size, num=4000, dtype=torch.float16)
    lengths = [1, 1, 40, 1, 3, 70, 1, 1, 1, 2, 1, 1, 1]
    sequences, got = mixed_batch(BASE, decoder, pages, lengths, prefix=208)
    row = 0
    for ids, n in zip(sequences, lengths, strict=True):
        want = run_in_chunks(alone, pages, ids, [len(ids)])[-n:]
        assert torch.equal(got[row : row + n], want)
        row += n


def test_out_rows_choose_and_order_rows(library: native.Library) -> None:
    decoder = NativeDecoder(BASE, make_weights(BASE), library=library)
    ids = random_ids(BASE, 90)
    pages = Pages(BASE, 16)
    whole = run_in_chunks(decoder, pages, ids, [90])
    table = pages.take(90)
    for rows in ([89], [5, 3, 3, 80], []):
        batch = DecoderBatch.from_lists([ids], [90], [table], rows)
        assert torch.equal(decoder.forward(batch, pages.kv), whole[rows])
    following = DecoderBatch.from_lists([[7]], [91], [table + pages.take(1)])
    after = decoder.forward(following, pages.kv)  # reads what the step without rows has written
    assert torch.equal(after, run_in_chunks(decoder, pages, [*ids, 7], [91])[-1:])


def test_copied_page_forks_a_sequence(library: native.Library) -> None:
    decoder = NativeDecoder(BASE, make_weights(BASE), library=library)
    pages = Pages(BASE, 16)
    ids = random_ids(BASE, 20)
    table = pages.take(20)
    decoder.forward(DecoderBatch.from_lists([ids], [20], [table]), pages.kv)
    fork = [table[0], *pages.take(1)]
    pages.kv.copy_page(table[1], fork[1])
    both = DecoderBatch.from_lists([[1], [2]], [21, 21], [table, fork])
    got = decoder.forward(both, pages.kv)
    for row, token in enumerate((1, 2)):
        want = run_in_chunks(decoder, pages, [*ids, token], [21])[-1]
        assert torch.equal(got[row], want)


def test_keys_beyond_float16_are_clamped(library: native.Library) -> None:
    weights = make_weights(BASE)
    loud = replace(weights.layers[0], attn_norm=weights.layers[0].attn_norm * 1e6)
    decoder = NativeDecoder(
        BASE, replace(weights, layers=(loud, weights.layers[1])), library=library
    )
    pages = Pages(BASE, 16, dtype=torch.float16)
    got = run_in_chunks(decoder, pages, random_ids(BASE, 20), [20])
    assert torch.isfinite(got).all()
    written = pages.kv.v[0][~pages.kv.v[0].isnan()]
    assert written.abs().max() == 65504


BAD = {
    "token_ids": ({"token_ids": [0, 50]}, r"token_ids\[1\]=50: not in the vocabulary of 50"),
    "negative token": ({"token_ids": [-1, 0]}, r"token_ids\[0\]=-1"),
    "page": ({"page_table": [[400]]}, r"page_table\[0\] holds page 400: the pool has 400"),
    "negative page": ({"page_table": [[-1]]}, "holds page -1"),
    "context beyond the table": ({"context_len": [17]}, r"context_len\[0\]=17"),
    "context too short": ({"context_len": [1]}, r"context_len\[0\]=1"),
    "query_start end": ({"query_start": [0, 3]}, r"query_start\[1\]=3"),
    "query_start begin": ({"query_start": [1, 2]}, r"query_start\[0\]=1"),
    "out_rows": ({"out_rows": [2]}, r"out_rows\[0\]=2: the batch has 2 tokens"),
}


@pytest.mark.parametrize("name", BAD)
def test_batch_out_of_range_is_refused_with_the_value(name: str) -> None:
    changes, message = BAD[name]
    decoder = NativeDecoder(BASE, make_weights(BASE))
    kv = Pages(BASE, 16).kv
    good = DecoderBatch.from_lists([[3, 4]], [2], [[9]])
    bad = replace(good, **{k: torch.tensor(v, dtype=torch.int32) for k, v in changes.items()})
    with pytest.raises(ValueError, match=message):
        decoder.forward(bad, kv)
    assert kv.k.isnan().all()
    assert torch.isfinite(decoder.forward(good, kv)).all()


def test_batch_of_wrong_types_is_refused() -> None:
    decoder = NativeDecoder(BASE, make_weights(BASE))
    kv = Pages(BASE, 16).kv
    good = DecoderBatch.from_lists([[3, 4]], [2], [[9]])
    with pytest.raises(ValueError, match=r"token_ids is torch\.int64"):
        decoder.forward(replace(good, token_ids=good.token_ids.long()), kv)
    with pytest.raises(ValueError, match="KV pages"):
        decoder.forward(good, Pages(replace(BASE, num_kv_heads=3), 16).kv)
    strided = torch.zeros(1, 2, dtype=torch.int32)[:, ::2]
    with pytest.raises(ValueError, match=r"page_table|contiguous"):
        decoder.forward(replace(good, page_table=strided.expand(1, 1).t()[0]), kv)


def test_weights_that_do_not_fit_are_refused_by_name() -> None:
    weights = make_weights(BASE)
    with pytest.raises(ValueError, match="1 layers of weights, the spec says 2"):
        NativeDecoder(BASE, replace(weights, layers=weights.layers[:1]))
    with pytest.raises(ValueError, match="q_bias of layer 0 is missing"):
        NativeDecoder(replace(BASE, qkv_bias=True), weights)
    wrong = replace(weights.layers[1], up=random_weight(Format.F32, 95, 64))
    with pytest.raises(ValueError, match=r"up of layer 1 has shape \(95, 64\)"):
        NativeDecoder(BASE, replace(weights, layers=(weights.layers[0], wrong)))
