"""From the messages of a request to the prompt that the model's template makes of them."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from sgrt.core import Message, Text
from sgrt.errors import RequestError
from sgrt.models.chat_template import JinjaChatTemplate
from sgrt.server.failures import ApiError, bad_request, from_error
from sgrt.server.tools import BEGIN, ToolUse, as_text

_ROLES = {"system", "developer", "user", "assistant", "tool"}
_FIELDS = {
    "system": {"name"},
    "developer": {"name"},
    "user": {"name"},
    "assistant": {"name", "tool_calls", "refusal", "reasoning_content", "audio", "function_call"},
    "tool": {"name", "tool_call_id"},
}


def read_messages(items: Sequence[Any], at: str = "messages") -> list[Message]:
    """Messages of a chat.

    Raises:
        ApiError: one that is none, or holds what a text model cannot take.
    """
    if not items:
        raise bad_request(f"{at} is empty", at)
    return [_message(item, f"{at}[{i}]") for i, item in enumerate(items)]


def _message(item: Any, at: str) -> Message:
    if not isinstance(item, Mapping):
        raise bad_request(f"{at} must be an object", at)
    role = item.get("role")
    if role not in _ROLES:
        raise bad_request(
            f"{at}.role={role!r:.80} is not one of {', '.join(sorted(_ROLES))}", f"{at}.role"
        )
    for key, value in item.items():
        if key not in ("role", "content", *_FIELDS[role]) and value is not None:
            raise bad_request(f"unknown field '{at}.{key:.80}'", f"{at}.{key}", "unknown_field")
    for key in ("audio", "function_call"):
        if item.get(key) is not None:
            raise bad_request(f"{at}.{key} is not supported", f"{at}.{key}", "unsupported")
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
    if not content and "refusal" in extra:
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
        return str(part["refusal"])
    if kind not in ("text", "input_text", "output_text"):
        raise bad_request(f"{at}.type={kind!r:.80}: this model takes text only", f"{at}.type")
    if not isinstance(part.get("text"), str):
        raise bad_request(f"{at}.text must be a string", f"{at}.text")
    return str(part["text"])


def _tool_calls(calls: Any, at: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise bad_request(f"{at} must be a list", at)
    return [_tool_call(call, f"{at}[{i}]") for i, call in enumerate(calls)]


def _tool_call(call: Any, at: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise bad_request(f"{at}.function must have a name", f"{at}.function")
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
    for name in variables or {}:
        if name not in template.variables:
            place = f"chat_template_kwargs.{name:.80}"
            raise bad_request(f"{place}: the model's template has no such variable", place)
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
