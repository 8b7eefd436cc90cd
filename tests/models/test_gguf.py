"""The GGUF reader: what was written is read, and nothing damaged is."""

from __future__ import annotations

import random
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf_builder import SCALARS, Gguf, Tensor, Typed, encode, text, u32, u64
from hypothesis import given, settings
from hypothesis import strategies as st

from sgrt import ops
from sgrt.errors import CorruptModel, ModelError, ModelNotFound
from sgrt.models.gguf import GGML_TYPES, GgufFile

SMALL = Gguf(
    metadata={
        "general.architecture": "llama",
        "general.alignment": 32,
        "tokenizer.ggml.tokens": ["a", "b", "é", ""],
        "tokenizer.ggml.scores": [0.0, -1.0, -2.5, 3.0],
        "flags": [True, False],
        "nested": [[1, 2], [3]],
        "x": Typed("i64", -5),
    },
    tensors={
        "a.weight": Tensor((4, 2), 0, np.arange(8, dtype="<f4").tobytes()),
        "b.weight": Tensor((32, 3), 2, bytes(range(54))),
        "c.bias": Tensor((5,), 1, bytes(10)),
    },
)


def opened(tmp_path: Path, file: Gguf | bytes) -> GgufFile:
    path = tmp_path / "m.gguf"
    path.write_bytes(file if isinstance(file, bytes) else file.to_bytes())
    return GgufFile.open(path)


@pytest.mark.parametrize("version", [2, 3])
def test_open_a_written_file_gives_back_metadata_and_tensors(tmp_path: Path, version: int) -> None:
    file = opened(tmp_path, Gguf(SMALL.metadata, SMALL.tensors, version=version))
    assert file.metadata == {**SMALL.metadata, "x": -5}
    assert [(t.name, t.shape, t.type_name) for t in file.tensors.values()] == [
        ("a.weight", (2, 4), "F32"),
        ("b.weight", (3, 32), "Q4_0"),
        ("c.bias", (5,), "F16"),
    ]
    for name, tensor in SMALL.tensors.items():
        assert bytes(file.data(name)) == tensor.data


def test_raw_of_a_tensor_dequantizes_to_what_was_written(tmp_path: Path) -> None:
    raw = opened(tmp_path, SMALL).raw("a.weight")
    assert torch.equal(ops.dequantize(raw), torch.arange(8.0).reshape(2, 4))


def test_raw_of_a_tensor_is_mapped_not_copied(tmp_path: Path) -> None:
    file = opened(tmp_path, SMALL)
    assert file.raw("a.weight").data.data_ptr() == file.raw("a.weight").data.data_ptr()
    assert file.raw("b.weight").data.data_ptr() - file.raw("a.weight").data.data_ptr() == 32


def test_raw_of_a_type_without_arithmetic_is_refused_by_name(tmp_path: Path) -> None:
    file = opened(tmp_path, Gguf({}, {"t": Tensor((256,), 10, bytes(84))}))
    with pytest.raises(ModelError, match=r"'t' is Q2_K; usable types are F32"):
        file.raw("t")


def test_raw_of_a_scalar_is_refused_by_name(tmp_path: Path) -> None:
    file = opened(tmp_path, Gguf({}, {"s": Tensor((), 0, bytes(4))}))
    with pytest.raises(ModelError, match="'s' is a scalar"):
        file.raw("s")


_numbers = {
    name: st.floats(width=64 if name == "f64" else 32, allow_nan=False)
    if name.startswith("f")
    else st.integers(
        -(1 << int(name[1:]) - 1) if name[0] == "i" else 0,
        (1 << int(name[1:]) - (name[0] == "i")) - 1,
    )
    for name in SCALARS
}
_scalars: Any = st.one_of(
    st.booleans(),
    st.text(max_size=8),
    *[values.map(lambda v, kind=name: Typed(kind, v)) for name, values in _numbers.items()],
)


@st.composite
def _uniform_lists(draw: st.DrawFn) -> list[Any]:
    kind = draw(st.sampled_from(["bool", "text", *SCALARS]))
    each: Any = {"bool": st.booleans(), "text": st.text(max_size=8)}.get(kind)
    if each is None:
        each = _numbers[kind].map(lambda v: Typed(kind, v))
    return draw(st.lists(each, max_size=5))


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value.value if isinstance(value, Typed) else value


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(max_size=8), st.one_of(_scalars, _uniform_lists()), max_size=6))
def test_metadata_of_any_types_round_trips(
    tmp_path_factory: pytest.TempPathFactory, metadata: dict[str, Any]
) -> None:
    metadata.pop("general.alignment", None)
    path = Gguf(metadata).write(tmp_path_factory.mktemp("g") / "m.gguf")
    assert GgufFile.open(path).metadata == {k: _plain(v) for k, v in metadata.items()}


