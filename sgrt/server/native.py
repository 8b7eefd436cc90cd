"""``/generate``: SGLang's own interface."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, fields
from typing import Any

import msgspec

from sgrt.core import GenerateResult, SamplingParams, Text, TokenEvent, TokenLogprob, Usage
from sgrt.errors import Cancelled
from sgrt.server.body import decode
from sgrt.server.failures import bad_request
from sgrt.server.follow import Follower, merged
from sgrt.server.http import Answer, Call, EventStream, encode, sse
from sgrt.server.service import Job, Service
from sgrt.server.tokens import ended_by, final_text
from sgrt.server.usage import num_written
from sgrt.server.wanted import wanted, wanted_json
from sgrt.server.wire import (
    Constrained,
    StreamOptions,
    check_limit,
    check_stream_options,
    num_choices,
    sampling_params,
    stop_patterns,
)

MAX_PROMPTS = 1024
_SPELLING = {
    **{field.name: f"sampling_params.{field.name}" for field in fields(SamplingParams)},
    "stop_regex": "sampling_params.stop_regex",
    "max_tokens": "sampling_params.max_new_tokens",
    "min_tokens": "sampling_params.min_new_tokens",
    "logprobs": "top_logprobs_num",
    "finish": "sampling_params.sgrt.finish",
    "logprobs_mode": "sampling_params.sgrt.logprobs_mode",
}
_DEFAULT_MAX_NEW_TOKENS = 128


class Own(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``sampling_params.sgrt``: what SGLang has no words for; its being there has the answer's
    ``meta_info`` tell as much. `GET /server_info` lists the fields under ``sgrt``.

    Args:
        constraint: any, as `sgrt.constraint_json` writes it.
        finish, logprobs_mode: as in `core.SamplingParams`.
    """

    constraint: Any = None
    finish: str | None = None
    logprobs_mode: str | None = None


class NativeSampling(Constrained, kw_only=True, forbid_unknown_fields=True):
    """``sampling_params``."""

    sgrt: Own | None = None

    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    sampling_seed: int | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    no_stop_trim: bool | None = None
    custom_params: dict[str, Any] | None = None
    stream_interval: int | None = None


class Unsupported(msgspec.Struct, kw_only=True):
    """What SGLang's clients send and this server does not do; what asks for nothing passes."""

    input_embeds: Any = None
    image_data: Any = None
    video_data: Any = None
    audio_data: Any = None
    modalities: Any = None
    lora_path: Any = None
    session_params: Any = None
    custom_logit_processor: Any = None
    token_ids_logprob: Any = None
    return_hidden_states: Any = None
    use_audio_in_video: Any = None
    return_sampling_mask: Any = None
    return_flat_raw_top_logprobs: Any = None
    return_flat_raw_output_top_logprobs: Any = None
    return_routed_experts: Any = None
    routed_experts_start_len: Any = None
    return_indexer_topk: Any = None
    background: Any = None
    require_reasoning: Any = None
    no_logs: Any = None
    return_bytes: Any = None
    return_entropy: Any = None
    return_prompt_token_ids: Any = None


class GenerateRequest(Unsupported, kw_only=True, forbid_unknown_fields=True):
    """The body. What holds a list per prompt in SGLang may do so here."""

    text: str | list[str] | None = None
    input_ids: list[Any] | None = None
    sampling_params: Any = None
    return_logprob: bool | list[bool] | None = None
    logprob_start_len: int | list[int] | None = None
    top_logprobs_num: int | list[int] | None = None
    return_text_in_logprobs: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    rid: str | list[str] | None = None
    model: str | None = None
    priority: int | None = None
    extra_key: str | None = None
    cache_salt: str | None = None
    log_metrics: bool | None = None


@dataclass(frozen=True)
class Prompt:
    """One prompt and how it is continued.

    Args:
        start: index of the first prompt token whose log-probability is told; None tells none.
        top: alternatives per token, where ``logprobs`` are told.
        interval: most tokens that a stream holds back.
        is_ours: tell what SGLang has no words for, too.
    """

    job: Job
    id: str
    logprobs: bool
    start: int | None
    top: int
    keep_stop: bool
    interval: int
    is_ours: bool


@dataclass(frozen=True)
class Request:
    """A request that has been understood."""

    prompts: tuple[Prompt, ...]
    many: bool
    stream: bool
    texts: bool
    began: float = field(default_factory=time.perf_counter)


