"""Tools and system messages in templates of every kind: all that was said reaches the model."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sgrt.core import Message, Text
from sgrt.models.chat_template import JinjaChatTemplate
from sgrt.server.failures import ApiError
from sgrt.server.messages import chat_prompt, read_messages
from sgrt.server.responses_input import read_input
from sgrt.server.tools import ToolUse, read_tools

# Short texts that behave as the well-known ones do.
HERMES = """{%- if tools %}<|im_start|>system
{%- if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}<tools>
{%- for tool in tools %}{{ tool | tojson }}{% endfor %}</tools><|im_end|>
{%- elif messages[0].role == 'system' %}<|im_start|>system {{ messages[0].content }}<|im_end|>
{%- endif %}
{%- for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}
{%- if m.content %}{{ m.content }}{% endif %}
{%- for call in m.tool_calls or [] %}<tool_call>{{ call.function.name }}
{{- call.function.arguments | tojson }}</tool_call>{% endfor %}<|im_end|>
{%- endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"""
LLAMA3 = """{{ bos_token }}{% if tools is not none %}{{ raise_exception('not in this spelling') }}{% endif %}
{%- for m in messages %}{% if m.role == 'tool' or 'tool_calls' in m %}
{{- raise_exception('not in this spelling') }}{% endif -%}
<|start_header_id|>{{ m.role }}<|end_header_id|>{{ m.content | trim }}<|eot_id|>
{%- endfor %}"""
TAKING_TURNS = """{%- if messages[0].role == 'system' %}{{ messages[0].content }}
{%- set messages = messages[1:] %}{% endif %}
{%- for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('roles must alternate') }}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"""
NO_SYSTEM = """{%- if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}
{%- for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"""
DROPS_SYSTEM = """{%- for m in messages %}{% if m.role == 'user' or m.role == 'assistant' -%}
[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}"""
KINDS = {
    "hermes": HERMES,
    "llama3": LLAMA3,
    "mistral": TAKING_TURNS,
    "gemma": NO_SYSTEM,
    "phi": DROPS_SYSTEM,
}

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "forecast",
            "strict": True,
            "description": "What the sky will do",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


def _call(name: str, city: str) -> dict[str, Any]:
    arguments = json.dumps({"city": city})
    return {
        "id": name,
        "type": "function",
        "function": {"name": "forecast", "arguments": arguments},
    }


CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Paris and Rome?"},
    {"role": "assistant", "tool_calls": [_call("1", "Paris"), _call("2", "Rome")]},
    {"role": "tool", "tool_call_id": "1", "content": "sunny"},
    {"role": "tool", "tool_call_id": "2", "content": "rainy"},
    {
        "role": "user",
        "content": [{"type": "text", "text": "And "}, {"type": "text", "text": "Oslo?"}],
    },
]


def _template(source: str) -> JinjaChatTemplate:
    return JinjaChatTemplate(source, bos="<s>", eos="</s>", special_tokens=["<s>", "<|im_end|>"])


def _shown(source: str, messages: list[dict[str, Any]], use: ToolUse) -> str:
    runs = chat_prompt(_template(source), read_messages(messages), use)
    return "".join(run.text for run in runs)


@pytest.mark.parametrize("kind", KINDS)
def test_conversation_with_calls_reaches_the_model_whole_and_in_order(kind: str) -> None:
    text = _shown(KINDS[kind], CONVERSATION, read_tools(TOOLS, None, None))
    words = ["Be brief.", "Paris and Rome?", '"Paris"', '"Rome"', "sunny", "rainy", "And Oslo?"]
    if kind == "hermes":  # takes arguments as objects
        words = [word.strip('"') for word in words]
    places = [text.rindex(word) for word in words]
    assert places == sorted(places)
    assert "What the sky will do" in text
    assert "strict" not in text


@pytest.mark.parametrize("kind", KINDS)
def test_tool_choice_none_shows_no_tools(kind: str) -> None:
    text = _shown(KINDS[kind], CONVERSATION[:2], read_tools(TOOLS, "none", None))
    assert "forecast" not in text


@pytest.mark.parametrize("kind", KINDS)
def test_system_message_is_shown_before_the_question(kind: str) -> None:
    text = _shown(KINDS[kind], CONVERSATION[:2], ToolUse())
    assert -1 < text.find("Be brief.") < text.find("Paris and Rome?")


def test_two_questions_in_a_row_are_left_to_the_template() -> None:
    twice = [{"role": "user", "content": "One?"}, {"role": "user", "content": "Two?"}]
    with pytest.raises(ApiError, match="roles must alternate") as caught:
        _shown(TAKING_TURNS, twice, ToolUse())
    assert (caught.value.status, caught.value.param) == (400, "messages")


def test_what_a_tool_says_is_never_a_special_token() -> None:
    spelled = [*CONVERSATION[:3], {"role": "tool", "tool_call_id": "1", "content": "a<|im_end|>b"}]
    runs = chat_prompt(_template(LLAMA3), read_messages(spelled), read_tools(TOOLS, None, None))
    assert Text("<|im_end|>", special=True) not in runs
    assert any("a<|im_end|>b" in run.text for run in runs)


# ---------------------------------------------------------------- what is refused, and where


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "robot", "content": "x"}, "messages[0].role"),
        ({"content": "x"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": 3}, "messages[0].content"),
        ({"role": "user", "content": "x", "tool_calls": []}, "messages[0].tool_calls"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "assistant", "function_call": {}}, "messages[0].function_call"),
        ({"role": "assistant", "tool_calls": [{}]}, "messages[0].tool_calls[0].function"),
        ({"role": "user", "content": "x", "name": 3}, "messages[0].name"),
        ("x", "messages[0]"),
        (
            {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {}}]},
            "messages[0].content[0].cache_control",
        ),
        ({"role": "assistant", "content": "x", "refusal": "y"}, "messages[0].refusal"),
        ({"role": "assistant", "annotations": [{}]}, "messages[0].annotations"),
        (
            {"role": "assistant", "tool_calls": [{**_call("1", "Rome"), "type": "custom"}]},
            "messages[0].tool_calls[0].type",
        ),
        (
            {"role": "assistant", "tool_calls": [{**_call("1", "Rome"), "extra": 1}]},
            "messages[0].tool_calls[0].extra",
        ),
        ({"role": "tool", "tool_call_id": "9", "content": "x"}, "messages[0].tool_call_id"),
    ],
)
def test_message_that_cannot_be_read_names_its_place(message: Any, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        read_messages([message])
    assert (caught.value.status, caught.value.param) == (400, param)


def test_nulls_in_a_message_are_as_if_not_there() -> None:
    nulls = dict.fromkeys(("name", "tool_calls", "refusal", "audio", "function_call"))
    assert read_messages([{"role": "assistant", "content": "x", **nulls}]) == [
        Message("assistant", "x", {})
    ]


OTHER = {"type": "function", "function": {"name": "other"}}
NAMED = {"type": "function", "function": {"name": "other"}}
FLAT_TOOLS = [{"type": "function", "name": "forecast"}, {"type": "function", "name": "other"}]


@pytest.mark.parametrize(
    ("choice", "mode", "names"),
    [
        (None, "auto", ["forecast", "other"]),
        ("none", "none", ["forecast", "other"]),
        ("required", "required", ["forecast", "other"]),
        (NAMED, "named", ["other"]),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}},
            "required",
            ["other"],
        ),
    ],
)
def test_tool_choice_says_which_tools_and_how(choice: Any, mode: str, names: list[str]) -> None:
    use = read_tools([*TOOLS, OTHER], choice, None)
    assert (use.mode, [tool.name for tool in use.tools]) == (mode, names)


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_tool_choice_of_responses_is_flat(mode: str) -> None:
    named = {"type": "function", "name": "other"}
    allowed = {"type": "allowed_tools", "mode": mode, "tools": [named]}
    use = read_tools(FLAT_TOOLS, allowed, None, flat=True)
    assert (use.mode, [tool.name for tool in use.tools]) == (mode, ["other"])
    use = read_tools(FLAT_TOOLS, named, None, flat=True)
    assert (use.mode, [tool.name for tool in use.tools]) == ("named", ["other"])


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        ("some", "tool_choice"),
        ({"type": "function"}, "tool_choice"),
        ({"type": "function", "function": {"name": "absent"}}, "tool_choice"),
        ({"type": "custom", "custom": {"name": "other"}}, "tool_choice"),
        ({"type": "allowed_tools"}, "tool_choice.allowed_tools.tools"),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
            "tool_choice.allowed_tools.tools",
        ),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "any", "tools": [NAMED]}},
            "tool_choice.allowed_tools.mode",
        ),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED, {}]}},
            "tool_choice.allowed_tools.tools[1]",
        ),
    ],
)
def test_tool_choice_that_means_nothing_names_its_place(choice: Any, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        read_tools([*TOOLS, OTHER], choice, None)
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize("kind", KINDS)
def test_results_of_tools_are_shown_in_the_order_of_their_calls(kind: str) -> None:
    template = KINDS[kind]
    swapped = [*CONVERSATION[:3], CONVERSATION[4], CONVERSATION[3], *CONVERSATION[5:]]
    use = read_tools(TOOLS, None, None)
    assert _shown(template, swapped, use) == _shown(template, CONVERSATION, use)


SHOWS_NAMES = (
    "{% for m in messages %}{{ m.role }} {{ m.name or '' }}: {{ m.content }}\n{% endfor %}"
)


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_name_is_shown_where_the_template_has_it_else_in_front_of_the_text(role: str) -> None:
    hi, named = {"role": "user", "content": "Hi"}, {"role": role, "content": "x", "name": "Ada"}
    messages = {"system": [named, hi], "user": [named], "assistant": [hi, named]}[role]
    for template in (SHOWS_NAMES, TAKING_TURNS):
        assert _shown(template, messages, ToolUse()).count("Ada: x") == 1


def test_thoughts_that_the_template_has_no_place_for_are_refused_at_their_place() -> None:
    thought = {"role": "assistant", "content": "x", "reasoning_content": "hm"}
    with pytest.raises(ApiError) as caught:
        _shown(TAKING_TURNS, [{"role": "user", "content": "Hi"}, thought], ToolUse())
    assert (caught.value.status, caught.value.param) == (400, "messages[1].reasoning_content")


def test_message_that_openais_client_has_parsed_goes_back_as_it_is() -> None:
    call = _call("1", "Rome")
    parsed = {**call, "function": {**call["function"], "parsed_arguments": {"city": "Rome"}}}
    told = {"role": "assistant", "content": '{"a":1}', "parsed": {"a": 1}, "annotations": []}
    [message] = read_messages([{**told, "tool_calls": [parsed]}])
    assert message == read_messages([{**told, "parsed": None, "tool_calls": [call]}])[0]


def test_items_that_openais_client_has_parsed_go_back_as_they_are() -> None:
    text = {"type": "output_text", "text": "{}", "annotations": [], "logprobs": []}
    said = {"type": "message", "id": "msg_1", "role": "assistant", "content": [text]}
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "c", "output": "x"}
    seen = {
        "message": {**said, "content": [{**text, "parsed": {}}]},
        "call": {**call, "parsed_arguments": {}, "async": False, "caller": {"type": "direct"}},
        "result": {**result, "name": None, "caller": {"type": "direct"}},
    }
    messages, places = read_input([(item, at) for at, item in seen.items()])
    plain, _ = read_input([(said, "a"), (call, "b"), (result, "c")])
    assert read_messages(messages) == read_messages(plain)
    assert places == ["message", "result"]  # a call belongs to the message before it
    with pytest.raises(ApiError, match=r"unknown field 'call\.async'"):
        read_input([({**call, "async": True}, "call")])


def test_what_holds_for_all_tools_may_be_said_of_one_and_nothing_else() -> None:
    tool = {"type": "function", "name": "f", "description": None, "parameters": None}
    usual = {"defer_loading": False, "async": False, "allowed_callers": ["direct"]}
    [plain] = read_tools([tool], None, None, flat=True).tools
    [told] = read_tools([{**tool, **usual, "output_schema": None}], None, None, flat=True).tools
    assert (told.name, told.schema, told.shown) == (plain.name, plain.schema, plain.shown)
    for name, value in {**usual, "output_schema": {}}.items():
        other = {"allowed_callers": ["programmatic"]}.get(name, {} if value == {} else True)
        with pytest.raises(ApiError) as caught:
            read_tools([{**tool, name: other}], None, None, flat=True)
        assert caught.value.param == f"tools[0].{name}"
