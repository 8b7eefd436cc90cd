"""One server for all tests that leave it as they found it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.support import Server, serving


@pytest.fixture(scope="session")
def shared_server() -> Iterator[Server]:
    with serving(receive_timeout_s=5, max_body_bytes=1 << 18, default_max_tokens=2) as server:
        yield server


@pytest.fixture
def server(shared_server: Server) -> Iterator[Server]:
    """The shared server; afterwards nothing may be left running in it."""
    shared_server.step_s = 0.0
    yield shared_server
    shared_server.step_s = 0.0
    shared_server.release()
    shared_server.quiet()
