"""A server on a real socket, in a thread, over the model in integers."""

from __future__ import annotations

import json
import math
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx

from sgrt.backends.local import Engine
from sgrt.config import ServerConfig
from sgrt.models.chat_template import JinjaChatTemplate
from sgrt.runtime.assemble import Parts
from sgrt.server import run
from sgrt.server.service import Service
from tests.runtime.accounting import all_pages_back
from tests.runtime.integer_model import ByteTokenizer, IntegerRunner, integer_parts

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "max_tokens": 2}
COMPLETION = {"prompt": "once", "temperature": 0, "max_tokens": 2}
RESPONSE = {"input": "Hi", "temperature": 0, "max_output_tokens": 2}
DECISION = {"input": "Hi", "questions": [{"type": "predicate", "instructions": "It greets."}]}
GENERATE = {"text": "once", "sampling_params": {"temperature": 0, "max_new_tokens": 2}}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETION,
    "/v1/responses": RESPONSE,
    "/v1/decisions": DECISION,
    "/generate": GENERATE,
    "/tokenize": {"prompt": "once"},
    "/v1/tokenize": {"prompt": "once"},
    "/detokenize": {"tokens": [97, 98]},
    "/v1/detokenize": {"tokens": [97, 98]},
    "/abort_request": {"rid": "nobody"},
}
"""A body that each POST route accepts."""
STREAMS = [
    ("/v1/chat/completions", CHAT),
    ("/v1/completions", COMPLETION),
    ("/v1/responses", RESPONSE),
    ("/generate", GENERATE),
]


class ServedTokenizer(ByteTokenizer):
    """Bytes, with what only the routes use."""

    def piece(self, token_id: int) -> str:
        special = {256: "<bos>", 257: "<eos>", 258: "<turn>"}
        return special.get(token_id) or self.token_bytes(token_id).decode(errors="backslashreplace")


class Server:
    """One server.

    `step_s` makes each step of the model take that long; `hold` makes it stand still.
    """

    def __init__(self, config: ServerConfig, engine: Engine | None) -> None:
        self.engine = engine
        self.config = config
        self.step_s = 0.0
        self._last_free = math.inf
        self._released = threading.Event()
        self.service = Service(config)
        if engine is not None:
            self.attach(engine)
        self._socket = run.listen(config)
        self.port: int = self._socket.getsockname()[1]
        self.uvicorn = run.Listener(run.uvicorn_config(self.service), self.service)
        self._thread = threading.Thread(target=self.uvicorn.run, args=([self._socket],))
        self._thread.start()
        assert self.uvicorn.is_listening.wait(10)
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=30)

    def attach(self, engine: Engine) -> None:
        self.engine = engine
        self.runner.on_forward = self._step
        self.service.attach(engine)

    def _step(self, batch: object) -> None:
        if self.runner.num_forwards > self._last_free:
            self._released.wait(30)
        time.sleep(self.step_s)

    def hold(self, num_free: int = 0) -> None:
        """Let the model make so many steps, and stand still in the next until `release`.

        What a step drew is told when the next one has begun: after two steps the first token is,
        and its text where it is whole characters.
        """
        self._released.clear()
        self._last_free = self.runner.num_forwards + num_free

    def release(self) -> None:
        self._last_free = math.inf
        self._released.set()

    @property
    def runner(self) -> IntegerRunner:
        assert self.engine is not None
        runner = self.engine._parts.runner
        assert isinstance(runner, IntegerRunner)
        return runner

    def post(self, path: str, body: Any = None, **more: Any) -> httpx.Response:
        """A POST with JSON; keywords named ``_x`` are fields that are added to the body."""
        fields = {k[1:]: more.pop(k) for k in list(more) if k.startswith("_")}
        return self.http.post(path, json={**(body or BODIES[path]), **fields}, **more)

    def raw(self, data: bytes, *, wait_s: float = 10) -> bytes:
        """Send bytes as they are and read until the server closes."""
        with self.connect(wait_s) as sock:
            sock.sendall(data)
            return read_all(sock)

    def connect(self, wait_s: float = 10) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=wait_s)

    def quiet(self) -> None:
        """Nothing runs, nothing is held, nothing leaks."""
        assert self.engine is not None
        wait_until(lambda: self.service.num_running == 0 and not self.service.follow)
        engine = self.engine
        wait_until(lambda: not _failure(lambda: all_pages_back(engine)))
        all_pages_back(engine)

    def close(self) -> None:
        self.http.close()
        self.release()
        self.service.abort_all()
        self.uvicorn.should_exit = self.uvicorn.force_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._socket.close()
        self.service.close()


