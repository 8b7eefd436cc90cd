"""pydantic-ai, the strictest reader of answers: tool, native and prompted output, streams."""

# /// script
# dependencies = ["pydantic-ai-slim[openai]>=2.60"]
# ///

from __future__ import annotations

import asyncio
import contextlib

from harness import KEY, MODEL, QUESTION, URL, run
from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings


class Person(BaseModel):
    name: str = Field(max_length=30)
    born: int = Field(ge=0, le=2100)


def agent(output: object, kind: type = OpenAIChatModel, **settings: object) -> Agent:
    model = kind(MODEL, provider=OpenAIProvider(base_url=f"{URL}/v1", api_key=KEY))
    settings = {"max_tokens": 120, "temperature": 0, **settings}
    return Agent(model, output_type=output, model_settings=ModelSettings(**settings), retries=1)


def check_text() -> None:
    assert agent(str, max_tokens=8).run_sync(QUESTION).output


def check_tool_output() -> None:
    assert type(agent(Person).run_sync(QUESTION).output) is Person
    assert type(agent(ToolOutput(Person)).run_sync(QUESTION).output) is Person


def check_native_output() -> None:
    assert type(agent(NativeOutput(Person)).run_sync(QUESTION).output) is Person


def check_prompted_output_is_asked_for_json() -> None:
    """The schema stands in the prompt only: a small model may not follow it, but it writes JSON."""
    from pydantic_ai.exceptions import UnexpectedModelBehavior

    try:
        assert type(agent(PromptedOutput(Person)).run_sync(QUESTION).output) is Person
    except UnexpectedModelBehavior as error:
        assert "retries" in str(error) or "token" in str(error), error


def check_stream() -> None:
    async def last(output: object) -> object:
        async with agent(output).run_stream(QUESTION) as result:
            return await result.get_output()

    for output in (ToolOutput(Person), NativeOutput(Person)):
        assert type(asyncio.run(last(output))) is Person


def check_a_tool_of_the_agent_is_called() -> None:
    from pydantic_ai import UsageLimits
    from pydantic_ai.exceptions import UnexpectedModelBehavior, UsageLimitExceeded

    asked = agent(str, max_tokens=60)
    given: list[str] = []

    @asked.tool_plain
    def look_up(name: str) -> str:
        """Look a person up."""
        given.append(name)
        return "born in 1815"

    # a small model may call for ever
    with contextlib.suppress(UsageLimitExceeded, UnexpectedModelBehavior):
        asked.run_sync(QUESTION, usage_limits=UsageLimits(request_limit=2))
    assert all(isinstance(name, str) for name in given)


def check_responses_interface() -> None:
    answer = agent(NativeOutput(Person), OpenAIResponsesModel).run_sync(QUESTION)
    assert type(answer.output) is Person


if __name__ == "__main__":
    run(globals())
