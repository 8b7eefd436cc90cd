"""The page on serving says what the server does: its tables are written from it, its clients are
those that ``make clients`` runs. ``python -m tests.test_serve_page`` writes the tables anew."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sgrt.backends.local import Engine
from sgrt.cli import serve
from sgrt.config import EngineConfig, ServerConfig
from sgrt.server.app import ROUTES, build_app
from sgrt.server.service import Service
from tests.clients.page import PAGE, blocks
from tests.server.support import parts

ROOT = Path(__file__).resolve().parents[1]
_TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(?=<!-- end -->)", re.DOTALL)
_CHAT = {"messages": [{"role": "user", "content": "hi"}]}
_TEXT = {"prompt": "hi"}
_RESPONSE = {"input": "hi"}
_MESSAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}
_REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {**_CHAT, "anything_else": 1}),
    ("/v1/chat/completions", {**_CHAT, "guided_jsn": {}}),
    ("/v1/chat/completions", {**_CHAT, "store": True}),
    ("/v1/chat/completions", {**_CHAT, "service_tier": "flex"}),
    ("/v1/chat/completions", {**_CHAT, "modalities": ["audio"]}),
    ("/v1/chat/completions", {"messages": [_MESSAGE]}),
    ("/v1/chat/completions", {**_CHAT, "reasoning_effort": "high"}),
    ("/v1/chat/completions", {**_CHAT, "verbosity": "low"}),
    ("/v1/chat/completions", {**_CHAT, "skip_special_tokens": False}),
    ("/v1/chat/completions", {**_CHAT, "regex": "a", "ebnf": "root ::= [a]"}),
    ("/v1/chat/completions", {**_CHAT, "model": "gpt-4o"}),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "assistant", "content": "hi", "reasoning_content": "hm"}]},
    ),
    ("/v1/chat/completions", {**_CHAT, "prompt_cache_options": {"mode": "explicit"}}),
    ("/v1/completions", {**_TEXT, "best_of": 3}),
    ("/v1/completions", {**_TEXT, "suffix": "!"}),
    ("/v1/responses", {**_RESPONSE, "background": True}),
    ("/v1/responses", {**_RESPONSE, "previous_response_id": "r"}),
    ("/v1/responses", {**_RESPONSE, "truncation": "auto"}),
    ("/v1/responses", {**_RESPONSE, "reasoning": {"effort": "high"}}),
    ("/v1/responses", {**_RESPONSE, "tools": [{"type": "web_search"}]}),
    ("/generate", {"text": "hi", "image_data": "x"}),
    ("/generate", {"text": "hi", "return_hidden_states": True}),
    ("/generate", {"text": "hi", "lora_path": "x"}),
    ("/generate", {"text": "hi", "log_metrics": False}),
]


def asked(requests: list[tuple[str, dict[str, Any] | None]]) -> list[httpx.Response]:
    """Answers to bodies, or to GET where there is none."""
    service = Service(ServerConfig(served_model_names=("smollm2-135m-instruct",)))
    service.attach(Engine.from_parts(parts()))

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(build_app(service))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return [
                await (client.get(path) if body is None else client.post(path, json=body))
                for path, body in requests
            ]

    try:
        return asyncio.run(ask())
    finally:
        service.close()


def _endpoints() -> Iterator[str]:
    yield "| | | who may call it |\n|---|---|---|"
    who = {"open": "everybody", "key": "holders of a key", "admin": "the administrator"}
    seen: dict[Any, list[str]] = {}
    for route in ROUTES:
        seen.setdefault((route.handler, route.access), []).append(f"{route.method} {route.path}")
    for (handler, access), places in seen.items():
        text = _said(handler) or _TEXTS[places[0].split()[1]]
        yield f"| {', '.join(f'`{place}`' for place in places)} | {text} | {who[access]} |"
    yield f"| `GET /openapi.json` | this interface, as OpenAPI describes one | {who['key']} |"


_TEXTS = {
    "/version": "the version of sgrt",
    "/v1/models": "the names of the model, as OpenAI lists models",
    "/v1/models/*": "one of them",
    "/v1/chat/completions": "OpenAI's chats: tools, response formats, streams, `n`, logprobs",
    "/v1/completions": "OpenAI's text completions: `echo`, logprobs, lists, token ids as prompts",
    "/v1/responses": "OpenAI's responses: created, parsed, streamed, continued",
    "/v1/decisions": "OpenAI's decisions: a predicate, a choice with exact probabilities, a score",
    "/generate": "SGLang's own interface, for its frontend and ours",
    "/tokenize": "token ids of texts",
}
"""What the docstrings of handlers do not say."""


def _said(handler: Callable[..., Any]) -> str:
    """A handler's docstring, what stands behind the name of its route."""
    line = " ".join((inspect.getdoc(handler) or "").partition("\n\n")[0].split())
    return re.sub(r"^``[^`]*``[:;.]?\s*", "", line).replace("``", "`").rstrip(".")


