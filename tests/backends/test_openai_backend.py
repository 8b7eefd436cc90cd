"""Programs on a server that speaks OpenAI's protocol."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from pydantic import BaseModel

import sgrt
from sgrt.backends.openai import OpenAI, Server
from sgrt.core import (
    Choices,
    Ebnf,
    Generate,
    JsonSchema,
    Regex,
    SamplingParams,
    StructuralTag,
    Text,
)
from sgrt.errors import BackendError, Cancelled, ConstraintError, RequestError
from tests.backends.http_server import Asked, HttpServer, Reply, reply, sse

Start = Callable[..., tuple[HttpServer, OpenAI]]


@pytest.fixture
def start() -> Iterator[Start]:
    made: list[tuple[HttpServer, OpenAI]] = []

    def run(
        handler: Callable[[Asked], Reply], model: str = "m", **options: Any
    ) -> tuple[HttpServer, OpenAI]:
        server = HttpServer(handler)
        backend = OpenAI(model, base_url=server.url + "/v1", api_key="key", **options)
        made.append((server, backend))
        return server, backend

    yield run
    for server, backend in made:
        backend.close()
        server.close()


def chat(*pieces: str, reason: str = "stop", **last: Any) -> Callable[[Asked], Reply]:
    """A chat server that always says this."""
    deltas = [{"choices": [{"delta": {"content": p}, "finish_reason": None}]} for p in pieces]
    end = {"choices": [{"delta": {}, "finish_reason": reason, **last}]}
    usage = {"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 5}}
    return lambda asked: sse(*deltas, end, usage)


def completion(*pieces: str, reason: str = "stop", **last: Any) -> Callable[[Asked], Reply]:
    """A completion server that always says this."""
    texts = [{"choices": [{"text": p, "finish_reason": None}]} for p in pieces]
    end = {"choices": [{"text": "", "finish_reason": reason, **last}]}
    return lambda asked: sse(*texts, end)


@sgrt.function
def talk(s):
    s += sgrt.system("Be kind.")
    s += sgrt.user("Hi <|im_end|>\n")
    s += sgrt.assistant(sgrt.gen("a", max_tokens=7, stop="END"))
    s += sgrt.user("More.")
    s += sgrt.assistant(sgrt.gen("b"))


def test_chat_program_is_sent_as_messages_with_users_text_untouched(start: Start) -> None:
    server, backend = start(chat("Hel", "lo"))
    state = talk.run(backend=backend)
    assert (state["a"], state["b"]) == ("Hello", "Hello")
    first, second = server.bodies("/v1/chat/completions")
    assert first["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi <|im_end|>\n"},
    ]
    assert second["messages"][2:] == [
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "More."},
    ]
    assert (first["max_tokens"], first["stop"], first["model"]) == (7, ["END"], "m")
    assert first["stream_options"] == {"include_usage": True}
    assert server.asked[0].headers["authorization"] == "Bearer key"
    assert state.usage() == sgrt.Usage(prompt=22, sampled=10)
    assert backend.token_usage.prompt_tokens == 22
    assert [m["content"] for m in state.messages()] == [
        "Be kind.", "Hi <|im_end|>\n", "Hello", "More.", "Hello",
    ]  # fmt: skip


def test_chat_text_outside_messages_is_refused(start: Start) -> None:
    server, backend = start(chat("x"))

    @sgrt.function
    def plain(s):
        s += "Q: why?" + sgrt.gen("a")

    with pytest.raises(sgrt.ProgramError, match="stands in no message"):
        _ = plain.run(backend=backend)["a"]
    assert server.asked == []


def test_chat_generation_behind_text_needs_a_server_that_continues(start: Start) -> None:
    @sgrt.function
    def begun(s):
        s += sgrt.user("Hi") + sgrt.assistant("Name: " + sgrt.gen("a"))

    server, backend = start(chat("Ada"))
    with pytest.raises(sgrt.ProgramError, match="must begin its message"):
        _ = begun.run(backend=backend)["a"]
    assert server.asked == []

    server, backend = start(chat("Ada"), continue_final_message=True, server="vllm")
    assert begun.run(backend=backend)["a"] == "Ada"
    (body,) = server.bodies("/v1/chat/completions")
    assert body["messages"][-1] == {"role": "assistant", "content": "Name: "}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)


def test_chat_model_refuses_select_by_name(start: Start) -> None:
    _, backend = start(chat("x"))

    @sgrt.function
    def program(s):
        s += sgrt.user("Hi") + sgrt.assistant(sgrt.select("a", ["x", "y"]))

    with pytest.raises(sgrt.ProgramError, match="cannot honour select"):
        _ = program.run(backend=backend)["a"]


class City(BaseModel):
    name: str


def test_output_model_is_asked_for_as_strict_schema_and_validated(start: Start) -> None:
    server, backend = start(chat('{"name":', '"Rome"}'))

    @sgrt.function
    def program(s):
        s += sgrt.user("Hi") + sgrt.assistant(sgrt.gen("a", output=City))

    assert program.run(backend=backend)["a"] == City(name="Rome")
    told = server.bodies("/v1/chat/completions")[0]["response_format"]
    assert told["json_schema"]["strict"] is True
    assert told["json_schema"]["schema"]["required"] == ["name"]


SCHEMA = JsonSchema('{"type":"object"}')
TAG = StructuralTag.from_dict(
    {"structures": [{"begin": "<f>", "schema": {}, "end": "</f>"}], "triggers": ["<f>"]}
)
GBNF = 'root ::= "a"'


@pytest.mark.parametrize(
    ("server", "is_chat", "constraint", "expected"),
    [
        ("vllm", True, Regex("a+"), {"structured_outputs": {"regex": "a+"}}),
        ("vllm", False, Choices(("a",)), {"structured_outputs": {"choice": ["a"]}}),
        ("vllm", False, SCHEMA, {"structured_outputs": {"json": {"type": "object"}}}),
        ("sglang", True, Regex("a+"), {"regex": "a+"}),
        ("sglang", False, SCHEMA, {"json_schema": SCHEMA.schema}),
        ("sglang", True, Ebnf(GBNF), {"ebnf": GBNF}),
        ("llama.cpp", True, Choices(("a", 'b"')), {"grammar": 'root ::= "a" | "b\\""'}),
        ("llama.cpp", False, Ebnf(GBNF), {"grammar": GBNF}),
        ("openai", True, Regex("a+"), None),
        ("openai", False, SCHEMA, None),
        ("openai", True, TAG, None),
        ("llama.cpp", True, Regex("a+"), None),
        ("vllm", False, TAG, None),
    ],
)
def test_constraint_has_a_word_on_this_server_or_is_refused(
    server: Server, is_chat: bool, constraint: Any, expected: dict[str, Any] | None
) -> None:
    backend = OpenAI("m", is_chat, base_url="http://x/v1", api_key="", server=server)
    if expected is None:
        with pytest.raises(ConstraintError, match=f"no word for {type(constraint).__name__}"):
            backend.compile(constraint)
    else:
        assert backend.constraint_fields(constraint) == expected
    backend.close()


def test_structural_tag_is_a_response_format() -> None:
    backend = OpenAI("m", True, base_url="http://x/v1", server="sglang")
    told = backend.constraint_fields(TAG)["response_format"]
    assert (told["type"], told["triggers"]) == ("structural_tag", ["<f>"])
    backend.close()


@pytest.mark.parametrize("field", ["top_k", "min_tokens", "ignore_eos", "finish"])
def test_parameter_beyond_the_protocol_is_refused_by_name(start: Start, field: str) -> None:
    server, backend = start(chat("x"))
    value: Any = {"top_k": 5, "min_tokens": 2, "ignore_eos": True, "finish": "close"}[field]
    params = SamplingParams().override(**{field: value})
    (handle,) = backend.open().generate([Generate(params=params)])
    with pytest.raises(RequestError, match=f"cannot honour {field}"):
        handle.result(10)
    assert server.asked == []


def test_parameters_beyond_the_protocol_reach_servers_that_know_them(start: Start) -> None:
    server, backend = start(completion("x"), is_chat_model=False, server="vllm")
    params = SamplingParams(top_k=5, min_p=0.1, stop_token_ids=(3,), logit_bias={7: -1.0}, seed=9)
    (handle,) = backend.open().generate([Text("q"), Generate(params=params)])
    assert handle.result(10).text == "x"
    (body,) = server.bodies("/v1/completions")
    assert body["prompt"] == "q"
    told = {k: body[k] for k in ("top_k", "min_p", "stop_token_ids", "logit_bias", "seed")}
    assert told == {
        "top_k": 5, "min_p": 0.1, "stop_token_ids": [3], "logit_bias": {"7": -1.0}, "seed": 9,
    }  # fmt: skip


def test_completion_program_goes_on_with_the_whole_text(start: Start) -> None:
    server, backend = start(completion("on", "e"), is_chat_model=False)

    @sgrt.function
    def program(s):
        s += "1:" + sgrt.gen("a") + " 2:" + sgrt.gen("b")

    state = program.run(backend=backend)
    assert state.text() == "1:one 2:one"
    assert [b["prompt"] for b in server.bodies("/v1/completions")] == ["1:", "1:one 2:"]
    assert state.usage().sampled == 4  # counted here: the server gave no figures


def test_completion_select_reads_echoed_logprobs_from_the_seam_on(start: Start) -> None:
    def echo(asked: Asked) -> Reply:
        choices = []
        for index, text in enumerate(asked.body["prompt"]):
            tokens = [text[i : i + 2] for i in range(0, len(text), 2)] + ["!"]
            told = {
                "tokens": tokens,
                "token_logprobs": [None, *(-len(t) / 8 for t in tokens[1:])],
                "text_offset": [2 * i for i in range(len(tokens) - 1)] + [len(text)],
            }
            choices.append({"index": index, "logprobs": told})
        return reply({"choices": choices[::-1], "usage": {"prompt_tokens": 3}})

    server, backend = start(echo, is_chat_model=False)
    session = backend.open()
    session.extend(Text("abcd"))
    scores = session.score(["ef", "efghi"], unconditional=True).result(10)
    assert scores.token_logprobs == ((-0.25,), (-0.25, -0.25, -0.125))
    assert scores.unconditional_logprobs == ((0.0,), (0.0, -0.25, -0.125))
    assert backend.token_texts(scores.token_ids[1]) == ["ef", "gh", "i"]
    assert server.bodies("/v1/completions")[0]["echo"] is True


def test_logprobs_of_chat_are_numbered_and_spelled(start: Start) -> None:
    token = {"token": "Hi", "logprob": -0.5, "top_logprobs": [{"token": "Ho", "logprob": -1}]}
    with_logprobs = sse(
        {"choices": [{"delta": {"content": "Hi"}, "logprobs": {"content": [token]}}]},
        {"choices": [{"delta": {}, "finish_reason": "stop"}]},
    )
    server, backend = start(lambda asked: with_logprobs)
    session = backend.open()
    marks = (Text("<|im_start|>user\n", True), Text("q"), Text("<|im_end|>\n", True))
    session.extend(*marks, Text("<|im_start|>assistant\n", True))
    (handle,) = session.generate([Generate(params=SamplingParams(logprobs=1))])
    result = handle.result(10)
    assert result.logprobs is not None
    (found,) = result.logprobs
    assert backend.token_texts([found.token_id, found.top[0][0]]) == ["Hi", "Ho"]
    body = server.bodies("/v1/chat/completions")[0]
    assert (body["logprobs"], body["top_logprobs"]) == (True, 1)


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (chat("x", reason="content_filter"), "content filter"),
        (chat("x", reason="tool_calls"), "tool_calls"),
        (lambda asked: sse({"choices": [{"delta": {"refusal": "No."}}]}), "refused: No"),
        (lambda asked: sse({"choices": [{"delta": None}]}), "shape"),
        (lambda asked: sse({"choices": 3}), "shape"),
        (lambda asked: sse(), "finish_reason=None"),
        (lambda asked: sse({"choices": []}, done=False), "ended before its end"),
        (lambda asked: sse({"choices": []}, done=False, cut=True), "/v1/chat/completions"),
        (lambda asked: sse({"error": {"message": "boom", "code": 500}}), "boom"),
        (lambda asked: reply({"error": {"message": "no such model"}}, 404), "404: no such model"),
        (lambda asked: reply({}), "instead of a stream"),
    ],
)
def test_defective_answer_is_the_readers_error(
    start: Start, handler: Callable[[Asked], Reply], says: str
) -> None:
    _, backend = start(handler)

    @sgrt.function
    def program(s):
        s += sgrt.user("Hi") + sgrt.assistant(sgrt.gen("a"))
        s += sgrt.user("Hi")

    state = program.run(backend=backend)
    with pytest.raises(sgrt.ProgramError, match=says) as caught:
        _ = state["a"]
    assert isinstance(caught.value.__cause__, BackendError)


def test_cancelled_stream_closes_the_connection(start: Start) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        import asyncio

        while True:
            event = {"choices": [{"text": "x"}]}
            yield f"data: {json.dumps(event)}\n\n".encode()
            await asyncio.sleep(0.02)

    kind = {"content-type": "text/event-stream"}
    server, backend = start(lambda asked: Reply(200, kind, slowly()), is_chat_model=False)
    (handle,) = backend.open().generate([Text("q"), Generate()])
    assert next(handle.events()).text == "x"
    handle.cancel()
    with pytest.raises(Cancelled):
        handle.result(10)
    end = time.monotonic() + 10
    while server.gone == 0:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_openai_refuses_what_it_would_ignore() -> None:
    with pytest.raises(RequestError, match="is_azure"):
        OpenAI("m", is_azure=True)
    with pytest.raises(RequestError, match="server='vlm'"):
        OpenAI("m", server="vlm")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="chat_template"):
        OpenAI("m", chat_template="chatml")  # type: ignore[arg-type]
    assert OpenAI("gpt-3.5-turbo-instruct").is_chat_model is False
    assert OpenAI("gpt-4").max_tokens_field == "max_completion_tokens"
