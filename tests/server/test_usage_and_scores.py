"""Counts of tokens while a text is written, and log-probabilities of a prompt's own tokens."""

from __future__ import annotations

import itertools
import json
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.server.support import BODIES, Server, wait_until

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


def _pieces(server: Server, text: str, **sampling: Any) -> list[dict[str, Any]]:
    """The answers so far of a stream of eight tokens, the whole one last."""
    server.hold(2)  # until the first token has come
    params = {"temperature": 0, "max_new_tokens": 8, "ignore_eos": True, **sampling}
    body = {"text": text, "sampling_params": params, "stream": True}
    with server.http.stream("POST", "/generate", json=body) as answer:
        data = (line[6:] for line in answer.iter_lines() if line.startswith("data:"))
        lines = [next(data)]
        server.release()
        lines += data
    return [json.loads(line) for line in lines if line != "[DONE]"]


def test_cached_tokens_are_told_while_a_text_is_written(server: Server) -> None:
    text = "cached while it streams " * 3
    _pieces(server, text)
    *early, last = [piece["meta_info"] for piece in _pieces(server, text)]
    assert early
    assert {piece["cached_tokens"] for piece in early} == {last["cached_tokens"]}
    assert {piece["prompt_tokens"] for piece in early} == {last["prompt_tokens"]}
    assert 0 < last["cached_tokens"] < last["prompt_tokens"]


def test_stream_interval_holds_tokens_back_but_for_the_first(server: Server) -> None:
    for interval in (1, 3, 100):
        pieces = _pieces(server, "abc", stream_interval=interval)
        *early, whole = [len(piece["output_ids"]) for piece in pieces]
        assert early[0] < interval + 1 and whole == 8
        assert all(b - a >= interval for a, b in itertools.pairwise(early))


def test_end_of_text_is_told_as_each_client_reads_it(server: Server) -> None:
    eos = 257
    sampling = {"logit_bias": {str(eos): 100}, "max_new_tokens": 3}
    native = server.post("/generate", {"text": "a", "sampling_params": sampling}).json()
    assert native["meta_info"]["finish_reason"] == {"type": "stop", "matched": eos}
    body = {"prompt": "a", "logit_bias": {str(eos): 100}}
    choice = server.post("/v1/completions", body).json()["choices"][0]
    assert (choice["matched_stop"], choice["stop_reason"]) == (eos, None)
    choice = server.post("/v1/completions", {**body, "stop_token_ids": [eos]}).json()["choices"][0]
    assert (choice["matched_stop"], choice["stop_reason"]) == (eos, eos)


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
def test_reader_of_an_aborted_request_is_told_why(server: Server, path: str) -> None:
    server.hold(2)
    long = {"sampling_params": {"max_new_tokens": 150, "ignore_eos": True}}
    body = long if path == "/generate" else {"max_tokens": 150, "ignore_eos": True}
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.post, path, {**BODIES[path], **body, "rid": "mine"})
        wait_until(lambda: bool(server.service.follow))
        abort = {"rid": "mine", "abort_message": "enough of it"}
        assert server.post("/abort_request", abort).json() == {"success": True, "aborted": 1}
        server.release()
        told = answer.result().json()
    if path == "/generate":
        reason = {"type": "abort", "message": "enough of it"}
        assert told["meta_info"]["finish_reason"] == reason
    else:
        assert told["error"]["message"] == "enough of it"


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("change", [{"seed": 3}, {"logit_bias": {"257": 100}}, {"stop": "b"}])
def test_token_ids_of_a_stream_are_those_of_the_whole_answer(
    server: Server, path: str, change: dict[str, Any]
) -> None:
    asked = {**BODIES[path], "max_tokens": 6, "return_token_ids": True, **change}
    whole = server.post(path, asked).json()
    [choice] = whole["choices"]
    assert len(choice["token_ids"]) == whole["usage"]["completion_tokens"]
    answer = server.post(path, {**asked, "stream": True})
    lines = [x[6:] for x in answer.text.splitlines() if x.startswith("data: ")][:-1]
    chunks = [json.loads(line) for line in lines]
    streamed = [i for chunk in chunks for i in chunk["choices"][0]["token_ids"]]
    assert streamed == choice["token_ids"]
    places = [{**chunk, **chunk["choices"][0]} for chunk in chunks]
    told = [place["prompt_token_ids"] for place in places if "prompt_token_ids" in place]
    assert told == [{**whole, **choice}["prompt_token_ids"]]
    assert len(told[0]) == whole["usage"]["prompt_tokens"]


def test_logprobs_are_told_by_id_where_wanted(server: Server) -> None:
    asked = {"prompt": "a", "logprobs": 2, "max_tokens": 3, "seed": 1, "return_token_ids": True}
    answer = server.post("/v1/completions", {**asked, "return_tokens_as_token_ids": True}).json()
    [choice] = answer["choices"]
    spelled = [f"token_id:{i}" for i in choice["token_ids"]]
    assert choice["logprobs"]["tokens"] == spelled[: len(choice["logprobs"]["tokens"])]
    assert all(
        key.startswith("token_id:") for top in choice["logprobs"]["top_logprobs"] for key in top
    )


def test_seed_decides_a_text_as_the_server_says(server: Server) -> None:
    assert server.http.get("/server_info").json()["enable_deterministic_inference"] is True

    def drawn(seed: int) -> str:
        params = {"max_new_tokens": 12, "temperature": 1.0, "sampling_seed": seed}
        answer = server.post("/generate", {"text": "Once", "sampling_params": params})
        return str(answer.json()["text"])

    assert drawn(7) == drawn(7)
    assert len({drawn(seed) for seed in range(4)}) > 1
