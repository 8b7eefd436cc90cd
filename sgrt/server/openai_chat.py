"""``/v1/chat/completions``."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sgrt.core import GenerateResult, TokenEvent, TokenLogprob
from sgrt.server.failures import bad_request
from sgrt.server.follow import Follower, merged
from sgrt.server.held import held_to
from sgrt.server.http import Answer, Call, EventStream, encode, sse
from sgrt.server.messages import begins_answer, chat_prompt, read_messages
from sgrt.server.service import Job, Service
from sgrt.server.tokens import Spell, by_id, chat_logprob, ended_by, shown
from sgrt.server.tools import CallReader, Piece, ToolUse, read_tools
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


class ChatRequest(Labels, kw_only=True, forbid_unknown_fields=True):
    """The body; every field has an effect, or only the values that are true here pass."""

    messages: list[Any]
    model: str | None = None
    max_completion_tokens: int | None = None
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    modalities: list[str] | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None


_SPELLING = {"max_tokens": "max_completion_tokens", "logprobs": "top_logprobs"}


def _check_fixed(wire: ChatRequest) -> None:
    if wire.skip_special_tokens is False:
        raise bad_request(
            "skip_special_tokens=false: texts have no special tokens here", "skip_special_tokens"
        )
    if wire.include_stop_str_in_output:
        raise bad_request(
            "include_stop_str_in_output=true is not supported", "include_stop_str_in_output"
        )
    if wire.modalities not in (None, ["text"]):
        raise bad_request("modalities: this model writes text only", "modalities")
    if wire.reasoning_effort not in (None, "none"):
        raise bad_request("reasoning_effort: this model does not reason apart", "reasoning_effort")
    check_logprobs_by_id(wire, asked=bool(wire.logprobs))
    if wire.verbosity not in (None, "medium"):
        raise bad_request("verbosity: this model has no such setting", "verbosity")
    check_stream_options(wire.stream_options, wire.stream)


@dataclass(frozen=True)
class Chat:
    """A request that has been understood."""

    job: Job
    use: ToolUse
    model: str
    stream: bool
    usage: bool
    continuous_usage: bool
    token_ids: bool
    spell: Spell
    name: str
    id: str
    created: int = field(default_factory=lambda: int(time.time()))


async def chat_completions(call: Call) -> Answer | EventStream:
    """``POST /v1/chat/completions``."""
    chat = await call.understood(ChatRequest, lambda wire: read_chat(wire, call))
    if chat.stream:
        return EventStream(stream_chat(call, chat))
    service = call.service
    async with service.admitted(), service.running(chat.job, chat.name) as followers:
        results = [await follower.result() for follower in followers]
    choices = [_choice(service, chat, i, result) for i, result in enumerate(results)]
    told_ids: dict[str, Any] = {}
    if chat.token_ids:
        told_ids["prompt_token_ids"] = await service.token_ids(chat.job)
        for choice, follower in zip(choices, followers, strict=True):
            choice["token_ids"] = follower.token_ids()
    return Answer(
        {
            "id": chat.id,
            "object": "chat.completion",
            "created": chat.created,
            "model": chat.model,
            "choices": choices,
            "usage": usage(results),
            "system_fingerprint": None,
            "service_tier": None,
            **told_ids,
        }
    )


def read_chat(wire: ChatRequest, call: Call) -> Chat:
    """Understand a request, or refuse it."""
    service = call.service
    check_labels(wire)
    _check_fixed(wire)
    model = service.model_named(wire.model)
    use = read_tools(wire.tools, wire.tool_choice, wire.parallel_tool_calls)
    prompt = chat_prompt(
        service.engine.chat_template,  # type: ignore[arg-type]
        read_messages(wire.messages),
        use,
        add_generation_prompt=begins_answer(wire),
        continue_final_message=bool(wire.continue_final_message),
        variables=wire.chat_template_kwargs,
    )
    held = held_to(service, wanted(wire), use)
    params = sampling_params(
        wire,
        service.config,
        _SPELLING,
        max_tokens=_max_tokens(wire, service),
        logprobs=_num_logprobs(wire, service),
    )
    if use.active and use.stop:
        params = params.override(stop=(*params.stop, *use.stop))
    name = request_name(wire, call.request_id)
    at_end, continuous = wants_usage(wire.stream_options)
    return Chat(
        Job(
            prompt=prompt,
            params=params,
            constraint=held.constraint if held else None,
            stop_regex=stop_patterns(wire, service.config),
            n=num_choices(wire, service.config),
            prompt_at="messages",
            constraint_at=held.at if held else None,
            spelling=_SPELLING,
            namespace=call.namespace + (wire.cache_salt or ""),
            priority=wire.priority or 0,
        ),
        use,
        model,
        stream=bool(wire.stream),
        usage=at_end,
        continuous_usage=continuous,
        token_ids=bool(wire.return_token_ids),
        spell=by_id if wire.return_tokens_as_token_ids else shown,
        name=name,
        id=wire.rid or f"chatcmpl-{name}",
    )


def _max_tokens(wire: ChatRequest, service: Service) -> int:
    given = {
        name: value
        for name in ("max_completion_tokens", "max_tokens")
        if (value := getattr(wire, name)) is not None
    }
    if len(set(given.values())) > 1:
        raise bad_request("max_tokens and max_completion_tokens differ", "max_tokens")
    for name, value in given.items():
        if value < 1:
            raise bad_request(f"{name}={value}: must be an integer >= 1", name)
    default = service.config.default_max_tokens or service.engine.context_len
    return next(iter(given.values()), default)


def _num_logprobs(wire: ChatRequest, service: Service) -> int | None:
    if wire.top_logprobs is not None:
        if not wire.logprobs:
            raise bad_request("top_logprobs needs logprobs=true", "top_logprobs")
        check_limit("top_logprobs", wire.top_logprobs, service.config.max_logprobs)
    return (wire.top_logprobs or 0) if wire.logprobs else None


# ---------------------------------------------------------------- the whole answer


def _choice(service: Service, chat: Chat, index: int, result: GenerateResult) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": result.text, "refusal": None}
    calls: list[dict[str, Any]] = []
    if chat.use.active:
        reader = CallReader()
        text = result.text + (_cut_end(chat, result))
        content, calls = _collect([*reader.feed(text), *reader.finish()], chat, index)
        message["content"] = content or None
        if calls:
            message["tool_calls"] = calls
    return {
        "index": index,
        "message": message,
        "logprobs": _logprobs(service, chat, result.logprobs),
        "finish_reason": finish_reason(chat.use, result, bool(calls)),
        **ended_by(result),
    }


def _cut_end(chat: Chat, result: GenerateResult) -> str:
    """The end of a call that a stop of ours has cut off."""
    return str(result.stop_match) if result.stop_match in chat.use.stop else ""


def _collect(pieces: list[Piece], chat: Chat, choice: int) -> tuple[str, list[dict[str, Any]]]:
    content = "".join(p.text for p in pieces if p.kind == "content")
    calls: list[dict[str, Any]] = []
    for piece in pieces:
        if piece.kind == "name":
            calls.append(_new_call(chat, choice, piece))
        elif piece.kind == "arguments":
            calls[piece.index]["function"]["arguments"] += piece.text
    return content, calls


def _new_call(chat: Chat, choice: int, piece: Piece) -> dict[str, Any]:
    return {
        "id": f"call_{chat.id[-24:]}_{choice}_{piece.index}",
        "type": "function",
        "function": {"name": piece.text, "arguments": ""},
    }


def finish_reason(use: ToolUse, result: GenerateResult, called: bool) -> str:
    """As OpenAI says it: a call that the client itself had named ends with "stop"."""
    if called and result.finish_reason == "stop" and use.mode != "named":
        return "tool_calls"
    return result.finish_reason


def _logprobs(
    service: Service, chat: Chat, tokens: tuple[TokenLogprob, ...] | None
) -> dict[str, Any] | None:
    if tokens is None:
        return None
    tokenizer = service.engine.tokenizer
    content = [chat_logprob(tokenizer, token, chat.spell) for token in tokens]
    return {"content": content, "refusal": None}


# ---------------------------------------------------------------- as events


async def stream_chat(call: Call, chat: Chat) -> AsyncIterator[bytes]:
    """The chunks of a chat completion."""
    service = call.service
    async with service.admitted(), service.running(chat.job, chat.name) as followers:
        told_prompt = chat.continuous_usage or chat.token_ids
        prompt_ids = await service.token_ids(chat.job) if told_prompt else []
        writers = [_Writer(service, chat, i, prompt_ids) for i in range(len(followers))]
        for writer in writers:
            yield writer.first()
        async for index, events in merged(followers):
            if frame := writers[index].frames(events):
                yield frame
            if followers[index].handle.done() and writers[index].is_behind(followers[index]):
                yield writers[index].last(followers[index].handle.result(0))
        results = [await follower.result() for follower in followers]
        for writer, result in zip(writers, results, strict=True):
            if not writer.ended:
                yield writer.last(result)
    if chat.usage:
        yield sse(encode({**writers[0].head, "choices": [], "usage": usage(results)}))


class _Writer:
    """Chunks of one choice. What does not change is encoded once."""

    def __init__(self, service: Service, chat: Chat, index: int, prompt_ids: Sequence[int]) -> None:
        self._service = service
        self._prompt_ids = prompt_ids
        self._chat = chat
        self._index = index
        self._reader = CallReader() if chat.use.active else None
        self._called = False
        self._num_taken = 0
        self._num_tokens = 0
        self.ended = False
        self.head: dict[str, Any] = {
            "id": chat.id,
            "object": "chat.completion.chunk",
            "created": chat.created,
            "model": chat.model,
            "system_fingerprint": None,
        }
        start = encode(self.head)[:-1]
        self._before = b"data: " + start + b',"choices":[{"index":%d,"delta":{"content":' % index
        self._after = b'},"logprobs":null,"finish_reason":null}]}\n\n'
        self._is_plain = not (
            self._reader
            or chat.job.params.logprobs is not None
            or chat.continuous_usage
            or chat.token_ids
        )

    def first(self) -> bytes:
        delta = {"role": "assistant", "content": None if self._reader else ""}
        more = {"prompt_token_ids": self._prompt_ids} if self._chat.token_ids else {}
        return self._frame(delta, more=more)

    def frames(self, events: Sequence[TokenEvent]) -> bytes:
        """The chunks for some events; b"" where there is nothing to show yet."""
        self._num_taken += len(events)
        if self._is_plain:  # nearly all streams; a few microseconds matter here
            text = events[0].text if len(events) == 1 else "".join([e.text for e in events])
            return self._before + encode(text) + self._after if text else b""
        self._num_tokens += sum(len(e.token_ids) for e in events)
        text = "".join(event.text for event in events)
        logprobs = tuple(p for event in events for p in event.logprobs)
        ids = [i for event in events for i in event.token_ids] if self._chat.token_ids else []
        if self._reader is None:
            shows = text or logprobs or ids
            return self._frame({"content": text}, logprobs, ids) if shows else b""
        pieces = self._reader.feed(text)
        frames = [self._frame(self._delta(piece)) for piece in pieces]
        if logprobs or ids:
            frames.append(self._frame({}, logprobs, ids))
        return b"".join(frames)

    def is_behind(self, follower: Follower) -> bool:
        """Whether all events have been written and the end has not."""
        return not self.ended and not follower.handle.events_from(self._num_taken)

    def last(self, result: GenerateResult) -> bytes:
        """The chunk with the reason of the end."""
        self.ended = True
        self._num_tokens = num_written(result)
        frames = []
        if self._reader is not None:
            rest = self._reader.feed(_cut_end(self._chat, result)) + self._reader.finish()
            frames = [self._frame(self._delta(piece)) for piece in rest]
        reason = finish_reason(self._chat.use, result, self._called)
        ids = [] if result.end_id is None else [result.end_id]
        frames.append(self._frame({}, ids=ids, reason=reason, ended=ended_by(result)))
        return b"".join(frames)

    def _delta(self, piece: Piece) -> dict[str, Any]:
        if piece.kind == "content":
            return {"content": piece.text}
        if piece.kind == "name":
            self._called = True
            call = _new_call(self._chat, self._index, piece)
            return {"tool_calls": [{"index": piece.index, **call}]}
        return {"tool_calls": [{"index": piece.index, "function": {"arguments": piece.text}}]}

    def _frame(
        self,
        delta: Mapping[str, Any],
        logprobs: tuple[TokenLogprob, ...] = (),
        ids: Sequence[int] = (),
        *,
        reason: str | None = None,
        ended: Mapping[str, str | int | None] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> bytes:
        choice: dict[str, Any] = {
            "index": self._index,
            "delta": delta,
            "logprobs": _logprobs(self._service, self._chat, logprobs) if logprobs else None,
            "finish_reason": reason,
            **(ended or {}),
        }
        if self._chat.token_ids:
            choice["token_ids"] = ids
        chunk = {**self.head, "choices": [choice], **(more or {})}
        if self._chat.continuous_usage:
            chunk["usage"] = usage_so_far(len(self._prompt_ids), self._num_tokens)
        return sse(encode(chunk))
