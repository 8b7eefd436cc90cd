"""Counts of tokens while a text is written, and log-probabilities of a prompt's own tokens."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from tests.server.support import BODIES, Server

ROUTES = ["/v1/chat/completions", "/v1/completions"]


def _chunks(server: Server, path: str, **options: Any) -> list[dict[str, Any]]:
    body = {**BODIES[path], "max_tokens": 6, "n": 2, "stream": True, "stream_options": options}
    lines = [x[6:] for x in server.post(path, body).text.splitlines() if x.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("path", ROUTES)
def test_usage_in_every_chunk_grows_to_what_the_last_chunk_says(server: Server, path: str) -> None:
    *chunks, last = _chunks(server, path, include_usage=True, continuous_usage_stats=True)
    written = {0: 0, 1: 0}
    for chunk in chunks:
        usage, index = chunk["usage"], chunk["choices"][0]["index"]
        assert usage["prompt_tokens"] == last["usage"]["prompt_tokens"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        assert usage["completion_tokens"] >= written[index]
        written[index] = usage["completion_tokens"]
    assert sum(written.values()) == last["usage"]["completion_tokens"]


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    "options",
    [{}, {"include_usage": False, "continuous_usage_stats": True}, {"include_usage": None}],
)
def test_usage_that_is_not_asked_for_is_not_there(
    server: Server, path: str, options: dict[str, Any]
) -> None:
    assert all("usage" not in chunk for chunk in _chunks(server, path, **options))


def _scores(server: Server, text: str, **fields: Any) -> list[Any]:
    body = {"text": text, "sampling_params": {"max_new_tokens": 0}, "return_logprob": True}
    told = server.post("/generate", {**body, **fields}).json()["meta_info"]
    assert told["output_token_logprobs"] == []
    return list(told["input_token_logprobs"])


def test_prompt_is_scored_from_the_token_that_is_asked_for(server: Server) -> None:
    text = "abcdefgh"
    whole = _scores(server, text, logprob_start_len=0)
    assert whole[0][0] is None
    assert all(math.isfinite(value) and value < 0 for value, *_ in whole[1:])
    for start in range(1, len(whole) + 1):
        assert _scores(server, text, logprob_start_len=start) == whole[start:]
    assert _scores(server, text, logprob_start_len=1000) == []
    assert _scores(server, text, logprob_start_len=-1) == []
    assert _scores(server, text) == whole  # no text is asked for, so the prompt is


def test_scores_of_a_prompt_are_those_that_echo_tells(server: Server) -> None:
    body = {"prompt": "abcdefgh", "max_tokens": 0, "echo": True, "logprobs": 0}
    told = server.post("/v1/completions", body).json()["choices"][0]["logprobs"]
    scores = _scores(server, "abcdefgh", logprob_start_len=0)
    assert told["token_logprobs"] == [value for value, *_ in scores]


def test_stop_token_of_another_model_ends_nothing_on_the_native_route_only(server: Server) -> None:
    sampling = {"max_new_tokens": 3, "temperature": 0, "ignore_eos": True}
    plain = server.post("/generate", {"text": "a", "sampling_params": sampling}).json()
    sampling["stop_token_ids"] = [10**6]
    same = server.post("/generate", {"text": "a", "sampling_params": sampling}).json()
    assert same["output_ids"] == plain["output_ids"]
    answer = server.post("/v1/completions", _stop_token_ids=[10**6])
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "stop_token_ids")
