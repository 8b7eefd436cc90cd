"""Reading safetensors directories: one file or shards with an index, memory-mapped.

A file is ``header length (u64) | JSON header | data``. Source:
https://github.com/huggingface/safetensors#format. The header is checked here rather than by the
library because the library neither hands out mapped bytes of every type nor says which of two
entries of one name it took.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from sgrt.errors import CorruptModel, ModelError, ModelNotFound

if TYPE_CHECKING:
    from sgrt.ops import RawWeight

MAX_HEADER_BYTES = 100_000_000
INDEX = "model.safetensors.index.json"

_ITEM_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}
_USABLE = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies.

    Args:
        offset: bytes from the start of the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


class SafetensorsFile:
    """One open file.

    Attributes:
        tensors: directory by name, in the order of the data.
    """

    def __init__(self, path: Path, tensors: dict[str, StoredTensor], mapped: mmap.mmap) -> None:
        self.path = path
        self.tensors = tensors
        self._mapped = mapped

    @classmethod
    def open(cls, path: Path) -> SafetensorsFile:
        """Map a file and check its header.

        Raises:
            ModelNotFound: no such file, or it cannot be read.
            CorruptModel: it is not a whole, well-formed safetensors file.
        """
        mapped = _map(path)
        header, start = _header(path, mapped)
        stored = [_entry(path, name, value, start) for name, value in header.items()]
        stored.sort(key=lambda tensor: tensor.offset)
        end = start
        for tensor in stored:
            if tensor.offset != end:
                relation = "overlaps the one before it" if tensor.offset < end else "leaves a gap"
                raise CorruptModel(path, f"tensor {tensor.name!r} {relation}")
            end = tensor.offset + tensor.num_bytes
        if end != len(mapped):
            raise CorruptModel(path, f"tensors end at byte {end}, the file has {len(mapped)} bytes")
        return cls(path, {tensor.name: tensor for tensor in stored}, mapped)

    def data(self, name: str) -> memoryview:
        """The bytes of a tensor, mapped, not copied."""
        tensor = self.tensors[name]
        return memoryview(self._mapped)[tensor.offset : tensor.offset + tensor.num_bytes]

    def raw(self, name: str) -> RawWeight:
        """A tensor as the kernels take it, mapped, not copied.

        Raises:
            ModelError: it is a scalar, or its type cannot be computed with.
        """
        import torch

        from sgrt import ops

        tensor = self.tensors[name]
        if tensor.dtype not in _USABLE:
            raise ModelError(
                f"{self.path}: tensor {name!r} is {tensor.dtype}; usable types are "
                + ", ".join(_USABLE)
            )
        if not tensor.shape:
            raise ModelError(f"{self.path}: tensor {name!r} is a scalar, not a weight")
        data = torch.empty(0, dtype=torch.uint8)
        if tensor.num_bytes:
            data = torch.frombuffer(
                self._mapped, dtype=torch.uint8, count=tensor.num_bytes, offset=tensor.offset
            )
        return ops.RawWeight(data, ops.Format[tensor.dtype], tensor.shape)


class SafetensorsDir:
    """All tensors of a model directory."""

    def __init__(self, path: Path, home_of: dict[str, SafetensorsFile]) -> None:
        self.path = path
        self._home_of = home_of

    @classmethod
    def open(cls, path: str | Path) -> SafetensorsDir:
        """Open model.safetensors, or the shards that the index names.

        Raises:
            ModelNotFound: no such directory, or no safetensors in it.
            CorruptModel: a shard is missing or damaged, or index and shards disagree; names
                the file and the tensor.
        """
        path = Path(path)
        if (path / INDEX).is_file():
            return cls(path, _sharded(path))
        files = sorted(path.glob("*.safetensors"))
        if (path / "model.safetensors") in files:
            files = [path / "model.safetensors"]
        if not files:
            raise ModelNotFound(str(path), "the directory has no *.safetensors")
        if len(files) > 1:
            raise CorruptModel(path / INDEX, f"the index of {len(files)} shards is missing")
        only = SafetensorsFile.open(files[0])
        return cls(path, dict.fromkeys(only.tensors, only))

    def names(self) -> Iterable[str]:
        """Names of all tensors."""
        return self._home_of.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor. Raises CorruptModel where there is none by this name."""
        return self._file(name).tensors[name].shape

    def dtype(self, name: str) -> str:
        """Type of a tensor, e.g. "BF16". Raises CorruptModel where there is none."""
        return self._file(name).tensors[name].dtype

    def data(self, name: str) -> memoryview:
        """The bytes of a tensor, mapped. Raises CorruptModel where there is none."""
        return self._file(name).data(name)

    def raw(self, name: str) -> RawWeight:
        """A tensor as the kernels take it, mapped, not copied.

        Raises:
            CorruptModel: no tensor by this name.
            ModelError: its type cannot be computed with.
        """
        return self._file(name).raw(name)

    def _file(self, name: str) -> SafetensorsFile:
        try:
            return self._home_of[name]
        except KeyError:
            raise CorruptModel(self.path, f"no tensor {name!r}") from None


