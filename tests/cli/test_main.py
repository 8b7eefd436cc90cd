"""The command line: quick to start, one clear line for an error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sgrt.cli.main import VERBS, main
from sgrt.models import hub


@pytest.fixture(autouse=True)
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SGRT_HOME", str(tmp_path))
    monkeypatch.setenv("SGRT_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_help_loads_nothing_heavy_and_lists_every_verb() -> None:
    done = run(
        "import sys, atexit\n"
        "heavy = ('torch', 'numpy', 'rich', 'tokenizers', 'jinja2', 'pydantic', 'asyncio')\n"
        "atexit.register(lambda: print('LOADED', [m for m in heavy if m in sys.modules]))\n"
        "from sgrt.cli.main import main\n"
        "main(['--help'])\n"
    )
    assert "LOADED []" in done.stdout
    assert all(verb in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert stopped.value.code == 0
    assert VERBS[verb] in capsys.readouterr().out


def test_no_verb_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "usage: sgrt" in capsys.readouterr().out


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("sgrt ")


def test_unknown_verb_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["dance"])
    assert stopped.value.code == 2
    assert "dance" in capsys.readouterr().err


@pytest.mark.parametrize("name", [None, "smolm2", "/no/such/dir", "a/b"])
def test_pull_that_fails_tells_one_line_on_stderr(
    name: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pull"] if name is None else ["pull", name]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("sgrt: error: model ")
    assert told.err.count("\n") == 1 and "Traceback" not in told.err


def test_pull_of_a_local_model_prints_where_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(b"GGUF")
    assert main(["pull", str(path)]) == 0
    assert capsys.readouterr().out == f"mine: {path}\n"


def test_interrupt_ends_quietly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(hub, "resolve", interrupted)
    assert main(["pull"]) == 130
    assert capsys.readouterr().err == "sgrt: interrupted\n"


def test_models_lists_every_known_model_and_its_state(
    empty_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    for known in hub.KNOWN.values():
        assert known.name in out and known.license in out
    assert out.count("not fetched") == len(hub.KNOWN)
    known = hub.KNOWN[hub.DEFAULT]
    path = empty_home / "models" / known.name / known.file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half")
    assert main(["models"]) == 0
    assert "damaged" in capsys.readouterr().out


def test_main_as_a_module_returns_its_status() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sgrt.cli.main", "pull", "smolm2"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and "did you mean 'smollm2'" in done.stderr
