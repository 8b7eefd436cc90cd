"""``/v1/completions``."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from sgrt.core import GenerateResult, Text, TokenEvent, TokenLogprob
from sgrt.server.failures import bad_request
from sgrt.server.follow import Follower, merged
from sgrt.server.http import Answer, Call, EventStream, encode, sse
from sgrt.server.service import Job, Service
from sgrt.server.tokens import Spell, by_id, ended_by, ending, final_text, floored, shown
from sgrt.server.usage import num_written, usage, usage_so_far
from sgrt.server.wanted import wanted
from sgrt.server.wire import (
    Labels,
    StreamOptions,
    check_labels,
    check_limit,
    check_logprobs_by_id,
    check_stream_options,
    num_choices,
    request_name,
    sampling_params,
    stop_patterns,
    wants_usage,
)

MAX_PROMPTS = 1024


class CompletionRequest(Labels, kw_only=True, forbid_unknown_fields=True):
    """The body. ``prompt`` is a text, token ids, or a list of either."""

    prompt: Any
    model: str | None = None
    echo: bool | None = None
    logprobs: int | None = None
    best_of: int | None = None
    suffix: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    add_special_tokens: bool | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None


_SPELLING: dict[str, str] = {}


@dataclass(frozen=True)
class Completion:
    """A request that has been understood."""

    jobs: tuple[Job, ...]
    model: str
    echo: bool
    keep_stop: bool
    stream: bool
    usage: bool
    continuous_usage: bool
    token_ids: bool
    spell: Spell
    name: str
    id: str
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def head(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
        }


async def completions(call: Call) -> Answer | EventStream:
    """``POST /v1/completions``."""
    request = await call.understood(CompletionRequest, lambda wire: _read(wire, call))
    if request.stream:
        return EventStream(_stream(call, request))
    async with call.service.admitted(), AsyncExitStack() as stack:
        followers = await _start(call, request, stack)
        echoes = [await _echo(call.service, job, request) for job in request.jobs]
        results = [[await f.result() for f in group] for group in followers]
    choices = [
        _choice(call.service, request, i, echoes[p], result)
        for i, (p, result) in enumerate((p, r) for p, group in enumerate(results) for r in group)
    ]
    if request.token_ids:
        for choice, (job, follower) in zip(choices, _each(request, followers), strict=True):
            choice["prompt_token_ids"] = await call.service.token_ids(job)
            choice["token_ids"] = follower.token_ids()
    return Answer({**request.head, "choices": choices, "usage": usage(*results)})


def _each(
    request: Completion, groups: Sequence[Sequence[Follower]]
) -> Iterator[tuple[Job, Follower]]:
    """Every choice with the prompt that it continues."""
    for job, group in zip(request.jobs, groups, strict=True):
        for follower in group:
            yield job, follower


def _read(wire: CompletionRequest, call: Call) -> Completion:
    service = call.service
    check_labels(wire)
    n = num_choices(wire, service.config)
    _check_fixed(wire, n)
    asked = wanted(wire)
    params = sampling_params(
        wire,
        service.config,
        _SPELLING,
        max_tokens=16 if wire.max_tokens is None else wire.max_tokens,
        logprobs=wire.logprobs,
    )
    prompts = _prompts(wire.prompt, service, bos=wire.add_special_tokens is not False)
    check_limit("prompt", len(prompts) * n, MAX_PROMPTS)
    jobs = tuple(
        Job(
            prompt=prompt,
            params=params,
            constraint=asked.constraint if asked else None,
            stop_regex=stop_patterns(wire, service.config),
            n=n,
            prompt_at="prompt" if len(prompts) == 1 else f"prompt[{i}]",
            constraint_at=asked.at if asked else None,
            spelling=_SPELLING,
            namespace=call.namespace + (wire.cache_salt or ""),
            priority=wire.priority or 0,
        )
        for i, prompt in enumerate(prompts)
    )
    name = request_name(wire, call.request_id)
    at_end, continuous = wants_usage(wire.stream_options)
    return Completion(
        jobs,
        service.model_named(wire.model),
        echo=bool(wire.echo),
        keep_stop=bool(wire.include_stop_str_in_output),
        stream=bool(wire.stream),
        usage=at_end,
        continuous_usage=continuous,
        token_ids=bool(wire.return_token_ids),
        spell=by_id if wire.return_tokens_as_token_ids else shown,
        name=name,
        id=wire.rid or f"cmpl-{name}",
    )


def _check_fixed(wire: CompletionRequest, n: int) -> None:
    if wire.best_of not in (None, n):
        raise bad_request("best_of: all drawn texts are returned; use n", "best_of", "unsupported")
    if wire.suffix:
        raise bad_request("suffix: this model does not fill in the middle", "suffix", "unsupported")
    if wire.skip_special_tokens is False:
        raise bad_request(
            "skip_special_tokens=false: texts have no special tokens here", "skip_special_tokens"
        )
    if wire.stop_regex and wire.include_stop_str_in_output:
        raise bad_request(
            "include_stop_str_in_output: a match of stop_regex is not kept",
            "include_stop_str_in_output",
            "unsupported",
        )
    check_stream_options(wire.stream_options, wire.stream)
    check_logprobs_by_id(wire, asked=wire.logprobs is not None)
    if wire.max_tokens == 0 and not wire.echo:
        raise bad_request("max_tokens=0 leaves nothing to return without echo", "max_tokens")
    if wire.echo and wire.stream and wire.logprobs is not None:
        raise bad_request("echo with logprobs cannot be streamed", "echo", "unsupported")


def _prompts(value: Any, service: Service, *, bos: bool) -> list[Any]:
    """Each prompt as runs of text or as token ids."""
    if isinstance(value, str) or _is_ids(value):
        return [_prompt(value, "prompt", bos=bos)]
    if not isinstance(value, list) or not value:
        raise bad_request("prompt must be a text, token ids, or a list of them", "prompt")
    return [_prompt(item, f"prompt[{i}]", bos=bos) for i, item in enumerate(value)]


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _prompt(value: Any, at: str, *, bos: bool) -> Any:
    if isinstance(value, str):
        if not value:
            raise bad_request(f"{at} is empty", at)
        return (Text(value),)
    if _is_ids(value):
        return value
    raise bad_request(f"{at} must be a text or token ids", at)


async def _start(call: Call, request: Completion, stack: AsyncExitStack) -> list[list[Follower]]:
    return [
        await stack.enter_async_context(call.service.running(job, request.name))
        for job in request.jobs
    ]


# ---------------------------------------------------------------- echoed prompts


@dataclass(frozen=True)
class Echo:
    """A prompt as the answer repeats it."""

    text: str = ""
    tokens: tuple[TokenLogprob | int, ...] = ()


async def _echo(service: Service, job: Job, request: Completion) -> Echo:
    if not request.echo:
        return Echo()
    ids = await service.token_ids(job)
    tokenizer = service.engine.tokenizer
    texts = [part.text for part in job.prompt if isinstance(part, Text)]
    text = "".join(texts) if texts else tokenizer.decode(ids)
    if job.params.logprobs is None:
        return Echo(text)
    scored = await service.prompt_logprobs(ids, 0, job.params.logprobs, job.namespace)
    return Echo(text, (ids[0], *scored))


def _choice(
    service: Service, request: Completion, index: int, echo: Echo, result: GenerateResult
) -> dict[str, Any]:
    logprobs = None
    if result.logprobs is not None:
        logprobs = _logprobs(service, request, (*echo.tokens, *result.logprobs))
    return {
        "index": index,
        "text": echo.text + final_text(result, keep_stop=request.keep_stop),
        "logprobs": logprobs,
        "finish_reason": result.finish_reason,
        **ended_by(result),
    }


def _logprobs(
    service: Service,
    request: Completion,
    tokens: Sequence[TokenLogprob | int],
    offset: int = 0,
) -> dict[str, Any]:
    """Parallel lists; a plain id has no logprob (nothing stands before it)."""
    tokenizer = service.engine.tokenizer
    texts: list[str] = []
    values: list[float | None] = []
    top: list[dict[str, float] | None] = []
    offsets: list[int] = []
    for token in tokens:
        token_id = token if isinstance(token, int) else token.token_id
        texts.append(request.spell(tokenizer, token_id))
        offsets.append(offset)
        offset += len(tokenizer.token_bytes(token_id).decode(errors="replace"))
        if isinstance(token, int):
            values.append(None)
            top.append(None)
            continue
        values.append(floored(token.logprob))
        best = {request.spell(tokenizer, i): floored(p) for i, p in token.top}
        top.append({texts[-1]: floored(token.logprob), **best})  # its own first, as vLLM has it
    return {"tokens": texts, "token_logprobs": values, "top_logprobs": top, "text_offset": offsets}


# ---------------------------------------------------------------- as events


async def _stream(call: Call, request: Completion) -> AsyncIterator[bytes]:
    service = call.service
    async with service.admitted(), AsyncExitStack() as stack:
        groups = await _start(call, request, stack)
        followers = [f for group in groups for f in group]
        writers = await _writers(service, request, groups)
        if request.echo:
            for writer in writers:
                yield writer.frame((await _echo(service, writer.job, request)).text)
        async for index, events in merged(followers):
            if frame := writers[index].events(events):
                yield frame
        results = [[await f.result() for f in group] for group in groups]
        flat = [result for group in results for result in group]
        for writer, result in zip(writers, flat, strict=True):
            yield writer.last(result)
    if request.usage:
        yield sse(encode({**request.head, "choices": [], "usage": usage(*results)}))


async def _writers(
    service: Service, request: Completion, groups: list[list[Follower]]
) -> list[_Writer]:
    writers: list[_Writer] = []
    for job, group in zip(request.jobs, groups, strict=True):
        told = request.continuous_usage or request.token_ids
        prompt_ids = await service.token_ids(job) if told else []
        for _ in group:
            writers.append(_Writer(service, request, job, len(writers), prompt_ids))
    return writers


@dataclass
class _Writer:
    """Chunks of one choice."""

    service: Service
    request: Completion
    job: Job
    index: int
    prompt_ids: Sequence[int]
    num_tokens: int = 0
    offset: int = 0
    has_begun: bool = False

    def events(self, events: Sequence[TokenEvent]) -> bytes:
        """The chunk for some events; b"" where there is nothing to show yet."""
        text = "".join(event.text for event in events)
        tokens = [token for event in events for token in event.logprobs]
        ids = [i for event in events for i in event.token_ids]
        self.num_tokens += len(ids)
        if not text and not tokens and not (ids and self.request.token_ids):
            return b""
        logprobs = None
        if tokens:
            logprobs = _logprobs(self.service, self.request, tokens, self.offset)
        self.offset += len(text)
        return self.frame(text, logprobs, ids)

    def last(self, result: GenerateResult) -> bytes:
        """The chunk with the reason of the end."""
        self.num_tokens = num_written(result)
        rest = ending(result, keep_stop=self.request.keep_stop)
        ids = [] if result.end_id is None else [result.end_id]
        return self.frame(rest, ids=ids, reason=result.finish_reason, ended=ended_by(result))

    def frame(
        self,
        text: str,
        logprobs: dict[str, Any] | None = None,
        ids: Sequence[int] = (),
        *,
        reason: str | None = None,
        ended: Mapping[str, str | int | None] | None = None,
    ) -> bytes:
        choice: dict[str, Any] = {
            "index": self.index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": reason,
            **(ended or {}),
        }
        if self.request.token_ids:
            choice["token_ids"] = ids
            if not self.has_begun:
                choice["prompt_token_ids"] = self.prompt_ids
        self.has_begun = True
        chunk: dict[str, Any] = {**self.request.head, "choices": [choice]}
        if self.request.continuous_usage:
            chunk["usage"] = usage_so_far(len(self.prompt_ids), self.num_tokens)
        return sse(encode(chunk))
