"""From the messages of a request to the prompt that the model's template makes of them."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from sgrt.core import Message, Text
from sgrt.errors import RequestError
from sgrt.models.chat_template import JinjaChatTemplate
from sgrt.server.body import did_you_mean
from sgrt.server.failures import ApiError, bad_request, from_error
from sgrt.server.tools import BEGIN, ToolUse, as_text

_ROLES = {"system", "developer", "user", "assistant", "tool"}
_FIELDS = {
    "system": {"name"},
    "developer": {"name"},
    "user": {"name"},
    "assistant": {"name", "tool_calls", "refusal", "reasoning_content"},
    "tool": {"name", "tool_call_id"},
}


def read_messages(
    items: Sequence[Any], at: str = "messages", places: Sequence[str] | None = None
) -> list[Message]:
    """Messages of a chat; results of tools stand in the order of their calls.

    Args:
        places: where in the body each is from; None for one after the other, at ``at``.

    Raises:
        ApiError: one that is none, or holds what a text model cannot take.
    """
    if not items:
        raise bad_request(f"{at} is empty", at)
    places = places or [f"{at}[{i}]" for i in range(len(items))]
    messages = [_message(item, place) for item, place in zip(items, places, strict=True)]
    return _in_order_of_calls(messages, places)


def _in_order_of_calls(messages: Sequence[Message], places: Sequence[str]) -> list[Message]:
    """Templates print results without their ids: what belongs to which call is the order."""
    ordered: list[Message] = []
    results: list[tuple[int, Message]] = []  # beside each other, with the rank of their calls
    rank: dict[str, int] = {}
    for message, place in zip(messages, places, strict=True):
        call_id = message.extra.get("tool_call_id") if message.role == "tool" else None
        if call_id is None:
            ordered += [*_sorted(results), message]
            results = []
        elif call_id not in rank:
            at = f"{place}.tool_call_id"
            raise bad_request(f"{at}={call_id!r:.80} is the id of no call before it", at)
        else:
            results.append((rank[call_id], message))
        for call in message.extra.get("tool_calls", ()):
            rank[call["id"]] = len(rank)
    return [*ordered, *_sorted(results)]


def _sorted(results: Sequence[tuple[int, Message]]) -> list[Message]:
    return [message for _, message in sorted(results, key=lambda result: result[0])]


def _message(item: Any, at: str) -> Message:
    if not isinstance(item, Mapping):
        raise bad_request(f"{at} must be an object", at)
    role = item.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise bad_request(
            f"{at}.role={role!r:.80} is not one of {', '.join(sorted(_ROLES))}", f"{at}.role"
        )
    for key in ("audio", "function_call") if role == "assistant" else ():
        if item.get(key) is not None:
            raise bad_request(f"{at}.{key} is not supported", f"{at}.{key}", "unsupported")
    known = {"role", "content", *_FIELDS[role]}
    if role == "assistant":
        known.add("parsed")  # what OpenAI's client has read in the content
        if item.get("annotations") == []:
            known.add("annotations")
    check_fields(item, at, known)
    extra: dict[str, Any] = {}
    for key in ("name", "tool_call_id", "reasoning_content", "refusal"):
        value = item.get(key)
        if value is not None:
            if not isinstance(value, str):
                raise bad_request(f"{at}.{key} must be a string", f"{at}.{key}")
            extra[key] = value
    if item.get("tool_calls"):
        extra["tool_calls"] = _tool_calls(item["tool_calls"], f"{at}.tool_calls")
    content = _content(item.get("content"), f"{at}.content", optional=role == "assistant")
    if "refusal" in extra:
        if content:
            raise bad_request(f"{at}: either content or refusal", f"{at}.refusal")
        content = extra.pop("refusal")
    return Message("system" if role == "developer" else role, content, extra)


def _content(value: Any, at: str, *, optional: bool) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        if optional:
            return ""
        raise bad_request(f"the field {at!r} is required", at, "missing_field")
    if not isinstance(value, list):
        raise bad_request(f"{at} must be a string or a list of parts", at)
    return "".join(_part(part, f"{at}[{i}]") for i, part in enumerate(value))


def _part(part: Any, at: str) -> str:
    if not isinstance(part, Mapping):
        raise bad_request(f"{at} must be an object", at)
    kind = part.get("type")
    if kind == "refusal" and isinstance(part.get("refusal"), str):
        check_fields(part, at, {"type", "refusal"})
        return str(part["refusal"])
    if kind not in ("text", "input_text", "output_text"):
        raise bad_request(f"{at}.type={kind!r:.80}: this model takes text only", f"{at}.type")
    if not isinstance(part.get("text"), str):
        raise bad_request(f"{at}.text must be a string", f"{at}.text")
    # what servers, this one too, put beside a text of their own
    told = {"annotations", "logprobs", "parsed"} if kind == "output_text" else set()
    check_fields(part, at, {"type", "text", *told})
    return str(part["text"])


def check_fields(value: Mapping[str, Any], at: str, known: set[str]) -> None:
    """Refuse what is not known, unless it is null."""
    for key in value:
        if key not in known and value[key] is not None:
            place = f"{at}.{key:.80}"
            hint = did_you_mean(str(key), sorted(known))
            raise bad_request(f"unknown field '{place}'{hint}", place, "unknown_field")


def _tool_calls(calls: Any, at: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise bad_request(f"{at} must be a list", at)
    return [_tool_call(call, f"{at}[{i}]") for i, call in enumerate(calls)]


def _tool_call(call: Any, at: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise bad_request(f"{at}.function must have a name", f"{at}.function")
    if call.get("type") not in (None, "function"):
        raise bad_request(f"{at}.type: only calls of functions are known here", f"{at}.type")
    check_fields(call, at, {"id", "type", "function", "index"})
    check_fields(function, f"{at}.function", {"name", "arguments", "parsed_arguments"})
    arguments = function.get("arguments", "{}")
    try:  # templates print arguments as JSON; those of Hermes' kind expect an object
        value = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        value = arguments
    return {
        "id": str(call.get("id", "")),
        "type": "function",
        "function": {"name": function["name"], "arguments": value},
    }


class Asked(Protocol):
    """Fields of a body that say where a conversation goes on."""

    add_generation_prompt: bool | None
    continue_final_message: bool | None


def begins_answer(wire: Asked) -> bool:
    """Whether the prompt ends with the beginning of a new message.

    Raises:
        ApiError: it is to go on with the last one, too.
    """
    if wire.continue_final_message and wire.add_generation_prompt:
        raise bad_request(
            "add_generation_prompt and continue_final_message contradict each other",
            "continue_final_message",
        )
    return wire.add_generation_prompt is not False and not wire.continue_final_message


def chat_prompt(
    template: JinjaChatTemplate | None,
    messages: Sequence[Message],
    use: ToolUse,
    *,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    variables: Mapping[str, Any] | None = None,
    at: str = "messages",
) -> tuple[Text, ...]:
    """The prompt of a chat.

    Args:
        continue_final_message: the model goes on with the last message instead of a new one.
        variables: of the template, by the request's ``chat_template_kwargs``.

    Raises:
        ApiError: there is no template, or it refuses these messages.
    """
    if template is None:
        raise ApiError(
            400, "this model has no chat template: use /v1/completions", at, "no_chat_template"
        )
    for name, value in (variables or {}).items():
        if name in ("enable_thinking", "thinking") and value is False:
            continue  # none of its texts has such a part, unless the template says so
        if name not in template.variables:
            place = f"chat_template_kwargs.{name:.80}"
            raise bad_request(f"{place}: the model's template has no such variable", place)
    messages = _with_all_shown(template, messages, at)
    shows_tools = "tools" in template.variables and BEGIN in template.source
    tools = use.tools if use.mode != "none" else ()
    if not shows_tools:
        messages = as_text(messages, tools)
    if messages[0].role == "system" and not _shows_system(template):
        messages = _system_as_user(messages)
    try:
        return template.render(
            messages,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=[t.shown for t in tools] if shows_tools and tools else None,
            variables=variables,
        )
    except RequestError as error:
        raise from_error(error, param=at) from error


def _with_all_shown(
    template: JinjaChatTemplate, messages: Sequence[Message], at: str
) -> list[Message]:
    """Names that the template leaves out, in front of the text; those of tools' results tell
    nothing that their calls do not.

    Raises:
        ApiError: the template leaves out what was thought.
    """
    found = []
    for i, message in enumerate(messages):
        if "reasoning_content" in message.extra and "reasoning_content" not in template.source:
            place = f"{at}[{i}].reasoning_content" if at == "messages" else at
            raise bad_request(f"{place}: the model's template has no place for it", place)
        name = message.extra.get("name")
        if name is not None and message.role != "tool" and not _shows_name(template, message.role):
            message = replace(message, content=f"{name}: {message.content}")
        found.append(message)
    return found


@functools.lru_cache(maxsize=64)
def _shows_name(template: JinjaChatTemplate, role: str) -> bool:
    probe = "probe-of-a-name"
    message = Message(role, "Hello", {"name": probe})
    user = Message("user", "Hi")
    messages = {"user": [message], "system": [message, user]}.get(role, [user, message])
    try:
        return any(probe in run.text for run in template.render(messages))
    except RequestError:
        return False


@functools.lru_cache(maxsize=16)
def _shows_system(template: JinjaChatTemplate) -> bool:
    """Whether a template has a place for a system message; some refuse it, some drop it."""
    probe = "a probe of the system role"
    try:
        runs = template.render([Message("system", probe), Message("user", "Hi")])
    except RequestError:
        return False
    return any(probe in run.text for run in runs)


def _system_as_user(messages: Sequence[Message]) -> list[Message]:
    """The same with the first message in front of the user's first."""
    system, *rest = messages
    if rest and rest[0].role == "user":
        first = rest.pop(0)
        return [Message("user", f"{system.content}\n\n{first.content}", first.extra), *rest]
    return [Message("user", system.content), *rest]