def test_types_have_the_sizes_of_the_gguf_package() -> None:
    sizes = pytest.importorskip("gguf.constants").GGML_QUANT_SIZES
    theirs = {int(kind): (kind.name, *size) for kind, size in sizes.items()}
    for number, kind in GGML_TYPES.items():
        assert (kind.name, kind.block_len, kind.block_bytes) == theirs[number]


def test_a_file_of_the_gguf_package_reads_the_same(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path, rng = tmp_path / "w.gguf", np.random.default_rng(0)
    values = {f"t{i}": rng.standard_normal((3 + i, 64)).astype("f4") for i in range(3)}
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_token_list(["x", "yé"])
    writer.add_float32("f", 0.5)
    for name, value in values.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GgufFile.open(path)
    assert file.strings("tokenizer.ggml.tokens") == ["x", "yé"]
    assert file.field("f", float) == 0.5
    for name, value in values.items():
        assert np.array_equal(ops.dequantize(file.raw(name)).numpy(), value)


# ---------------------------------------------------------------- damaged files

F32 = Tensor((2,), 0, bytes(8))
BAD: dict[str, tuple[Gguf | bytes, str]] = {
    "empty": (b"", "the file is empty"),
    "three bytes": (b"GGU", "magic needs 4 bytes"),
    "magic": (Gguf(magic=b"GGML"), "begins with b'GGML'"),
    "version 1": (Gguf(version=1), "version 1 cannot be read"),
    "big endian": (Gguf(version=3 << 24), "big-endian"),
    "field count": (b"GGUF" + u32(3) + u64(0) + u64(1 << 60), "cannot fit"),
    "tensor count": (b"GGUF" + u32(3) + u64(1 << 60) + u64(0), "cannot fit"),
    "key length": (b"GGUF" + u32(3) + u64(0) + u64(1) + u64(1 << 62) + bytes(64), "key 0"),
    "key text": (Gguf(extra_fields=[text(b"\xff\xfe") + encode(1)]), "not UTF-8"),
    "value type": (Gguf(extra_fields=[text("k") + u32(99) + bytes(8)]), "'k' has unknown type 99"),
    "bool": (Gguf(extra_fields=[text("k") + u32(7) + b"\x02"]), "neither 0 nor 1"),
    "array length": (
        Gguf(extra_fields=[text("k") + u32(9) + u32(5) + u64(1 << 60)]),
        "'k' needs",
    ),
    "string array length": (
        Gguf(extra_fields=[text("k") + u32(9) + u32(8) + u64(1 << 40)]),
        "claims",
    ),
    "string in array": (
        Gguf(extra_fields=[text("k") + u32(9) + u32(8) + u64(1) + u64(1 << 40)]),
        "string 0 of 'k' ends after",
    ),
    "text in array": (
        Gguf(extra_fields=[text("k") + u32(9) + u32(8) + u64(1) + text(b"\xff")]),
        "string 0 of 'k' is not UTF-8",
    ),
    "array depth": (
        Gguf(extra_fields=[text("k") + u32(9) + (u32(9) + u64(1)) * 9 + u32(4) + u64(0)]),
        "deep",
    ),
    "array type": (Gguf(extra_fields=[text("k") + u32(9) + u32(77) + u64(0)]), "type 77"),
    "twice a key": (Gguf({"k": 1}, extra_fields=[text("k") + encode(2)]), "'k' occurs twice"),
    "twice a tensor": (
        Gguf({}, {"t": F32}, extra_tensors=[text("t") + u32(1) + u64(2) + u32(0) + u64(32)]),
        "'t' occurs twice",
    ),
    "alignment": (Gguf({"general.alignment": 24}), "power of two"),
    "rank": (Gguf({}, {"t": Tensor((1,) * 5, 0, bytes(4))}), "5 dimensions"),
    "tensor type": (Gguf({}, {"t": Tensor((2,), 77, bytes(8))}), "'t' has unknown type 77"),
    "zero dimension": (Gguf({}, {"t": Tensor((0,), 0, b"")}), r"shape \(0,\)"),
    "block": (Gguf({}, {"t": Tensor((33,), 2, bytes(36))}), "Q4_0 cannot have shape"),
    "huge shape": (Gguf({}, {"t": Tensor((1 << 40, 1 << 40), 0, bytes(4))}), "truncated"),
    "offset aligned": (Gguf({}, {"t": Tensor((2,), 0, bytes(40), 8)}), "not aligned to 32"),
    "offset end": (Gguf({}, {"t": Tensor((2,), 0, bytes(8), 1 << 50)}), "truncated: tensor 't'"),
    "overlap": (
        Gguf({}, {"t": Tensor((32,), 0, bytes(128)), "u": Tensor((2,), 0, bytes(8), 64)}),
        "'t' and 'u' overlap",
    ),
}


@pytest.mark.parametrize(("file", "told"), BAD.values(), ids=BAD)
def test_open_a_damaged_file_names_path_and_fault(
    tmp_path: Path, file: Gguf | bytes, told: str
) -> None:
    with pytest.raises(CorruptModel, match=told) as caught:
        opened(tmp_path, file)
    assert str(tmp_path / "m.gguf") in caught.value.message


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], GgufFile]:
    """Reads bytes as `GgufFile.open` does, without the file system in between."""

    def parse(data: bytes) -> GgufFile:
        monkeypatch.setattr("sgrt.models.gguf._map", lambda path: data)
        return GgufFile.open("m.gguf")

    return parse


