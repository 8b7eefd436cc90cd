"""LlamaIndex, by its class for servers that are like OpenAI's."""

# /// script
# dependencies = ["llama-index-llms-openai-like>=0.5", "llama-index-core>=0.14"]
# ///

from __future__ import annotations

import asyncio
from typing import Any

import openai
from harness import KEY, MODEL, QUESTION, URL, raised, run
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, Field

ASKED = [
    ChatMessage(role="system", content="Be brief."),
    ChatMessage(role="user", content=QUESTION),
]


class Person(BaseModel):
    """A person."""

    name: str = Field(max_length=20)
    born: int = Field(ge=0, le=2100)


def model(**fields: Any) -> OpenAILike:
    settings = {"is_chat_model": True, "max_tokens": 90, "temperature": 0, "max_retries": 0}
    return OpenAILike(MODEL, api_base=f"{URL}/v1", api_key=KEY, **{**settings, **fields})


def check_chat_and_stream() -> None:
    whole = model().chat(ASKED).message.content
    assert "".join(piece.delta or "" for piece in model().stream_chat(ASKED)) == whole


def check_completion() -> None:
    plain = model(is_chat_model=False)
    assert "".join(p.delta for p in plain.stream_complete("One")) == plain.complete("One").text


def check_structured_output() -> None:
    prompt = PromptTemplate("{question}")
    for fields in ({"is_function_calling_model": True}, {"should_use_structured_outputs": True}):
        person = model(**fields).structured_predict(Person, prompt, question=QUESTION)
        assert type(person) is Person
    structured = model(is_function_calling_model=True).as_structured_llm(Person)
    assert type(structured.complete(QUESTION).raw) is Person


def check_tools() -> None:
    tool = FunctionTool.from_defaults(lambda **_: "kept", "keep", "Keep one.", fn_schema=Person)
    calling = model(is_function_calling_model=True)
    for choice in ({"tool_required": True}, {"tool_choice": "keep"}):
        answer = calling.chat_with_tools([tool], user_msg=QUESTION, **choice)
        [call] = calling.get_tool_calls_from_response(answer)
        assert type(Person.model_validate(call.tool_kwargs)) is Person
    called = calling.predict_and_call([tool], user_msg=QUESTION, tool_required=True)
    assert called.response == "kept"


def check_many_at_once() -> None:
    async def several() -> list[Any]:
        return await asyncio.gather(*(model(max_tokens=4).achat(ASKED) for _ in range(4)))

    assert len({answer.message.content for answer in asyncio.run(several())}) == 1


def check_error() -> None:
    long = [ChatMessage(role="user", content="word " * 20_000)]
    error = raised(openai.BadRequestError, lambda: model().chat(long))
    assert error.code == "context_length_exceeded"


if __name__ == "__main__":
    run(globals())
