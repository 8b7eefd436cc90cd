"""guidance's models behind a server. It reads texts again itself and drops what does not match."""

# /// script
# dependencies = ["guidance>=0.3.1", "openai>=2"]
# ///

from __future__ import annotations

import json
import re

from guidance import assistant, gen, select, user
from guidance import json as gen_json
from guidance.models.experimental import SglangModel, VLLMModel
from harness import KEY, MODEL, QUESTION, URL, run

SCHEMA = {
    "type": "object",
    "properties": {"born": {"type": "integer", "minimum": 0, "maximum": 2100}},
    "required": ["born"],
    "additionalProperties": False,
}


def models() -> list:
    return [kind(MODEL, base_url=f"{URL}/v1", api_key=KEY) for kind in (VLLMModel, SglangModel)]


def check_regex_is_captured() -> None:
    for lm in models():
        with user():
            lm += QUESTION
        with assistant():
            lm += gen("year", regex=r"\d{4}")
        assert re.fullmatch(r"\d{4}", lm["year"])


def check_select_with_vllm() -> None:
    lm = models()[0]
    with user():
        lm += "Is the sky blue?"
    with assistant():
        lm += "The answer: " + select(["yes", "no"], name="answer")
    assert lm["answer"] in ("yes", "no")


def check_json_is_captured() -> None:
    for lm in models():
        with user():
            lm += QUESTION
        with assistant():
            lm += gen_json("person", schema=SCHEMA)
        assert set(json.loads(lm["person"])) == {"born"}


if __name__ == "__main__":
    run(globals())