def _refused() -> Iterator[str]:
    yield "| | field | the answer |\n|---|---|---|"
    for (path, body), answer in zip(_REFUSED, asked(list(_REFUSED)), strict=True):
        error = answer.json()["error"]
        assert answer.status_code in (400, 404), (path, body)
        assert error["param"], (path, body)
        status = "" if answer.status_code == 400 else f"{answer.status_code}: "
        base = {**_CHAT, **_TEXT, **_RESPONSE, "text": "hi"}
        given = {k: v for k, v in body.items() if base.get(k) != v}
        yield f"| `{path}` | `{json.dumps(given)[1:-1]}` | {status}{error['message']} |"


def _limits() -> Iterator[str]:
    yield "| | default | flag |\n|---|---|---|"
    for flag in serve.ALL:
        kind = next((k for k in (EngineConfig, ServerConfig) if hasattr(k, flag.field)), None)
        if kind is None or flag.options.get("type") not in (int, float) or flag.field == "seed":
            continue
        default = next(f.default for f in fields(kind) if f.name == flag.field)
        shown = "by itself" if default == 0 else f"{default:,}".removesuffix(".0")
        yield f"| {flag.text} | {shown} | {', '.join(f'`{name}`' for name in flag.names)} |"


def _metrics() -> Iterator[str]:
    yield "| | kind | |\n|---|---|---|"
    _, answer = asked([("/v1/completions", {"prompt": "a", "max_tokens": 1}), ("/metrics", None)])
    for family in text_string_to_metric_families(answer.text):
        if family.name.startswith("sgrt_"):
            total = "_total" if family.type == "counter" else ""
            labels = sorted({k for s in family.samples for k in s.labels} - {"le"})
            shown = f"{{{', '.join(labels)}}}" if labels else ""
            yield f"| `{family.name}{total}{shown}` | {family.type} | {family.documentation} |"


_TABLES = {"endpoints": _endpoints, "refused": _refused, "limits": _limits, "metrics": _metrics}


def written(page: str) -> str:
    """The page with its tables as the code has them."""
    return _TABLE.sub(lambda m: m[1] + "\n".join(_TABLES[m[2]]()) + "\n", page)


def test_tables_of_the_page_are_what_the_server_does() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert {name for _, name in _TABLE.findall(page)} == set(_TABLES)
    assert page == written(page), "python -m tests.test_serve_page writes them anew"


def test_every_client_that_is_tested_is_shown_and_no_other() -> None:
    tested = {p.stem.removeprefix("with_") for p in (ROOT / "tests" / "clients").glob("with_*.py")}
    shown = blocks()
    assert set(shown) == tested - {"lm_eval"}  # which is a command, and shown as one
    scripts = (ROOT / "tests" / "clients" / "node").glob("with_*.mjs")
    assert set(blocks("js")) == {p.stem.removeprefix("with_") for p in scripts}
    assert all(block.count(";") <= 8 for block in blocks("js").values())
    assert "lm_eval --model local-completions" in PAGE.read_text(encoding="utf-8")
    for name, block in shown.items():
        assert len(ast.parse(block).body) <= 8, name


def test_every_flag_that_the_page_names_exists() -> None:
    names = {name for flag in serve.ALL for name in flag.names}
    others = {"--help", "--config", "--model", "--tasks", "--model_args"}  # lm_eval's too
    others |= {"--concurrency", "--retry-errors", "--force", "--schema", "--system", "--max-tokens"}
    told = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]*", PAGE.read_text(encoding="utf-8")))
    assert told - names <= others


@pytest.mark.parametrize("path", ["README.md"])
def test_the_page_is_linked(path: str) -> None:
    assert "docs/serve.md" in (ROOT / path).read_text(encoding="utf-8")


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
