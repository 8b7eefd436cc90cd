"""Tool calls: what the model is told, what its text is held to, and what is read back.

One spelling, that of the Hermes models, which most open models were trained on::

    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Paris"}}
    </tool_call>

A template that spells calls in this form shows the tools itself. For all others the tools, the
calls and their results are written into the messages as text. The arguments of every call are
held to the tool's schema, whether or not it says ``strict``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sgrt.core import (
    Constraint,
    JsonSchema,
    Message,
    OneOf,
    RepeatOf,
    SequenceOf,
    StructuralTag,
    Structure,
)
from sgrt.errors import ConstraintError
from sgrt.server.failures import bad_request, from_error
from sgrt.server.wanted import schema_of

BEGIN, END = "<tool_call>", "</tool_call>"
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_NO_ARGUMENTS = {"type": "object", "properties": {}}
_TOOL_FIELDS = ("name", "description", "parameters", "strict")
_USUAL = {"defer_loading": False, "async": False, "allowed_callers": ["direct"]}
"""What else the Responses interface says of a tool, and what is so for all tools here."""


@dataclass(frozen=True)
class Tool:
    """A function that the model may call.

    Args:
        shown: what the template sees: the request's own words without ``strict``, which models
            were not trained on.
        at: where in the body it is described.
    """

    name: str
    schema: JsonSchema
    shown: Mapping[str, Any]
    at: str

    @property
    def head(self) -> str:
        return f'{BEGIN}\n{{"name": "{self.name}", "arguments": '

    @property
    def tail(self) -> str:
        return f"}}\n{END}"


@dataclass(frozen=True)
class ToolUse:
    """The tools of a request and how they may be used.

    Args:
        mode: "auto" free text or calls, "required" only calls, "named" one call of ``tools[0]``.
        parallel: whether one answer may hold several calls.
    """

    tools: tuple[Tool, ...] = ()
    mode: Literal["none", "auto", "required", "named"] = "none"
    parallel: bool = True

    @property
    def active(self) -> bool:
        """Whether an answer may hold calls."""
        return bool(self.tools) and self.mode != "none"

    def constraint(self, answer: Constraint | None) -> Constraint:
        """What holds the text: calls, or where ``mode`` leaves a choice an answer instead.

        Args:
            answer: what a text without calls is held to; None is free text.
        """
        calls: Constraint = _calls(self.tools, several=self.parallel and self.mode != "named")
        if self.mode != "auto":
            return calls
        if answer is not None:
            return OneOf((answer, calls))
        structures = tuple(Structure(t.head, t.schema, t.tail) for t in self.tools)
        return StructuralTag(structures, (BEGIN,))

    @property
    def stop(self) -> tuple[str, ...]:
        """Ends free text after its first call, where there may be one only."""
        return (END,) if self.mode == "auto" and not self.parallel else ()


def _calls(tools: Sequence[Tool], *, several: bool) -> Constraint:
    each = OneOf(tuple(SequenceOf((t.head, t.schema, t.tail)) for t in tools))
    return RepeatOf(each, 1, None if several else 1, "\n")


# ---------------------------------------------------------------- from the request


def read_tools(
    tools: Sequence[Any] | None, choice: Any, parallel: bool | None, *, flat: bool = False
) -> ToolUse:
    """``tools`` and ``tool_choice`` of a request.

    Args:
        flat: as the Responses interface spells them, without the level of "function".

    Raises:
        ApiError: a tool or a choice that cannot be read.
    """
    known = tuple(_tool(item, f"tools[{i}]", flat) for i, item in enumerate(tools or ()))
    names = [tool.name for tool in known]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise bad_request(f"tools[{i}]: the name {name!r} is given twice", f"tools[{i}]")
    may_repeat = parallel is not False
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        known, choice = _allowed(known, choice, flat)
    if choice is None:
        choice = "auto" if known else "none"
    if choice == "none":
        return ToolUse(known, "none", may_repeat)
    if choice in ("auto", "required"):
        if not known and choice == "required":
            raise bad_request("tool_choice='required' needs tools", "tool_choice")
        return ToolUse(known, choice if known else "none", may_repeat)
    return ToolUse((_chosen(known, choice, "tool_choice", flat),), "named", False)


def _allowed(
    known: tuple[Tool, ...], choice: Mapping[str, Any], flat: bool
) -> tuple[tuple[Tool, ...], str]:
    """The tools that ``{"type": "allowed_tools"}`` leaves, and how they may be used."""
    inner, at = (
        (choice, "tool_choice")
        if flat
        else (choice.get("allowed_tools"), "tool_choice.allowed_tools")
    )
    if not isinstance(inner, Mapping) or not isinstance(inner.get("tools"), list):
        raise bad_request(f"{at}.tools must be a list", f"{at}.tools")
    if inner.get("mode") not in ("auto", "required"):
        raise bad_request(f"{at}.mode must be 'auto' or 'required'", f"{at}.mode")
    chosen = [
        _chosen(known, item, f"{at}.tools[{i}]", flat) for i, item in enumerate(inner["tools"])
    ]
    if not chosen:
        raise bad_request(f"{at}.tools is empty", f"{at}.tools")
    return tuple(tool for tool in known if tool in chosen), str(inner["mode"])


def _chosen(known: Sequence[Tool], choice: Any, at: str, flat: bool) -> Tool:
    """The tool that ``{"type": "function", …}`` names."""
    inner = choice if flat else choice.get("function") if isinstance(choice, Mapping) else None
    name = inner.get("name") if isinstance(inner, Mapping) else None
    if not (isinstance(name, str) and choice.get("type") == "function"):
        forms = "be 'none', 'auto', 'required' or " if at == "tool_choice" else ""
        raise bad_request(f"{at} must {forms}name a function", at)
    for tool in known:
        if tool.name == name:
            return tool
    listed = ", ".join(tool.name for tool in known) or "none"
    raise bad_request(f"{at} names {name!r:.130}, which is not among the tools ({listed})", at)


def _tool(item: Any, at: str, flat: bool) -> Tool:
    if not isinstance(item, Mapping) or item.get("type") != "function":
        raise bad_request(f"{at}: only tools of type 'function' are known here", f"{at}.type")
    inner, place = (item, at) if flat else (item.get("function"), f"{at}.function")
    if not isinstance(inner, Mapping):
        raise bad_request(f"{place} must be an object", place)
    usual = _USUAL if flat else {}
    for key, value in inner.items():
        if key in usual and value == usual[key]:
            continue
        if value is not None and key not in _TOOL_FIELDS + ("type",) * flat:
            raise bad_request(
                f"unknown field '{place}.{key:.80}'", f"{place}.{key}", "unknown_field"
            )
    name = inner.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise bad_request(f"{place}.name must be 1 to 128 letters, digits or _.:-", f"{place}.name")
    for key, kind in (("description", str), ("strict", bool)):
        if inner.get(key) is not None and not isinstance(inner[key], kind):
            raise bad_request(f"{place}.{key} must be a {kind.__name__}", f"{place}.{key}")
    parameters = inner.get("parameters")
    try:
        schema = schema_of(_NO_ARGUMENTS if parameters is None else parameters)
    except ConstraintError as error:
        raise from_error(error, param=f"{place}.parameters") from error
    shown_fields = ("name", "description", "parameters")
    function = {k: inner[k] for k in shown_fields if inner.get(k) is not None}
    shown = {"type": "function", "function": function}
    return Tool(name, schema, shown, f"{place}.parameters")


# ---------------------------------------------------------------- for the template


def call_text(name: str, arguments: str) -> str:
    """A call as the model writes it."""
    return f'{BEGIN}\n{{"name": "{name}", "arguments": {arguments}}}\n{END}'


def introduction(tools: Sequence[Tool]) -> str:
    """Tells a model whose template knows no tools about them."""
    described = "\n".join(json.dumps(tool.shown, ensure_ascii=False) for tool in tools)
    example = call_text("NAME", "{...}")
    return (
        f"You can call functions. These are available, one JSON object per line:\n{described}\n"
        f"To call one, answer in this form:\n{example}"
    )


def as_text(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """The same conversation without anything that only some templates know.

    A tool's result joins the user's messages beside it, since many templates want user and
    assistant to take turns.
    """
    plain: list[Message] = []
    for message, before in zip(messages, [None, *messages], strict=False):
        text = _plain(message)
        joins = before is not None and "tool" in (message.role, before.role)
        if joins and plain[-1].role == text.role:
            plain[-1] = Message(text.role, f"{plain[-1].content}\n{text.content}", text.extra)
        else:
            plain.append(text)
    if not tools:
        return plain
    intro = introduction(tools)
    if plain and plain[0].role == "system":
        first = Message("system", f"{plain[0].content}\n\n{intro}", plain[0].extra)
        return [first, *plain[1:]]
    return [Message("system", intro), *plain]


def _plain(message: Message) -> Message:
    if message.role == "tool":
        return Message("user", f"<tool_response>\n{message.content}\n</tool_response>")
    calls = message.extra.get("tool_calls")
    if not calls:
        return message
    texts = [message.content] if message.content else []
    for call in calls:
        function = call["function"]
        arguments = function["arguments"]
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        texts.append(call_text(function["name"], arguments))
    kept = {key: value for key, value in message.extra.items() if key != "tool_calls"}
    return Message(message.role, "\n".join(texts), kept)


# ---------------------------------------------------------------- from the text


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of an answer.

    Args:
        kind: "content" is text for the reader; "name" begins a call; "arguments" goes on with
            the arguments of the last call.
        index: of the call.
    """

    kind: Literal["content", "name", "arguments"]
    text: str
    index: int = -1