async def generate(call: Call) -> Answer | EventStream:
    """``POST /generate``."""
    request = await call.understood(GenerateRequest, lambda wire: _read(wire, call))
    if request.stream:
        return EventStream(_stream(call, request))
    service = call.service
    async with service.admitted(), AsyncExitStack() as stack:
        groups = [
            (prompt, await stack.enter_async_context(service.running(prompt.job, prompt.id)))
            for prompt in request.prompts
        ]
        answers = []
        for prompt, followers in groups:
            told = await _input_logprobs(service, prompt, request)
            answers += [await _answer(service, request, prompt, f, told) for f in followers]
    return Answer(answers if request.many or len(answers) > 1 else answers[0])


# ---------------------------------------------------------------- reading


def _read(wire: GenerateRequest, call: Call) -> Request:
    service = call.service
    for name in Unsupported.__struct_fields__:
        if getattr(wire, name) not in (None, False, [], "", {}):
            raise bad_request(f"{name} is not supported", name, "unsupported")
    if wire.log_metrics is False:
        raise bad_request("log_metrics=false: every request counts", "log_metrics", "unsupported")
    check_stream_options(wire.stream_options, wire.stream)  # every event has its usage anyway
    service.model_named(wire.model)
    values, many, at = _prompts(wire)
    check_limit(at, len(values), MAX_PROMPTS)
    sampling = _each(wire.sampling_params or {}, len(values), "sampling_params", dict)
    logprobs = _each(wire.return_logprob or False, len(values), "return_logprob", bool)
    starts = _each(wire.logprob_start_len, len(values), "logprob_start_len", int, type(None))
    tops = _each(wire.top_logprobs_num or 0, len(values), "top_logprobs_num", int)
    ids = _ids(wire.rid, len(values), call.request_id)
    prompts = tuple(
        _prompt(
            call,
            wire,
            value,
            f"{at}[{i}]" if many else at,
            sampling[i],
            logprobs[i],
            starts[i],
            tops[i],
            ids[i],
        )
        for i, value in enumerate(values)
    )
    return Request(prompts, many, bool(wire.stream), bool(wire.return_text_in_logprobs))


def _prompts(wire: GenerateRequest) -> tuple[list[Any], bool, str]:
    """The prompts, whether they came as a list, and the field they came in."""
    if (wire.text is None) == (wire.input_ids is None):
        raise bad_request("give either text or input_ids", "text")
    if wire.text is not None:
        many = isinstance(wire.text, list)
        values: list[Any] = wire.text if isinstance(wire.text, list) else [wire.text]
        at = "text"
    else:
        assert wire.input_ids is not None
        many = bool(wire.input_ids) and isinstance(wire.input_ids[0], list)
        values, at = (wire.input_ids if many else [wire.input_ids]), "input_ids"
    if not values:
        raise bad_request(f"{at} is empty", at)
    return values, many, at


def _each(value: Any, count: int, at: str, *kinds: type) -> list[Any]:
    """One value per prompt."""
    values = value if isinstance(value, list) else [value] * count
    if len(values) != count:
        raise bad_request(f"{at}: {len(values)} values for {count} prompts", at)
    for i, item in enumerate(values):
        if type(item) not in kinds:
            place = f"{at}[{i}]" if isinstance(value, list) else at
            raise bad_request(f"{place} must be a {kinds[0].__name__}", place)
    return values


def _ids(rid: str | list[str] | None, count: int, request_id: str) -> list[str]:
    if isinstance(rid, list):
        if len(rid) != count:
            raise bad_request(f"rid: {len(rid)} values for {count} prompts", "rid")
        if len(set(rid)) < len(rid):
            raise bad_request("rid: two prompts have the same", "rid")
        return rid
    base = rid or request_id
    return [base] if count == 1 else [f"{base}_{i}" for i in range(count)]


