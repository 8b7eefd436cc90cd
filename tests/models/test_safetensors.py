"""safetensors directories: the same bytes as the library reads, and nothing damaged."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sgrt import ops
from sgrt.errors import CorruptModel, ModelError, ModelNotFound
from sgrt.models.safetensors_ import INDEX, SafetensorsDir, SafetensorsFile

WEIGHTS = {
    "a.weight": torch.arange(12.0).reshape(3, 4),
    "b.weight": torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).bfloat16(),
    "c.bias": torch.linspace(-1, 1, 9).half(),
    "d.row": torch.tensor([[2.5]]),
    "e.empty": torch.empty(0, 4),
}


def packed(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(begin: int, end: int, dtype: str = "F32", shape: Any = (2,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def sharded(path: Path, index: Any = None) -> Path:
    names = list(WEIGHTS)
    for shard, part in (("1.safetensors", names[:2]), ("2.safetensors", names[2:])):
        save_file({name: WEIGHTS[name] for name in part}, str(path / shard))
    weight_map = {name: f"{1 + (i >= 2)}.safetensors" for i, name in enumerate(names)}
    (path / INDEX).write_text(json.dumps({"weight_map": weight_map} if index is None else index))
    return path


def assert_holds_weights(found: SafetensorsDir) -> None:
    assert set(found.names()) == set(WEIGHTS)
    for name, value in WEIGHTS.items():
        assert found.shape(name) == tuple(value.shape)
        assert len(found.data(name)) == value.nbytes
        if value.numel():
            assert torch.equal(ops.dequantize(found.raw(name)), value.float())
        else:
            assert found.raw(name).data.numel() == 0


def test_single_file_reads_as_the_library_wrote_it(tmp_path: Path) -> None:
    save_file(WEIGHTS, str(tmp_path / "model.safetensors"), metadata={"format": "pt"})
    assert load_file(tmp_path / "model.safetensors").keys() == WEIGHTS.keys()
    assert_holds_weights(SafetensorsDir.open(tmp_path))


def test_shards_read_as_one(tmp_path: Path) -> None:
    assert_holds_weights(SafetensorsDir.open(sharded(tmp_path)))


def test_raw_is_mapped_not_copied(tmp_path: Path) -> None:
    save_file(WEIGHTS, str(tmp_path / "model.safetensors"))
    found = SafetensorsDir.open(tmp_path)
    assert found.raw("a.weight").data.data_ptr() == found.raw("a.weight").data.data_ptr()


def test_scalar_is_refused_by_name(tmp_path: Path) -> None:
    save_file({"s": torch.tensor(2.5)}, str(tmp_path / "model.safetensors"))
    with pytest.raises(ModelError, match="'s' is a scalar"):
        SafetensorsDir.open(tmp_path).raw("s")


def test_type_without_arithmetic_is_refused_by_name(tmp_path: Path) -> None:
    save_file({"n": torch.arange(3)}, str(tmp_path / "model.safetensors"))
    with pytest.raises(ModelError, match="'n' is I64; usable types are F32, F16, BF16"):
        SafetensorsDir.open(tmp_path).raw("n")


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file is empty"),
    "short": (b"\x01\x00", "truncated"),
    "header length": ((1 << 60).to_bytes(8, "little") + b"{}", "truncated"),
    "not json": (packed(b"{nope"), "the header is not JSON"),
    "not utf-8": (packed(b"\xff\xfe{}"), "the header is not JSON"),
    "list": (packed([1]), "expected an object"),
    "deep": (packed(b"[" * 200_000), "the header is not JSON"),
    "entry": (packed({"t": 3}), "tensor 't': the entry is 3"),
    "dtype": (packed({"t": entry(0, 8, "F31")}, bytes(8)), "'t' has unknown type 'F31'"),
    "dtype list": (packed({"t": {**entry(0, 8), "dtype": []}}, bytes(8)), "unknown type"),
    "negative": (packed({"t": entry(0, 8, shape=(-2,))}, bytes(8)), "'t': shape"),
    "offsets": (packed({"t": {**entry(0, 8), "data_offsets": [0]}}, bytes(8)), "data_offsets"),
    "size": (packed({"t": entry(0, 4)}, bytes(4)), "does not take 4 bytes"),
    "reversed": (packed({"t": entry(8, 0)}, bytes(8)), "does not take -8 bytes"),
    "gap": (packed({"t": entry(4, 12)}, bytes(12)), "'t' leaves a gap"),
    "overlap": (packed({"t": entry(0, 8), "u": entry(4, 12)}, bytes(12)), "'u' overlaps"),
    "truncated": (packed({"t": entry(0, 8)}, bytes(4)), "tensors end at byte"),
    "trailing": (packed({"t": entry(0, 8)}, bytes(9)), "tensors end at byte"),
    "twice": (packed(b'{"t": 1, "t": 2}'), "'t' occurs twice"),
}


@pytest.mark.parametrize(("data", "told"), BAD.values(), ids=BAD)
def test_damaged_file_names_path_and_fault(tmp_path: Path, data: bytes, told: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(CorruptModel, match=told) as caught:
        SafetensorsDir.open(tmp_path)
    assert str(path) in caught.value.message


def test_mutations_of_a_file_open_or_say_corrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rng = tmp_path / "model.safetensors", random.Random(0)
    save_file({k: WEIGHTS[k] for k in ("a.weight", "c.bias")}, str(path))
    data, refused = path.read_bytes(), 0
    for _ in range(1000):
        changed = bytearray(data[: rng.choice((len(data), rng.randrange(len(data))))])
        for _ in range(rng.randrange(3)):
            if changed:
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        monkeypatch.setattr("sgrt.models.safetensors_._map", lambda p, b=bytes(changed): b)
        try:
            for name in (file := SafetensorsFile.open(path)).tensors:
                assert len(file.data(name)) == file.tensors[name].num_bytes
        except CorruptModel:
            refused += 1
    assert 100 < refused < 1000


@pytest.mark.parametrize(
    ("index", "told"),
    [
        ({"weight_map": {}}, "no weight_map"),
        ({}, "no weight_map"),
        ([], "no weight_map"),
        ({"weight_map": {"a.weight": 3}}, "'a.weight' is placed in 3"),
        ({"weight_map": {"a.weight": "../x.safetensors"}}, "not a plain file name"),
        ({"weight_map": {"a.weight": "3.safetensors"}}, "3.safetensors: the shard is missing"),
        ({"weight_map": {"zzz": "1.safetensors"}}, "1.safetensors: tensor 'zzz' is missing"),
        ({"weight_map": {"a.weight": "1.safetensors"}}, "'b.weight' is here"),
    ],
)
def test_index_and_shards_that_disagree_name_file_and_tensor(
    tmp_path: Path, index: Any, told: str
) -> None:
    with pytest.raises(CorruptModel, match=told):
        SafetensorsDir.open(sharded(tmp_path, index))


def test_index_that_is_not_json_is_refused(tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / INDEX).write_text("{")
    with pytest.raises(CorruptModel, match="not readable as JSON"):
        SafetensorsDir.open(tmp_path)


def test_shards_without_index_are_refused(tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / INDEX).unlink()
    with pytest.raises(CorruptModel, match="index of 2 shards is missing"):
        SafetensorsDir.open(tmp_path)


def test_directory_without_weights_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"no \*\.safetensors"):
        SafetensorsDir.open(tmp_path)


def test_unknown_tensor_is_named(tmp_path: Path) -> None:
    save_file(WEIGHTS, str(tmp_path / "model.safetensors"))
    for ask in ("shape", "dtype", "data", "raw"):
        with pytest.raises(CorruptModel, match="no tensor 'zzz'"):
            getattr(SafetensorsDir.open(tmp_path), ask)("zzz")
