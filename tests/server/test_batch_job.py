"""Rows, ledger and job of `sgrt batch`, in this process: what a kill, a full disk or a hand in the
files can leave behind, and what becomes of it."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sgrt.backends.local import Engine
from sgrt.config import ServerConfig
from sgrt.errors import EngineClosed, RequestError
from sgrt.server.batch import job, ledger
from sgrt.server.batch.job import Batch, JournalBroken
from sgrt.server.batch.ledger import Ledger
from sgrt.server.batch.rows import Row, read_rows
from sgrt.server.failures import ApiError
from sgrt.server.service import Service
from tests.runtime.integer_model import integer_parts

NAMES = ("m",)
MANIFEST = {"what": "this"}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.from_parts(integer_parts(max_running=8)) as engine:
        yield engine


def line(i: int = 0, **changed: Any) -> str:
    body = {"prompt": f"row {i}", "max_tokens": 3, **changed.pop("body", {})}
    row = {"custom_id": f"r{i}", "method": "POST", "url": "/v1/completions", "body": body}
    return json.dumps({k: v for k, v in (row | changed).items() if v is not ...})


def rows_of(folder: Path, *lines: str, **options: Any) -> tuple[Row, ...]:
    path = folder / "in.jsonl"
    path.write_text("\n".join(lines))
    return read_rows(path, NAMES, **options).rows


def some_rows(folder: Path, count: int = 12) -> tuple[Row, ...]:
    bad = {"temperature": -1}
    return rows_of(folder, *(line(i, body=bad if i % 5 == 3 else {}) for i in range(count)))


def opened(folder: Path, rows: tuple[Row, ...], **options: Any) -> Ledger:
    ids = [row.id for row in rows]
    manifest = options.pop("manifest", MANIFEST)
    return Ledger(folder / "out", folder / "errors", manifest, ids, **options)


def run(
    engine: Engine,
    folder: Path,
    rows: tuple[Row, ...],
    *,
    stop: bool = False,
    progress: Any = lambda *_: None,
    concurrency: int = 4,
    **options: Any,
) -> bool:
    service = Service(ServerConfig(served_model_names=NAMES))
    service.attach(engine)

    async def work(found: Ledger) -> bool:
        event = asyncio.Event()

        def told(answered: int, failed: int) -> None:
            progress(answered, failed)
            if stop:
                event.set()

        batch = Batch(service, rows, found, seed=5, concurrency=concurrency, progress=told)
        return await batch.run(event)

    with closing(opened(folder, rows, **options)) as found:
        return found.is_finished or asyncio.run(work(found))


def content(folder: Path) -> dict[str, list[bytes]]:
    return {n: sorted((folder / n).read_bytes().splitlines()) for n in ("out", "errors")}


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "line 1: the row is not valid JSON"),
        ("[]", "line 1: the row must be a JSON object"),
        (line(custom_id=...), "line 1: the field 'custom_id' is required"),
        (line(custom_id=7), "line 1: custom_id must be a text"),
        (line(method="GET"), "line 1: method='GET': must be 'POST'"),
        (line(url="/v1/embeddings"), "line 1: url='/v1/embeddings': must be one of"),
        (line(url=...), "line 1: the field 'url' is required"),
        (line(extra=1), "line 1: unknown field 'extra'"),
        (line(body={"stream": True}), "line 1: body.stream"),
        (line(body={"model": "gpt"}), "line 1: body.model='gpt': the model is m"),
        ("\n" + line(1) + "\n\n" + line(1), "line 4: custom_id 'r1' is that of line 2"),
        ('{"custom_id": "a", "custom_id": "b"}', "line 1: the row is not valid JSON: the key"),
        ("", "holds no rows"),
        (" \n\n", "holds no rows"),
    ],
)
def test_what_is_no_row_is_refused_with_its_line(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError) as error:
        rows_of(tmp_path, text)
    assert told in str(error.value)


def test_all_wrong_lines_are_told_however_many(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as error:
        rows_of(tmp_path, *["{"] * 12, line(1), *["{"] * 500)
    assert "line 10:" in str(error.value) and "line 11:" not in str(error.value)
    assert "502 more lines: 11, 12, 14" in str(error.value) and len(str(error.value)) < 3000


def test_too_many_rows_need_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgrt.server.batch.rows.MAX_ROWS", 2)
    lines = [line(i) for i in range(3)]
    with pytest.raises(RequestError, match="3 rows, the limit is 2"):
        rows_of(tmp_path, *lines)
    assert len(rows_of(tmp_path, *lines, limit=False)) == 3


def test_the_seed_of_a_row_depends_on_job_and_line_and_a_given_one_stays(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, line(1), line(2), line(3, body={"seed": 9}))
    seeds = [[json.loads(row.body_with_seed(s))["seed"] for row in rows] for s in (1, 1, 2)]
    assert seeds[0] == seeds[1] and seeds[0][2] == seeds[2][2] == 9
    assert len({*seeds[0], *seeds[2]}) == 5


def test_the_order_of_keys_stays_for_it_may_matter(tmp_path: Path) -> None:
    schema = {"properties": {"z": {}, "a": {}}}
    (row,) = rows_of(tmp_path, line(body={"guided_json": schema}))
    assert list(json.loads(row.body)["guided_json"]["properties"]) == ["z", "a"]


# ---------------------------------------------------------------- whatever is left behind


def test_any_cut_of_the_journals_gives_the_same_rows_once(engine: Engine, tmp_path: Path) -> None:
    rows = some_rows(tmp_path)
    assert run(engine, tmp_path, rows)
    whole = content(tmp_path)
    assert len(whole["out"]) == 10 and len(whole["errors"]) == 2
    rng = random.Random(3)
    for trial in range(12):
        folder = tmp_path / str(trial)
        folder.mkdir()
        shutil.copy(tmp_path / "out.manifest", folder)
        for name in whole:
            data = (tmp_path / name).read_bytes()
            data = data[: rng.choice([0, rng.randrange(len(data)), len(data)])]
            if rng.random() < 0.3:
                data += rng.choice([b"\0\0\0\n", b'{"id": "batch_req_no"}\n', data, b"\xff"])
            if data or rng.random() < 0.5:
                (folder / f"{name}.part").write_bytes(data)
        assert run(engine, folder, rows, concurrency=rng.randint(1, 9))
        assert content(folder) == whole
        assert not list(folder.glob("*.part"))


def test_progress_is_what_is_safe_on_disk(engine: Engine, tmp_path: Path) -> None:
    rows = some_rows(tmp_path, 100)
    seen = []

    def progress(answered: int, failed: int) -> None:
        done = [(tmp_path / f"{n}.part").read_bytes().count(b"\n") for n in ("out", "errors")]
        assert done == [answered, failed]
        seen.append(answered + failed)

    assert run(engine, tmp_path, rows, progress=progress)
    assert seen == sorted(seen) and seen[-1] == 100 and len(seen) > 1


def test_a_stop_keeps_what_was_answered_and_the_next_run_does_the_rest(
    engine: Engine, tmp_path: Path
) -> None:
    rows = some_rows(tmp_path, 100)
    assert not run(engine, tmp_path, rows, stop=True)
    kept = (tmp_path / "out.part").read_bytes()
    assert kept and not (tmp_path / "out").exists()
    assert run(engine, tmp_path, rows)
    assert (tmp_path / "out").read_bytes().startswith(kept)


def test_a_finished_job_does_nothing_when_it_is_called_again(
    engine: Engine, tmp_path: Path
) -> None:
    rows = some_rows(tmp_path)
    assert run(engine, tmp_path, rows)
    before = (tmp_path / "out").read_bytes()
    assert run(engine, tmp_path, rows, progress=pytest.fail)
    assert (tmp_path / "out").read_bytes() == before
    (tmp_path / "out").write_bytes(before[:-5])
    with pytest.raises(RequestError, match="taken out or changed"):
        run(engine, tmp_path, rows)
    assert (tmp_path / "out").read_bytes() == before[:-5]  # not ours to mend


def test_an_end_that_was_interrupted_between_the_names_is_ended(
    engine: Engine, tmp_path: Path
) -> None:
    rows = some_rows(tmp_path)
    assert run(engine, tmp_path, rows)
    whole = content(tmp_path)
    os.rename(tmp_path / "out", tmp_path / "out.part")
    assert run(engine, tmp_path, rows, progress=pytest.fail)
    assert content(tmp_path) == whole


def test_a_job_that_is_another_is_refused_and_force_begins_anew(
    engine: Engine, tmp_path: Path
) -> None:
    rows = some_rows(tmp_path, 100)
    assert not run(engine, tmp_path, rows, stop=True)
    with pytest.raises(RequestError, match="begun with another what"):
        run(engine, tmp_path, rows, manifest={"what": "that"})
    assert run(engine, tmp_path, rows, manifest={"what": "that"}, force=True)


@pytest.mark.parametrize("name", ["out", "errors", "out.part", "errors.part"])
def test_files_of_strangers_are_refused_and_stay(name: str, tmp_path: Path) -> None:
    rows = some_rows(tmp_path)
    (tmp_path / name).write_text("mine")
    with pytest.raises(RequestError, match="exists and is not of this job"):
        opened(tmp_path, rows)
    assert (tmp_path / name).read_text() == "mine"
    assert not (tmp_path / "out.manifest").exists()


def test_a_manifest_that_was_cut_before_the_first_row_is_written_again(tmp_path: Path) -> None:
    rows = some_rows(tmp_path)
    (tmp_path / "out.manifest").write_text('{"what": "th')
    opened(tmp_path, rows).close()
    assert json.loads((tmp_path / "out.manifest").read_text()) == MANIFEST


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    rows = some_rows(tmp_path)
    with closing(opened(tmp_path, rows)), pytest.raises(RequestError, match="another batch"):
        opened(tmp_path, rows, force=True)
    opened(tmp_path, rows).close()


# ---------------------------------------------------------------- failures


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_loses_nothing_and_the_next_run_goes_on(
    call: str, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = some_rows(tmp_path, 100)
    real = getattr(os, call)
    calls = iter(range(10**6))

    def failing(fd: int, *data: bytes) -> int:
        if next(calls) > (80 if call == "write" else 5):
            for piece in data:
                real(fd, piece[: len(piece) // 2])  # as much as there is room for
            raise OSError(errno.ENOSPC, "No space left on device")
        return int(real(fd, *data) or 0)

    with monkeypatch.context() as patched:
        patched.setattr(ledger.os, call, failing)
        with pytest.raises(JournalBroken, match=r"No space left on device; about \d+ bytes more"):
            run(engine, tmp_path, rows)
    data = (tmp_path / "out.part").read_bytes()
    assert data and data.endswith(b"}\n")
    assert run(engine, tmp_path, rows)
    assert (tmp_path / "out").read_bytes().startswith(data)
    assert sum(map(len, content(tmp_path).values())) == 100


def test_failures_that_may_pass_are_tried_again_on_request(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = some_rows(tmp_path)

    async def overloaded(call: Any) -> Any:
        raise ApiError(503, "no pages")

    with monkeypatch.context() as patched:
        patched.setattr(job, "_PAUSE_SECONDS", 0.001)
        patched.setitem(job.HANDLERS, "/v1/completions", overloaded)
        assert run(engine, tmp_path, rows)
    assert [len(part) for part in content(tmp_path).values()] == [0, 12]
    assert run(engine, tmp_path, rows)
    assert [len(part) for part in content(tmp_path).values()] == [0, 12]
    assert run(engine, tmp_path, rows, retry=True)
    assert [len(part) for part in content(tmp_path).values()] == [10, 2]


def test_an_engine_that_ends_fails_the_job_and_not_its_rows(tmp_path: Path) -> None:
    rows = some_rows(tmp_path)
    engine = Engine.from_parts(integer_parts())
    engine.close()
    with pytest.raises(EngineClosed):
        run(engine, tmp_path, rows)
    assert not (tmp_path / "out").exists()


def test_answers_have_the_form_of_openai_and_hold_nothing_of_the_run(
    engine: Engine, tmp_path: Path
) -> None:
    (row,) = rows_of(tmp_path, line())
    assert run(engine, tmp_path, (row,))
    told = json.loads((tmp_path / "out").read_bytes())
    assert told["custom_id"] == "r0" and told["error"] is None
    assert told["response"]["status_code"] == 200
    assert told["response"]["request_id"] == told["id"] == row.id
    body = told["response"]["body"]
    assert body["object"] == "text_completion" and body["created"] == 0
    assert body["usage"]["completion_tokens"] == 3
    assert "prompt_tokens_details" not in body["usage"]
    responses = {"created_at": 7, "usage": {"input_tokens_details": {"cached_tokens": 5}}}
    assert job.settled(responses) == {
        "created_at": 0,
        "usage": {"input_tokens_details": {"cached_tokens": 0}},
    }
