"""What the server itself costs: CPU per request and per streamed token, with a mock engine.

    python -m benchmarks.server_cost [--requests N] [--concurrency N]

The mock engine answers from memory, so what is left is HTTP, JSON, admission and crossing
threads. The server runs in a process of its own, whose CPU time is what counts; the client is
in this one.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from queue import SimpleQueue
from statistics import median
from threading import Thread
from typing import Any

from benchmarks import common
from sgrt.core import GenerateResult, Generation, Handle, Text, TokenEvent, Usage

BARS = {"request_ms": 0.5, "token_us": 20.0}


class MockTokenizer:
    """Words as tokens, as far as the routes need any."""

    vocab_size = 1000

    def encode_parts(self, parts: tuple[Text, ...]) -> list[int]:
        return [1] * sum(len(part.text.split()) for part in parts)

    def with_bos(self, ids: list[int]) -> list[int]:
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        return b"word "


class MockTemplate:
    """Every message on a line."""

    source = ""
    variables = frozenset({"messages"})

    def render(self, messages: Any, **_: Any) -> tuple[Text, ...]:
        return (Text("\n".join(message.content for message in messages)),)


@dataclass
class MockConfig:
    """What the service reads of an engine's configuration."""

    max_running: int = 64
    page_size: int = 16


class MockSession:
    """Finishes every generation from one producer thread, a token at a time."""

    def __init__(self, work: SimpleQueue[Any]) -> None:
        self._work = work

    def extend_ids(self, token_ids: list[int]) -> None:
        """The prompt is not needed."""

    def generate(self, segment: Any) -> tuple[Generation, ...]:
        handles = []
        for item in segment:
            handle: Generation = Handle()
            self._work.put((handle, item.params.max_tokens))
            handles.append(handle)
        return tuple(handles)


@dataclass
class MockEngine:
    """Has an answer to everything at once."""

    name: str = "mock"
    context_len: int = 8192
    is_closed: bool = False
    config: MockConfig = field(default_factory=MockConfig)
    tokenizer: MockTokenizer = field(default_factory=MockTokenizer)
    chat_template: MockTemplate = field(default_factory=MockTemplate)

    def __post_init__(self) -> None:
        self._work: SimpleQueue[Any] = SimpleQueue()
        self.producer_s = 0.0
        Thread(target=self._produce, daemon=True).start()

    def open(self, **_: Any) -> MockSession:
        return MockSession(self._work)

    def close(self) -> None:
        """Nothing is held."""

    def _produce(self) -> None:
        """Steps of all that is under way, 2 ms apart, as a model would make them."""
        running: list[list[Any]] = []
        while True:
            if not running:
                running.append([*self._work.get(), 0])
            while not self._work.empty():
                running.append([*self._work.get(), 0])
            time.sleep(0.002)
            for entry in running:
                entry[0].push(TokenEvent((7,), "word "))
                entry[2] += 1
            for handle, length, _ in [e for e in running if e[2] >= e[1]]:
                usage = Usage(10, 0, 0, length)
                handle.finish(GenerateResult("word " * length, (7,) * length, "length", usage))
            running = [e for e in running if e[2] < e[1]]
            self.producer_s = time.thread_time()


def serve(pipe: Connection) -> None:
    """The server's process: tells its port, then its CPU seconds whenever it is asked."""
    import logging

    import uvicorn

    from sgrt.config import ServerConfig
    from sgrt.server.app import build_app
    from sgrt.server.service import Service

    engine = MockEngine()
    service = Service(ServerConfig())
    service.attach(engine)  # type: ignore[arg-type]
    logging.getLogger("sgrt").setLevel("WARNING")
    config = uvicorn.Config(
        build_app(service), port=0, log_config=None, access_log=False, lifespan="off"
    )
    server = uvicorn.Server(config)

    def answer() -> None:
        while not server.started:
            time.sleep(0.01)
        pipe.send(server.servers[0].sockets[0].getsockname()[1])
        while pipe.recv():
            pipe.send(time.process_time() - engine.producer_s)
        os._exit(0)

    Thread(target=answer, daemon=True).start()
    server.run()


async def post(port: int, body: bytes, count: int) -> int:
    """Send the same request several times on one connection; returns the bytes that came back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode()
    received = 0
    for _ in range(count):
        writer.write(head + body)
        header = await reader.readuntil(b"\r\n\r\n")
        if not header.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(header.decode() + (await reader.read(500)).decode())
        if b"content-length" in header:
            length = int(header.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            received += len(await reader.readexactly(length))
        else:
            received += await _chunks(reader)
    writer.close()
    return received


async def _chunks(reader: asyncio.StreamReader) -> int:
    received = 0
    while size := int(await reader.readline(), 16):
        received += len(await reader.readexactly(size + 2))
    await reader.readline()
    return received


async def load(port: int, body: bytes, requests: int, concurrency: int) -> None:
    share = requests // concurrency
    await asyncio.gather(*(post(port, body, share) for _ in range(concurrency)))


def request(max_tokens: int, *, stream: bool) -> bytes:
    text = '"messages":[{"role":"user","content":"Tell me something about trains."}]'
    flag = "true" if stream else "false"
    return f'{{"model":"mock",{text},"max_tokens":{max_tokens},"stream":{flag}}}'.encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=serve, args=(theirs,), daemon=True
    )
    process.start()
    port = ours.recv()

    def cpu_s(body: bytes, requests: int) -> float:
        ours.send(True)
        before = ours.recv()
        asyncio.run(load(port, body, requests, args.concurrency))
        ours.send(True)
        return float(ours.recv() - before)

    cpu_s(request(1, stream=False), 200)  # warm up
    rows: dict[str, list[float]] = {"request_ms": [], "token_us": []}
    few = args.requests // 20
    for _ in range(args.repeats):
        rows["request_ms"].append(
            1e3 * cpu_s(request(1, stream=False), args.requests) / args.requests
        )
        short = cpu_s(request(1, stream=True), few)
        long = cpu_s(request(201, stream=True), few)
        rows["token_us"].append(1e6 * (long - short) / (few * 200))
    ours.send(False)
    result = {name: median(values) for name, values in rows.items()}
    for name, value in result.items():
        print(f"{name}: {value:.3f} (bar {BARS[name]:g})")
    repeats = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
    common.save("server_cost", repeats, median=result, bars=BARS, concurrency=args.concurrency)


if __name__ == "__main__":
    main()
