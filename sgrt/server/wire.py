"""Fields that several interfaces share: sampling and constraints, in every spelling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from sgrt.config import ServerConfig
from sgrt.core import SamplingParams
from sgrt.errors import InvalidSamplingParams
from sgrt.server.failures import Spelling, bad_request, from_error


class Sampling(msgspec.Struct, kw_only=True):
    """How tokens are drawn, as OpenAI and vLLM spell it. None is "not given" everywhere."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_regex: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    n: int | None = None


class Constrained(Sampling, kw_only=True):
    """Fields that hold the text to something; at most one may be given."""

    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: dict[str, Any] | str | bool | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    guided_decoding_backend: str | None = None
    guided_whitespace_pattern: str | None = None
    regex: str | None = None
    ebnf: str | None = None
    json_schema: dict[str, Any] | str | bool | None = None
    structural_tag: dict[str, Any] | str | None = None


class Labels(Constrained, kw_only=True):
    """Fields that describe the caller or choose among services; each has one meaning here."""

    user: str | None = None
    safety_identifier: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    priority: int | None = None
    cache_salt: str | None = None
    rid: str | None = None
    request_id: str | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None


class StreamOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Args: include_usage: end with a chunk that holds the usage; continuous_usage_stats: every
    other chunk holds its choice's own, too."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


def wants_usage(options: StreamOptions | None) -> tuple[bool, bool]:
    """Whether a stream ends with the usage, and whether every chunk holds some (vLLM: if so)."""
    at_end = options is not None and bool(options.include_usage)
    return at_end, at_end and options is not None and bool(options.continuous_usage_stats)


def check_labels(wire: Labels) -> None:
    """Refuse what the labels promise and this server does not do."""
    if wire.store:
        raise bad_request("store=true: this server keeps no completions", "store", "unsupported")
    check_service_tier(wire.service_tier)
    check_caching(wire.prompt_cache_retention, wire.prompt_cache_options)


def check_service_tier(name: str | None) -> None:
    """Refuse a tier besides the only one."""
    if name not in (None, "auto", "default"):
        raise bad_request(f"service_tier={name!r:.80}: there is one tier", "service_tier")


def check_caching(retention: str | None, options: Mapping[str, Any] | None) -> None:
    """Refuse what a cache in memory, filled by every request, does not do."""
    if retention not in (None, "in_memory", "in-memory"):
        raise bad_request(
            "prompt_cache_retention: prefixes are cached in memory", "prompt_cache_retention"
        )
    for key, value in (options or {}).items():
        if value is not None and (key, value) != ("mode", "implicit"):
            place = f"prompt_cache_options.{key:.80}"
            raise bad_request(f"{place}: prefixes are cached as long as there is room", place)


def check_stream_options(wire: StreamOptions | None, stream: bool | None) -> None:
    """Refuse options of a stream where there is none, and padding."""
    if wire is None:
        return
    if not stream:
        raise bad_request("stream_options needs stream=true", "stream_options")
    if wire.include_obfuscation:
        place = "stream_options.include_obfuscation"
        raise bad_request(f"{place}=true: events are not padded", place, "unsupported")


def check_logprobs_by_id(wire: Labels, *, asked: bool) -> None:
    """Refuse to spell log-probabilities that nobody asks for."""
    if wire.return_tokens_as_token_ids and not asked:
        name = "return_tokens_as_token_ids"
        raise bad_request(f"{name} needs logprobs", name)


def request_name(wire: Labels, otherwise: str) -> str:
    """What a request is called, in its answer's id and by ``/abort_request``.

    Raises:
        ApiError: ``rid`` and ``request_id``, which are the same, differ.
    """
    names = [name for name in (wire.rid, wire.request_id) if name]
    if len(set(names)) > 1:
        raise bad_request("rid and request_id are the same, and differ", "request_id")
    return names[0] if names else otherwise


def sampling_params(
    wire: Sampling, config: ServerConfig, spelling: Spelling, *, max_tokens: int, **more: Any
) -> SamplingParams:
    """The sampling of a request.

    Args:
        spelling: what this interface calls the fields.
        max_tokens: what the request's own fields come to.
        more: fields of `SamplingParams` that this interface spells its own way.

    Raises:
        ApiError: a value outside its range or above the server's limit.
    """
    stops = [wire.stop] if isinstance(wire.stop, str) else wire.stop or []
    check_limit("stop", len(stops), config.max_stops)
    check_limit("logit_bias", len(wire.logit_bias or {}), config.max_logit_bias)
    check_limit("logprobs", more.get("logprobs") or 0, config.max_logprobs)
    given: dict[str, Any] = {
        "temperature": wire.temperature,
        "top_p": wire.top_p,
        "top_k": wire.top_k,
        "min_p": wire.min_p,
        "presence_penalty": wire.presence_penalty,
        "frequency_penalty": wire.frequency_penalty,
        "repetition_penalty": wire.repetition_penalty,
        "logit_bias": _biases(wire.logit_bias),
        "seed": _seed(wire.seed),
        "stop": tuple(stops),
        "stop_token_ids": tuple(wire.stop_token_ids or ()),
        "min_tokens": wire.min_tokens,
        "ignore_eos": wire.ignore_eos,
        "max_tokens": max_tokens,
        **more,
    }
    try:
        return SamplingParams(**{k: v for k, v in given.items() if v is not None})
    except InvalidSamplingParams as error:
        raise from_error(error, spelling=spelling) from None


def _seed(value: int | None) -> int | None:
    """As the sampler takes it; negative ones stand for the upper half."""
    return value if value is None or value >= 1 << 64 or value < -(1 << 63) else value % (1 << 64)


def _biases(wire: dict[str, float] | None) -> dict[int, float]:
    wrong = [key for key in wire or {} if not (key.isdecimal() and key.isascii())]
    if wrong:
        listed = ", ".join(f"{key!r:.80}" for key in wrong[:5])
        raise bad_request(f"logit_bias: not token ids: {listed}", "logit_bias")
    return {int(key): value for key, value in (wire or {}).items()}


def num_choices(wire: Sampling, config: ServerConfig) -> int:
    """How many continuations a request wants.

    Raises:
        ApiError: fewer than one, or above the server's limit.
    """
    n = 1 if wire.n is None else wire.n
    if n < 1:
        raise bad_request(f"n={n}: must be an integer >= 1", "n")
    check_limit("n", n, config.max_n)
    return n


def stop_patterns(wire: Sampling, config: ServerConfig) -> tuple[str, ...]:
    """``stop_regex``: patterns, the first match of one of which ends the text.

    Raises:
        ApiError: more than the server's limit.
    """
    given = wire.stop_regex
    patterns = (given,) if isinstance(given, str) else tuple(given or ())
    check_limit("stop_regex", len(patterns), config.max_stops)
    return patterns


def check_limit(param: str, value: int, limit: int) -> None:
    """Refuse more than the server allows."""
    if value > limit:
        raise bad_request(f"{param}: {value} is more than the limit of {limit}", param)
