"""``sgrt serve``: a model behind the HTTP interfaces of OpenAI, SGLang and vLLM."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from sgrt.cli import flags
from sgrt.cli.flags import Flag
from sgrt.config import EngineConfig, ServerConfig, env
from sgrt.errors import MissingPackage, RequestError

_SERVER = (
    Flag("--host", "host", "address to bind; all but loopback need a key"),
    Flag("--port", "port", "port to bind; 0 takes a free one", type=int),
    Flag("--api-key", "api_keys", "clients must send one of these keys", action="append"),
    Flag(
        "--admin-api-key", "admin_api_key", "opens the admin routes, which do not exist without it"
    ),
    Flag(
        "--insecure-no-auth",
        "insecure_no_auth",
        "allow other machines without a key",
        action="store_true",
    ),
    Flag(
        "--served-model-name",
        "served_model_names",
        "names that requests may use",
        nargs="+",
    ),
    Flag(
        "--max-queued-requests",
        "max_queued_requests",
        "most waiting requests; beyond, 429",
        type=int,
    ),
    Flag("--max-body-bytes", "max_body_bytes", "longest request body", type=int),
    Flag("--receive-timeout", "receive_timeout_s", "seconds for a request to arrive", type=float),
    Flag("--send-timeout", "send_timeout_s", "seconds to take more of an answer", type=float),
    Flag("--request-timeout", "request_timeout_s", "seconds for a request in all", type=float),
    Flag(
        "--drain-timeout", "drain_timeout_s", "seconds to end what runs after SIGTERM", type=float
    ),
    Flag("--default-max-tokens", "default_max_tokens", "of chats that give none", type=int),
    Flag("--max-n", "max_n", "most continuations of one request", type=int),
    Flag("--max-logprobs", "max_logprobs", "most log-probabilities beside a token", type=int),
    Flag("--max-stops", "max_stops", "most stop strings of a request", type=int),
    Flag("--max-logit-bias", "max_logit_bias", "most biased tokens of a request", type=int),
    Flag("--max-stored-bytes", "max_stored_bytes", "responses kept in memory", type=int),
    Flag("--allowed-host", "allowed_hosts", "further names in the Host header", action="append"),
    Flag("--cors-origin", "cors_origins", "origin whose pages may call", action="append"),
    Flag(
        "--metrics-alias",
        "metrics_alias",
        "also publish metrics under another server's names",
        choices=("vllm", "sglang"),
    ),
    Flag(
        "--metrics-no-auth",
        "metrics_no_auth",
        "serve /metrics without a key, as those servers do",
        action="store_true",
    ),
    Flag(
        "--shared-prefix-cache",
        "shared_prefix_cache",
        "one prefix cache for all keys",
        action="store_true",
    ),
    Flag(
        "--log-level",
        "log_level",
        "least important lines to print",
        choices=("debug", "info", "warning", "error"),
    ),
    Flag("--log-format", "log_format", "of the lines", choices=("text", "json")),
    Flag("--ssl-certfile", "ssl_certfile", "serve TLS with this certificate"),
    Flag("--ssl-keyfile", "ssl_keyfile", "key of the certificate"),
)
_KEY_FILES = (
    Flag("--api-key-file", "api_key_file", "file with a key per line (argv is visible to others)"),
    Flag("--admin-api-key-file", "admin_api_key_file", "file with the admin key"),
)
ALL = (*flags.ENGINE, *_SERVER, *_KEY_FILES)
_TUPLES = ("api_keys", "served_model_names", "allowed_hosts", "cors_origins")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, and one flag per setting; what is not given keeps its default."""
    flags.add_model(parser)
    parser.add_argument("--config", metavar="FILE", help="YAML file with flags as keys")
    flags.add_flags(parser, "engine", EngineConfig, flags.ENGINE)
    flags.add_flags(parser, "server", ServerConfig, _SERVER)
    keys = parser.add_argument_group("keys", "beside SGRT_API_KEY and SGRT_ADMIN_API_KEY")
    for flag in _KEY_FILES:
        keys.add_argument(
            *flag.names, dest=flag.field, metavar="FILE", default=argparse.SUPPRESS, help=flag.text
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
    """What file, environment and flags come to; flags win over the file, both over the environment.

    Raises:
        RequestError: a key or value that means nothing.
    """
    given = {} if args.config is None else flags.from_file(args.config, ALL)
    given |= flags.given(args, ALL)
    _read_keys(given)
    server = {f.name: given[f.name] for f in fields(ServerConfig) if f.name in given}
    for name in _TUPLES:
        if name in server:
            server[name] = tuple(server[name])
    return flags.engine_config(given), ServerConfig(**server)


def _read_keys(given: dict[str, Any]) -> None:
    """Put the keys of files and of the environment beside those of flags."""
    keys = list(given.get("api_keys", ()))
    if "api_key_file" in given:
        keys += _lines(given["api_key_file"], "api-key-file")
    if not keys and (key := env("SGRT_API_KEY")) is not None:
        keys = [key]
    if keys:
        given["api_keys"] = keys
    if "admin_api_key_file" in given:
        if "admin_api_key" in given:
            raise RequestError("two admin keys: --admin-api-key and --admin-api-key-file")
        found = _lines(given["admin_api_key_file"], "admin-api-key-file")
        if len(found) > 1:
            raise RequestError("--admin-api-key-file: there is one admin key, the file holds more")
        given["admin_api_key"] = found[0]
    if "admin_api_key" not in given and (key := env("SGRT_ADMIN_API_KEY")) is not None:
        given["admin_api_key"] = key


def _lines(name: str, flag: str) -> list[str]:
    """The keys of a file: its lines, empty ones left out."""
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"--{flag}: cannot read {name}: {error}") from error
    keys = [line.strip() for line in text.splitlines() if line.strip()]
    if not keys:
        raise RequestError(f"--{flag}: {name} holds no key")
    return keys
