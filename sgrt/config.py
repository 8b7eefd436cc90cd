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
    "SGRT_API_KEY": "key that clients of `sgrt serve` must send, where no flag gives one",
    "SGRT_ADMIN_API_KEY": "key of the admin routes, where no flag gives one",
    "SGRT_OFFLINE": "anything but 0 forbids fetching models",
    "OPENAI_API_KEY": "key of the OpenAI backend, where it is given none",
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
        forced_runs: append text that a constraint leaves no choice about without sampling it,
            and compute its likely tokens ahead where they are not certain.
        grammar_cache: directory, writable by you alone, in which constraints that take long to
            compile are kept as text for the next start; None keeps nothing.
        policy: order of waiting sequences: "lpm" longest cached prefix first, with aging;
            "fcfs" first come, first served.
        seed: of the generator that seeds unseeded requests.
        chat_template: file with the jinja template of conversations; None takes the model's own.
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
    grammar_cache: str | os.PathLike[str] | None = None
    policy: Policy = "lpm"
    seed: int = 0
    chat_template: str | os.PathLike[str] | None = None

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
        for name in ("grammar_cache", "chat_template"):
            if not isinstance(getattr(self, name), (str, os.PathLike, type(None))):
                raise RequestError(f"{name}={getattr(self, name)!r}: must be a path or None")
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


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """How `sgrt serve` faces its clients.

    Args:
        host: address to bind; all but loopback need an API key.
        port: 0 takes a free one.
        api_keys: any of them opens all routes but the admin ones; none leaves them open.
        admin_api_key: opens the admin routes; without it they do not exist.
        insecure_no_auth: bind beyond loopback without a key.
        served_model_names: names that requests may use; none takes the model's own.
        max_queued_requests: most requests that wait for one of ``max_running``; beyond, 429.
        max_body_bytes: longest request body.
        receive_timeout_s: seconds for the whole of a request to arrive.
        send_timeout_s: seconds that a client may take nothing of an answer that waits for it.
        request_timeout_s: most seconds from a request's arrival to the end of its answer.
        drain_timeout_s: seconds that running requests have to end after SIGTERM.
        max_n, max_logprobs, max_stops, max_logit_bias: limits of one request.
        allowed_hosts: values of the Host header besides loopback names; "*" allows all.
        cors_origins: origins whose pages may call the server; "*" allows all.
        metrics_alias: also publish the metrics under the names of "vllm" or "sglang".
        metrics_no_auth: serve /metrics without a key where the other routes need one.
        shared_prefix_cache: one prefix cache for all keys instead of one each.
        default_max_tokens: of chat completions that give none; 0 goes to the end of the context.
        max_stored_bytes: of responses that are kept to be referred to; 0 keeps none.
        log_level: of the process. log_format: "text" or "json", one line per request.
        ssl_certfile, ssl_keyfile: serve TLS.
    """

    host: str = "127.0.0.1"
    port: int = 30000
    api_keys: tuple[str, ...] = ()
    admin_api_key: str | None = None
    insecure_no_auth: bool = False
    served_model_names: tuple[str, ...] = ()
    max_queued_requests: int = 1024
    max_body_bytes: int = 4 << 20
    receive_timeout_s: float = 15.0
    send_timeout_s: float = 60.0
    request_timeout_s: float = 600.0
    drain_timeout_s: float = 30.0
    max_n: int = 128
    max_logprobs: int = 20
    max_stops: int = 16
    max_logit_bias: int = 1024
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    metrics_alias: Literal["vllm", "sglang"] | None = None
    metrics_no_auth: bool = False
    shared_prefix_cache: bool = False
    default_max_tokens: int = 0
    max_stored_bytes: int = 64 << 20
    log_level: str = "info"
    log_format: Literal["text", "json"] = "text"
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None

    def __post_init__(self) -> None:
        for name in ("api_keys", "served_model_names", "allowed_hosts", "cors_origins"):
            value = getattr(self, name)
            if not isinstance(value, (tuple, list)) or not all(_is_text(v) for v in value):
                raise RequestError(f"{name}: must be a tuple of texts that are not empty")
        for name in ("insecure_no_auth", "metrics_no_auth", "shared_prefix_cache"):
            if not isinstance(getattr(self, name), bool):
                raise RequestError(f"{name}={getattr(self, name)!r}: must be True or False")
        for name in ("admin_api_key", "ssl_certfile", "ssl_keyfile"):
            if getattr(self, name) is not None and not _is_text(getattr(self, name)):
                raise RequestError(f"{name}: must be a text that is not empty, or None")
        if not isinstance(self.host, str):
            raise RequestError(f"host={self.host!r}: must be a text")
        for name, (low, high) in _SERVER_RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise RequestError(f"{name}={value!r}: must be a number")
            if isinstance(value, float) and not name.endswith("_s"):
                raise RequestError(f"{name}={value!r}: must be an integer")
            if not low <= value <= high:  # false for NaN too
                raise RequestError(f"{name}={value!r}: must be from {low} to {high}")
        for name, allowed in _SERVER_ONE_OF.items():
            if getattr(self, name) not in allowed:
                known = ", ".join(str(item) for item in allowed if item is not None)
                raise RequestError(f"{name}={getattr(self, name)!r}: must be one of {known}")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


_DAY = 86_400.0
_SERVER_RANGES: dict[str, tuple[float, float]] = {
    "port": (0, 65_535),
    "max_queued_requests": (0, 1_000_000),
    "max_body_bytes": (1, 1 << 30),
    "receive_timeout_s": (0.01, _DAY),
    "send_timeout_s": (0.01, _DAY),
    "request_timeout_s": (0.01, 7 * _DAY),
    "drain_timeout_s": (0, _DAY),
    "max_n": (1, 100_000),
    "max_logprobs": (0, 1_000),
    "max_stops": (0, 1_000),
    "max_logit_bias": (0, 1_000_000),
    "default_max_tokens": (0, 1 << 31),
    "max_stored_bytes": (0, 1 << 40),
}
_SERVER_ONE_OF: dict[str, tuple[str | None, ...]] = {
    "metrics_alias": (None, "vllm", "sglang"),
    "log_level": ("debug", "info", "warning", "error"),
    "log_format": ("text", "json"),
}
