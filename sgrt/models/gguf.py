"""Reading GGUF files: metadata and memory-mapped tensors, nothing trusted.

A file is ``magic, version, counts | metadata | tensor directory | padding | tensor data``, little
endian. Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.

Every count and length is compared with the bytes that are left before anything is allocated, so
a damaged file costs at most one pass over it.

Architecture invariant: opening a file needs neither torch nor numpy; only `GgufFile.raw` does.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from sgrt.errors import CorruptModel, ModelError, ModelNotFound

if TYPE_CHECKING:
    from sgrt.ops import RawWeight

T = TypeVar("T")
D = TypeVar("D")

MAX_DIMS = 4
MAX_ARRAY_DEPTH = 4
DEFAULT_ALIGNMENT = 32


@dataclass(frozen=True)
class GgmlType:
    """How ggml stores elements: in blocks along the last dimension."""

    name: str
    block_len: int
    block_bytes: int


GGML_TYPES: dict[int, GgmlType] = {
    number: GgmlType(name, block_len, block_bytes)
    for number, name, block_len, block_bytes in (
        (0, "F32", 1, 4),
        (1, "F16", 1, 2),
        (2, "Q4_0", 32, 18),
        (3, "Q4_1", 32, 20),
        (6, "Q5_0", 32, 22),
        (7, "Q5_1", 32, 24),
        (8, "Q8_0", 32, 34),
        (10, "Q2_K", 256, 84),
        (11, "Q3_K", 256, 110),
        (12, "Q4_K", 256, 144),
        (13, "Q5_K", 256, 176),
        (14, "Q6_K", 256, 210),
        (15, "Q8_K", 256, 292),
        (16, "IQ2_XXS", 256, 66),
        (17, "IQ2_XS", 256, 74),
        (18, "IQ3_XXS", 256, 98),
        (19, "IQ1_S", 256, 50),
        (20, "IQ4_NL", 32, 18),
        (21, "IQ3_S", 256, 110),
        (22, "IQ2_S", 256, 82),
        (23, "IQ4_XS", 256, 136),
        (24, "I8", 1, 1),
        (25, "I16", 1, 2),
        (26, "I32", 1, 4),
        (27, "I64", 1, 8),
        (28, "F64", 1, 8),
        (29, "IQ1_M", 256, 56),
        (30, "BF16", 1, 2),
        (34, "TQ1_0", 256, 54),
        (35, "TQ2_0", 256, 66),
        (39, "MXFP4", 32, 17),
    )
}
"""Types by their number in files. Those that can be computed with are `ops.Format`."""

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}
_BOOL, _STRING, _ARRAY = 7, 8, 9


@dataclass(frozen=True)
class GgufTensor:
    """Where one tensor lies.

    Args:
        shape: row-major, so the dimension that is contiguous in memory comes last.
        offset: bytes from the start of the file.
    """

    name: str
    shape: tuple[int, ...]
    ggml_type: int
    offset: int
    num_bytes: int

    @property
    def type_name(self) -> str:
        return GGML_TYPES[self.ggml_type].name


class GgufFile:
    """An open GGUF file.

    Attributes:
        path: where it is.
        metadata: values by key, in file order; arrays are lists.
        tensors: directory by name, in file order.
    """

    def __init__(
        self,
        path: Path,
        metadata: dict[str, Any],
        tensors: dict[str, GgufTensor],
        mapped: mmap.mmap,
    ) -> None:
        self.path = path
        self.metadata = metadata
        self.tensors = tensors
        self._mapped = mapped

    @classmethod
    def open(cls, path: str | Path) -> GgufFile:
        """Map a file and read its directory.

        Raises:
            ModelNotFound: no such file, or it cannot be read.
            CorruptModel: it is not a whole, well-formed GGUF file of version 2 or 3.
            ModelError: it is one part of a model that is split over several files.

        Cost: one pass over the metadata, about 0.1 s for a vocabulary of 100,000 with merges;
            tensor data is not read.
        """
        path = Path(path)
        mapped = _map(path)
        reader = _Reader(path, mapped)
        num_tensors, num_fields = reader.header()
        metadata = reader.metadata(num_fields)
        tensors = reader.tensor_directory(num_tensors, metadata)
        if _is_part(metadata):
            raise ModelError(
                f"{path}: part {metadata.get('split.no', 0) + 1} of {metadata['split.count']}; "
                "split files cannot be opened",
                hint="merge the parts with llama-gguf-split --merge",
            )
        return cls(path, metadata, tensors, mapped)

    @overload
    def field(self, key: str, kind: type[T]) -> T: ...
    @overload
    def field(self, key: str, kind: type[T], default: D) -> T | D: ...
    def field(self, key: str, kind: type[T], default: Any = ...) -> Any:
        """A metadata value of a certain type.

        Args:
            kind: str, int, float (an int is taken too), bool or list.
            default: for an absent key; without one the key must be there.

        Raises:
            CorruptModel: absent without default, or of another type.
        """
        if key not in self.metadata:
            if default is ...:
                raise CorruptModel(self.path, f"metadata has no {key!r}")
            return default
        value = self.metadata[key]
        accepted = (int, float) if kind is float else kind
        if not isinstance(value, accepted) or (kind is not bool and isinstance(value, bool)):
            raise CorruptModel(
                self.path, f"{key!r} is {type(value).__name__}, expected {kind.__name__}"
            )
        return float(value) if kind is float else value  # type: ignore[arg-type]

    def strings(self, key: str) -> list[str]:
        """A metadata value that is a list of strings.

        Raises:
            CorruptModel: absent or something else.
        """
        return self._list(key, str)

    def numbers(self, key: str) -> list[float]:
        """A metadata value that is a list of numbers.

        Raises:
            CorruptModel: absent or something else.
        """
        return self._list(key, (int, float))

    def integers(self, key: str) -> list[int]:
        """A metadata value that is a list of integers.

        Raises:
            CorruptModel: absent or something else.
        """
        return self._list(key, int)

    def _list(self, key: str, kinds: Any) -> list[Any]:
        values = self.field(key, list)
        # Arrays have one element type, so the first one speaks for all.
        if values and (not isinstance(values[0], kinds) or isinstance(values[0], bool)):
            raise CorruptModel(self.path, f"{key!r} is a list of {type(values[0]).__name__}")
        return values

    def data(self, name: str) -> memoryview:
        """The bytes of a tensor, mapped, not copied.

        Raises:
            CorruptModel: no tensor by this name.
        """
        tensor = self._tensor(name)
        return memoryview(self._mapped)[tensor.offset : tensor.offset + tensor.num_bytes]

    def raw(self, name: str) -> RawWeight:
        """A tensor as the kernels take it: bytes as in the file, mapped, not copied.

        Raises:
            CorruptModel: no tensor by this name.
            ModelError: it is a scalar, or its type cannot be computed with.
        """
        import torch

        from sgrt import ops

        tensor = self._tensor(name)
        try:
            weight_format = ops.Format[tensor.type_name]
        except KeyError:
            usable = ", ".join(f.name for f in ops.Format)
            raise ModelError(
                f"{self.path}: tensor {name!r} is {tensor.type_name}; usable types are {usable}"
            ) from None
        if not tensor.shape:
            raise ModelError(f"{self.path}: tensor {name!r} is a scalar, not a weight")
        data = torch.frombuffer(
            self._mapped, dtype=torch.uint8, count=tensor.num_bytes, offset=tensor.offset
        )
        return ops.RawWeight(data, weight_format, tensor.shape)

    def _tensor(self, name: str) -> GgufTensor:
        try:
            return self.tensors[name]
        except KeyError:
            raise CorruptModel(self.path, f"no tensor {name!r}") from None


def _is_part(metadata: dict[str, Any]) -> bool:
    count = metadata.get("split.count", 1)
    return isinstance(count, int) and count > 1


def _map(path: Path) -> mmap.mmap:
    # ACCESS_COPY: private and nominally writable, because torch warns about read-only buffers;
    # nothing writes, so the pages stay shared with the file cache.
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except ValueError:
        raise CorruptModel(path, "the file is empty") from None
    except OSError as error:
        raise ModelNotFound(str(path), (error.strerror or str(error)).lower()) from error


class _Reader:
    """A cursor over a mapped file that never passes its end."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.size = len(data)
        self.at = 0

    def fail(self, reason: str) -> CorruptModel:
        return CorruptModel(self.path, reason)

    def take(self, num_bytes: int, what: str) -> bytes:
        if num_bytes > self.size - self.at:
            raise self.fail(
                f"{what} needs {num_bytes} bytes at {self.at}, the file ends at {self.size}"
            )
        taken = self.data[self.at : self.at + num_bytes]
        self.at += num_bytes
        return taken

    def u32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "little")

    def u64(self, what: str) -> int:
        return int.from_bytes(self.take(8, what), "little")

    def string(self, what: str) -> str:
        data = self.take(self.u64(f"length of {what}"), what)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise self.fail(f"{what} is not UTF-8: {error.reason} at byte {error.start}") from None

    # sections

    def header(self) -> tuple[int, int]:
        """Numbers of tensors and of metadata fields."""
        magic = self.take(4, "magic")
        if magic != b"GGUF":
            raise self.fail(f"not a GGUF file: it begins with {magic!r}")
        version = self.u32("version")
        if version not in (2, 3):
            reason = "big-endian files" if version & 0xFFFF == 0 else f"version {version}"
            raise self.fail(f"{reason} cannot be read, only little-endian versions 2 and 3")
        num_tensors, num_fields = self.u64("number of tensors"), self.u64("number of fields")
        # The smallest field is 8 + 4 + 1 bytes, the smallest directory entry 8 + 4 + 4 + 8.
        if num_tensors * 24 + num_fields * 13 > self.size:
            raise self.fail(
                f"{num_tensors} tensors and {num_fields} metadata fields cannot fit in "
                f"{self.size} bytes"
            )
        return num_tensors, num_fields

    def metadata(self, num_fields: int) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        for index in range(num_fields):
            key = self.string(f"key {index}")
            if key in metadata:
                raise self.fail(f"metadata key {key!r} occurs twice")
            metadata[key] = self.value(self.u32(f"type of {key!r}"), repr(key))
        return metadata

    def tensor_directory(self, num_tensors: int, metadata: dict[str, Any]) -> dict[str, GgufTensor]:
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise self.fail(f"general.alignment is {alignment!r}, not a power of two")
        entries: dict[str, GgufTensor] = {}
        for index in range(num_tensors):
            entry = self.tensor_entry(index)
            if entry.name in entries:
                raise self.fail(f"tensor {entry.name!r} occurs twice")
            entries[entry.name] = entry
        start = -(-self.at // alignment) * alignment
        return self.placed(entries, start, alignment)

    def tensor_entry(self, index: int) -> GgufTensor:
        """One directory entry; its offset still counts from the start of the data section."""
        name = self.string(f"name of tensor {index}")
        num_dims = self.u32(f"rank of {name!r}")
        if num_dims > MAX_DIMS:
            raise self.fail(f"tensor {name!r} has {num_dims} dimensions, at most {MAX_DIMS}")
        dims = struct.unpack(f"<{num_dims}Q", self.take(8 * num_dims, f"shape of {name!r}"))
        ggml_type = self.u32(f"type of {name!r}")
        offset = self.u64(f"offset of {name!r}")
        kind = GGML_TYPES.get(ggml_type)
        if kind is None:
            raise self.fail(f"tensor {name!r} has unknown type {ggml_type}")
        if 0 in dims or (dims[0] if dims else 1) % kind.block_len:
            raise self.fail(f"tensor {name!r} of type {kind.name} cannot have shape {dims[::-1]}")
        num_bytes = prod(dims) // kind.block_len * kind.block_bytes
        return GgufTensor(name, dims[::-1], ggml_type, offset, num_bytes)

    def placed(
        self, entries: dict[str, GgufTensor], start: int, alignment: int
    ) -> dict[str, GgufTensor]:
        """The entries with offsets in the file, which lie apart, aligned and inside it."""
        end, before = 0, ""
        for entry in sorted(entries.values(), key=lambda e: e.offset):
            if entry.offset % alignment:
                raise self.fail(
                    f"tensor {entry.name!r} lies at {entry.offset}, not aligned to {alignment}"
                )
            if entry.offset < end:
                raise self.fail(f"tensors {before!r} and {entry.name!r} overlap")
            end, before = entry.offset + entry.num_bytes, entry.name
            if start + end > self.size:
                raise self.fail(
                    f"truncated: tensor {entry.name!r} ends at byte {start + end}, "
                    f"the file at {self.size}"
                )
        return {
            e.name: GgufTensor(e.name, e.shape, e.ggml_type, start + e.offset, e.num_bytes)
            for e in entries.values()
        }

    # values

    def value(self, kind: int, what: str, depth: int = 0) -> Any:
        if kind in _SCALARS:
            code = "<" + _SCALARS[kind]
            return struct.unpack(code, self.take(struct.calcsize(code), what))[0]
        if kind == _BOOL:
            return self.bools(1, what)[0]
        if kind == _STRING:
            return self.string(what)
        if kind == _ARRAY:
            return self.array(what, depth + 1)
        raise self.fail(f"{what} has unknown type {kind}")

    def array(self, what: str, depth: int) -> list[Any]:
        if depth > MAX_ARRAY_DEPTH:
            raise self.fail(f"{what} nests arrays more than {MAX_ARRAY_DEPTH} deep")
        kind, count = self.u32(f"element type of {what}"), self.u64(f"length of {what}")
        if kind in _SCALARS:
            width = struct.calcsize("<" + _SCALARS[kind])
            data = self.take(count * width, what)
            return list(struct.unpack(f"<{count}{_SCALARS[kind]}", data))
        if kind == _BOOL:
            return self.bools(count, what)
        if kind == _STRING:
            return self.string_array(count, what)
        # An inner array takes 12 bytes at least.
        if kind == _ARRAY and count * 12 <= self.size - self.at:
            return [self.value(_ARRAY, what, depth) for _ in range(count)]
        raise self.fail(f"{what} is an array of {count} values of type {kind}, which cannot be")

    def bools(self, count: int, what: str) -> list[bool]:
        data = self.take(count, what)
        if data.strip(b"\0\1"):
            raise self.fail(f"{what} is a bool that is neither 0 nor 1")
        return [byte == 1 for byte in data]

    def string_array(self, count: int, what: str) -> list[str]:
        # One tight loop over locals: vocabularies hold hundreds of thousands of strings.
        data, size, at = self.data, self.size, self.at
        length_at: Callable[..., tuple[int]] = struct.Struct("<Q").unpack_from
        if count * 8 > size - at:
            raise self.fail(f"{what} claims {count} strings, {size - at} bytes are left")
        strings: list[str] = []
        append = strings.append
        try:
            for _ in range(count):
                begin = at + 8
                at = begin + length_at(data, at)[0]
                if at > size:
                    raise self.fail(f"string {len(strings)} of {what} ends after the file")
                append(data[begin:at].decode())
        except struct.error:
            raise self.fail(f"string {len(strings)} of {what} begins after the file") from None
        except UnicodeDecodeError:
            raise self.fail(f"string {len(strings)} of {what} is not UTF-8") from None
        self.at = at
        return strings
