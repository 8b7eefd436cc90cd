"""`sgrt doctor`: finds what stands in the way, and says what to do."""

from __future__ import annotations

import importlib.util
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from sgrt.cli import doctor
from sgrt.cli.main import main
from sgrt.models import hub


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SGRT_HOME", str(tmp_path))
    monkeypatch.setenv("SGRT_OFFLINE", "0")
    monkeypatch.delenv("SGRT_CPU_ISA", raising=False)
    return tmp_path


def diagnose(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, dict[str, Any]]:
    status = main(["doctor", "--json", "--port", "0", *argv])
    findings = json.loads(capsys.readouterr().out)
    assert status == any(f["status"] == "problem" for f in findings)
    assert all(f["advice"] for f in findings if f["status"] != "ok")
    return status, {f["subject"]: f for f in findings}


def test_a_machine_that_serves_has_no_problem(capsys: pytest.CaptureFixture[str]) -> None:
    status, found = diagnose(capsys)
    assert status == 0
    assert set(found) >= {"python", "engine", "serve", "kernels", "memory", "model", "port"}
    assert found["model"]["status"] == "note" and "sgrt pull" in found["model"]["advice"]
    assert main(["doctor", "--port", "0"]) == 0
    assert "ok       python" in capsys.readouterr().out


def test_a_port_in_use_is_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, found = diagnose(capsys, "--port", str(taken.getsockname()[1]))
    assert status == 1 and found["port"]["status"] == "problem"


def test_a_model_that_cannot_be_fetched_or_is_damaged_is_a_problem(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hub, "_find_installed", lambda known: None)
    monkeypatch.setenv("SGRT_OFFLINE", "1")
    assert diagnose(capsys)[1]["model"]["status"] == "problem"
    known = hub.KNOWN[hub.DEFAULT]
    path = home / "models" / known.name / known.file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half")
    _, found = diagnose(capsys)
    assert "damaged" in found["model"]["what"] and found["model"]["status"] == "problem"


def test_a_missing_package_names_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        doctor.importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name)
    )
    status, found = diagnose(capsys)
    assert status == 1 and "uvicorn" in found["serve"]["what"]
    assert found["serve"]["advice"] == "pip install 'sgrt[serve]'"


def test_a_wrong_setting_is_a_finding_and_not_a_crash(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SGRT_NUM_THREADS", "many")
    _, found = diagnose(capsys)
    assert "SGRT_NUM_THREADS='many'" in found["setting"]["what"]


def test_keys_are_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SGRT_API_KEY", "kanary")
    main(["doctor", "--port", "0"])
    out = capsys.readouterr().out
    assert "SGRT_API_KEY" in out and "kanary" not in out


def test_too_little_memory_and_disk_are_problems(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_available", lambda: 10**8)
    monkeypatch.setattr(doctor, "_DISK", 1 << 60)
    _, found = diagnose(capsys)
    assert found["memory"]["status"] == found["disk"]["status"] == "problem"
