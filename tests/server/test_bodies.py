"""Every field of a body has an effect or is refused by its name."""

from __future__ import annotations

import itertools
import json
from typing import Any

import msgspec
import pytest

from sgrt.core import JsonSchema
from sgrt.server import decisions, meta, native, openai_chat, openai_completions, openai_responses
from sgrt.server.body import MAX_DEPTH
from sgrt.server.native import Unsupported
from sgrt.server.wanted import wanted
from sgrt.server.wire import Constrained
from tests.server.support import BODIES, Server, error_of

KINDS = {
    "/v1/chat/completions": openai_chat.ChatRequest,
    "/v1/completions": openai_completions.CompletionRequest,
    "/v1/responses": openai_responses.ResponsesRequest,
    "/v1/decisions": decisions.DecisionRequest,
    "/generate": native.GenerateRequest,
    "/tokenize": meta.TokenizeRequest,
    "/detokenize": meta.DetokenizeRequest,
    "/abort_request": meta.AbortRequest,
}
FIELDS = {
    path: [field.encode_name for field in msgspec.structs.fields(kind)]
    for path, kind in KINDS.items()
}
OBJECT = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}


def test_every_body_as_it_is_accepted(server: Server) -> None:
    for path in BODIES:
        answer = server.post(path)
        assert answer.status_code == 200, (path, answer.text)


STREAMED = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/generate")
REQUIRED = {"messages", "input", "questions", "tokens", "prompt", "text", "rid"}


@pytest.mark.parametrize("path", KINDS)
def test_field_null_counts_as_not_given(server: Server, path: str) -> None:
    for name in FIELDS[path]:
        answer = server.http.post(path, json={**BODIES[path], name: None})
        if name in REQUIRED and name in BODIES[path]:
            assert error_of(answer)["param"] == name
        else:
            assert answer.status_code == 200, (name, answer.text)


WRONG: tuple[Any, ...] = (True, -(10**30), ["", 1, None], {"\u2028": []})


@pytest.mark.parametrize("path", KINDS)
def test_field_of_a_wrong_type_is_refused_by_its_name(server: Server, path: str) -> None:
    for name, wrong in itertools.product(FIELDS[path], WRONG):
        answer = server.http.post(path, json={**BODIES[path], name: wrong})
        if answer.status_code == 200:
            continue
        error = error_of(answer, answer.status_code)
        assert answer.status_code in (400, 404), error
        assert error["param"] is not None, (wrong, error)
        first = error["param"].split(".")[0].split("[")[0]
        assert first in (name, *ALSO.get(name, ())), (wrong, error)


CHATS = "/v1/chat/completions"
ALSO = {
    "max_tokens": ("max_completion_tokens",),
    "max_completion_tokens": ("max_tokens",),
    "top_logprobs": ("logprobs",),
    "add_generation_prompt": ("messages",),
    "continue_final_message": ("messages",),
    "rid": ("request_id",),
    "input_ids": ("text",),
    "text": ("input_ids",),
    "parts": ("prompt",),
    "prompt": ("parts",),
    "stream_options": ("stream",),
    "tool_choice": ("tools",),
}


@pytest.mark.parametrize("path", BODIES)
def test_unknown_field_is_refused_with_a_hint(server: Server, path: str) -> None:
    known = next(iter(BODIES[path]))
    error = error_of(server.http.post(path, json={**BODIES[path], known + "s": 1}))
    assert error["param"] == known + "s"
    assert error["code"] == "unknown_field"
    assert f"did you mean {known!r}" in error["message"]


@pytest.mark.parametrize("path", FIELDS)
def test_null_says_that_a_field_is_not_given_be_it_known_or_not(server: Server, path: str) -> None:
    nulls = dict.fromkeys((*FIELDS[path], "of_another_server"))
    assert server.http.post(path, json={**nulls, **BODIES[path]}).status_code == 200


def test_whole_number_may_be_written_as_a_fraction(server: Server) -> None:
    body = json.dumps({**BODIES[CHATS], "seed": 7}).replace("7", "7.0").replace("2", "2.0")
    headers = {"content-type": "application/json"}
    answer = server.http.post(CHATS, content=body, headers=headers).json()
    assert answer["usage"]["completion_tokens"] == 2
    for value in (1.5, "1", True, 1e300):
        assert error_of(server.post(CHATS, _seed=value))["param"] == "seed"


def test_name_of_an_unknown_field_is_cut(server: Server) -> None:
    error = error_of(server.post(CHATS, {**BODIES[CHATS], "k" * 100_000: 1}))
    assert len(error["message"]) < 200
    assert error["param"] == "k" * 80


