"""Programs on the real model, end to end."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Literal

import pytest
import torch
from pydantic import BaseModel, Field

import sgrt
from sgrt.backends.local import Engine
from sgrt.core import Choices, Generate, JsonSchema, Regex, SamplingParams, Text
from sgrt.grammar.engines.llguidance_ import LLMatcher

pytestmark = pytest.mark.model

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
        ],
    ),
]
PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a village by the sea, there lived",
    "def fibonacci(n):\n",
    "The capital of France is Paris, and the capital of Italy is",
    "1, 2, 3, 4,",
]
PERSON = JsonSchema(
    json.dumps(
        {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 20},
                "age": {"type": "integer", "minimum": 0, "maximum": 120},
            },
            "required": ["name", "age"],
            "additionalProperties": False,
        }
    )
)


@pytest.fixture(scope="module", params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def engine(smollm2: Path, device: str):
    with Engine(str(smollm2), device=device, kv_tokens=16384, num_threads=2) as engine:
        yield engine


def _texts(engine: Engine, prompts: list[str], **options) -> list[str]:
    constraint = options.pop("constraint", None)
    params = SamplingParams(**{"max_tokens": 12, "temperature": 0} | options)
    sessions = [engine.open() for _ in prompts]
    handles = []
    for session, prompt in zip(sessions, prompts, strict=True):
        session.extend(Text(prompt))
        handles += session.generate([Generate(params=params, constraint=constraint)])
    return [handle.result(60).text for handle in handles]


def test_greedy_text_with_a_capital_knows_it(engine: Engine) -> None:
    assert "Paris" in engine.generate(PROMPTS[0], max_tokens=8, temperature=0).text


def test_greedy_text_on_a_cpu_is_equal_for_cache_batch_and_chunk(smollm2: Path) -> None:
    texts = []
    for options in (
        {},
        {"prefix_cache": False},
        {"max_running": 1, "max_step_tokens": 7},
        {"num_threads": 1, "page_size": 1},
    ):
        with Engine(str(smollm2), device="cpu", kv_tokens=4096, **options) as engine:
            texts.append(_texts(engine, PROMPTS))
            texts.append(_texts(engine, PROMPTS))  # warm
    assert all(t == texts[0] for t in texts)


def test_constraints_hold_and_forced_runs_are_counted(engine: Engine) -> None:
    for text in _texts(engine, PROMPTS, constraint=PERSON, max_tokens=60):
        person = json.loads(text)
        assert 0 <= person["age"] <= 120 and len(person["name"]) <= 20
    for text in _texts(engine, PROMPTS, constraint=Regex("[A-Z][a-z]{2,8}, [0-9]{4}")):
        name, year = text.split(", ")
        assert name.istitle() and len(year) == 4
    options = ("yes", "no", "perhaps not")
    assert set(_texts(engine, PROMPTS, constraint=Choices(options))) <= set(options)
    result = engine.generate("A person: ", constraint=PERSON, max_tokens=60, temperature=0)
    assert result.usage.forced > 2
    assert result.usage.forced + result.usage.sampled == len(result.token_ids)


def test_text_with_tokens_computed_ahead_is_the_same_in_fewer_steps(
    engine: Engine, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device != "cpu":
        pytest.skip("equal bits are promised on CPUs")
    constraint = JsonSchema(PERSON.schema, separators="fixed")
    found, steps = [], []
    for _ in range(2):
        before = engine.stats()["steps"]
        for prompt in PROMPTS[:2]:
            options = {"temperature": 0.8, "seed": 2, "max_tokens": 24}
            found.append(engine.generate(prompt, constraint=constraint, **options).token_ids)
        steps.append(engine.stats()["steps"] - before)
        monkeypatch.setattr(LLMatcher, "guess", lambda matcher: [])
    assert found[:2] == found[2:] and steps[0] < steps[1]


def test_sampling_repeats_with_its_seed_and_obeys_the_constraint(engine: Engine) -> None:
    options = {"temperature": 1.0, "top_p": 0.9, "seed": 3, "constraint": PERSON, "max_tokens": 60}
    first = engine.generate("A person: ", **options)
    assert first.text == engine.generate("A person: ", **options).text
    json.loads(first.text)


def test_forked_sessions_share_their_prefix(engine: Engine) -> None:
    session = engine.open()
    session.extend(Text("Here is a long and winding story that all of the children share. " * 3))
    session.generate([Generate(params=SamplingParams(max_tokens=1, temperature=0))])
    children = session.fork(3)
    handles = []
    for i, child in enumerate(children):
        child.extend(Text(f" Part {i}:"))
        handles += child.generate([Generate(params=SamplingParams(max_tokens=4, temperature=0))])
    for handle in handles:
        usage = handle.result(60).usage
        assert usage.cached >= usage.prompt - 8


class City(BaseModel):
    """What the program below extracts."""

    name: str = Field(max_length=30)
    kind: Literal["capital", "town", "village"]


@sgrt.function
def city(s, text: str):
    s += sgrt.system("You extract facts as JSON.")
    s += sgrt.user(f"Text: {text}")
    s += sgrt.assistant(sgrt.gen("city", output=City))
    s += sgrt.user("Is it large?")
    s += sgrt.assistant(sgrt.select("large", ["yes", "no"]))
    return s["city"]


def test_program_batch_returns_validated_objects_in_order(engine: Engine) -> None:
    texts = ["Paris is the capital of France.", "Giverny is a village.", "Bern is a capital."]
    states = city.run_batch(
        [{"text": t} for t in texts], backend=engine, temperature=0, max_tokens=60
    )
    assert [type(s.value) for s in states] == [City] * 3
    assert [s["large"] in ("yes", "no") for s in states] == [True] * 3
    assert "Paris" in states[0].text() and "Bern" in states[2].text()
    assert engine.stats()["cache_hit_rate"] > 0.3


def test_user_text_that_spells_a_special_token_stays_text(engine: Engine) -> None:
    session = engine.open()
    session.extend(Text("<|im_end|>"))
    assert not set(session.token_ids()) & engine.tokenizer.special_ids
    session.extend(Text("<|im_end|>", special=True))
    assert session.token_ids()[-1] in engine.tokenizer.special_ids


def test_appended_text_is_tokenized_on_its_own_behind_generated_text(engine: Engine) -> None:
    session = engine.open()
    session.extend(Text("The quick"))
    session.extend(Text(" brown"))
    whole = engine.tokenizer.encode("The quick brown")
    assert session.token_ids() == whole  # consecutive texts are one piece
    (handle,) = session.generate([Generate(params=SamplingParams(max_tokens=2, temperature=0))])
    generated = list(handle.result(60).token_ids)
    session.extend(Text("ish"))
    assert session.token_ids() == whole + generated + engine.tokenizer.encode("ish")


@sgrt.function
def describe(s, subject):
    s += sgrt.user(f"Name one fact about {subject}.")
    s += sgrt.assistant(sgrt.gen("fact", max_tokens=12))


@pytest.mark.slow
def test_seeded_programs_write_the_same_text_whatever_runs_beside_them(engine: Engine) -> None:
    subjects = ["the sea", "Ada Lovelace", "copper", "the moon", "bread", "Ulm"]

    async def texts(order: list[int]) -> list[str]:
        runs = [describe.arun(subjects[i], backend=engine, seed=i) for i in order]
        found = dict(zip(order, await asyncio.gather(*runs), strict=True))
        return [found[i].text() for i in range(len(order))]

    alone = [describe.run(subject, backend=engine, seed=i) for i, subject in enumerate(subjects)]
    expected = [state.text() for state in alone]
    for order in ([5, 3, 1, 0, 2, 4], [2, 4, 0, 5, 1, 3]):
        assert asyncio.run(texts(order)) == expected
