"""instructor: every mode that a server can be asked in, partial objects, lists."""

# /// script
# dependencies = ["instructor>=1.17"]
# ///

from __future__ import annotations

import instructor
import openai
from harness import KEY, MESSAGES, MODEL, URL, run
from pydantic import BaseModel, Field

FIXED = {"model": MODEL, "messages": MESSAGES, "max_tokens": 90, "max_retries": 0}


class Person(BaseModel):
    name: str = Field(max_length=30)
    born: int = Field(ge=0, le=2100)


def made(mode: instructor.Mode) -> instructor.Instructor:
    client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
    return instructor.from_openai(client, mode=mode)


def check_tools() -> None:
    person = made(instructor.Mode.TOOLS).chat.completions.create(response_model=Person, **FIXED)
    assert isinstance(person, Person)


def check_json_schema() -> None:
    client = made(instructor.Mode.JSON_SCHEMA)
    assert isinstance(client.chat.completions.create(response_model=Person, **FIXED), Person)


def check_json_is_an_object() -> None:
    """This mode puts the schema into the prompt and asks for any object: a small model may fail."""
    client = made(instructor.Mode.JSON)
    fixed = {**FIXED, "max_tokens": 160, "temperature": 0}
    raw = client.client.chat.completions.create(
        **{k: v for k, v in fixed.items() if k != "max_retries"},
        response_format={"type": "json_object"},
    )
    assert raw.choices[0].message.content.startswith("{")


def check_partial_ends_with_the_whole() -> None:
    for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
        stream = made(mode).chat.completions.create_partial(response_model=Person, **FIXED)
        *_, last = stream
        Person.model_validate(last.model_dump())


def check_iterable() -> None:
    """Greedy: the schema that instructor sends lets an answer hold no list at all."""
    client = made(instructor.Mode.TOOLS)
    fixed = {**FIXED, "max_tokens": 200, "temperature": 0}
    people = client.chat.completions.create_iterable(response_model=Person, **fixed)
    assert isinstance(next(iter(people)), Person)


if __name__ == "__main__":
    run(globals())
