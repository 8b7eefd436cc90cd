"""Configuration: what the user may set, what was decided, and every environment variable read.

`EngineConfig` holds what a user asks for; "auto" values stay open until `resolve` fixes them for
a device and a model. Nothing else in sgrt reads `os.environ`.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from sgrt.errors import RequestError

log = logging.getLogger("sgrt.config")

ENVIRONMENT = {
    "SGRT_HOME": "directory for models and caches (default: $XDG_CACHE_HOME/sgrt or ~/.cache/sgrt)",
    "SGRT_CPU_ISA": "native CPU kernels to load: avx512 | avx2 | neon | generic | none (default: best)",
    "SGRT_NUM_THREADS": "threads of the CPU kernels (default: the CPUs this process may use)",
    "SGRT_OFFLINE": "1 forbids fetching models",
}
"""The one table of environment variables, with their meaning."""


def env(name: str) -> str | None:
    """The value of a variable of `ENVIRONMENT`, or None where it is unset or empty."""
    if name not in ENVIRONMENT:
        raise KeyError(f"{name} is not in sgrt.config.ENVIRONMENT")
    return os.environ.get(name) or None


def home() -> Path:
    """Directory for models and caches; not created here."""
    explicit = env("SGRT_HOME")
    if explicit:
        return Path(explicit).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "sgrt"


Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "quantized", "float32", "bfloat16", "float16"]
Policy = Literal["lpm", "fcfs"]


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How one engine runs one model.

    Args:
        model: name known to `sgrt models`, directory, or GGUF file; None is the embedded default.
        device: "auto" takes cuda where torch sees one.
        precision: of weights and arithmetic. "quantized" keeps weights as in the file and uses
            int8 activations (CPU, native kernels); "float32" is the exact mode.
        num_threads: CPU threads of the forward pass; 0 takes those this process may use.
        page_size: tokens per KV page.
        kv_tokens: tokens the KV pool holds; 0 sizes it from free memory.
        context_len: most tokens in a sequence; 0 takes the model's own.
        max_running: most sequences in one step.
        max_step_tokens: most tokens in one step (prefill chunks and decode rows together).
        prefix_cache: keep computed prefixes for later sequences.
        forced_runs: append text that a constraint leaves no choice about without sampling it.
        policy: order of waiting sequences: "lpm" longest cached prefix first, with aging;
            "fcfs" first come, first served.
        seed: of the generator that seeds unseeded requests.
    """

    model: str | None = None
    device: Device = "auto"
    precision: Precision = "auto"
    num_threads: int = 0
    page_size: int = 16
    kv_tokens: int = 0
    context_len: int = 0
    max_running: int = 64
    max_step_tokens: int = 512
    prefix_cache: bool = True
    forced_runs: bool = True
    policy: Policy = "lpm"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in _AT_LEAST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise RequestError(f"{name}={value!r}: must be an integer >= {low}")
        for name in ("prefix_cache", "forced_runs"):
            if not isinstance(getattr(self, name), bool):
                raise RequestError(f"{name}={getattr(self, name)!r}: must be True or False")
        if self.model is not None and not isinstance(self.model, (str, os.PathLike)):
            raise RequestError(f"model={self.model!r}: must be a name or a path")
        for name, allowed in _ONE_OF.items():
            if getattr(self, name) not in allowed:
                raise RequestError(
                    f"{name}={getattr(self, name)!r}: must be one of {', '.join(allowed)}"
                )


_AT_LEAST = {
    "num_threads": 0,
    "page_size": 1,
    "kv_tokens": 0,
    "context_len": 0,
    "max_running": 1,
    "max_step_tokens": 1,
    "seed": 0,
}
_ONE_OF: dict[str, tuple[str, ...]] = {
    "device": ("auto", "cpu", "cuda"),
    "precision": ("auto", "quantized", "float32", "bfloat16", "float16"),
    "policy": ("lpm", "fcfs"),
}


def resolve(config: EngineConfig, **decided: Any) -> EngineConfig:
    """A copy with open values fixed; each automatic choice is logged once.

    Args:
        decided: value per field; taken only where the user left the field open.
    """
    changes = {}
    for f in fields(config):
        if f.name in decided and getattr(config, f.name) in ("auto", 0, None):
            changes[f.name] = decided[f.name]
            log.info("%s: %s (chosen)", f.name, decided[f.name])
    return replace(config, **changes)


def available_cpus() -> int:
    """CPUs that this process may use, or what SGRT_NUM_THREADS says."""
    explicit = env("SGRT_NUM_THREADS")
    if explicit:
        if not explicit.isdecimal() or int(explicit) < 1:
            raise RequestError(f"SGRT_NUM_THREADS={explicit!r}: must be an integer >= 1")
        return int(explicit)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
