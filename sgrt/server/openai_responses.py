"""``/v1/responses``."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sgrt.core import GenerateResult, SamplingParams, TokenLogprob
from sgrt.server.failures import ApiError, bad_request
from sgrt.server.follow import merged
from sgrt.server.held import held_to
from sgrt.server.http import Answer, Call, EventStream, encode
from sgrt.server.messages import chat_prompt, read_messages
from sgrt.server.responses_input import Items, input_items, read_input
from sgrt.server.service import CALLER, Job, Service
from sgrt.server.tokens import chat_logprob, ending
from sgrt.server.tools import CallReader, Piece, ToolUse, read_tools
from sgrt.server.wanted import Wanted, wanted_format
from sgrt.server.wire import (
    Sampling,
    StreamOptions,
    check_caching,
    check_limit,
    check_service_tier,
    check_stream_options,
    sampling_params,
    stop_patterns,
)


class ResponsesRequest(Sampling, kw_only=True, forbid_unknown_fields=True):
    """The body."""

    input: str | list[Any]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    text: dict[str, Any] | None = None
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    top_logprobs: int | None = None
    include: list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    truncation: str | None = None
    reasoning: dict[str, Any] | None = None
    service_tier: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    priority: int | None = None
    cache_salt: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    max_tool_calls: int | None = None


_LOGPROBS = "message.output_text.logprobs"
_INCLUDED = (
    _LOGPROBS,
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
)
"""What may be asked for; all but the first belong to items that no answer of this server has."""
_SPELLING = {"max_tokens": "max_output_tokens", "logprobs": "top_logprobs"}


@dataclass(frozen=True)
class Response:
    """A request that has been understood, and what its answer repeats of it.

    Args:
        items: of the conversation so far.
        owner: who may refer to the answer.
    """

    job: Job
    use: ToolUse
    repeated: Mapping[str, Any]
    items: list[Any]
    owner: str
    id: str
    created: int = field(default_factory=lambda: int(time.time()))

    def as_dict(
        self, output: list[dict[str, Any]], result: GenerateResult | None
    ) -> dict[str, Any]:
        """The response object; ``result`` is None while it is being written."""
        cut = result is not None and result.finish_reason == "length"
        status = "in_progress" if result is None else "incomplete" if cut else "completed"
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": output,
            **self.repeated,
            "usage": None if result is None else _usage(result),
        }

    def finished(
        self, service: Service, output: list[dict[str, Any]], result: GenerateResult
    ) -> dict[str, Any]:
        """The response object at the end; from now on it can be referred to, if it may be kept."""
        whole = self.as_dict(output, result)
        if self.repeated["store"]:
            service.stored.keep(self.owner, whole, self.items)
        return whole


async def responses(call: Call) -> Answer | EventStream:
    """``POST /v1/responses``."""
    owner = CALLER.get().name
    wire, response = await call.understood(ResponsesRequest, lambda w: (w, _read(w, call, owner)))
    if wire.stream:
        return EventStream(_stream(call, response), done=b"", error_frame=_error_frame)
    async with (
        call.service.admitted(),
        call.service.running(response.job, call.request_id) as (follower,),
    ):
        result = await follower.result()
    writer = _Writer(call.service, response)
    writer.feed(result.text, result.logprobs or ())
    writer.finish(result)
    return Answer(response.finished(call.service, writer.output, result))


async def stored_response(call: Call) -> Answer:
    """``GET /v1/responses/ID``: a response that is kept"""
    return Answer(call.service.stored.answer(CALLER.get().name, _named(call)))


async def delete_response(call: Call) -> Answer:
    """``DELETE /v1/responses/ID``: a kept response is forgotten"""
    call.service.stored.delete(CALLER.get().name, _named(call))
    return Answer({"id": _named(call), "object": "response", "deleted": True})


def _named(call: Call) -> str:
    return call.path.rpartition("/")[2]


# ---------------------------------------------------------------- reading


def _read(wire: ResponsesRequest, call: Call, owner: str) -> Response:
    service = call.service
    _check_fixed(wire)
    if wire.store and not service.stored.max_bytes:
        raise bad_request("store=true: this server keeps no responses", "store", "unsupported")
    use = read_tools(wire.tools, wire.tool_choice, wire.parallel_tool_calls, flat=True)
    items = _items(wire, service, owner)
    messages, places = _messages(wire, items)
    prompt = chat_prompt(
        service.engine.chat_template,  # type: ignore[arg-type]
        read_messages(messages, "input", places),
        use,
        at="input",
        variables=wire.chat_template_kwargs,
    )
    held = held_to(service, _format(wire.text), use)
    limit = wire.max_output_tokens
    if limit is not None and limit < 1:
        raise bad_request(
            f"max_output_tokens={limit}: must be an integer >= 1", "max_output_tokens"
        )
    check_limit("top_logprobs", wire.top_logprobs or 0, service.config.max_logprobs)
    wants_logprobs = _LOGPROBS in (wire.include or ())
    params = sampling_params(
        wire,
        service.config,
        _SPELLING,
        max_tokens=limit or service.config.default_max_tokens or service.engine.context_len,
        logprobs=(wire.top_logprobs or 0) if wants_logprobs else None,
    )
    if use.active and use.stop:
        params = params.override(stop=(*params.stop, *use.stop))
    job = Job(
        prompt=prompt,
        params=params,
        constraint=held.constraint if held else None,
        stop_regex=stop_patterns(wire, service.config),
        prompt_at="input",
        constraint_at=held.at if held else None,
        spelling=_SPELLING,
        namespace=call.namespace + (wire.cache_salt or ""),
        priority=wire.priority or 0,
    )
    repeated = _repeated(wire, service, params, use)
    kept = [item for item, _ in items] if repeated["store"] else []
    return Response(job, use, repeated, kept, owner, f"resp_{call.request_id}")


def _repeated(
    wire: ResponsesRequest, service: Service, params: SamplingParams, use: ToolUse
) -> dict[str, Any]:
    """What a response says again of its request."""
    return {
        "model": service.model_named(wire.model),
        "instructions": wire.instructions,
        "max_output_tokens": wire.max_output_tokens,
        "metadata": wire.metadata or {},
        "parallel_tool_calls": use.parallel,
        "previous_response_id": wire.previous_response_id or None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": service.stored.max_bytes > 0 and wire.store is not False,
        "temperature": params.temperature,
        "text": wire.text or {"format": {"type": "text"}},
        "tool_choice": wire.tool_choice or "auto",
        "tools": wire.tools or [],
        "top_logprobs": wire.top_logprobs or 0,
        "top_p": params.top_p,
        "truncation": "disabled",
        "user": wire.user,
    }


def _items(wire: ResponsesRequest, service: Service, owner: str) -> Items:
    """The conversation's items, those that the request refers to included, each with its place."""
    at = "previous_response_id"
    before = []
    if wire.previous_response_id:
        before = service.stored.conversation(owner, wire.previous_response_id)
    asked = input_items(wire.input, "input", lambda name, at: service.stored.item(owner, name, at))
    return [*((item, at) for item in before), *asked]


