"""dspy: typed outputs. ``lm_studio/`` is the prefix by which litellm sends the schema."""

# /// script
# dependencies = ["dspy>=3.4"]
# ///

from __future__ import annotations

import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

from typing import Literal

import dspy
from harness import KEY, MODEL, URL, run


class Extract(dspy.Signature):
    """Extract the person."""

    text: str = dspy.InputField()
    name: str = dspy.OutputField()
    field: Literal["science", "sport"] = dspy.OutputField()


def check_json_adapter_gives_typed_values() -> None:
    lm = dspy.LM(
        f"lm_studio/{MODEL}", api_base=f"{URL}/v1", api_key=KEY, cache=False, max_tokens=300
    )
    with dspy.context(lm=lm, adapter=dspy.JSONAdapter()):
        answer = dspy.Predict(Extract)(text="Ada Lovelace wrote the first program.")
    assert answer.field in ("science", "sport")
    assert isinstance(answer.name, str)


def check_plain_calls() -> None:
    for prefix in ("openai", "hosted_vllm"):
        lm = dspy.LM(
            f"{prefix}/{MODEL}", api_base=f"{URL}/v1", api_key=KEY, cache=False, max_tokens=8
        )
        (text,) = lm("Hello")
        assert text


if __name__ == "__main__":
    run(globals())
