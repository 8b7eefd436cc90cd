"""`Runtime`: a server of one's own, in a process beside this one."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

from sgrt.backends.sglang import RuntimeEndpoint
from sgrt.errors import BackendError

_SHOWN_CHARS = 2000


class Runtime(RuntimeEndpoint):
    """Starts ``sgrt serve`` and is its `RuntimeEndpoint`; ends it when it is closed.

    It answers this machine alone, to a key that nobody else knows.

    Args:
        model_path: name known to `sgrt models`, directory, or file; None is the embedded default.
        start_timeout_s: longest wait until the model is loaded.
        options: of ``sgrt serve``, with underscores: ``context_length=1024``; True gives a flag
            without value.

    Raises:
        BackendError: the server ended, or was not ready in time; what it said is in the message.
    """

    def __init__(
        self,
        model_path: str | None = None,
        *,
        start_timeout_s: float = 300.0,
        **options: Any,
    ) -> None:
        port, key = _free_port(), secrets.token_hex(16)
        given = {"host": "127.0.0.1", "port": port}
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the server)
        self._process = subprocess.Popen(
            _command(model_path, {**given, **options}),
            env={**os.environ, "SGRT_API_KEY": key},  # not for others to see among arguments
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=subprocess.STDOUT,
        )
        self.url = f"http://127.0.0.1:{options.get('port', port)}"
        super().__init__(self.url, api_key=key)
        try:
            self._wait(time.monotonic() + start_timeout_s)
        except BaseException:
            self.close()
            raise

    @property
    def endpoint(self) -> RuntimeEndpoint:
        """Itself, as the peer's runtime has one."""
        return self

    def close(self) -> None:
        """End the server. Idempotent."""
        super().close()
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._said.close()

    shutdown = close

    def __del__(self) -> None:
        process = getattr(self, "_process", None)
        if process is not None and process.poll() is None:
            process.terminate()

    def _wait(self, until: float) -> None:
        while True:
            if self._process.poll() is not None:
                raise self._failed(f"ended with status {self._process.returncode}")
            if self._listens():
                break
            if time.monotonic() > until:
                raise self._failed("was not ready in time")
            time.sleep(0.05)
        self.get_model_info()

    def _listens(self) -> bool:
        port = int(self.url.rpartition(":")[2])
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return False
        return True

    def _failed(self, how: str) -> BackendError:
        self._said.seek(0)
        said = self._said.read().decode("utf-8", "replace").strip()[-_SHOWN_CHARS:]
        return BackendError(f"`sgrt serve` {how}: {said or 'it said nothing'}")


def _command(model_path: str | None, options: dict[str, Any]) -> list[str]:
    command = [sys.executable, "-m", "sgrt.cli.main", "serve"]
    if model_path is not None:
        command += ["--model-path", str(model_path)]
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        command += [flag] if value is True else [flag, str(value)]
    return command


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
