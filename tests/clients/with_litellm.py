"""litellm: both of its ways to such a server, streams, its names for errors."""

# /// script
# dependencies = ["litellm>=1.106", "mcp"]
# ///

from __future__ import annotations

import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
from harness import KEY, MESSAGES, MODEL, QUESTION, URL, raised, run
from pydantic import BaseModel, Field


class Person(BaseModel):
    name: str = Field(max_length=30)
    born: int = Field(ge=0, le=2100)


WAYS = (f"openai/{MODEL}", f"hosted_vllm/{MODEL}")
FIXED = {"messages": MESSAGES, "api_base": f"{URL}/v1", "api_key": KEY, "num_retries": 0}


def check_text_and_stream() -> None:
    for model in WAYS:
        fixed = {"model": model, "max_tokens": 8, "temperature": 0, **FIXED}
        whole = litellm.completion(**fixed).choices[0].message.content
        chunks = litellm.completion(**fixed, stream=True)
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole


def check_response_format() -> None:
    for model in WAYS:
        answer = litellm.completion(model=model, response_format=Person, max_tokens=90, **FIXED)
        Person.model_validate_json(answer.choices[0].message.content)


def check_tools() -> None:
    parameters = Person.model_json_schema()
    tool = {"type": "function", "function": {"name": "person", "parameters": parameters}}
    for model in WAYS:
        answer = litellm.completion(
            model=model, tools=[tool], tool_choice="required", max_tokens=90, **FIXED
        )
        call = answer.choices[0].message.tool_calls[0]
        Person.model_validate_json(call.function.arguments)


def check_extra_body() -> None:
    body = {"structured_outputs": {"choice": ["red", "blue"]}}
    for model in WAYS:
        answer = litellm.completion(model=model, extra_body=body, max_tokens=8, **FIXED)
        assert answer.choices[0].message.content in ("red", "blue")


def check_text_completion() -> None:
    answer = litellm.text_completion(
        model=f"text-completion-openai/{MODEL}",
        prompt=QUESTION,
        max_tokens=4,
        api_base=f"{URL}/v1",
        api_key=KEY,
    )
    assert answer.choices[0].text


def check_errors() -> None:
    error = raised(
        litellm.BadRequestError,
        lambda: litellm.completion(model=WAYS[0], extra_body={"guided_jsn": "{}"}, **FIXED),
    )
    assert "guided_jsn" in str(error)


if __name__ == "__main__":
    run(globals())
