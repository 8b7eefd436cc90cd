"""/metrics: what was counted is what happened, and nothing that was said is in it."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sgrt.backends.local import Engine
from sgrt.config import ServerConfig
from sgrt.core import GenerateResult, Generation, Handle, TokenEvent, Usage
from sgrt.server.app import build_app
from sgrt.server.follow import Follower, Waker
from sgrt.server.metrics import Histogram
from sgrt.server.run import _JsonLines
from sgrt.server.service import Service
from tests.runtime.integer_model import integer_parts

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


@asynccontextmanager
async def served(
    *, loaded: bool = True, max_running: int = 8, **options: Any
) -> AsyncIterator[httpx.AsyncClient]:
    service = Service(ServerConfig(**options))
    if loaded:
        service.attach(Engine.from_parts(integer_parts(max_running=max_running)))
    transport = httpx.ASGITransport(build_app(service))  # type: ignore[arg-type]
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            yield client
    finally:
        service.close()


async def scrape(client: httpx.AsyncClient, **headers: str) -> Values:
    answer = await client.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    families = list(text_string_to_metric_families(answer.text))
    assert len({f.name for f in families}) == len(families)
    return {
        (s.name, frozenset(s.labels.items())): s.value
        for family in families
        for s in family.samples
    }


def value(values: Values, name: str, **labels: str) -> float:
    return values[name, frozenset(labels.items())]


async def complete(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await client.post("/v1/completions", json={"prompt": "abc", **body})
    told: dict[str, Any] = answer.json()
    return told


async def test_tokens_and_times_equal_what_the_answers_say() -> None:
    async with served() as client:
        bodies = [
            {"max_tokens": 5, "n": 2},
            {"max_tokens": 7, "regex": "x{2,9}"},
            {"max_tokens": 1},
        ]
        usages = [(await complete(client, seed=1, **b))["usage"] for b in bodies]
        values = await scrape(client)
    written = sum(u["completion_tokens"] for u in usages)
    forced = sum(u["completion_tokens_details"]["accepted_prediction_tokens"] for u in usages)
    assert forced > 0
    assert value(values, "sgrt_sampled_tokens_total") == written - forced
    assert value(values, "sgrt_forced_tokens_total") == forced
    assert value(values, "sgrt_time_to_first_token_seconds_count") == 4
    assert value(values, "sgrt_generation_seconds_count") == 4
    assert value(values, "sgrt_inter_token_seconds_count") <= written - 4
    assert value(values, "sgrt_generation_seconds_sum") >= value(
        values, "sgrt_time_to_first_token_seconds_sum"
    )


@pytest.mark.parametrize("followed_after", [0, 1, 2, 3])
async def test_a_generation_is_timed_once_however_late_it_is_followed(followed_after: int) -> None:
    metrics = Service(ServerConfig()).metrics
    handle: Generation = Handle()
    produce = [
        lambda: handle.push(TokenEvent((1,), "")),
        lambda: handle.push(TokenEvent((2,), "a")),
        lambda: handle.finish(GenerateResult("a", (1, 2), "stop", Usage())),
    ]
    for step in produce[:followed_after]:
        step()
    timer = metrics.timer(handle, time.perf_counter() - 0.25)
    follower = Follower(handle, Waker(asyncio.get_running_loop()), timer, Exception)
    for step in produce[followed_after:]:
        step()
    assert (await follower.result()).text == "a"
    times = list(text_string_to_metric_families(metrics.render("")[0].decode()))
    counted = {s.name: s.value for f in times for s in f.samples}
    assert counted["sgrt_time_to_first_token_seconds_count"] == 1
    assert counted["sgrt_generation_seconds_count"] == 1
    assert counted["sgrt_inter_token_seconds_count"] == (followed_after == 0)
    assert counted["sgrt_inter_token_seconds_sum"] < 0.25
    assert 0.25 <= counted["sgrt_time_to_first_token_seconds_sum"] < 60


async def test_requests_are_counted_by_route_and_status_and_strangers_add_no_routes() -> None:
    async with served() as client:
        await complete(client, max_tokens=1)
        await complete(client, max_tokens=-1)
        for i in range(5):
            await client.get(f"/v1/models/{i}")
            await client.get(f"/{i}")
        values = await scrape(client)
    name = "sgrt_requests_total"
    chat = {"method": "POST", "route": "/v1/completions"}
    assert value(values, name, **chat, status="200") == 1
    assert value(values, name, **chat, status="400") == 1
    assert value(values, name, method="GET", route="/v1/models/*", status="404") == 5
    assert value(values, name, method="other", route="other", status="404") == 5
    assert value(values, "sgrt_request_seconds_count", route="/v1/completions") == 2


async def test_grammars_are_counted_once_per_use() -> None:
    async with served() as client:
        before = await scrape(client)
        for _ in range(3):
            await complete(client, regex="[ab]{3}uses")
        for _ in range(2):
            assert "error" in await complete(client, guided_json={"type": "no-such-type"})
        after = await scrape(client)

    def more(name: str) -> float:
        return value(after, name) - value(before, name)

    assert more("sgrt_grammars_compiled_total") == 1
    assert more("sgrt_grammars_cached_total") == 2
    assert more("sgrt_grammars_refused_total") >= 1
    assert more("sgrt_grammar_compile_seconds_total") > 0
    assert more("sgrt_mask_seconds_total") > 0


async def test_a_full_queue_is_counted() -> None:
    async with served(max_running=1, max_queued_requests=1) as client:
        many = [complete(client, max_tokens=20, ignore_eos=True) for _ in range(5)]
        refused = sum("error" in told for told in await asyncio.gather(*many))
        values = await scrape(client)
    assert value(values, "sgrt_queue_rejections_total") == refused == 3
    assert value(values, "sgrt_requests_under_way") == 0


@pytest.mark.parametrize(
    ("alias", "running"), [("vllm", "num_requests_running"), ("sglang", "num_running_reqs")]
)
async def test_an_alias_says_the_same_under_another_name(alias: str, running: str) -> None:
    async with served(metrics_alias=alias, served_model_names=("m",)) as client:
        await complete(client, max_tokens=4, seed=1)
        values = await scrape(client)
    labels = {"model_name": "m"} | ({"engine": "0"} if alias == "vllm" else {})
    assert value(values, f"{alias}:{running}", **labels) == 0
    assert value(values, f"{alias}:prompt_tokens_total", **labels) == 3
    assert value(values, f"{alias}:time_to_first_token_seconds_count", **labels) == 1


async def test_metrics_answer_while_the_model_loads() -> None:
    async with served(loaded=False) as client:
        assert (await client.get("/ready")).status_code == 503
        values = await scrape(client)
    assert value(values, "sgrt_ready") == 0


async def test_open_metrics_are_given_to_those_that_ask() -> None:
    async with served() as client:
        accept = "application/openmetrics-text; version=1.0.0"
        answer = await client.get("/metrics", headers={"accept": accept})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


async def test_metrics_need_a_key_unless_they_are_told_not_to() -> None:
    async with served(api_keys=("k",)) as client:
        assert (await client.get("/metrics")).status_code == 401
        assert await scrape(client, authorization="Bearer k")
    async with served(api_keys=("k",), metrics_no_auth=True) as client:
        assert await scrape(client)
        assert (await client.get("/server_info")).status_code == 401


async def test_what_was_said_is_nowhere_in_logs_metrics_and_information(
    caplog: pytest.LogCaptureFixture,
) -> None:
    key, prompt, stop = "kanary-key-71", "kanary-prompt-72", "kanary-stop-73"
    headers = {"authorization": f"Bearer {key}", "x-request-id": "shown-74"}
    formatter = _JsonLines()
    with caplog.at_level(logging.DEBUG):
        async with served(api_keys=(key,)) as client:
            client.headers.update(headers)
            texts = [
                (await complete(client, prompt=prompt, stop=stop, seed=s, choices=1))
                for s in range(1)
            ]
            assert "error" in texts[0]  # an unknown field
            told = await complete(client, prompt=prompt, stop=stop, guided_choice=["kanary-out-75"])
            assert told["choices"][0]["text"] == "kanary-out-75"
            for body in ({"regex": "(kanary-bad-76"}, {"temperature": "kanary-bad-77"}):
                assert "error" in await complete(client, prompt=prompt, **body)
            await client.post("/v1/completions", content=b'{"prompt": "kanary-torn-78')
            await client.post(
                "/v1/completions", json={}, headers={"authorization": "Bearer kanary-wrong-79"}
            )
            shown = [(await client.get(p)).text for p in ("/metrics", "/server_info", "/v1/loads")]
    lines = [formatter.format(record) for record in caplog.records]
    assert any("shown-74" in line for line in lines)
    assert all(json.loads(line)["message"] for line in lines)
    assert "kanary" not in "".join(lines + shown)


def test_buckets_rise_and_hold_every_value() -> None:
    histogram = Histogram((1.0, 2.0))
    for x in (0.5, 1.0, 1.5, 2.0, 99.0):
        histogram.observe(x)
    assert histogram.buckets() == [("1.0", 2), ("2.0", 4), ("+Inf", 5)]
    assert histogram.sum == 104.0