def _map(path: Path) -> mmap.mmap:
    # ACCESS_COPY for the reason given in gguf.py.
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except ValueError:
        raise CorruptModel(path, "the file is empty") from None
    except OSError as error:
        raise ModelNotFound(str(path), (error.strerror or str(error)).lower()) from error


def _header(path: Path, mapped: mmap.mmap) -> tuple[dict[str, Any], int]:
    """The entries and where the data begins."""
    length = int.from_bytes(mapped[:8], "little")
    start = 8 + length
    if len(mapped) < 8 or start > len(mapped) or length > MAX_HEADER_BYTES:
        raise CorruptModel(
            path, f"truncated, or not safetensors: header of {length} bytes, file of {len(mapped)}"
        )
    try:
        header = json.loads(mapped[8:start], object_pairs_hook=lambda p: _unique(path, p))
    except (ValueError, RecursionError) as error:
        raise CorruptModel(path, f"the header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise CorruptModel(path, f"the header is a {type(header).__name__}, expected an object")
    header.pop("__metadata__", None)
    return header, start


def _unique(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise CorruptModel(path, f"{twice!r} occurs twice in the header")
    return found


def _entry(path: Path, name: str, value: Any, start: int) -> StoredTensor:
    if not isinstance(value, dict):
        raise CorruptModel(path, f"tensor {name!r}: the entry is {value!r}, expected an object")
    dtype, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise CorruptModel(path, f"tensor {name!r} has unknown type {dtype!r}")
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise CorruptModel(path, f"tensor {name!r}: shape {shape!r}, data_offsets {offsets!r}")
    begin, end = offsets
    if end - begin != prod(shape) * _ITEM_BYTES[dtype]:
        raise CorruptModel(
            path, f"tensor {name!r}: {dtype} of shape {shape} does not take {end - begin} bytes"
        )
    return StoredTensor(name, dtype, tuple(shape), start + begin, end - begin)


def _naturals(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)


def _sharded(path: Path) -> dict[str, SafetensorsFile]:
    weight_map = _weight_map(path / INDEX)
    shards = {file: _shard(path, file) for file in sorted(set(weight_map.values()))}
    for name, file in weight_map.items():
        if name not in shards[file].tensors:
            raise CorruptModel(path / file, f"tensor {name!r} is missing; the index places it here")
    for file, shard in shards.items():
        stray = next((n for n in shard.tensors if weight_map.get(n) != file), None)
        if stray is not None:
            raise CorruptModel(path / file, f"tensor {stray!r} is here, the index says otherwise")
    return {name: shards[file] for name, file in weight_map.items()}


def _shard(path: Path, file: str) -> SafetensorsFile:
    if Path(file).name != file:
        raise CorruptModel(path / INDEX, f"shard {file!r} is not a plain file name")
    if not (path / file).is_file():
        raise CorruptModel(path / file, "the shard is missing; the index names it")
    return SafetensorsFile.open(path / file)


def _weight_map(index: Path) -> dict[str, str]:
    try:
        data = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptModel(index, f"not readable as JSON: {error}") from error
    weight_map = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CorruptModel(index, "it has no weight_map")
    for name, file in weight_map.items():
        if not isinstance(file, str):
            raise CorruptModel(index, f"tensor {name!r} is placed in {file!r}, not a file name")
    return weight_map