@dataclass
class CallReader:
    """Divides a text, as it comes, into content and calls.

    Relies on the constraint: what follows ``<tool_call>`` is a call, though it may be cut short.
    """

    num_calls: int = 0
    _buffer: str = ""
    _state: Literal["content", "head", "arguments", "tail"] = "content"
    _depth: int = 0
    _in_string: bool = False
    _escaped: bool = False

    def feed(self, text: str) -> list[Piece]:
        """Pieces that are certain by now."""
        self._buffer += text
        pieces: list[Piece] = []
        while self._advance(pieces):
            pass
        return pieces

    def finish(self) -> list[Piece]:
        """What was held back: a text that only looked like the beginning of a call."""
        rest, self._buffer = self._buffer, ""
        if self._state == "content":
            return self._content(rest)
        return []

    def _advance(self, pieces: list[Piece]) -> bool:
        if self._state == "content":
            return self._read_content(pieces)
        if self._state == "head":
            return self._read_head(pieces)
        if self._state == "arguments":
            return self._read_arguments(pieces)
        at = self._buffer.find(END)
        if at < 0:
            return False
        self._buffer = self._buffer[at + len(END) :]
        self._state = "content"
        return True

    def _read_content(self, pieces: list[Piece]) -> bool:
        at = self._buffer.find(BEGIN)
        if at >= 0:
            pieces += self._content(self._buffer[:at].rstrip("\n"))
            self._buffer = self._buffer[at + len(BEGIN) :]
            self._state = "head"
            return True
        held = _held(self._buffer)
        pieces += self._content(self._buffer[: len(self._buffer) - held])
        self._buffer = self._buffer[len(self._buffer) - held :]
        return False

    def _content(self, text: str) -> list[Piece]:
        if not text or (self.num_calls and not text.strip()):
            return []  # the line ends between two calls
        return [Piece("content", text)]

    def _read_head(self, pieces: list[Piece]) -> bool:
        match = _HEAD.match(self._buffer)
        if match is None:
            return False
        pieces.append(Piece("name", match[1], self.num_calls))
        self._buffer = self._buffer[match.end() :]
        self._state, self._depth, self._in_string = "arguments", 0, False
        return True

    def _read_arguments(self, pieces: list[Piece]) -> bool:
        end = self._end_of_arguments()
        taken = self._buffer if end is None else self._buffer[:end]
        if taken:
            pieces.append(Piece("arguments", taken, self.num_calls))
        self._buffer = self._buffer[len(taken) :]
        if end is None:
            return False
        self.num_calls += 1
        self._state = "tail"
        return True

    def _end_of_arguments(self) -> int | None:
        """Where the JSON value ends, or None where it goes on."""
        for i, char in enumerate(self._buffer):
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = char == "\\"
                self._in_string = char != '"'
            elif char == '"':
                self._in_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
            if self._depth < 0:  # a number or a word, ended by the call's own brace
                return i
            if self._depth == 0 and not self._in_string and char in '}]"':
                return i + 1
        return None


_HEAD = re.compile(r'\s*\{"name": "([A-Za-z0-9_.:-]+)", "arguments": ')


def _held(text: str) -> int:
    """Characters at the end that may begin a call, line ends before it included."""
    for n in range(min(len(BEGIN) - 1, len(text)), 0, -1):
        if text.endswith(BEGIN[:n]):
            return n + _line_ends(text[:-n])
    return _line_ends(text)


def _line_ends(text: str) -> int:
    return len(text) - len(text.rstrip("\n"))