def _prompt(
    call: Call,
    wire: GenerateRequest,
    value: Any,
    at: str,
    sampling: dict[str, Any],
    logprobs: bool,
    start: int | None,
    top: int,
    rid: str,
) -> Prompt:
    service = call.service
    params = decode(sampling, NativeSampling, at="sampling_params")
    _check_sampling(params)
    own = params.sgrt or Own()
    asked = wanted(params, "sampling_params")
    if own.constraint is not None:
        asked = wanted_json(own.constraint, "sampling_params.sgrt.constraint", asked)
    check_limit("top_logprobs_num", top, service.config.max_logprobs)
    if top and not logprobs:
        raise bad_request("top_logprobs_num needs return_logprob=true", "top_logprobs_num")
    if params.seed is not None and params.sampling_seed is not None:
        raise bad_request("seed and sampling_seed are the same", "sampling_params.sampling_seed")
    params.seed = params.sampling_seed if params.seed is None else params.seed
    # SGLang's clients name those of other models too; what does not exist is never drawn.
    exists = range(service.engine.tokenizer.vocab_size)
    params.stop_token_ids = [i for i in params.stop_token_ids or () if i in exists or i < 0]
    job = Job(
        prompt=_text_or_ids(value, at),
        params=sampling_params(
            params,
            service.config,
            _SPELLING,
            max_tokens=_DEFAULT_MAX_NEW_TOKENS
            if params.max_new_tokens is None
            else params.max_new_tokens,
            min_tokens=params.min_new_tokens,
            logprobs=top if logprobs else None,
            finish=own.finish,
            logprobs_mode=own.logprobs_mode,
        ),
        constraint=asked.constraint if asked else None,
        stop_regex=stop_patterns(params, service.config),
        n=num_choices(params, service.config),
        prompt_at=at,
        constraint_at=asked.at if asked else None,
        spelling=_SPELLING,
        namespace=call.namespace + (wire.extra_key or "") + (wire.cache_salt or ""),
        priority=wire.priority or 0,
    )
    if start is None:  # a request for no text asks for the logprobs of its prompt
        start = 0 if params.max_new_tokens == 0 else -1
    told_from = start if logprobs and start >= 0 else None
    interval = 1 if params.stream_interval is None else params.stream_interval
    is_ours = params.sgrt is not None
    return Prompt(job, rid, logprobs, told_from, top, bool(params.no_stop_trim), interval, is_ours)


def _check_sampling(params: NativeSampling) -> None:
    at = "sampling_params"
    if params.stop_regex and params.no_stop_trim:
        place = f"{at}.no_stop_trim"
        raise bad_request(f"{place}: a match of stop_regex is not kept", place, "unsupported")
    if params.skip_special_tokens is False:
        raise bad_request(
            f"{at}.skip_special_tokens=false: texts have no special tokens here",
            f"{at}.skip_special_tokens",
        )
    if params.custom_params:
        raise bad_request(
            f"{at}.custom_params is not supported", f"{at}.custom_params", "unsupported"
        )
    if params.stream_interval is not None and params.stream_interval < 1:
        place = f"{at}.stream_interval"
        raise bad_request(f"{place}={params.stream_interval}: must be an integer >= 1", place)
    for name in ("max_tokens", "min_tokens", "response_format", "structured_outputs"):
        if getattr(params, name) is not None:
            raise bad_request(f"unknown field '{at}.{name}'", f"{at}.{name}", "unknown_field")


def _text_or_ids(value: Any, at: str) -> Any:
    if isinstance(value, str):
        if not value:
            raise bad_request(f"{at} is empty", at)
        return (Text(value),)
    if isinstance(value, list) and value and all(type(i) is int for i in value):
        return value
    raise bad_request(f"{at} must be token ids", at)


# ---------------------------------------------------------------- answering


_Told = dict[str, Any]


async def _input_logprobs(service: Service, prompt: Prompt, request: Request) -> _Told:
    """Log-probabilities of the prompt's tokens. The very first has none.

    SGLang gives none for the first that is asked for either, wherever it stands; its own frontend
    (``select`` with two of its three methods) fails over that.
    """
    if not prompt.logprobs:
        return {}
    told: _Told = {"input_token_logprobs": [], "input_top_logprobs": []}
    if prompt.start is None:
        return told
    ids = await service.token_ids(prompt.job)
    start = min(prompt.start, len(ids))
    scored = await service.prompt_logprobs(ids, max(start - 1, 0), prompt.top, prompt.job.namespace)
    values = [_triple(service, request, t.logprob, t.token_id) for t in scored]
    tops = [_top(service, request, t) for t in scored]
    if start == 0:
        values, tops = [_triple(service, request, None, ids[0]), *values], [None, *tops]
    return {"input_token_logprobs": values, "input_top_logprobs": tops}


async def _answer(
    service: Service, request: Request, prompt: Prompt, follower: Follower, told: _Told
) -> dict[str, Any]:
    try:
        result = await follower.result()
    except Cancelled as error:
        num_prompt_tokens = len(await service.token_ids(prompt.job))
        return _aborted(prompt, request, follower, error, num_prompt_tokens)
    text = final_text(result, keep_stop=prompt.keep_stop)
    tokens = result.logprobs or ()
    return _item(
        service, request, prompt, text, result.token_ids, tokens, told, result.usage, result
    )