def test_fields_of_old_are_refused_with_what_took_their_place(server: Server) -> None:
    for name, now in (("functions", "tools"), ("function_call", "tool_choice")):
        error = error_of(server.http.post(CHATS, json={**BODIES[CHATS], name: []}))
        assert (error["param"], error["code"]) == (name, "unknown_field")
        assert error["message"].endswith(f"use {now!r}")


def test_response_may_include_what_no_answer_has(server: Server) -> None:
    path = "/v1/responses"
    for name in ("reasoning.encrypted_content", "file_search_call.results"):
        assert server.post(path, _include=[name]).status_code == 200
    assert error_of(server.post(path, _include=["reasoning"]))["param"] == "include[0]"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"[]", "invalid_json"),
        (b"null", "invalid_json"),
        (b'{"a": NaN}', "invalid_json"),
        (b'{"a": -Infinity}', "invalid_json"),
        (b'{"a": 1e999}', "invalid_json"),
        (b'{"a": 1, "a": 1}', "invalid_json"),
        (b'{"a": "\xed\xa0\x80"}', "invalid_json"),
        (b'{"a": "\xff"}', "invalid_json"),
        (b'\xef\xbb\xbf{"a": 1}', "invalid_json"),
        ('{"a": 1}'.encode("utf-16"), "invalid_json"),
        (b'{"a": ' + b"9" * 5000 + b"}", "invalid_json"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json"),
        (b'{"a": ' + b'{"a":' * 500 + b"1" + b"}" * 501, "invalid_json"),
        (b'{"a": "\\ud83d"}', None),
        (b'{"\\udc00": 1}', None),
    ],
)
def test_body_that_is_no_json_is_refused(server: Server, body: bytes, code: str | None) -> None:
    headers = {"content-type": "application/json"}
    for path in BODIES:
        error = error_of(server.http.post(path, content=body, headers=headers))
        assert error["code"] == code


def test_body_at_the_limit_of_depth_is_read(server: Server) -> None:
    for levels, code in ((MAX_DEPTH, "unknown_field"), (MAX_DEPTH + 1, "invalid_json")):
        value: Any = 1
        for _ in range(levels - 1):
            value = [value]
        error = error_of(server.http.post("/tokenize", json={"x": value}))
        assert error["code"] == code


def test_half_a_surrogate_pair_is_refused_with_its_place(server: Server) -> None:
    for text in ("\ud83d", "\ude00", "\\\ud83d", "\ud83dx\ude00", "\ude00\ud83d"):
        body = json.dumps({"messages": [{"role": "user", "content": "😀"}, {"content": text}]})
        error = error_of(server.http.post("/v1/chat/completions", content=body))
        assert error["param"] == "messages[1].content"
    whole = json.dumps({"prompt": "😀", "max_tokens": 1})
    assert server.http.post("/v1/completions", content=whole).status_code == 200