def _messages(wire: ResponsesRequest, items: Items) -> tuple[list[Any], list[str]]:
    """The conversation, and where in the body each message is from."""
    messages, places = read_input(items)
    if wire.instructions:
        messages.insert(0, {"role": "system", "content": wire.instructions})
        places.insert(0, "instructions")
    return messages, places


def _check_fixed(wire: ResponsesRequest) -> None:
    for name in ("background", "conversation", "prompt"):
        if getattr(wire, name):
            raise bad_request(f"{name} is not supported", name, "unsupported")
    if wire.max_tool_calls is not None:
        raise bad_request(
            "max_tool_calls limits built-in tools; there are none", "max_tool_calls", "unsupported"
        )
    for name in ("n", "max_tokens"):
        if getattr(wire, name) is not None:
            raise bad_request(f"unknown field {name!r}", name, "unknown_field")
    if wire.truncation not in (None, "disabled"):
        raise bad_request("truncation: a prompt is never cut here", "truncation", "unsupported")
    check_service_tier(wire.service_tier)
    check_caching(wire.prompt_cache_retention, wire.prompt_cache_options)
    check_stream_options(wire.stream_options, wire.stream)
    for name in ("include_usage", "continuous_usage_stats"):
        if getattr(wire.stream_options, name, None) is not None:
            place = f"stream_options.{name}"
            raise bad_request(f"unknown field '{place}'", place, "unknown_field")
    if any(v not in (None, "none") for v in (wire.reasoning or {}).values()):
        raise bad_request("reasoning: this model does not reason apart", "reasoning", "unsupported")
    for i, item in enumerate(wire.include or ()):
        if item not in _INCLUDED:
            raise bad_request(
                f"include: {item!r:.80} is not supported", f"include[{i}]", "unsupported"
            )
    if wire.top_logprobs and _LOGPROBS not in (wire.include or ()):
        raise bad_request(f"top_logprobs needs include=[{_LOGPROBS!r}]", "top_logprobs")


def _format(text: Mapping[str, Any] | None) -> Wanted | None:
    """What ``text.format`` holds the answer to."""
    for key in text or {}:
        if key not in ("format", "verbosity"):
            raise bad_request(f"unknown field 'text.{key:.80}'", f"text.{key:.80}", "unknown_field")
    if (text or {}).get("verbosity") not in (None, "medium"):
        raise bad_request("text.verbosity: this model has no such setting", "text.verbosity")
    given = (text or {}).get("format")
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise bad_request("text.format must be an object", "text.format")
    return wanted_format(given, "text.format")


# ---------------------------------------------------------------- writing


