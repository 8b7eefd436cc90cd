"""Routes about the server itself: models, health, tokenizer, load, administration."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from importlib import metadata
from typing import Any, Literal

import msgspec

from sgrt.core import SamplingParams, Text
from sgrt.errors import SgrtError
from sgrt.runtime.assemble import some_text_id
from sgrt.server.body import decode
from sgrt.server.failures import ApiError, bad_request, from_error
from sgrt.server.http import Answer, Call
from sgrt.server.messages import begins_answer, chat_prompt, read_messages
from sgrt.server.service import Job, Service
from sgrt.server.tokens import shown
from sgrt.server.tools import read_tools


def version() -> str:
    """Of the installed package."""
    try:
        return metadata.version("sgrt")
    except metadata.PackageNotFoundError:
        return "0"


async def models(call: Call) -> Answer:
    """``GET /v1/models``."""
    return Answer({"object": "list", "data": [_model(call.service, n) for n in call.service.names]})


async def model(call: Call) -> Answer:
    """``GET /v1/models/{name}``."""
    name = call.service.model_named(call.path.removeprefix("/v1/models/"))
    return Answer(_model(call.service, name))


def _model(service: Service, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": int(service.started_at),
        "owned_by": "sgrt",
        "root": service.engine.name,
        "parent": None,
        "max_model_len": service.engine.context_len,
    }


async def health(call: Call) -> Answer:
    """``GET /health``: the process answers, and its engine has not died."""
    if call.service.has_died:
        raise ApiError(503, "the engine has stopped", code="engine_stopped")
    return Answer(b"", media="text/plain")


async def ready(call: Call) -> Answer:
    """``GET /ready``: new requests are taken."""
    if call.service.is_draining or call.service.engine.is_closed:  # raises while it loads
        raise ApiError(503, "not ready", code="draining", headers={"retry-after": "5"})
    return Answer({"status": "ready"})


async def health_generate(call: Call) -> Answer:
    """``GET /health_generate``: the model produces a token."""
    params = SamplingParams(max_tokens=1, temperature=0, ignore_eos=True)
    job = Job(prompt=[_some_token(call.service)], params=params, timeout_s=20)
    async with call.service.running(job, call.request_id) as (follower,):
        await follower.result()
    return Answer(b"", media="text/plain")


def _some_token(service: Service) -> int:
    return int(service.engine.tokenizer.encode("a")[0])


async def show_version(call: Call) -> Answer:
    """``GET /version``."""
    return Answer({"version": version()})


async def metrics(call: Call) -> Answer:
    """``GET /metrics``: for Prometheus, in its own form or in that of OpenMetrics."""
    accept = call.headers.get(b"accept", b"").decode("latin-1")
    text, media = call.service.metrics.render(accept)
    return Answer(text, media=media)


async def model_info(call: Call) -> Answer:
    """``GET /model_info``: what SGLang's clients ask for."""
    engine = call.service.engine
    return Answer(
        {
            "model_path": call.service.names[0],
            "tokenizer_path": call.service.names[0],
            "is_generation": True,
            "preferred_sampling_params": None,
            "weight_version": "default",
            "has_image_understanding": False,
            "has_audio_understanding": False,
            "model_type": "llama",
            "max_context_length": engine.context_len,
            "vocab_size": engine.tokenizer.vocab_size,
        }
    )


async def server_info(call: Call) -> Answer:
    """``GET /server_info``: settings and counters, without keys."""
    service = call.service
    config = service.engine.config
    return Answer(
        {
            "version": version(),
            "model_path": service.names[0],
            "served_model_name": service.names[0],
            "served_model_names": list(service.names),
            "context_length": service.engine.context_len,
            "max_total_num_tokens": int(service.engine.stats()["pages"]) * config.page_size,
            "max_running_requests": config.max_running,
            "max_queued_requests": service.config.max_queued_requests,
            "page_size": config.page_size,
            "device": config.device,
            "schedule_policy": config.policy,
            # SGLang's word for: a seed decides a text, whatever runs beside it
            "enable_deterministic_inference": config.device != "cuda",
            "incremental_streaming_output": False,
            # what `sampling_params` of /generate takes beside SGLang's words: `native.Own`, seeds
            # of 64 bits, patterns that stop
            "sgrt": ["constraint", "finish", "logprobs_mode", "seed", "stop_regex"],
            "status": "draining" if service.is_draining else "ready",
            "uptime_s": round(time.time() - service.started_at, 3),
            "internal_states": [dict(service.engine.stats())],
        }
    )


