"""langchain-openai: structured output in its three methods, tools, streams."""

# /// script
# dependencies = ["langchain-openai>=1.7"]
# ///

from __future__ import annotations

from harness import KEY, MODEL, QUESTION, URL, run
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field


class Person(BaseModel):
    """A person of the text."""

    name: str = Field(max_length=30)
    born: int = Field(ge=0, le=2100)


def llm(**options: object) -> ChatOpenAI:
    fixed = {"model": MODEL, "base_url": f"{URL}/v1", "api_key": KEY, "max_retries": 0}
    return ChatOpenAI(**fixed, **{"max_completion_tokens": 90, **options})


def check_json_schema() -> None:
    person = llm().with_structured_output(Person, method="json_schema").invoke(QUESTION)
    assert type(person) is Person


def check_function_calling() -> None:
    person = llm().with_structured_output(Person, method="function_calling").invoke(QUESTION)
    assert type(person) is Person


def check_json_mode_gives_an_object() -> None:
    structured = llm(temperature=0, max_completion_tokens=200).with_structured_output(
        Person, method="json_mode", include_raw=True
    )
    raw = structured.invoke(f"{QUESTION} Answer in JSON with the keys name and born.")["raw"]
    assert raw.content.startswith("{")


def check_streamed_objects_grow() -> None:
    *_, last = llm().with_structured_output(Person, method="json_schema").stream(QUESTION)
    assert type(last) is Person


def check_stream_has_usage() -> None:
    chunks = list(llm(stream_usage=True, max_completion_tokens=8).stream(QUESTION))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.content
    assert whole.usage_metadata["output_tokens"] <= 8


def check_bound_tools() -> None:
    message = llm().bind_tools([Person], tool_choice="required").invoke(QUESTION)
    Person.model_validate(message.tool_calls[0]["args"])


def check_responses_interface() -> None:
    message = llm(use_responses_api=True, max_completion_tokens=8).invoke(QUESTION)
    assert message.text


if __name__ == "__main__":
    run(globals())
