"""The input items of the Responses interface, as chat messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sgrt.server.failures import bad_request
from sgrt.server.messages import check_fields

Items = list[tuple[Any, str]]
"""Each with where in the body it is from."""


def input_items(value: str | list[Any], at: str, find: Callable[[object, str], Any]) -> Items:
    """What the request's input comes to.

    Args:
        find: the item that an id stands for, which is at a place of the body.

    Raises:
        ApiError: by ``find``, or a reference with more than an id.
    """
    if isinstance(value, str):
        return [({"type": "message", "role": "user", "content": value}, at)]
    items = []
    for i, item in enumerate(value):
        place = f"{at}[{i}]"
        if _is_reference(item):
            check_fields(item, place, {"type", "id"})
            item = find(item.get("id"), f"{place}.id")
        items.append((item, place))
    return items


def _is_reference(item: Any) -> bool:
    """OpenAI lets the type of a reference be left out."""
    if not isinstance(item, Mapping):
        return False
    kind = item.get("type")
    return kind == "item_reference" or (kind is None and set(item) <= {"id", "type"} and bool(item))


def read_input(items: Iterable[tuple[Any, str]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Messages in the spelling of chat completions; calls join the assistant's message before.

    Returns:
        The messages, and where in the body each begins.

    Raises:
        ApiError: an item of a kind that a text model cannot take.
    """
    messages: list[dict[str, Any]] = []
    places: list[str] = []
    for item, at in items:
        _append(messages, item, at)
        places += [at] * (len(messages) - len(places))
    return messages, places


def _append(messages: list[dict[str, Any]], item: Any, at: str) -> None:
    if not isinstance(item, Mapping):
        raise bad_request(f"{at} must be an object", at)
    kind = item.get("type") or "message"
    if kind == "message":
        beside = ("type", "id", "status", "phase")
        messages.append({k: v for k, v in item.items() if k not in beside})
    elif kind == "function_call":
        known = {"type", "id", "call_id", "name", "arguments", "status"}
        # what OpenAI's client has read in the arguments
        check_fields(_direct(item), at, {*known, "parsed_arguments"})
        if not isinstance(item.get("name"), str):
            raise bad_request(f"{at}.name must be a string", f"{at}.name")
        call = {
            "id": item.get("call_id", ""),
            "type": "function",
            "function": {"name": item.get("name"), "arguments": item.get("arguments", "{}")},
        }
        if not messages or messages[-1].get("role") != "assistant":
            messages.append({"role": "assistant", "content": None})
        messages[-1].setdefault("tool_calls", []).append(call)
    elif kind == "function_call_output":
        check_fields(_direct(item), at, {"type", "id", "call_id", "output", "status", "name"})
        if not isinstance(item.get("output"), (str, list)):
            raise bad_request(f"{at}.output must be a string or a list of parts", f"{at}.output")
        result = {"role": "tool", "content": item.get("output"), "name": item.get("name")}
        messages.append({**result, "tool_call_id": str(item.get("call_id", ""))})
    else:
        raise bad_request(f"{at}.type={kind!r:.80} is not supported", f"{at}.type", "unsupported")


def _direct(item: Mapping[str, Any]) -> dict[str, Any]:
    """Without what OpenAI says of calls by which all are described here: made by the model itself,
    and waited for."""
    usual = {"caller": {"type": "direct"}, "async": False}
    return {k: v for k, v in item.items() if k not in usual or v != usual[k]}