def test_open_any_truncation_is_refused(parsed: Callable[[bytes], GgufFile]) -> None:
    data = SMALL.to_bytes()
    assert parsed(data).tensors.keys() == SMALL.tensors.keys()
    for length in range(len(data)):
        with pytest.raises(CorruptModel):
            parsed(data[:length])


def test_open_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no such file"):
        GgufFile.open(tmp_path / "no.gguf")


def test_open_one_part_of_a_split_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="part 2 of 3"):
        opened(tmp_path, Gguf({"split.no": 1, "split.count": 3}))


def _mutated(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    kind = rng.randrange(4)
    if kind == 0:
        return data[: rng.randrange(len(data))]
    if kind == 1:  # a length or count of extreme size
        at = rng.randrange(len(data) - 8)
        changed[at : at + 8] = struct.pack("<Q", rng.choice((0, 1, 2**31, 2**63, 2**64 - 1)))
    elif kind == 2:
        at = rng.randrange(len(data))
        changed[at:at] = rng.randbytes(rng.randrange(1, 20))
    for _ in range(rng.randrange(1, 4)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def test_open_of_2000_mutations_succeeds_or_says_corrupt_and_stays_small(
    parsed: Callable[[bytes], GgufFile],
) -> None:
    data, rng = SMALL.to_bytes(), random.Random(0)
    outcomes = {"opened": 0, "refused": 0}
    begin = time.process_time()
    tracemalloc.start()
    try:
        for _ in range(2000):
            try:
                file = parsed(_mutated(data, rng))
                for name in file.tensors:
                    assert len(file.data(name)) == file.tensors[name].num_bytes
                outcomes["opened"] += 1
            except (CorruptModel, ModelError):
                outcomes["refused"] += 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert min(outcomes.values()) > 100  # both happen, so both are tested
    assert peak < 4 << 20
    assert time.process_time() - begin < 20


def test_field_of_another_type_is_refused(tmp_path: Path) -> None:
    file = opened(tmp_path, Gguf({"s": "x", "n": 3, "b": True, "l": [1, 2]}))
    assert file.field("n", float) == 3.0
    assert file.field("absent", int, 7) == 7
    for key, kind in (("s", int), ("b", int), ("n", bool), ("n", str), ("absent", str)):
        with pytest.raises(CorruptModel, match=key):
            file.field(key, kind)
    with pytest.raises(CorruptModel, match="list of int"):
        file.strings("l")


@pytest.mark.model
def test_open_the_embedded_model_takes_less_than_half_a_second(smollm2: Path) -> None:
    begin = time.process_time()
    file = GgufFile.open(smollm2)
    assert time.process_time() - begin < 0.5
    assert len(file.strings("tokenizer.ggml.tokens")) == 49152


@pytest.mark.slow
@pytest.mark.model
def test_open_the_embedded_model_reads_what_the_gguf_package_reads(smollm2: Path) -> None:
    gguf = pytest.importorskip("gguf")
    file = GgufFile.open(smollm2)
    reader = gguf.GGUFReader(str(smollm2))
    for tensor in reader.tensors:
        ours = file.tensors[tensor.name]
        assert ours.shape == tuple(int(n) for n in reversed(tensor.shape))
        assert (ours.ggml_type, ours.offset) == (int(tensor.tensor_type), tensor.data_offset)
        assert ours.num_bytes == tensor.n_bytes
    assert len(file.tensors) == len(reader.tensors)
    for key, value in file.metadata.items():
        theirs = reader.fields[key]
        if isinstance(value, list):  # slow in that package, so a sample
            assert len(value) == len(theirs.data)
            assert all(value[i] == theirs.contents(i) for i in range(0, len(value), 499))
        else:
            assert value == theirs.contents()
