"""A small GGUF writer for tests: every byte can be chosen, so files can be wrong on purpose."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCALARS = {"u8": 0, "i8": 1, "u16": 2, "i16": 3, "u32": 4, "i32": 5, "f32": 6}
SCALARS |= {"u64": 10, "i64": 11, "f64": 12}
_CODES = dict(zip(SCALARS.values(), "BbHhIifQqd", strict=True))
BOOL, STRING, ARRAY = 7, 8, 9


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return u64(len(data)) + data


@dataclass
class Typed:
    """A value with its GGUF type spelled out: a key of `SCALARS`."""

    kind: str
    value: Any


def encode(value: Any) -> bytes:
    """Type number and value. Python ints are u32, floats f32; lists take their first's type."""
    return u32(type_of(value)) + payload(value)


def type_of(value: Any) -> int:
    if isinstance(value, Typed):
        return SCALARS[value.kind]
    kinds = {bool: BOOL, str: STRING, list: ARRAY, int: SCALARS["u32"], float: SCALARS["f32"]}
    return kinds[type(value)]


def payload(value: Any) -> bytes:
    if isinstance(value, list):
        kind = type_of(value[0]) if value else STRING
        return u32(kind) + u64(len(value)) + b"".join(map(payload, value))
    if isinstance(value, str):
        return text(value)
    if isinstance(value, bool):
        return bytes([value])
    number = value.value if isinstance(value, Typed) else value
    return struct.pack("<" + _CODES[type_of(value)], number)


@dataclass
class Tensor:
    """ggml dims (fastest first), type number and bytes; the offset may be forced."""

    dims: Sequence[int]
    kind: int
    data: bytes
    offset: int | None = None


@dataclass
class Gguf:
    """A file in parts."""

    metadata: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    version: int = 3
    magic: bytes = b"GGUF"
    alignment: int = 32
    extra_fields: Sequence[bytes] = ()
    extra_tensors: Sequence[bytes] = ()

    def to_bytes(self) -> bytes:
        fields = [text(key) + encode(value) for key, value in self.metadata.items()]
        fields += self.extra_fields
        entries, data = [], b""
        for name, tensor in self.tensors.items():
            data += bytes(-len(data) % self.alignment)
            offset = len(data) if tensor.offset is None else tensor.offset
            dims = b"".join(map(u64, tensor.dims))
            entries.append(
                text(name) + u32(len(tensor.dims)) + dims + u32(tensor.kind) + u64(offset)
            )
            data += tensor.data
        entries += self.extra_tensors
        head = self.magic + u32(self.version) + u64(len(entries)) + u64(len(fields))
        head += b"".join(fields) + b"".join(entries)
        return head + bytes(-len(head) % self.alignment) + data

    def write(self, path: Path) -> Path:
        path.write_bytes(self.to_bytes())
        return path
