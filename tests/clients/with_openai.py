"""The OpenAI client: chat, parse, streams, tools, responses, decisions, completions, errors."""

# /// script
# dependencies = ["openai>=3.50"]
# ///

from __future__ import annotations

import asyncio
import math

import openai
from harness import KEY, MESSAGES, MODEL, QUESTION, URL, raised, run
from pydantic import BaseModel, Field

client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
chat = client.chat.completions


class Person(BaseModel):
    name: str = Field(max_length=30)
    born: int = Field(ge=0, le=2100)


TOOL = openai.pydantic_function_tool(Person, name="person")
FLAT_TOOL = {"type": "function", "name": "person", "parameters": Person.model_json_schema()}
JSON_FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "person", "schema": Person.model_json_schema()},
}


def check_chat_create() -> None:
    answer = chat.create(
        model=MODEL, messages=MESSAGES, n=2, max_tokens=5, seed=1, logprobs=True, top_logprobs=2
    )
    assert len(answer.choices) == 2
    first = answer.choices[0].logprobs.content[0]
    assert len(first.top_logprobs) == 2
    assert first.logprob <= first.top_logprobs[0].logprob + 1e-6
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def check_chat_stream_says_what_create_says() -> None:
    fixed = {"model": MODEL, "messages": MESSAGES, "temperature": 0, "max_tokens": 12}
    whole = chat.create(**fixed)
    chunks = list(chat.create(**fixed, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert [r for r in reasons if r] == [whole.choices[0].finish_reason]


def check_chat_parse() -> None:
    answer = chat.parse(model=MODEL, messages=MESSAGES, response_format=Person, max_tokens=80)
    assert type(answer.choices[0].message.parsed) is Person


def check_chat_stream_parse() -> None:
    with chat.stream(
        model=MODEL, messages=MESSAGES, response_format=Person, max_tokens=80
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert type(final.choices[0].message.parsed) is Person


def check_a_cut_text_is_told() -> None:
    raised(
        openai.LengthFinishReasonError,
        lambda: chat.parse(model=MODEL, messages=MESSAGES, response_format=Person, max_tokens=2),
    )


def check_tools_parse() -> None:
    fixed = {"model": MODEL, "messages": MESSAGES, "tools": [TOOL], "max_tokens": 90}
    for choice in ("required", {"type": "function", "function": {"name": "person"}}):
        message = chat.parse(**fixed, tool_choice=choice).choices[0].message
        assert type(message.tool_calls[0].function.parsed_arguments) is Person
    with chat.stream(**fixed, tool_choice="required") as stream:
        for _ in stream:
            pass
        call = stream.get_final_completion().choices[0].message.tool_calls[0]
    assert type(call.function.parsed_arguments) is Person


def check_a_conversation_with_a_call_and_its_result() -> None:
    fixed = {"model": MODEL, "tools": [TOOL], "max_tokens": 90, "temperature": 0}
    message = chat.create(**fixed, messages=MESSAGES, tool_choice="required").choices[0].message
    call = message.tool_calls[0]
    result = {"role": "tool", "tool_call_id": call.id, "content": "stored"}
    answer = chat.create(**fixed, messages=[*MESSAGES, message, result], tool_choice="none")
    assert answer.choices[0].message.content
    assert not answer.choices[0].message.tool_calls


def check_responses() -> None:
    answer = client.responses.create(model=MODEL, input=QUESTION, max_output_tokens=8)
    assert answer.output_text
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    parsed = client.responses.parse(
        model=MODEL, input=MESSAGES, text_format=Person, max_output_tokens=80
    )
    assert type(parsed.output_parsed) is Person


def check_responses_stream() -> None:
    with client.responses.stream(
        model=MODEL, input=MESSAGES, text_format=Person, max_output_tokens=80
    ) as stream:
        kinds = [event.type for event in stream]
        assert type(stream.get_final_response().output_parsed) is Person
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"


def check_responses_tools() -> None:
    fixed = {"model": MODEL, "input": QUESTION, "tools": [FLAT_TOOL], "max_output_tokens": 90}
    named = {"type": "function", "name": "person"}
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [named]}
    for choice in ("required", named, allowed):
        answer = client.responses.create(**fixed, tool_choice=choice)
        call = answer.output[0]
        assert call.type == "function_call"
        Person.model_validate_json(call.arguments)
    follow = [
        {"role": "user", "content": QUESTION},
        call,
        {"type": "function_call_output", "call_id": call.call_id, "output": "stored"},
    ]
    again = client.responses.create(**{**fixed, "input": follow}, tool_choice="none")
    assert again.output_text


def check_decisions() -> None:
    answers = client.decisions.create(
        model=MODEL,
        input="The soup was cold and the waiter was rude.",
        questions=[
            {"type": "predicate", "name": "happy", "instructions": "The customer is happy."},
            {
                "type": "choice",
                "instructions": "What is the mood?",
                "choices": [{"value": "good"}, {"value": "bad"}, {"value": True}],
            },
            {
                "type": "score",
                "instructions": "How angry?",
                "levels": [{"label": "calm"}, {"label": "angry"}],
            },
        ],
    ).answers
    assert 0 <= answers[0].probability <= 1
    for answer in answers[1:]:
        assert math.isclose(sum(p.probability for p in answer.probabilities), 1, abs_tol=1e-9)
    assert 0 <= answers[2].score <= 1


def check_completions() -> None:
    fixed = {"model": MODEL, "prompt": "The capital of France is", "max_tokens": 4}
    answer = client.completions.create(**fixed, temperature=0, logprobs=2, echo=True).choices[0]
    assert answer.text.startswith(fixed["prompt"])
    assert answer.logprobs.token_logprobs[0] is None
    assert "".join(answer.logprobs.tokens) == answer.text
    for at, token in zip(answer.logprobs.text_offset, answer.logprobs.tokens, strict=True):
        assert answer.text[at : at + len(token)] == token
    streamed = client.completions.create(**fixed, temperature=0, stream=True)
    text = "".join(chunk.choices[0].text for chunk in streamed)
    assert fixed["prompt"] + text == answer.text


def check_other_servers_constraints_go_through_extra_body() -> None:
    for body, texts in (
        ({"structured_outputs": {"choice": ["red", "blue"]}}, {"red", "blue"}),
        ({"guided_regex": "(red|blue)"}, {"red", "blue"}),
        ({"ebnf": 'root ::= "red" | "blue"'}, {"red", "blue"}),
    ):
        answer = chat.create(model=MODEL, messages=MESSAGES, extra_body=body, max_tokens=8)
        assert answer.choices[0].message.content in texts


def check_errors_name_their_place() -> None:
    def refused(**fields: object) -> openai.BadRequestError:
        return raised(
            openai.BadRequestError,
            lambda: chat.create(**{"model": MODEL, "messages": MESSAGES, **fields}),
        )

    assert refused(temperature=-1).param == "temperature"
    assert refused(extra_body={"guided_jsn": {}}).param == "guided_jsn"
    schema = {"type": "object", "properties": {"a": {"type": "strin"}}}
    wrong = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    error = refused(response_format=wrong)
    assert error.param == "response_format.json_schema.schema.properties.a"
    assert "strin" in error.message
    raised(openai.NotFoundError, lambda: chat.create(model="other", messages=MESSAGES))
    stranger = openai.OpenAI(base_url=f"{URL}/v1", api_key="wrong", max_retries=0)
    raised(openai.AuthenticationError, stranger.models.list)


def check_models() -> None:
    assert [m.id for m in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


def check_async_client() -> None:
    async def several() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY) as remote:
            answers = await asyncio.gather(
                *(
                    remote.chat.completions.create(
                        model=MODEL, messages=MESSAGES, max_tokens=4, temperature=0
                    )
                    for _ in range(4)
                )
            )
        return [a.choices[0].message.content for a in answers]

    assert len(set(asyncio.run(several()))) == 1


if __name__ == "__main__":
    run(globals())
