"""`sgrt batch`: no row is lost, none is answered twice, and every run gives the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sgrt.cli.main import main

ROOT = Path(__file__).resolve().parents[2]


def write_rows(path: Path, num_rows: int) -> None:
    """Greedy, sampled, constrained and failing rows in all three forms."""
    rng = random.Random(7)
    lines = []
    for i in range(num_rows):
        limit = rng.randint(1, 12)
        url, body = [
            ("/v1/completions", {"prompt": f"row {i}", "max_tokens": limit, "n": 1 + i % 2}),
            ("/v1/completions", {"prompt": f"row {i}", "regex": "(ab|cd){1,4}", "max_tokens": 9}),
            ("/v1/completions", {"prompt": "many", "temperature": 0, "max_tokens": limit}),
            ("/v1/completions", {"prompt": "x", "max_tokens": limit, "logprobs": 2}),
        ][i % 4]
        if i % 11 == 5:
            body["temperature"] = -1
        lines.append(json.dumps({"custom_id": f"r{i}", "method": "POST", "url": url, "body": body}))
    path.write_text("\n".join(lines) + "\n")


class Batches:
    """The process that forks batches."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.model = folder / "m.gguf"
        self.model.write_bytes(b"GGUF")
        self._errors = (folder / "stderr").open("w")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.cli.forked_batches"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    @property
    def stderr(self) -> str:
        return (self._folder / "stderr").read_text()

    def run(self, *argv: str, ends: tuple[Path, int, signal.Signals] | None = None) -> int:
        """Run a batch; returns its exit status.

        Args:
            ends: a file, and a signal that the batch gets as soon as that has so many lines.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        argv = (*argv, "--model", str(self.model), "--served-model-name", "m")
        told = None if ends is None else (str(ends[0]), *ends[1:])
        self._process.stdin.write(json.dumps([argv, told]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, self.stderr
        return int(line)

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()
        self._errors.close()


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Batches]:
    found = Batches(tmp_path_factory.mktemp("batches"))
    yield found
    found.close()


def lines_of(path: Path) -> list[bytes]:
    return sorted(path.read_bytes().splitlines())


def survive_kills(process: Batches, folder: Path, *, num_rows: int, kills: int) -> None:
    rng = random.Random(num_rows)
    rows, whole, out = folder / "in.jsonl", folder / "whole.jsonl", folder / "out.jsonl"
    part = folder / "out.jsonl.part"
    write_rows(rows, num_rows)
    options = ["--concurrency", "32"]
    assert process.run(str(rows), "-o", str(whole), *options) == 1
    for kill in range(kills):
        ends = (part, num_rows * kill // (kills + 1) + 1, signal.SIGKILL)
        assert process.run(str(rows), "-o", str(out), *options, ends=ends) == -signal.SIGKILL
        assert not out.exists()
        size = part.stat().st_size
        os.truncate(part, size - min(size, rng.randrange(600)))  # as a power failure would
    assert process.run(str(rows), "-o", str(out), *options) == 1
    assert process.run(str(rows), "-o", str(out), *options) == 1  # finished: nothing to do
    assert lines_of(out) == lines_of(whole)
    errors = [folder / f"{name}.errors.jsonl" for name in ("whole", "out")]
    assert lines_of(errors[0]) == lines_of(errors[1])
    ids = [json.loads(line)["custom_id"] for line in lines_of(out) + lines_of(errors[1])]
    assert sorted(ids) == sorted(f"r{i}" for i in range(num_rows))
    assert not list(folder.glob("*.part"))


def test_a_batch_that_is_killed_gives_the_same_rows_once(process: Batches, tmp_path: Path) -> None:
    survive_kills(process, tmp_path, num_rows=48, kills=1)


@pytest.mark.slow
def test_a_batch_that_is_killed_ten_times_gives_the_same_rows_once(
    process: Batches, tmp_path: Path
) -> None:
    survive_kills(process, tmp_path, num_rows=500, kills=10)


def test_an_interrupt_keeps_what_was_answered_and_says_how_to_go_on(
    process: Batches, tmp_path: Path
) -> None:
    rows, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_rows(rows, 220)
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        part = tmp_path / "out.jsonl.part"
        before = part.read_bytes().count(b"\n") if part.exists() else 0
        ends = (part, before + 1, number)
        assert process.run(str(rows), "-o", str(out), "--concurrency", "4", ends=ends) == status
        assert part.read_bytes().count(b"\n") > before
    assert process.stderr.count("the same command goes on") == 2
    assert process.run(str(rows), "-o", str(out), "--concurrency", "16") == 1
    assert "rows answered" in process.stderr


def test_an_end_that_was_interrupted_is_ended_without_the_model(
    process: Batches, tmp_path: Path
) -> None:
    rows, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_rows(rows, 4)
    assert process.run(str(rows), "-o", str(out)) == 0
    whole = out.read_bytes()
    out.rename(tmp_path / "out.jsonl.part")
    unreadable = ["--model", str(process.model), "--served-model-name", "m"]
    for _ in range(2):  # and then it has ended
        assert main(["batch", str(rows), "-o", str(out), *unreadable]) == 0
        assert out.read_bytes() == whole


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["/no/such", "-o", "{}/out"], "cannot read /no/such"),
        (["{}/in", "-o", "{}/in"], "must be three files"),
        (["{}/in", "-o", "{}/link"], "must be three files"),
        (["{}/in", "-o", "{}/out", "--errors", "{}/out"], "must be three files"),
        (["{}/in", "-o", "{}"], "it is a directory"),
        (["{}/in", "-o", "{}/no/such"], "there is no directory"),
        (["{}/in", "-o", "{}/out", "--concurrency", "0"], "--concurrency=0"),
        (["{}/in", "-o", "{}/out"], "line 1: the field 'custom_id' is required"),
    ],
)
def test_what_cannot_work_is_told_in_one_line_before_any_work(
    argv: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").write_text('{"method": "POST"}')
    (tmp_path / "link").symlink_to(tmp_path / "in")
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    model = ["--model", str(tmp_path / "m.gguf")]
    assert main(["batch", *(a.format(tmp_path) for a in argv), *model]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert (tmp_path / "in").read_text() == '{"method": "POST"}'
