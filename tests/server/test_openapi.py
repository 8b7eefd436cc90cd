"""The description of the routes is true, and nothing that fits or breaks it ends in a 5xx."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from sgrt.server.app import ROUTES
from tests.server.support import BODIES, Server, serving

CHECKS = (
    "not_a_server_error",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
)


def test_every_route_is_described_with_its_body(server: Server) -> None:
    document = server.http.get("/openapi.json").json()
    for route in ROUTES:
        operation = document["paths"][route.path.replace("/*", "/{name}")][route.method.lower()]
        assert operation["summary"], route.path
        assert ("requestBody" in operation) == (route.path in BODIES)
    for path, body in BODIES.items():
        content = document["paths"][path]["post"]["requestBody"]["content"]
        name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
        schema = document["components"]["schemas"][name]
        assert set(body) <= set(schema["properties"])
        assert schema["additionalProperties"] is False


@pytest.mark.slow
def test_requests_made_from_the_description_never_end_in_a_server_error(tmp_path: Path) -> None:
    if importlib.util.find_spec("schemathesis") is None:
        pytest.skip("schemathesis is not installed")
    with serving(default_max_tokens=2, engine={"context_len": 128}) as server:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
        options = [
            *("--checks", ",".join(CHECKS)),
            *("--phases", "examples,coverage,fuzzing"),
            *("--max-examples", "60", "--seed", "1", "--warnings", "off"),
            *("--suppress-health-check", "all", "--continue-on-failure"),
        ]
        done = subprocess.run(
            command + options, capture_output=True, text=True, timeout=500, cwd=tmp_path
        )
        assert done.returncode == 0, done.stdout[-6000:]
        server.quiet()
