"""``sgrt serve``: a model behind the HTTP interfaces of OpenAI, SGLang and vLLM."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from sgrt.config import EngineConfig, ServerConfig, env
from sgrt.errors import MissingPackage, RequestError


class _Flag:
    """One setting: its names on the command line, the field it sets, and its help."""

    def __init__(self, names: str, field: str, text: str, **options: Any) -> None:
        self.names = names.split()
        self.field = field
        self.text = text
        self.options = options


_ENGINE = (
    _Flag("--context-length --max-model-len", "context_len", "most tokens of a request", type=int),
    _Flag(
        "--max-running-requests --max-num-seqs", "max_running", "most sequences in a step", type=int
    ),
    _Flag(
        "--max-step-tokens --chunked-prefill-size",
        "max_step_tokens",
        "most tokens in a step",
        type=int,
    ),
    _Flag("--max-total-tokens --kv-tokens", "kv_tokens", "tokens that the KV pool holds", type=int),
    _Flag("--page-size", "page_size", "tokens in a KV page", type=int),
    _Flag("--schedule-policy", "policy", "order of waiting requests", choices=("lpm", "fcfs")),
    _Flag("--device", "device", "where to run", choices=("auto", "cpu", "cuda")),
    _Flag(
        "--precision --dtype",
        "precision",
        "of weights and arithmetic",
        choices=("auto", "quantized", "float32", "bfloat16", "float16"),
    ),
    _Flag("--num-threads", "num_threads", "CPU threads of the model", type=int),
    _Flag("--random-seed", "seed", "seeds requests that give none", type=int),
    _Flag(
        "--disable-prefix-cache --disable-radix-cache",
        "prefix_cache",
        "compute every prompt anew",
        action="store_false",
    ),
    _Flag(
        "--disable-forced-runs",
        "forced_runs",
        "sample text that a constraint leaves no choice about",
        action="store_false",
    ),
)
_SERVER = (
    _Flag("--host", "host", "address to bind; all but loopback need a key"),
    _Flag("--port", "port", "port to bind; 0 takes a free one", type=int),
    _Flag("--api-key", "api_keys", "clients must send one of these keys", action="append"),
    _Flag(
        "--admin-api-key", "admin_api_key", "opens the admin routes, which do not exist without it"
    ),
    _Flag(
        "--insecure-no-auth",
        "insecure_no_auth",
        "allow other machines without a key",
        action="store_true",
    ),
    _Flag(
        "--served-model-name",
        "served_model_names",
        "names that requests may use",
        nargs="+",
    ),
    _Flag(
        "--max-queued-requests",
        "max_queued_requests",
        "most waiting requests; beyond, 429",
        type=int,
    ),
    _Flag("--max-body-bytes", "max_body_bytes", "longest request body", type=int),
    _Flag("--receive-timeout", "receive_timeout_s", "seconds for a request to arrive", type=float),
    _Flag("--request-timeout", "request_timeout_s", "seconds for a request in all", type=float),
    _Flag(
        "--drain-timeout", "drain_timeout_s", "seconds to end what runs after SIGTERM", type=float
    ),
    _Flag("--default-max-tokens", "default_max_tokens", "of chats that give none", type=int),
    _Flag("--allowed-host", "allowed_hosts", "further names in the Host header", action="append"),
    _Flag("--cors-origin", "cors_origins", "origin whose pages may call", action="append"),
    _Flag(
        "--metrics-alias",
        "metrics_alias",
        "also publish metrics under another server's names",
        choices=("vllm", "sglang"),
    ),
    _Flag(
        "--shared-prefix-cache",
        "shared_prefix_cache",
        "one prefix cache for all keys",
        action="store_true",
    ),
    _Flag(
        "--log-level",
        "log_level",
        "least important lines to print",
        choices=("debug", "info", "warning", "error"),
    ),
    _Flag("--log-format", "log_format", "of the lines", choices=("text", "json")),
    _Flag("--ssl-certfile", "ssl_certfile", "serve TLS with this certificate"),
    _Flag("--ssl-keyfile", "ssl_keyfile", "key of the certificate"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, and one flag per setting; what is not given keeps its default."""
    parser.add_argument("model", nargs="?", help="name, directory or GGUF file (default: embedded)")
    parser.add_argument("--model", "--model-path", dest="model_flag", help="the same as a flag")
    parser.add_argument("--config", metavar="FILE", help="YAML file with flags as keys")
    for title, kind, flags in (
        ("engine", EngineConfig, _ENGINE),
        ("server", ServerConfig, _SERVER),
    ):
        group = parser.add_argument_group(title)
        defaults = {f.name: f.default for f in fields(kind)}
        for flag in flags:
            default = defaults[flag.field]
            shown = "" if default in (None, (), True, False) else f" (default: {default})"
            group.add_argument(
                *flag.names,
                dest=flag.field,
                default=argparse.SUPPRESS,
                help=flag.text + shown,
                **flag.options,
            )


