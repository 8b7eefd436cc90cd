"""A long mixed load: 64 clients, of whom many leave, some are wrong, and all else must be right.

    python -m tests.server.soak [--requests N] [--clients N] [--seed N]

The server runs in this process over the model in integers, the clients in another one, so that
the memory measured is the server's.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import json
import multiprocessing
import random
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.runtime.accounting import check_conservation
from tests.server.support import (
    Server,
    body_of,
    events_of,
    num_ends,
    request_bytes,
    serving,
    text_of,
    whole_text,
)

PROMPTS = [f"{word} and {i}" for i in range(6) for word in ("sun", "moon", "a long way to the sea")]
CONSTRAINTS: list[dict[str, Any]] = [
    {"regex": "[a-z]{5,12}"},
    {"json_schema": {"type": "object", "properties": {"a": {"type": "boolean"}}}},
    {"ebnf": 'root ::= "x" root | "y"'},
]
WRONG: list[tuple[str, Any]] = [
    ("/v1/completions", b"{"),
    ("/v1/completions", {"prompt": "a", "temperatur": 1}),
    ("/v1/chat/completions", {"messages": [{"role": "user"}]}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "regex": "("}),
    ("/generate", {"text": "a", "sampling_params": {"json_schema": '{"type": "strin"}'}}),
    ("/v1/responses", {"input": "x" * 500}),
    ("/v1/decisions", {"input": "a", "questions": []}),
    ("/v1/completions", {"prompt": "a", "regex": "(((a{1,99}b?){1,99}c?){1,99}d?){1,99}"}),
    ("/nowhere", {}),
]
PATHS = ("/v1/completions", "/v1/chat/completions", "/generate", "/v1/responses")


@dataclass
class Report:
    """What the clients saw."""

    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Request:
    """Something to ask.

    Args:
        kind: "complete", "wrong", "early" (leaves before the first byte), "midway", "abort".
        key: what tells requests with the same text apart.
    """

    kind: str
    path: str
    body: Any
    key: str
    stream: bool


def mixed(count: int, seed: int) -> list[Request]:
    """Requests of every kind, in a random order that the seed fixes."""
    chance = random.Random(seed)
    return [_request(chance) for _ in range(count)]


def _request(chance: random.Random) -> Request:
    if chance.random() < 0.1:
        path, body = chance.choice(WRONG)
        return Request("wrong", path, body, "", False)
    path, prompt = chance.choice(PATHS), chance.choice(PROMPTS)
    held = chance.choice(CONSTRAINTS) if chance.random() < 0.2 else {}
    if path == "/v1/responses":
        held = {}
    key = json.dumps([path, prompt, held])
    stream = chance.random() < 0.6
    share = chance.random()
    kind = next(
        k
        for k, p in (("early", 0.1), ("midway", 0.23), ("abort", 0.3), ("complete", 1))
        if share < p
    )
    if kind in ("midway", "abort"):
        stream = True
    return Request(kind, path, body_of(path, prompt, 24, stream=stream, **held), key, stream)


# ---------------------------------------------------------------- the clients


class Client:
    """Asks one thing after another."""

    def __init__(self, port: int, texts: dict[str, str], report: Report, seed: int) -> None:
        self._port = port
        self._texts = texts
        self._report = report
        self._chance = random.Random(seed)

    async def ask(self, request: Request, serial: int) -> None:
        """One request on a connection of its own, to the end that its kind has."""
        self._report.kinds[request.kind] += 1
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        rid = f"soak-{serial}"
        headers = ("connection: close", f"x-request-id: {rid}")
        writer.write(request_bytes(request.path, request.body, *headers))
        try:
            if request.kind == "early":
                await asyncio.sleep(self._chance.random() * 0.05)
            elif request.kind == "midway":
                await reader.read(self._chance.randint(1, 3000))
            else:
                if request.kind == "abort":
                    await reader.read(1)
                    await self._abort(rid)
                answer = await asyncio.wait_for(reader.read(), 60)
                if not self._is_right(request, answer):
                    self._report.wrong.append(f"{request}: {answer[-600:]!r}")
        finally:
            if self._chance.random() < 0.5:
                writer.transport.abort()
            writer.close()

    async def _abort(self, rid: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(request_bytes("/abort_request", {"rid": rid}, "connection: close"))
        await reader.read()
        writer.close()

    def _is_right(self, request: Request, answer: bytes) -> bool:
        head, _, rest = answer.partition(b"\r\n\r\n")
        status = head.split(b" ")[1]
        if request.kind == "wrong":
            return status in (b"400", b"404") and b'"error"' in rest
        if status != b"200":
            return False
        whole = self._texts[request.key]
        if not request.stream:
            return whole_text(request.path, json.loads(rest)) == whole
        events = events_of(unchunked(rest).decode())
        text = text_of(request.path, events)
        ends_once = num_ends(request.path, events) == 1
        has_done = events[-1] == "[DONE]"
        is_cut = request.kind == "abort" and whole.startswith(text.rstrip("\ufffd"))
        return (
            (text == whole or is_cut)
            and ends_once
            and has_done != (request.path == "/v1/responses")
        )


def unchunked(data: bytes) -> bytes:
    """The body of an answer that was sent in chunks."""
    body = data
    pieces = []
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        pieces.append(body[:length])
        body = body[length + 2 :]
    return b"".join(pieces)


async def _drive(port: int, requests: list[Request], texts: dict[str, str], clients: int) -> Report:
    report = Report()
    left = list(enumerate(requests))

    async def run(client: Client) -> None:
        while left:
            serial, request = left.pop()
            await client.ask(request, serial)

    await asyncio.gather(*(run(Client(port, texts, report, i)) for i in range(clients)))
    return report


def drive(port: int, requests: list[Request], texts: dict[str, str], clients: int) -> Report:
    """All requests, that many at a time."""
    return asyncio.run(_drive(port, requests, texts, clients))


# ---------------------------------------------------------------- the server


@dataclass
class Outcome:
    """What a soak showed."""

    report: Report
    grown_kb_per_1000: float
    threads_grown: int
    files_grown: int


def soak(num_requests: int, *, clients: int = 64, seed: int = 0, warm_up: int = 1000) -> Outcome:
    """Warm up, load, and look at what is left."""
    with serving(engine={"max_running": 32, "num_pages": 1024}) as server:
        requests = mixed(num_requests, seed)
        texts = quiet_texts(server, requests)
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:
            first = mixed(warm_up, seed + 1)
            texts |= quiet_texts(server, first)
            pool.apply(drive, (server.port, first, texts, clients))
            server.quiet()
            before = held_kb(), threading.active_count(), num_files()
            report = pool.apply(drive, (server.port, requests, texts, clients))
        server.quiet()
        assert server.engine is not None
        check_conservation(server.engine)
        grown = held_kb() - before[0]
        return Outcome(
            report,
            grown / num_requests * 1000,
            threading.active_count() - before[1],
            num_files() - before[2],
        )


def quiet_texts(server: Server, requests: list[Request]) -> dict[str, str]:
    """The text of each different request, asked alone."""
    texts: dict[str, str] = {}
    for request in requests:
        if request.key and request.key not in texts:
            body = {**request.body, "stream": False}
            texts[request.key] = whole_text(
                request.path, server.http.post(request.path, json=body).json()
            )
    return texts


def held_kb() -> int:
    """Anonymous memory of this process, in memory and in swap."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    status = Path("/proc/self/status").read_text()
    return sum(int(m) for m in re.findall(r"^(?:RssAnon|VmSwap):\s+(\d+) kB", status, re.M))


def num_files() -> int:
    """Open file descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began = time.monotonic()
    outcome = soak(args.requests, clients=args.clients, seed=args.seed)
    seconds = time.monotonic() - began
    print(f"{args.requests} requests in {seconds:.0f} s: {dict(outcome.report.kinds)}")
    print(f"wrong: {len(outcome.report.wrong)}")
    print("\n".join(outcome.report.wrong[:5]))
    print(f"grown: {outcome.grown_kb_per_1000:.0f} kB per 1,000 requests, ", end="")
    print(f"threads {outcome.threads_grown:+d}, files {outcome.files_grown:+d}")


if __name__ == "__main__":
    main()
