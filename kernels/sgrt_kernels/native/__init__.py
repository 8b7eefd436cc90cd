"""The native CPU kernels: which library to load, and its functions through ctypes.

One library per instruction set lies beside this file. Calls release the interpreter lock.
Architecture invariant: this is the only place that loads shared libraries.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_ORDER = ("avx512", "avx2", "neon", "generic")
"""Best first; what the running CPU can do and everything behind it may be loaded."""


class Library:
    """A loaded library.

    Attributes:
        isa: instruction set that it was compiled for, as the library itself says.
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._cdll = ctypes.CDLL(str(path))
        self.isa: str = self.function("sgrt_isa", ctypes.c_char_p, [])().decode()
        self._set_num_threads = self.function("sgrt_set_num_threads", None, [ctypes.c_int])
        self._num_threads = self.function("sgrt_num_threads", ctypes.c_int, [])

    def function(self, name: str, restype: Any, argtypes: Sequence[Any]) -> Callable[..., Any]:
        """An exported function with its C types.

        Raises:
            AttributeError: the library exports no such function.
        """
        found = getattr(self._cdll, name)
        found.restype = restype
        found.argtypes = list(argtypes)
        return found  # type: ignore[no-any-return]

    @property
    def num_threads(self) -> int:
        """Threads that a call may use."""
        return int(self._num_threads())

    def set_num_threads(self, n: int) -> None:
        """Let calls use n threads, the calling one included.

        Raises:
            ValueError: n < 1.
        """
        if n < 1:
            raise ValueError(f"num_threads={n}: must be >= 1")
        self._set_num_threads(n)

    def __repr__(self) -> str:
        return f"Library({self.isa})"


def available() -> tuple[str, ...]:
    """Instruction sets that a library exists for and that this CPU has, best first."""
    best = _best_isa()
    if best is None:
        return ()
    usable = _ORDER[_ORDER.index(best) :]
    return tuple(isa for isa in usable if _path(isa).exists())


def load(isa: str | None = None) -> Library | None:
    """The library for an instruction set.

    Args:
        isa: "avx512", "avx2", "neon" or "generic"; "none" for no library; None for the best one.

    Returns:
        None for "none", and for None where no library was built.

    Raises:
        ValueError: this instruction set is unknown, not built or not supported by this CPU.
    """
    if isa == "none":
        return None
    choices = available()
    if isa is None:
        return _open(choices[0]) if choices else None
    if isa not in choices:
        raise ValueError(
            f"no native kernels for {isa!r} here; available: {', '.join((*choices, 'none'))}"
        )
    return _open(isa)


def _path(isa: str) -> Path:
    return Path(__file__).with_name(f"libsgrt_{isa}.so")


@functools.cache
def _open(isa: str) -> Library:
    return Library(_path(isa))


@functools.cache
def _best_isa() -> str | None:
    """What this CPU can do, asked of the library that runs anywhere; None where it is missing."""
    if not _path("generic").exists():
        return None
    probe = _open("generic").function("sgrt_best_isa", ctypes.c_char_p, [])
    return str(probe().decode())