def run(args: argparse.Namespace) -> int:
    """Serve until a signal ends it."""
    engine, server = configs(args)
    try:
        from sgrt.server.run import serve
    except ModuleNotFoundError as error:
        raise MissingPackage(error, extra="serve") from error
    return serve(engine, server)


def configs(args: argparse.Namespace) -> tuple[EngineConfig, ServerConfig]:
    """What file, environment and flags come to; flags win.

    Raises:
        RequestError: a key or value that means nothing.
    """
    given = {} if args.config is None else _from_file(args.config)
    given |= {key: value for key, value in vars(args).items() if key in _FIELDS}
    models = [m for m in (args.model, args.model_flag) if m is not None]
    if len(models) > 1:
        raise RequestError(f"two models: {models[0]!r} and {models[1]!r}")
    if models:
        given["model"] = models[0]
    key = env("SGRT_API_KEY")
    if key is not None and "api_keys" not in given:
        given["api_keys"] = [key]
    engine = {f.name: given[f.name] for f in fields(EngineConfig) if f.name in given}
    server = {f.name: given[f.name] for f in fields(ServerConfig) if f.name in given}
    for name in ("api_keys", "served_model_names", "allowed_hosts", "cors_origins"):
        if name in server:
            server[name] = tuple(server[name])
    return EngineConfig(**engine), ServerConfig(**server)


_FIELDS = {flag.field for flag in (*_ENGINE, *_SERVER)}


def _from_file(name: str) -> dict[str, Any]:
    """Settings of a YAML file; keys are the long flags without dashes, ``model`` is one too."""
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise MissingPackage(error, extra="serve") from error
    try:
        value = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RequestError(f"cannot read {name}: {error}") from error
    if not isinstance(value, Mapping):
        raise RequestError(f"{name}: must hold keys and values")
    known = {n.removeprefix("--"): flag for flag in (*_ENGINE, *_SERVER) for n in flag.names}
    given: dict[str, Any] = {}
    for key, setting in value.items():
        spelled = str(key).replace("_", "-")
        if spelled in ("model", "model-path"):
            given["model"] = setting
        elif spelled not in known:
            raise RequestError(f"{name}: there is no setting {key!r}")
        else:
            given[known[spelled].field] = _file_value(name, key, known[spelled], setting)
    return given


def _file_value(name: str, key: object, flag: _Flag, value: Any) -> Any:
    """The value of a key, of the type that the flag would give it."""
    action = flag.options.get("action")
    if action in ("store_true", "store_false"):
        if not isinstance(value, bool):
            raise RequestError(f"{name}: {key} must be true or false")
        return value if action == "store_true" else not value
    if action == "append" or "nargs" in flag.options:
        return [str(item) for item in (value if isinstance(value, list) else [value])]
    kind = flag.options.get("type", str)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise RequestError(f"{name}: {key}={value!r} must be a {kind.__name__}")
    try:
        return kind(value)
    except ValueError:
        raise RequestError(f"{name}: {key}={value!r} must be a {kind.__name__}") from None