def parts(**options: Any) -> Parts:
    """Parts of an engine with a real chat template."""
    return replace(
        integer_parts(**{"context_len": 256, "num_pages": 1024, **options}),
        chat_template=JinjaChatTemplate(TEMPLATE, bos="", eos="", special_tokens=[]),
        tokenizer=ServedTokenizer(),  # type: ignore[arg-type]
    )


@contextmanager
def serving(
    *, engine: dict[str, Any] | None = None, attached: bool = True, **config: Any
) -> Iterator[Server]:
    """A server with these settings."""
    made = Engine.from_parts(parts(**(engine or {}))) if attached else None
    server = Server(ServerConfig(port=0, **config), made)
    try:
        yield server
    finally:
        server.close()


def _failure(check: Callable[[], None]) -> bool:
    try:
        check()
    except AssertionError:
        return True
    return False


def wait_until(condition: Callable[[], object], seconds: float = 10) -> None:
    """Look often; fail after that many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.002)


def error_of(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    """The error of an answer, whose form is the same everywhere."""
    assert answer.status_code == status, (answer.status_code, answer.text)
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) == {"error"}
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] and isinstance(error["message"], str)
    return dict(error)


def events_of(text: str) -> list[Any]:
    """The events of a stream, ``[DONE]`` as the text that it is."""
    assert text.endswith("\n\n")
    events = []
    for block in text[:-2].split("\n\n"):
        (data,) = (line for line in block.split("\n") if line.startswith("data: "))
        events.append("[DONE]" if data == "data: [DONE]" else json.loads(data[6:]))
    return events


def longer(path: str, body: dict[str, Any], tokens: int, **more: Any) -> dict[str, Any]:
    """A body that asks for exactly so many tokens."""
    if path == "/generate":
        params = {**body["sampling_params"], "max_new_tokens": tokens, "ignore_eos": True}
        return {**body, "sampling_params": params, **more}
    name = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
    return {**body, name: tokens, "ignore_eos": True, **more}


def text_of(path: str, events: list[Any]) -> str:
    """What a stream's pieces say in all."""
    if path == "/v1/responses":
        return "".join(e["delta"] for e in events if e.get("type") == "response.output_text.delta")
    if path == "/generate":
        return str(next(e["text"] for e in reversed(events) if "text" in e and e != "[DONE]"))
    choices = [c for e in events if e != "[DONE]" for c in e.get("choices", ())]
    if path == "/v1/completions":
        return "".join(c["text"] for c in choices)
    return "".join(c["delta"].get("content") or "" for c in choices)


def whole_text(path: str, answer: dict[str, Any]) -> str:
    if path == "/v1/responses":
        return str(answer["output"][0]["content"][0]["text"])
    if path == "/generate":
        return str(answer["text"])
    choice = answer["choices"][0]
    return str(choice["text"] if path == "/v1/completions" else choice["message"]["content"])


def num_ends(path: str, events: list[Any]) -> int:
    """Terminal events."""
    if path == "/v1/responses":
        ends = ("response.completed", "response.incomplete", "response.failed", "error")
        return sum(e.get("type") in ends or ("error" in e and "type" not in e) for e in events)
    rest = [e for e in events if e != "[DONE]"]
    if path == "/generate":
        return sum("error" in e or bool(e["meta_info"]["finish_reason"]) for e in rest)
    return sum("error" in e or any(c["finish_reason"] for c in e["choices"]) for e in rest)


def body_of(path: str, prompt: str, tokens: int, **more: Any) -> dict[str, Any]:
    """A greedy request for so many tokens; other fields go where the interface has them."""
    if path == "/generate":
        stream = more.pop("stream", False)
        params = {"temperature": 0, "max_new_tokens": tokens, **more}
        if isinstance(params.get("json_schema"), dict):
            params["json_schema"] = json.dumps(params["json_schema"])
        return {"text": prompt, "sampling_params": params, "stream": stream}
    if path == "/v1/responses":
        return {"input": prompt, "temperature": 0, "max_output_tokens": tokens, **more}
    asked = {"temperature": 0, "max_tokens": tokens, **more}
    if path == "/v1/completions":
        return {"prompt": prompt, **asked}
    return {"messages": [{"role": "user", "content": prompt}], **asked}


def request_bytes(path: str, body: Any, *headers: str) -> bytes:
    """A request as it goes over the wire."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "host: localhost",
        "content-type: application/json",
        f"content-length: {len(content)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def read_all(sock: socket.socket) -> bytes:
    """Until the other side closes."""
    pieces = []
    try:
        while piece := sock.recv(65536):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces)


def reset(sock: socket.socket) -> None:
    """Close with RST instead of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
