"""The input items of the Responses interface, as chat messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sgrt.server.failures import bad_request
from sgrt.server.messages import check_fields


def read_input(items: list[Any], at: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Messages in the spelling of chat completions; calls join the assistant's message before.

    Returns:
        The messages, and where in the body each begins.

    Raises:
        ApiError: an item of a kind that a text model cannot take.
    """
    messages: list[dict[str, Any]] = []
    places: list[str] = []
    for i, item in enumerate(items):
        _append(messages, item, f"{at}[{i}]")
        places += [f"{at}[{i}]"] * (len(messages) - len(places))
    return messages, places


def _append(messages: list[dict[str, Any]], item: Any, at: str) -> None:
    if not isinstance(item, Mapping):
        raise bad_request(f"{at} must be an object", at)
    kind = item.get("type", "message")
    if kind == "message":
        known = {k: v for k, v in item.items() if k not in ("type", "id", "status", "phase")}
        messages.append(known)
    elif kind == "function_call":
        check_fields(item, at, {"type", "id", "call_id", "name", "arguments", "status"})
        call = {
            "id": item.get("call_id", ""),
            "type": "function",
            "function": {"name": item.get("name"), "arguments": item.get("arguments", "{}")},
        }
        if not messages or messages[-1].get("role") != "assistant":
            messages.append({"role": "assistant", "content": None})
        messages[-1].setdefault("tool_calls", []).append(call)
    elif kind == "function_call_output":
        check_fields(item, at, {"type", "id", "call_id", "output", "status"})
        output = item.get("output")
        messages.append(
            {"role": "tool", "content": output, "tool_call_id": str(item.get("call_id", ""))}
        )
    else:
        raise bad_request(f"{at}.type={kind!r:.80} is not supported", f"{at}.type", "unsupported")
