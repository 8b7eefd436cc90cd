"""OpenAI's Agents SDK, over responses and over chats: typed output, tools, streams, turns."""

# /// script
# dependencies = ["openai-agents>=0.2"]
# ///

from __future__ import annotations

import asyncio
from typing import Any

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    SQLiteSession,
    function_tool,
    set_tracing_disabled,
)
from harness import KEY, MODEL, QUESTION, URL, raised, run
from openai import AsyncOpenAI, BadRequestError
from pydantic import BaseModel, Field

set_tracing_disabled(True)
KINDS = (OpenAIResponsesModel, OpenAIChatCompletionsModel)
CLIENT = AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
LOOP = asyncio.new_event_loop()


class Person(BaseModel):
    name: str = Field(max_length=20)
    born: int = Field(ge=0, le=2100)


@function_tool
def keep(name: str) -> str:
    """Keep a name."""
    return f"kept {name}"


def agent(kind: type, *, choice: str | None = None, **fields: Any) -> Agent:
    settings = ModelSettings(
        max_tokens=300,
        temperature=0,
        tool_choice=choice,
        parallel_tool_calls=False if fields.get("tools") else None,
    )
    model = kind(model=MODEL, openai_client=CLIENT)
    return Agent("agent", instructions="Be brief.", model=model, model_settings=settings, **fields)


def asked(who: Agent, question: Any = QUESTION, **more: Any) -> Any:
    return LOOP.run_until_complete(Runner.run(who, question, max_turns=3, **more))


def check_text_and_a_second_turn() -> None:
    for kind in KINDS:
        first = asked(agent(kind))
        turns = [*first.to_input_list(), {"role": "user", "content": "Again?"}]
        assert first.final_output
        assert asked(agent(kind), turns).final_output


def check_typed_output() -> None:
    for kind in KINDS:
        assert type(asked(agent(kind, output_type=Person)).final_output) is Person


def check_a_tool_is_called_and_answered() -> None:
    for kind in KINDS:
        called = asked(agent(kind, tools=[keep], choice="keep"))
        assert len(called.raw_responses) == 2
        assert called.raw_responses[0].output[0].name == "keep"


def check_stream() -> None:
    async def streamed(kind: type) -> set[str]:
        result = Runner.run_streamed(agent(kind, tools=[keep], choice="keep"), QUESTION)
        kinds = {event.type async for event in result.stream_events()}
        assert result.final_output is not None
        return kinds

    for kind in KINDS:
        kinds = LOOP.run_until_complete(streamed(kind))
        assert {"raw_response_event", "run_item_stream_event"} <= kinds


def check_session_of_the_client() -> None:
    for kind in KINDS:
        session = SQLiteSession("here")
        for question in (QUESTION, "Again?"):
            assert asked(agent(kind), question, session=session).final_output


def check_conversation_kept_by_the_server() -> None:
    first = asked(agent(OpenAIResponsesModel))
    who = agent(OpenAIResponsesModel, tools=[keep], choice="keep")
    asked(who, "Again?", previous_response_id=first.last_response_id)
    asked(who, auto_previous_response_id=True)


def check_error() -> None:
    for kind in KINDS:
        error = raised(BadRequestError, lambda kind=kind: asked(agent(kind), "word " * 20_000))
        assert error.code == "context_length_exceeded"


if __name__ == "__main__":
    run(globals())
