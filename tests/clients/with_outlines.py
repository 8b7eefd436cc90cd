"""outlines: its clients for vLLM, SGLang and OpenAI."""

# /// script
# dependencies = ["outlines>=1.3", "openai>=2"]
# ///

from __future__ import annotations

import re
from typing import Literal

import openai
import outlines
from harness import KEY, MODEL, QUESTION, URL, run
from outlines.types import CFG, Regex
from pydantic import BaseModel, Field

client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
vllm = outlines.from_vllm(client, MODEL)
sglang = outlines.from_sglang(client, MODEL)


class Person(BaseModel):
    name: str = Field(max_length=30)
    born: int = Field(ge=0, le=2100)


def check_json() -> None:
    for model in (vllm, sglang, outlines.from_openai(client, MODEL)):
        Person.model_validate_json(model(QUESTION, Person, max_tokens=90))


def check_choices_and_patterns() -> None:
    for model in (vllm, sglang):
        assert model("Is the sky blue?", Literal["yes", "no"], max_tokens=8) in ("yes", "no")
        assert re.fullmatch(r"\d{4}", model(QUESTION, Regex(r"\d{4}"), max_tokens=8))


def check_grammars() -> None:
    lark = 'start: "red" | "blue"'
    assert vllm("A colour:", CFG(lark), max_tokens=8) in ("red", "blue")
    ebnf = 'root ::= "red" | "blue"'
    assert sglang("A colour:", CFG(ebnf), max_tokens=8) in ("red", "blue")


def check_stream() -> None:
    text = "".join(vllm.stream(QUESTION, Regex(r"\d{4}"), max_tokens=8))
    assert re.fullmatch(r"\d{4}", text)


if __name__ == "__main__":
    run(globals())