@pytest.mark.parametrize(
    ("path", "change", "param"),
    [
        ("/v1/chat/completions", {"n": 0}, "n"),
        ("/v1/chat/completions", {"n": 129}, "n"),
        ("/v1/chat/completions", {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ("/v1/chat/completions", {"top_logprobs": 2}, "top_logprobs"),
        ("/v1/chat/completions", {"stop": [str(i) for i in range(17)]}, "stop"),
        ("/v1/chat/completions", {"stop": [""]}, "stop"),
        ("/v1/chat/completions", {"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
        ("/v1/chat/completions", {"logit_bias": {"259": 1}}, "logit_bias"),
        ("/v1/chat/completions", {"logit_bias": {"a": 1}}, "logit_bias"),
        ("/v1/chat/completions", {"temperature": -1}, "temperature"),
        ("/v1/chat/completions", {"top_p": 0}, "top_p"),
        ("/v1/chat/completions", {"top_k": -7}, "top_k"),
        (
            "/v1/chat/completions",
            {"max_tokens": None, "max_completion_tokens": 0},
            "max_completion_tokens",
        ),
        ("/v1/chat/completions", {"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        ("/v1/chat/completions", {"max_tokens": -1}, "max_tokens"),
        ("/v1/chat/completions", {"store": True}, "store"),
        ("/v1/chat/completions", {"modalities": ["audio"]}, "modalities"),
        ("/v1/chat/completions", {"messages": []}, "messages"),
        ("/v1/chat/completions", {"messages": [1]}, "messages[0]"),
        ("/v1/chat/completions", {"messages": [{"role": "root"}]}, "messages[0].role"),
        ("/v1/chat/completions", {"messages": [{"role": "user"}]}, "messages[0].content"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
        ),
        ("/v1/chat/completions", {"stream_options": {"include_usage": True}}, "stream_options"),
        (
            "/v1/chat/completions",
            {"stream": True, "stream_options": {"usage": True}},
            "stream_options.usage",
        ),
        ("/v1/chat/completions", {"regex": "a", "ebnf": "root ::= 'a'"}, "ebnf"),
        ("/v1/chat/completions", {"response_format": {"type": "xml"}}, "response_format.type"),
        (
            "/v1/chat/completions",
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
            "response_format.json_schema.schema",
        ),
        (
            "/v1/chat/completions",
            {"response_format": {"type": "json_schema", "json_schema": {"schema": 3}}},
            "response_format.json_schema.schema",
        ),
        (
            "/v1/chat/completions",
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"schema": OBJECT, "strict": "yes"},
                }
            },
            "response_format.json_schema.strict",
        ),
        ("/v1/responses", {"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ("/v1/responses", {"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        (
            "/v1/responses",
            {"text": {"format": {"type": "json_schema", "schema": {"items": {"type": "x"}}}}},
            "text.format.schema.items",
        ),
        ("/generate", {"sampling_params": {"json_schema": "{"}}, "sampling_params.json_schema"),
        (
            "/v1/chat/completions",
            {"structured_outputs": {"jsonn": OBJECT}},
            "structured_outputs.jsonn",
        ),
        ("/v1/chat/completions", {"guided_json": {"type": "strin"}}, None),
        ("/v1/chat/completions", {"regex": "("}, "regex"),
        ("/v1/completions", {"prompt": []}, "prompt"),
        ("/v1/completions", {"prompt": [259]}, "prompt"),
        ("/v1/completions", {"prompt": [-1]}, "prompt"),
        ("/v1/completions", {"prompt": "x" * 4000}, "prompt"),
        ("/v1/completions", {"best_of": 4}, "best_of"),
        ("/v1/completions", {"suffix": "x"}, "suffix"),
        ("/v1/completions", {"logprobs": 21}, "logprobs"),
        ("/v1/responses", {"previous_response_id": "x"}, "previous_response_id"),
        ("/v1/responses", {"max_output_tokens": 0}, "max_output_tokens"),
        ("/v1/decisions", {"questions": []}, "questions"),
        ("/v1/decisions", {"questions": [{"type": "x"}]}, "questions[0].type"),
        ("/generate", {"input_ids": [1]}, "text"),
        ("/generate", {"image_data": "x"}, "image_data"),
        ("/generate", {"sampling_params": {"temprature": 1}}, "sampling_params.temprature"),
        ("/generate", {"sampling_params": {"regex": "("}}, "sampling_params.regex"),
        ("/generate", {"top_logprobs_num": 21, "return_logprob": True}, "top_logprobs_num"),
        ("/detokenize", {"tokens": [259]}, "tokens"),
        ("/tokenize", {"messages": [{"role": "user", "content": "Hi"}]}, "messages"),
        ("/tokenize", {"add_generation_prompt": True}, "add_generation_prompt"),
        ("/abort_request", {"abort_all": True}, "abort_all"),
        ("/generate", {"log_metrics": False}, "log_metrics"),
        ("/generate", {"top_logprobs_num": 2}, "top_logprobs_num"),
        (
            "/generate",
            {"sampling_params": {"stream_interval": 0}},
            "sampling_params.stream_interval",
        ),
        ("/generate", {"text": ["a", "b"], "rid": ["x", "x"]}, "rid"),
        ("/generate", {"sampling_params": {"temperature": -1}}, "sampling_params.temperature"),
        (
            "/generate",
            {"sampling_params": {"max_new_tokens": -1}},
            "sampling_params.max_new_tokens",
        ),
        (
            "/v1/chat/completions",
            {"logprobs": True, "top_logprobs": -1},
            "top_logprobs",
        ),
        ("/v1/chat/completions", {"seed": 1 << 64}, "seed"),
        ("/v1/chat/completions", {"seed": -(1 << 63) - 1}, "seed"),
        (
            "/v1/chat/completions",
            {"chat_template_kwargs": {"enable_thinking": True}},
            "chat_template_kwargs.enable_thinking",
        ),
        (
            "/v1/completions",
            {"return_tokens_as_token_ids": True},
            "return_tokens_as_token_ids",
        ),
        ("/v1/completions", {"rid": "a", "request_id": "b"}, "request_id"),
        (
            "/v1/completions",
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
        ),
        (
            "/v1/chat/completions",
            {"add_generation_prompt": True, "continue_final_message": True},
            "continue_final_message",
        ),
        ("/v1/chat/completions", {"prompt_cache_retention": "24h"}, "prompt_cache_retention"),
        (
            "/v1/responses",
            {"prompt_cache_options": {"mode": "explicit"}},
            "prompt_cache_options.mode",
        ),
        ("/v1/responses", {"prompt_cache_retention": "24h"}, "prompt_cache_retention"),
        ("/v1/responses", {"stream_options": {}}, "stream_options"),
        ("/v1/responses", {"top_logprobs": 2}, "top_logprobs"),
        ("/v1/responses", {"max_tool_calls": 0}, "max_tool_calls"),
        (
            "/v1/responses",
            {"instructions": "x", "input": [{"role": "user", "content": 3}]},
            "input[0].content",
        ),
        (
            "/v1/responses",
            {"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]},
            "input[0].tool_call_id",
        ),
        (
            "/v1/responses",
            {"input": [{"type": "function_call", "name": "x", "namespace": "y"}]},
            "input[0].namespace",
        ),
        ("/v1/decisions", {"prompt_cache_options": {"ttl": "30m"}}, "prompt_cache_options.ttl"),
    ],
)
def test_value_beyond_its_limits_is_refused_with_its_place(
    server: Server, path: str, change: dict[str, Any], param: str | None
) -> None:
    error = error_of(server.http.post(path, json={**BODIES[path], **change}))
    if param is not None:
        assert error["param"] == param, error


@pytest.mark.parametrize("path", [p for p in STREAMED if p != "/v1/responses"])
def test_model_that_is_not_served_is_not_found(server: Server, path: str) -> None:
    error = error_of(server.post(path, _model="gpt-9"), 404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")


def test_body_of_any_size_up_to_the_limit_is_read(server: Server) -> None:
    limit = server.config.max_body_bytes
    empty = len(json.dumps({"tokens": [], "model": "m"}))
    for size, status in ((limit, 404), (limit + 1, 413)):
        body = json.dumps({"tokens": [], "model": "m" * (size - empty + 1)})
        assert len(body) == size
        error = error_of(server.http.post("/detokenize", content=body), status)
        assert error["code"] == ("model_not_found" if status == 404 else "body_too_large")


def test_constraint_in_every_spelling_holds_the_text(server: Server) -> None:
    for change in (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": OBJECT}}},
        {"structured_outputs": {"json": OBJECT}},
        {"guided_json": OBJECT},
        {"json_schema": json.dumps(OBJECT)},
        {"guided_regex": r'\{"a":(true|false)\}'},
        {"guided_choice": ['{"a":true}', '{"a":false}']},
    ):
        body = {**BODIES["/v1/chat/completions"], "max_tokens": 40, **change}
        answer = server.http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, (change, answer.text)
        assert set(json.loads(answer.json()["choices"][0]["message"]["content"])) == {"a"}


def test_conversation_is_tokenized_as_a_chat_reads_it(server: Server) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    told = server.http.post("/tokenize", json={**body, "return_token_strs": True}).json()
    assert "".join(told["token_strs"]).endswith("<user>Hi</><assistant>")
    answer = server.http.post("/v1/chat/completions", json={**body, "max_tokens": 1}).json()
    assert told["count"] == len(told["tokens"]) == answer["usage"]["prompt_tokens"]
    alone = server.http.post("/tokenize", json={**body, "add_generation_prompt": False}).json()
    assert alone["count"] == told["count"] - len("<assistant>")


def test_parameters_in_the_url_are_refused_but_for_probes(server: Server) -> None:
    error = error_of(server.http.get("/v1/models?limit=3"))
    assert (error["param"], error["code"]) == ("limit", "unknown_field")
    assert server.http.get("/health?from=probe").status_code == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_request_is_called_what_its_body_says(server: Server, path: str) -> None:
    prefix = "chatcmpl" if "chat" in path else "cmpl"
    assert server.http.post(path, json={**BODIES[path], "rid": "mine"}).json()["id"] == "mine"
    named = server.http.post(path, json={**BODIES[path], "request_id": "mine"}).json()
    assert named["id"] == f"{prefix}-mine"


def test_flags_of_structured_outputs_allow_what_they_do_not_disable() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}

    def held(**flags: bool) -> JsonSchema:
        found = wanted(Constrained(structured_outputs={"json": schema, **flags}))
        assert found is not None and isinstance(found.constraint, JsonSchema)
        return found.constraint

    strict = held()
    assert json.loads(strict.schema)["additionalProperties"] is False
    assert strict.separators == "compact"
    assert strict == held(disable_any_whitespace=True, disable_additional_properties=True)
    assert "additionalProperties" not in held(disable_additional_properties=False).schema
    assert held(disable_any_whitespace=False).separators == "flexible"


def test_what_sglangs_clients_send_to_ask_for_nothing_passes_and_no_more(server: Server) -> None:
    names = Unsupported.__struct_fields__
    for nothing in (None, False, [], "", {}, 0):
        answer = server.post("/generate", {**BODIES["/generate"], **dict.fromkeys(names, nothing)})
        assert answer.status_code == 200, answer.text
    for name in names:
        error = error_of(server.post("/generate", {**BODIES["/generate"], name: True}))
        assert (error["param"], error["code"]) == (name, "unsupported")
