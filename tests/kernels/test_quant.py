"""Weight formats against the `gguf` package, and products with them on every native library."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import warnings
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from sgrt_kernels import native
from sgrt_kernels.quant import Format, PackedLinear, RawWeight, dequantize, quantize_activations
from tests.kernels.weights import random_weight

ISAS = native.available()
FORMATS = list(Format)
QUANTIZED = [f for f in Format if f.is_quantized]
needs_native = pytest.mark.skipif(not ISAS, reason="no native library was built")


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=ISAS)
def library(request: pytest.FixtureRequest) -> native.Library:
    found = native.load(request.param)
    assert found is not None
    return found


# ---------------------------------------------------------------- formats


@pytest.mark.parametrize("fmt", FORMATS)
def test_geometry_of_format_equals_gguf(fmt: Format) -> None:
    theirs = gguf.GGMLQuantizationType(fmt.ggml_type)
    assert theirs.name == fmt.name
    assert gguf.GGML_QUANT_SIZES[theirs] == (fmt.block_size, fmt.block_bytes)


@pytest.mark.parametrize("fmt", FORMATS)
def test_dequantize_random_bytes_equals_gguf(fmt: Format) -> None:
    raw = random_weight(fmt, 7, 1024)
    data = raw.data.view(7, -1).numpy()
    theirs = gguf.quants.dequantize(data, gguf.GGMLQuantizationType(fmt.ggml_type))
    assert np.array_equal(dequantize(raw).numpy(), theirs)


@pytest.mark.parametrize("fmt", FORMATS)
def test_take_rows_permutes_values(fmt: Format) -> None:
    raw = random_weight(fmt, 9, 256)
    index = torch.tensor([8, 0, 3, 3, 1])
    assert torch.equal(dequantize(raw.take_rows(index)), dequantize(raw)[index])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_raw_weight_from_tensor_keeps_values(dtype: torch.dtype) -> None:
    tensor = torch.randn(5, 3).to(dtype)
    assert torch.equal(dequantize(RawWeight.from_tensor(tensor)), tensor.float())


def test_raw_weight_of_wrong_size_is_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="takes 36 bytes, not 35"):
        RawWeight(torch.zeros(35, dtype=torch.uint8), Format.Q4_0, (2, 32))
    with pytest.raises(ValueError, match="33 columns are not a multiple of the block size 32"):
        RawWeight(torch.zeros(36, dtype=torch.uint8), Format.Q4_0, (2, 33))
    with pytest.raises(ValueError, match=r"uint8, not torch\.int8"):
        RawWeight(torch.zeros(36, dtype=torch.int8), Format.Q4_0, (2, 32))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"no weight format stores torch\.int64"):
        RawWeight.from_tensor(torch.zeros(2, 2, dtype=torch.int64))


def test_quantize_activations_error_is_at_most_half_a_step() -> None:
    x = torch.randn(20, 96) * torch.logspace(-20, 20, 20).unsqueeze(1)
    q, scale = quantize_activations(x)
    error = (x.view(20, -1, 32) - q.view(20, -1, 32) * scale.unsqueeze(-1)).abs()
    assert (error <= scale.unsqueeze(-1) * 0.5001).all()
    assert q.abs().view(20, -1, 32).amax(-1).eq(127).all()


# ---------------------------------------------------------------- native products


def exact_product(x: torch.Tensor, raw: RawWeight) -> tuple[torch.Tensor, torch.Tensor]:
    """x @ w.T in float64 with the activations the kernels see, and the sum of its magnitudes."""
    w, a = dequantize(raw).double(), x.double()
    if raw.format.is_quantized:
        q, scale = quantize_activations(x)
        a = (q.double().view(len(x), -1, 32) * scale.double().unsqueeze(-1)).view(x.shape)
    return a @ w.T, a.abs() @ w.abs().T


@needs_native
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 100])
@pytest.mark.parametrize("fmt", FORMATS)
def test_native_linear_equals_float64_product(
    library: native.Library, fmt: Format, rows: int
) -> None:
    for cols in (fmt.block_size, 256, 768) if fmt.is_quantized else (1, 31, 100):
        raw = random_weight(fmt, rows, cols)
        linear = PackedLinear(library, raw)
        for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 33):
            x = torch.randn(n, cols)
            want, magnitude = exact_product(x, raw)
            assert ((linear(x) - want).abs() <= 5e-7 * magnitude).all(), (cols, n)


@needs_native
@pytest.mark.parametrize("fmt", FORMATS)
def test_native_linear_row_does_not_depend_on_batch_or_threads(
    library: native.Library, fmt: Format
) -> None:
    linear = PackedLinear(library, random_weight(fmt, 100, 512))
    x = torch.randn(150, 512)
    want = torch.cat([linear(row.unsqueeze(0)) for row in x])
    try:
        for threads in (1, 2, 5):
            library.set_num_threads(threads)
            assert library.num_threads == threads
            for begin, end in ((0, 150), (3, 36), (40, 48), (140, 150)):
                assert torch.equal(linear(x[begin:end]), want[begin:end])
    finally:
        library.set_num_threads(1)


@needs_native
@pytest.mark.parametrize("fmt", QUANTIZED)
def test_tile_registers_do_not_show(fmt: Format) -> None:
    library = native.load()
    assert library is not None
    if not library.function("sgrt_has_amx", ctypes.c_int, [])():
        pytest.skip("no AMX in this library, on this CPU or for this process")
    switch = library.function("sgrt_set_amx", None, [ctypes.c_int])
    x = torch.randn(150, 768)
    for rows in (1, 16, 50):
        linear = PackedLinear(library, random_weight(fmt, rows, 768))
        with_tiles = linear(x)
        switch(0)
        try:
            assert torch.equal(with_tiles, linear(x))
        finally:
            switch(1)


@needs_native
@pytest.mark.parametrize("fmt", QUANTIZED)
def test_native_linear_extreme_bytes_do_not_saturate(library: native.Library, fmt: Format) -> None:
    for byte in (0x00, 0x7F, 0x80, 0xFF):
        raw = random_weight(fmt, 16, 512)
        data = raw.data.view(16, -1, fmt.block_bytes).clone()
        quants = {Format.Q4_1: 4, Format.Q4_K: 16, Format.Q6_K: 0}.get(fmt, 2)
        data[..., quants : 192 if fmt is Format.Q6_K else None] = byte
        raw = RawWeight(data.view(-1), fmt, raw.shape)
        x = torch.ones(18, 512) * torch.tensor([1.0, -1.0, 2.0]).repeat(6).unsqueeze(1)
        want, magnitude = exact_product(x, raw)
        assert ((PackedLinear(library, raw)(x) - want).abs() <= 5e-7 * magnitude).all()


@needs_native
def test_native_linear_of_nan_or_infinity_is_not_a_number(library: native.Library) -> None:
    for fmt in (Format.Q8_0, Format.Q4_1, Format.F32):
        linear = PackedLinear(library, random_weight(fmt, 16, 64))
        x = torch.randn(4, 64)
        x[1, 40], x[2, 3] = torch.nan, torch.inf
        finite = torch.isfinite(linear(x)).all(-1)
        assert finite.tolist() == [True, False, False, True]


@needs_native
def test_native_linear_of_zeros_and_tiny_values_is_zero(library: native.Library) -> None:
    linear = PackedLinear(library, random_weight(Format.Q4_1, 16, 64))
    assert (linear(torch.full((1, 64), 1e-38)) == 0).all()
    assert (linear(torch.zeros(1, 64)) == 0).all()


@needs_native
def test_native_linear_refuses_what_it_cannot_multiply(library: native.Library) -> None:
    linear = PackedLinear(library, random_weight(Format.F32, 4, 8))
    with pytest.raises(ValueError, match=r"\[N, 8\] float32 on the cpu, not \(2, 9\)"):
        linear(torch.zeros(2, 9))
    with pytest.raises(ValueError, match="float64"):
        linear(torch.zeros(2, 8, dtype=torch.float64))
    with pytest.raises(ValueError, match="a matrix with rows and columns"):
        PackedLinear(library, RawWeight.from_tensor(torch.zeros(3)))


# ---------------------------------------------------------------- which library runs


@needs_native
def test_library_that_was_asked_for_is_the_one_loaded(library: native.Library) -> None:
    mapped = Path("/proc/self/maps")
    assert library.path.name == f"libsgrt_{library.isa}.so"
    if mapped.exists():
        assert library.path.name in mapped.read_text()


@needs_native
def test_default_library_is_the_best_that_the_cpu_has() -> None:
    found = native.load()
    assert found is not None
    assert found.isa == ISAS[0]
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and "avx512_vnni" in (flags := cpuinfo.read_text()):
        assert found.isa == "avx512", flags


def test_no_library_where_none_is_wanted() -> None:
    assert native.load("none") is None


def test_unknown_library_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"no native kernels for 'mmx' here; available: .*none"):
        native.load("mmx")


@needs_native
def test_threads_below_one_are_refused(library: native.Library) -> None:
    with pytest.raises(ValueError, match="num_threads=0"):
        library.set_num_threads(0)


def _product_in_child(isa: str, raw: RawWeight, x: torch.Tensor, seconds: int) -> None:
    signal.alarm(seconds)  # a child that waits for threads it does not have would wait for ever
    library = native.load(isa)
    assert library is not None
    ok = torch.isfinite(PackedLinear(library, raw)(x)).all()
    os._exit(0 if ok else 1)


@needs_native
@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_threads_work_again_after_a_fork() -> None:
    library = native.load()
    assert library is not None
    raw, x = random_weight(Format.Q8_0, 256, 256), torch.randn(64, 256)
    library.set_num_threads(3)
    try:
        PackedLinear(library, raw)(x)  # starts the threads
        with warnings.catch_warnings():  # newer Pythons warn of forks where threads run: the point
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            _product_in_child(library.isa, raw, x, seconds=20)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
    finally:
        library.set_num_threads(1)