async def loads(call: Call) -> Answer:
    """``GET /v1/loads``: what routers balance on."""
    service = call.service
    stats = service.engine.stats()
    used = stats["pages"] - stats["pages_free"] - stats["pages_cached"]
    load = {
        "dp_rank": 0,
        "num_running_reqs": int(stats["running"]),
        "num_waiting_reqs": int(stats["waiting"]),
        "num_total_reqs": service.num_running,
        "num_used_tokens": int(used) * service.engine.config.page_size,
        "max_total_num_tokens": int(stats["pages"]) * service.engine.config.page_size,
        "token_usage": round(used / stats["pages"], 6),
        "cache_hit_rate": round(stats["cache_hit_rate"], 6),
        "max_running_requests": service.engine.config.max_running,
    }
    return Answer({"timestamp": time.time(), "dp_rank_count": 1, "loads": [load]})


# ---------------------------------------------------------------- tokenizer


class TokenizeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """vLLM's and SGLang's spelling in one.

    Args:
        prompt: one text or several; spellings of special tokens are those tokens.
        parts: in place of a prompt, one text in parts, each with whether it may spell special
            tokens; what a user typed may not.
        messages: in place of a prompt, a conversation as `/v1/chat/completions` takes it, with
            the four fields behind it.
        return_token_strs: tell the text of each token, too.
        after: the token that stands before, or "text" for any that is no special one; matters to
            tokenizers that put a space before a text. None: nothing does.
    """

    prompt: str | list[str] | None = None
    parts: list[tuple[str, bool]] | None = None
    messages: list[Any] | None = None
    tools: list[Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    model: str | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    after: int | Literal["text"] | None = None


class DetokenizeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Args: tokens: one text's, or several."""

    tokens: list[Any]
    model: str | None = None
    skip_special_tokens: bool | None = None


async def tokenize(call: Call) -> Answer:
    """``POST /tokenize``."""
    wire = decode(call.json(), TokenizeRequest)
    service = call.service
    service.model_named(wire.model)
    texts = _texts(wire, service)
    tokenizer = service.engine.tokenizer
    after_id = some_text_id(tokenizer) if wire.after == "text" else wire.after

    def encode(parts: Sequence[Text]) -> list[int]:
        ids: list[int] = tokenizer.encode_parts(parts, after_id=after_id)
        return ids if wire.add_special_tokens is False else list(tokenizer.with_bos(ids))

    try:
        tokens = await service.aside(lambda: [encode(parts) for parts in texts])
    except SgrtError as error:
        raise from_error(error, param="prompt") from error
    told: dict[str, Any] = {"tokens": tokens, "count": [len(ids) for ids in tokens]}
    if wire.return_token_strs:
        told["token_strs"] = [[shown(tokenizer, i) for i in ids] for ids in tokens]
    else:
        told["token_strs"] = [None] * len(tokens)
    if not isinstance(wire.prompt, list):
        told = {name: value[0] for name, value in told.items()}
    return Answer({**told, "max_model_len": service.engine.context_len})


_OF_MESSAGES = ("tools", "add_generation_prompt", "continue_final_message", "chat_template_kwargs")


def _texts(wire: TokenizeRequest, service: Service) -> list[Sequence[Text]]:
    """What is to be tokenized, each in runs."""
    given = [name for name in ("prompt", "parts", "messages") if getattr(wire, name) is not None]
    if len(given) != 1:
        at = given[-1] if given else "prompt"
        raise bad_request("either prompt, parts or messages must be given", at)
    if wire.messages is not None:
        return [_conversation(wire, service)]
    for name in _OF_MESSAGES:
        if getattr(wire, name) is not None:
            raise bad_request(f"{name} needs messages", name)
    if wire.parts is not None:
        return [[Text(text, special) for text, special in wire.parts]]
    texts = wire.prompt if isinstance(wire.prompt, list) else [wire.prompt or ""]
    return [[Text(text, special=True)] for text in texts]


def _conversation(wire: TokenizeRequest, service: Service) -> Sequence[Text]:
    return chat_prompt(
        service.engine.chat_template,  # type: ignore[arg-type]
        read_messages(wire.messages or []),
        read_tools(wire.tools, None, None),
        add_generation_prompt=begins_answer(wire),
        continue_final_message=bool(wire.continue_final_message),
        variables=wire.chat_template_kwargs,
    )


async def detokenize(call: Call) -> Answer:
    """``POST /detokenize``; ``prompt`` and ``text`` are the same, for vLLM's and SGLang's clients."""
    wire = decode(call.json(), DetokenizeRequest)
    call.service.model_named(wire.model)
    skip_special = wire.skip_special_tokens is not False
    if wire.tokens and all(isinstance(item, list) for item in wire.tokens):
        value: Any = [_decode(call.service, ids, skip_special) for ids in wire.tokens]
    else:
        value = _decode(call.service, wire.tokens, skip_special)
    return Answer({"prompt": value, "text": value})


def _decode(service: Service, ids: list[Any], skip_special: bool) -> str:
    tokenizer = service.engine.tokenizer
    for i in ids:
        if not isinstance(i, int) or isinstance(i, bool) or not 0 <= i < tokenizer.vocab_size:
            raise bad_request(f"tokens: {i!r:.80} is not a token id", "tokens")
    if skip_special:
        return str(tokenizer.decode(ids))
    runs = itertools.groupby(ids, key=lambda i: i in tokenizer.special_ids)
    return "".join(
        "".join(map(tokenizer.piece, run)) if special else tokenizer.decode(list(run))
        for special, run in runs
    )


async def tokenizer_info(call: Call) -> Answer:
    """``GET /tokenizer_info``: what lm-eval's remote tokenizer asks for."""
    engine = call.service.engine
    tokenizer = engine.tokenizer

    def spelled(token_id: int | None) -> str | None:
        return None if token_id is None else str(tokenizer.piece(token_id))

    template = engine.chat_template
    return Answer(
        {
            "tokenizer_class": type(tokenizer).__name__,
            "eos_token": spelled(min(tokenizer.eos_ids)),
            "bos_token": spelled(tokenizer.bos_id),
            "pad_token": spelled(min(tokenizer.eos_ids)),
            "chat_template": getattr(template, "source", None),
            "tokenizes_parts": True,
            "tokenizes_after": True,
            "model_max_length": engine.context_len,
            "vocab_size": tokenizer.vocab_size,
        }
    )


# ---------------------------------------------------------------- administration


class AbortRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Args: rid: of the request; abort_all: every request; abort_message: what its reader is told."""

    rid: str | None = None
    abort_all: bool | None = None
    abort_message: str | None = None


async def abort_request(call: Call) -> Answer:
    """``POST /abort_request``: ends a request of the caller's own; ends all with the admin key."""
    wire = decode(call.json(), AbortRequest)
    if not wire.rid and not wire.abort_all:
        raise bad_request("the field 'rid' is required", "rid", "missing_field")
    if wire.rid and wire.abort_all:
        raise bad_request("rid names one request, abort_all means every one", "abort_all")
    aborted = call.service.abort(wire.rid or "", wire.abort_message)
    return Answer({"success": True, "aborted": aborted})


async def flush_cache(call: Call) -> Answer:
    """``POST /flush_cache``: forget the cached prefixes that nobody uses.

    ``timeout`` in the URL: seconds to wait first until nothing runs.
    """
    end = time.monotonic() + _seconds(call.query.get("timeout", "0"))
    while call.service.num_running and time.monotonic() < end:
        await asyncio.sleep(0.02)
    tokens = await call.service.aside(call.service.engine.flush_cache)
    return Answer({"success": True, "flushed_tokens": tokens})


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 3600:  # false for NaN too
        raise bad_request(f"timeout={text!r:.80}: must be from 0 to 3600 seconds", "timeout")
    return seconds