def _item(
    service: Service,
    request: Request,
    prompt: Prompt,
    text: str,
    output_ids: Sequence[int],
    tokens: Sequence[TokenLogprob],
    told: _Told,
    usage: Usage,
    result: GenerateResult | None = None,
) -> dict[str, Any]:
    """One answer, or what there is of it so far (``result`` is None)."""
    meta: dict[str, Any] = {
        "id": prompt.id,
        "finish_reason": None if result is None else _finish(result),
        "prompt_tokens": usage.prompt,
        "weight_version": "default",
        "completion_tokens": len(output_ids) if result is None else num_written(result),
        "cached_tokens": usage.cached,
        "e2e_latency": round(time.perf_counter() - request.began, 6),
    }
    if prompt.logprobs:
        meta |= told
        meta["output_token_logprobs"] = [
            _triple(service, request, t.logprob, t.token_id) for t in tokens
        ]
        meta["output_top_logprobs"] = [_top(service, request, t) for t in tokens]
        meta["output_token_logprobs_length"] = len(tokens)
    if prompt.is_ours and result is not None:
        meta["sgrt"] = {"is_complete": result.is_complete, "forced_tokens": usage.forced}
    return {"text": text, "output_ids": list(output_ids), "meta_info": meta}


def _finish(result: GenerateResult) -> dict[str, Any]:
    if result.finish_reason == "length":
        return {"type": "length", "length": len(result.token_ids)}
    return {"type": "stop", "matched": ended_by(result)["matched_stop"]}


def _aborted(
    prompt: Prompt, request: Request, follower: Follower, error: Cancelled, num_prompt_tokens: int
) -> dict[str, Any]:
    events = follower.handle.events_from(0)
    ids = [i for event in events for i in event.token_ids]
    return {
        "text": "".join(event.text for event in events),
        "output_ids": ids,
        "meta_info": {
            "id": prompt.id,
            "finish_reason": {"type": "abort", "message": str(error)},
            "prompt_tokens": num_prompt_tokens,
            "completion_tokens": len(ids),
            "cached_tokens": 0,
            "e2e_latency": round(time.perf_counter() - request.began, 6),
        },
    }


def _triple(service: Service, request: Request, logprob: float | None, token_id: int) -> list[Any]:
    text = service.engine.tokenizer.piece(token_id) if request.texts else None
    return [logprob, token_id, text]


def _top(service: Service, request: Request, token: TokenLogprob) -> list[list[Any]] | None:
    return [_triple(service, request, p, i) for i, p in token.top] or None


async def _stream(call: Call, request: Request) -> AsyncIterator[bytes]:
    """Answers so far, with the whole text each time; the last of each has a reason."""
    service = call.service
    async with service.admitted(), AsyncExitStack() as stack:
        flat: list[tuple[Prompt, Follower, _Told]] = []
        so_far: list[_SoFar] = []
        for prompt in request.prompts:
            followers = await stack.enter_async_context(service.running(prompt.job, prompt.id))
            told = await _input_logprobs(service, prompt, request)
            flat += [(prompt, follower, told) for follower in followers]
            so_far += [_SoFar(prompt.interval) for _ in followers]
        several = request.many or len(flat) > 1
        async for index, events in merged([f for _, f, _ in flat]):
            prompt, follower, told = flat[index]
            so_far[index].add(events)
            if so_far[index].is_due() and not follower.handle.done():
                item = so_far[index].item(service, request, prompt, told, follower)
                yield sse(encode({**item, "index": index} if several else item))
        for index, (prompt, follower, told) in enumerate(flat):
            item = await _answer(service, request, prompt, follower, told)
            yield sse(encode({**item, "index": index} if several else item))


@dataclass
class _SoFar:
    """What a stream has of one answer.

    Args:
        interval: tokens that are shown together; the first are shown at once.
    """

    interval: int
    text: str = ""
    ids: list[int] = field(default_factory=list)
    tokens: list[TokenLogprob] = field(default_factory=list)
    num_chars_shown: int = 0
    next_at: int = 1

    def add(self, events: Sequence[TokenEvent]) -> None:
        for event in events:
            self.text += event.text
            self.ids += event.token_ids
            self.tokens += event.logprobs

    def is_due(self) -> bool:
        """Whether there is text to show, and enough of it; then it counts as shown."""
        if len(self.ids) < self.next_at or len(self.text) == self.num_chars_shown:
            return False
        self.num_chars_shown = len(self.text)
        self.next_at = len(self.ids) + self.interval
        return True

    def item(
        self,
        service: Service,
        request: Request,
        prompt: Prompt,
        told: _Told,
        follower: Follower,
    ) -> dict[str, Any]:
        usage = follower.usage_so_far()
        return _item(service, request, prompt, self.text, self.ids, self.tokens, told, usage)
