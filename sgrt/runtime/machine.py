"""What this machine has for the engine to run on; for `sgrt doctor`."""

from __future__ import annotations

import torch

from sgrt import ops
from sgrt.errors import EngineError


def native_kernels() -> str | None:
    """Instruction set of the native CPU kernels that are loaded, or None without any.

    Raises:
        EngineError: there are some, and they cannot be loaded.
        RequestError: SGRT_CPU_ISA names what is not there.
    """
    try:
        library = ops.native_library()
    except OSError as error:
        raise EngineError(f"the native kernels cannot be loaded: {error}") from error
    return None if library is None else library.isa


def cuda_device() -> tuple[str, int, int] | None:
    """Name, free and total bytes of the CUDA device that torch sees, or None."""
    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    return torch.cuda.get_device_name(), free, total


def torch_version() -> str:
    """Of the installed torch, with what it was built for."""
    return str(torch.__version__)
