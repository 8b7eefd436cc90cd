"""finish="close": complete within max_tokens, whatever the model wants; else refused up front."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from sgrt.backends.local import Engine
from sgrt.core import Choices, Constraint, GenerateResult, JsonSchema, Regex
from sgrt.errors import ConstraintError, InvalidSamplingParams, RequestError
from tests.grammar.random_schemas import is_valid, load, schema
from tests.runtime.integer_model import integer_parts

RECORD = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
SHORTEST = '{"name":"","age":0,"tags":[]}'  # one byte is one token here


@pytest.fixture(scope="module", params=[True, False], ids=["forced", "sampled"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with Engine.from_parts(integer_parts(forced_runs=request.param)) as engine:
        yield engine


def close(engine: Engine, constraint: Constraint, max_tokens: int, **more: Any) -> GenerateResult:
    options = {"finish": "close", "prompt": "text: "} | more
    prompt = options.pop("prompt")
    result = engine.generate(prompt, constraint=constraint, max_tokens=max_tokens, **options)
    assert isinstance(result, GenerateResult)
    return result


def test_close_of_any_schema_is_valid_from_the_shortest_length_on(engine: Engine) -> None:
    rng, num_closed = random.Random(1), 0
    for _ in range(30):
        node = schema(rng)
        constraint = JsonSchema(json.dumps(node))
        try:
            shortest = engine._parts.grammars.compile(constraint).matcher().shortest_completion()
        except ConstraintError:
            continue
        assert shortest is not None
        for extra in (0, 1, 7):
            limit = len(shortest) + extra
            result = close(engine, constraint, limit, seed=rng.getrandbits(32))
            assert len(result.token_ids) <= limit
            assert result.is_complete
            assert is_valid(load(result.text), node), (node, result.text)
            num_closed += result.finish_reason == "length"
    assert num_closed > 10


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_close_is_what_cut_gives_where_the_text_ends_in_time(
    engine: Engine, temperature: float
) -> None:
    for seed in range(5):
        constraint = Regex("(ab|cd|e[0-9]{1,4}f){1,6}")
        options = {"temperature": temperature, "seed": seed}
        cut = close(engine, constraint, 60, finish="cut", **options)
        closed = close(engine, constraint, 60, **options)
        assert cut.finish_reason == "stop"
        assert closed == cut or closed.usage.cached != cut.usage.cached
        assert (closed.text, closed.finish_reason) == (cut.text, "stop")


def test_close_keeps_what_was_drawn_as_long_as_it_fits(engine: Engine) -> None:
    """Both texts begin alike; the closed one then ends, the cut one breaks off."""
    constraint = JsonSchema(json.dumps(RECORD))
    cut = close(engine, constraint, 48, finish="cut", seed=5)
    closed = close(engine, constraint, 48, seed=5)
    assert (cut.finish_reason, cut.is_complete) == ("length", False)
    assert (closed.finish_reason, closed.is_complete) == ("length", True)
    assert is_valid(load(closed.text), RECORD)
    num_same = next(
        i for i, (a, b) in enumerate(zip(cut.text, closed.text, strict=False)) if a != b
    )
    assert num_same >= 10
    assert closed.usage.forced > 0


@pytest.mark.parametrize("max_tokens", [0, 1, len(SHORTEST) - 1])
def test_close_of_less_than_the_shortest_text_is_refused(engine: Engine, max_tokens: int) -> None:
    constraint = JsonSchema(json.dumps(RECORD))
    with pytest.raises(RequestError, match=f"has {len(SHORTEST)} .* room for {max_tokens}"):
        close(engine, constraint, max_tokens)
    assert close(engine, constraint, len(SHORTEST)).text == SHORTEST


def test_close_counts_the_context_as_a_limit() -> None:
    with Engine.from_parts(integer_parts(context_len=64)) as small:
        constraint = JsonSchema(json.dumps(RECORD))
        result = close(small, constraint, 500, prompt="p" * 30)
        assert result.is_complete and is_valid(load(result.text), RECORD)
        assert len(result.token_ids) <= 34
        with pytest.raises(RequestError, match="room for 24"):
            close(small, constraint, 500, prompt="p" * 40)


def test_close_of_an_empty_text_needs_no_token(engine: Engine) -> None:
    result = close(engine, Regex("a*"), 0)
    assert (result.text, result.finish_reason, result.is_complete) == ("", "length", True)


def test_close_of_choices_never_ends_inside_an_option(engine: Engine) -> None:
    options = ("no", "a long option", "a longer option")
    for seed in range(6):
        result = close(engine, Choices(options), 5, seed=seed)
        assert result.text == "no" and result.is_complete


def test_close_still_ends_at_a_stop_string(engine: Engine) -> None:
    result = close(engine, Regex("[ab]{4}#[ab]{20}"), 25, stop="#")
    assert (result.finish_reason, result.stop_match, result.is_complete) == ("stop", "#", False)


def test_close_without_a_constraint_is_cut(engine: Engine) -> None:
    cut = engine.generate("text: ", max_tokens=9, seed=3, ignore_eos=True)
    closed = engine.generate("text: ", max_tokens=9, seed=3, ignore_eos=True, finish="close")
    assert isinstance(cut, GenerateResult) and isinstance(closed, GenerateResult)
    assert (closed.text, closed.is_complete) == (cut.text, True)


def test_close_reports_logprobs_of_every_token(engine: Engine) -> None:
    result = close(engine, JsonSchema(json.dumps(RECORD)), 40, logprobs=0, seed=2)
    assert result.logprobs is not None
    assert [p.token_id for p in result.logprobs] == list(result.token_ids)


def test_close_streams_exactly_its_text(engine: Engine) -> None:
    session = engine.open(seed=1)
    events = list(
        engine.stream(
            "text: ",
            constraint=JsonSchema(json.dumps(RECORD)),
            max_tokens=40,
            finish="close",
            seed=4,
        )
    )
    session.close()
    ids = [i for event in events for i in event.token_ids]
    assert "".join(event.text for event in events) == bytes(ids).decode()
    assert is_valid(load(bytes(ids)), RECORD)


def test_finish_with_a_value_or_a_partner_without_meaning_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidSamplingParams, match="'cut' or 'close'"):
        close(engine, Regex("a+"), 5, finish="soon")
    with pytest.raises(InvalidSamplingParams, match="unmasked"):
        close(engine, Regex("a+"), 5, logprobs=1, logprobs_mode="unmasked")