class _Writer:
    """Turns text into output items, and says which events that makes."""

    def __init__(self, service: Service, response: Response) -> None:
        self.output: list[dict[str, Any]] = []
        self._service = service
        self._response = response
        self._reader = CallReader() if response.use.active else None
        self._open: dict[str, Any] | None = None  # the item that is being written

    def feed(self, text: str, logprobs: tuple[TokenLogprob, ...] = ()) -> list[dict[str, Any]]:
        """Events for some more text."""
        if self._reader is None:
            pieces = [Piece("content", text)] if text or logprobs else []
        else:
            pieces = self._reader.feed(text)
        told = [chat_logprob(self._service.engine.tokenizer, token) for token in logprobs]
        return [event for piece in pieces for event in self._piece(piece, told)]

    def finish(self, result: GenerateResult) -> list[dict[str, Any]]:
        """Events of the end."""
        events: list[dict[str, Any]] = []
        if self._reader is not None:
            keep = result.stop_match in self._response.use.stop
            pieces = self._reader.feed(ending(result, keep_stop=keep)) + self._reader.finish()
            events = [event for piece in pieces for event in self._piece(piece, [])]
        if not self.output:
            events += self._open_message()
        status = "incomplete" if result.finish_reason == "length" else "completed"
        return events + self._close(status)

    def _piece(self, piece: Piece, logprobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if piece.kind == "name":
            return self._close() + self._open_call(piece)
        if piece.kind == "arguments":
            assert self._open is not None
            self._open["arguments"] += piece.text
            return [self._event("function_call_arguments.delta", delta=piece.text)]
        events = [] if self._is_open("message") else self._close() + self._open_message()
        assert self._open is not None
        part = self._open["content"][0]
        part["text"] += piece.text
        part["logprobs"] += logprobs
        event = self._event(
            "output_text.delta", delta=piece.text, content_index=0, logprobs=logprobs
        )
        return [*events, event]

    def _is_open(self, kind: str) -> bool:
        return self._open is not None and self._open["type"] == kind

    def _open_message(self) -> list[dict[str, Any]]:
        part: dict[str, Any] = {
            "type": "output_text",
            "text": "",
            "annotations": [],
            "logprobs": [],
        }
        item = {
            "type": "message",
            "id": self._id("msg"),
            "role": "assistant",
            "status": "in_progress",
        }
        events = self._add({**item, "content": []})
        assert self._open is not None
        self._open["content"] = [part]
        return [*events, self._event("content_part.added", content_index=0, part=dict(part))]

    def _open_call(self, piece: Piece) -> list[dict[str, Any]]:
        item = {
            "type": "function_call",
            "id": self._id("fc"),
            "call_id": self._id("call"),
            "name": piece.text,
            "arguments": "",
            "status": "in_progress",
        }
        return self._add(item)

    def _add(self, item: dict[str, Any]) -> list[dict[str, Any]]:
        self._open = item
        self.output.append(item)
        return [self._event("output_item.added", item=dict(item))]

    def _close(self, status: str = "completed") -> list[dict[str, Any]]:
        item = self._open
        if item is None:
            return []
        item["status"] = status
        events: list[dict[str, Any]] = []
        if item["type"] == "message":
            part = item["content"][0]
            events.append(
                self._event(
                    "output_text.done",
                    text=part["text"],
                    content_index=0,
                    logprobs=part["logprobs"],
                )
            )
            events.append(self._event("content_part.done", content_index=0, part=part))
        else:
            events.append(
                self._event(
                    "function_call_arguments.done", arguments=item["arguments"], name=item["name"]
                )
            )
        events.append(self._event("output_item.done", item=item))
        self._open = None
        return events

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        item = self.output[-1]
        event: dict[str, Any] = {"type": f"response.{kind}", "output_index": len(self.output) - 1}
        if not kind.startswith("output_item"):
            event["item_id"] = item["id"]
        return {**event, **fields}

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{self._response.id[5:]}_{len(self.output)}"


def _usage(result: GenerateResult) -> dict[str, Any]:
    output = result.usage.forced + result.usage.sampled
    return {
        "input_tokens": result.usage.prompt,
        "input_tokens_details": {"cached_tokens": result.usage.cached, "cache_write_tokens": 0},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": result.usage.prompt + output,
    }


async def _stream(call: Call, response: Response) -> AsyncIterator[bytes]:
    service = call.service
    numbered = _Numbered()
    async with service.admitted(), service.running(response.job, call.request_id) as followers:
        for kind in ("created", "in_progress"):
            yield numbered({"type": f"response.{kind}", "response": response.as_dict([], None)})
        writer = _Writer(service, response)
        async for _, events in merged(followers):
            text = "".join(event.text for event in events)
            logprobs = tuple(p for event in events for p in event.logprobs)
            frames = [numbered(event) for event in writer.feed(text, logprobs)]
            if frames:
                yield b"".join(frames)
        result = await followers[0].result()
        frames = [numbered(event) for event in writer.finish(result)]
        whole = response.finished(service, writer.output, result)
        frames.append(numbered({"type": f"response.{whole['status']}", "response": whole}))
        yield b"".join(frames)


class _Numbered:
    """Frames of events, numbered in order."""

    def __init__(self) -> None:
        self._next = 0

    def __call__(self, event: dict[str, Any]) -> bytes:
        event["sequence_number"] = self._next
        self._next += 1
        return f"event: {event['type']}\n".encode() + b"data: " + encode(event) + b"\n\n"


def _error_frame(error: ApiError) -> bytes:
    told = error.as_dict()["error"]
    event = {"type": "error", **told, "error": told}
    return b"event: error\ndata: " + encode({**event, "type": "error"}) + b"\n\n"
