"""The process: load the model, listen, drain, end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn

from sgrt.config import EngineConfig, ServerConfig
from sgrt.errors import RequestError, SgrtError
from sgrt.server.app import build_app
from sgrt.server.connection import connection
from sgrt.server.service import Service

log = logging.getLogger("sgrt.server")
_LAST_WORDS_S = 5
"""For cancelled requests to tell their clients, after the drain."""
_SWITCH_S = 1e-4
"""How long a thread may compute while another wants to: at Python's 5 ms, a few threads that read
grammars hold up every step of the model by some of these each."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve(engine: EngineConfig, config: ServerConfig) -> int:
    """Serve until a signal ends it.

    Answers ``/health`` at once and everything else once the model is loaded.

    Returns:
        Exit status: 0 after a drain, 2 where the model could not be loaded.

    Raises:
        RequestError: a setting that would not be safe, or that means nothing.
    """
    check(config)
    listening = listen(config)
    _set_up_logs(config)
    sys.setswitchinterval(_SWITCH_S)
    service = Service(config)
    server = Listener(uvicorn_config(service), service)
    loader = threading.Thread(target=_load, args=(service, engine, server), daemon=True)
    loader.start()
    try:
        server.run(sockets=[listening])
    finally:
        listening.close()
        service.close()
    if service.failure is not None:
        print(f"sgrt: error: {service.failure}", file=sys.stderr)
        return 2
    return 0


def listen(config: ServerConfig) -> socket.socket:
    """The socket to serve on.

    Raises:
        RequestError: the address is in use, or not one of this machine.
    """
    host = config.host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, config.port))
        listening.listen(2048)  # a second server on this port is told now, not after loading
    except OSError as error:
        listening.close()
        raise RequestError(
            f"cannot listen on {config.host}:{config.port}: {error.strerror or error}",
            hint="give another --port, or --port 0 for a free one",
        ) from error
    return listening


def check(config: ServerConfig) -> None:
    """Refuse what would open the server to strangers by accident.

    Raises:
        RequestError: names the setting.
    """
    if config.host not in LOOPBACK and not config.api_keys and not config.insecure_no_auth:
        raise RequestError(
            f"host={config.host!r} can be reached from other machines and there is no API key",
            hint="give --api-key, or --insecure-no-auth if everybody may use it",
        )
    if (config.ssl_certfile is None) != (config.ssl_keyfile is None):
        raise RequestError("--ssl-certfile and --ssl-keyfile go together")
    if config.ssl_certfile is not None and config.ssl_keyfile is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                config.ssl_certfile, config.ssl_keyfile, password=lambda: b""
            )
        except (OSError, ValueError) as error:
            raise RequestError(f"the TLS certificate or its key cannot be used: {error}") from error
    if any(not key for key in (*config.api_keys, config.admin_api_key or "x")):
        raise RequestError("an API key must not be empty")
    if config.admin_api_key is not None and config.admin_api_key in config.api_keys:
        raise RequestError("the admin key must not be one of the API keys")


def _load(service: Service, engine: EngineConfig, server: Listener) -> None:
    from sgrt.backends.local import Engine
    from sgrt.runtime.assemble import load_parts

    try:
        started = time.perf_counter()
        parts = load_parts(engine)
        parts.grammars.vocabulary.prepare()  # no request is to wait for it
        gc.collect()
        gc.freeze()  # or a look for garbage at all that is loaded stops every step, for 0.1 s
        service.attach(Engine.from_parts(parts))
        seconds = time.perf_counter() - started
        server.is_listening.wait(10)
        log.info("ready: %s in %.1f s. %s", service.names[0], seconds, _how_to_call(server.url))
    except BaseException as error:
        service.failure = error if isinstance(error, SgrtError) else RequestError(repr(error))
        log.debug("loading failed", exc_info=error)
        server.should_exit = True


def uvicorn_config(service: Service) -> uvicorn.Config:
    """How uvicorn serves a service."""
    config = service.config
    return uvicorn.Config(
        build_app(service),
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        http=connection(config.receive_timeout_s, config.send_timeout_s),
        ws="none",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=_LAST_WORDS_S,
        limit_concurrency=None,
        ssl_certfile=config.ssl_certfile,
        ssl_keyfile=config.ssl_keyfile,
    )


class Listener(uvicorn.Server):
    """Goes on answering while it drains, so that ``/ready`` can say so."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._draining: asyncio.Task[None] | None = None
        self.is_listening = threading.Event()
        self.url = ""

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.url = _url_of(self.servers[0].sockets[0], tls=self.config.ssl_certfile is not None)
        log.info("listening on %s", self.url)
        self.is_listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _on_signal(self) -> None:
        if self._draining is not None:
            log.warning("second signal: ending now")
            self._service.abort_all()
            self.should_exit = self.force_exit = True
            return
        log.info("draining: at most %g s", self._service.config.drain_timeout_s)
        self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        try:
            await self._service.drain()
        finally:
            self.should_exit = True


def _url_of(listening: socket.socket, *, tls: bool) -> str:
    host, port = listening.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"{'https' if tls else 'http'}://{shown}:{port}"


def _how_to_call(url: str) -> str:
    return (
        f"OpenAI clients: base_url={url}/v1; SGLang: {url}; try: curl {url}/v1/completions "
        """-H content-type:application/json -d '{"prompt": "Once upon a time"}'"""
    )


# ---------------------------------------------------------------- logs


def _set_up_logs(config: ServerConfig) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonLines() if config.log_format == "json" else _Lines())
    root = logging.getLogger("sgrt")
    root.handlers[:] = [handler]
    root.setLevel(config.log_level.upper())
    root.propagate = False
    uvicorn_log = logging.getLogger("uvicorn")
    uvicorn_log.handlers[:] = [handler]
    uvicorn_log.setLevel("WARNING")


class _Lines(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")


class _JsonLines(logging.Formatter):
    """One JSON object per line: what was logged, and the fields that came with it."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in ("request_id", "method", "path", "status", "seconds"):
            if hasattr(record, name):
                line[name] = getattr(record, name)
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)
