"""What a batch keeps on disk, so that whatever kills it, it goes on without loss.

Beside ``out.jsonl``:

- ``out.jsonl.manifest``: what the job is; also its lock. Stays, as a record of where the output
  came from, and makes a second call of a finished job do nothing.
- ``out.jsonl.part`` and the error file's ``.part``: answers so far, one line each. A line counts
  once it is synced to disk; a torn or foreign line, and everything behind it, is dropped and
  computed again.

At the end both get their names, the error file first: where it has its name and the output has
not, the end was interrupted.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from sgrt.errors import RequestError
from sgrt.files import sync_file, sync_folder

log = logging.getLogger("sgrt.batch")

try:
    import fcntl
except ImportError:  # not on this system; two runs at once are then not noticed
    fcntl = None  # type: ignore[assignment]


class Journal:
    """Lines of one file, each with the id of a row.

    Args:
        path: made at the first line where it is missing.
        ids: of the job's rows.
        repair: cut off what is not whole.

    Attributes:
        ids: of the rows that are in it.
    """

    def __init__(self, path: Path, ids: Collection[str], *, repair: bool) -> None:
        self._path = path
        self._fd: int | None = None
        self._size = 0
        self.ids: set[str] = set()
        if path.exists():
            self._restore(ids, repair)

    def _restore(self, ids: Collection[str], repair: bool) -> None:
        with self._path.open("rb") as file:
            for line in file:
                row_id = _id_of(line)
                if row_id is None or row_id not in ids or row_id in self.ids:
                    break
                self.ids.add(row_id)
                self._size += len(line)
        dropped = self._path.stat().st_size - self._size
        if dropped and repair:
            log.warning("%s: the last %d bytes are no whole rows; dropped", self._path, dropped)
            os.truncate(self._path, self._size)

    def commit(self, lines: Mapping[str, bytes]) -> None:
        """Add lines, by the id of their row; when this returns they cannot be lost any more.

        Raises:
            OSError: none of them was added, and the file is as it was before.
        """
        if not lines:
            return
        if self._fd is None:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644)
            os.lseek(self._fd, self._size, os.SEEK_SET)
            sync_folder(self._path)
        try:
            for line in lines.values():
                _write(self._fd, line)
            os.fsync(self._fd)
        except OSError:
            os.ftruncate(self._fd, self._size)
            os.lseek(self._fd, self._size, os.SEEK_SET)
            raise
        self._size += sum(map(len, lines.values()))
        self.ids |= lines.keys()

    def close(self) -> None:
        """Idempotent."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def publish(self, target: Path) -> None:
        """Give the file its name; nothing where it has no line and was never made."""
        self.close()
        if self._path.exists():
            sync_file(self._path)
            os.replace(self._path, target)
            sync_folder(target)


class Ledger:
    """The files of one job, opened for it alone.

    Args:
        output, errors: what the job makes.
        manifest: what decides the answers; a job goes on only with the same.
        ids: of all rows.
        force: begin anew, whatever is there.
        retry: forget failures that may not happen again.

    Attributes:
        is_finished: the output was there already, whole.

    Raises:
        RequestError: the files belong to another job, or are in use.
        OSError: they cannot be read or written.
    """

    def __init__(
        self,
        output: Path,
        errors: Path,
        manifest: Mapping[str, Any],
        ids: Sequence[str],
        *,
        force: bool = False,
        retry: bool = False,
    ) -> None:
        self._output, self._errors = output, errors
        self._output_part, self._errors_part = _part(output), _part(errors)
        self._manifest = output.with_name(output.name + ".manifest")
        self._fd = self._lock()
        try:
            if force:
                self._remove_all()
            self._check_manifest(manifest)
            self.is_finished = self._take_back(retry)
            known = frozenset(ids)
            answered_at = output if self.is_finished else self._output_part
            failed_at = errors if self.is_finished else self._errors_part
            self.answered = Journal(answered_at, known, repair=not self.is_finished)
            left = known - self.answered.ids
            self.failed = Journal(failed_at, left, repair=not self.is_finished)
            if self.is_finished and len(self.done) < len(known):
                raise RequestError(
                    f"{output} is the output of this job, but {len(known) - len(self.done)} rows "
                    "of it have been taken out or changed",
                    hint="--force begins anew",
                )
        except BaseException:
            self.close()
            raise

    @property
    def done(self) -> set[str]:
        """Ids of rows that need no work."""
        return self.answered.ids | self.failed.ids

    def finish(self) -> None:
        """Give the files their names."""
        self.failed.publish(self._errors)
        self._output_part.touch()
        self.answered.publish(self._output)

    def close(self) -> None:
        """Let others use the files. Idempotent."""
        for journal in (getattr(self, "answered", None), getattr(self, "failed", None)):
            if journal is not None:
                journal.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # -- opening

    def _lock(self) -> int:
        fd = os.open(self._manifest, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl is not None:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            raise RequestError(f"{self._output}: another batch is writing it") from error
        return fd

    def _remove_all(self) -> None:
        os.ftruncate(self._fd, 0)
        for path in (self._output, self._errors, self._output_part, self._errors_part):
            path.unlink(missing_ok=True)

    def _check_manifest(self, manifest: Mapping[str, Any]) -> None:
        known = _json(os.pread(self._fd, 1 << 20, 0))
        if known is None:  # new, or killed before the first row
            self._refuse_strangers()
            data = json.dumps(manifest, indent=1).encode() + b"\n"
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, data, 0)
            os.fsync(self._fd)
            sync_folder(self._manifest)
            return
        changed = [k for k in {**manifest, **known} if manifest.get(k) != known.get(k)]
        if changed:
            raise RequestError(
                f"{self._output} was begun with another {', '.join(changed)}",
                hint="call it as it was begun, or give --force to begin anew",
            )

    def _refuse_strangers(self) -> None:
        there = (self._output, self._errors, self._output_part, self._errors_part)
        for path in there:
            if path.exists():
                os.unlink(self._manifest)
                raise RequestError(
                    f"{path} exists and is not of this job", hint="--force replaces it"
                )

    def _take_back(self, retry: bool) -> bool:
        """Whether the job has ended; where it has not, its files have their temporary names."""
        if self._output.exists() and not (retry and self._errors.exists()):
            return True
        if self._output.exists():
            os.replace(self._output, self._output_part)
        if self._errors.exists():
            os.replace(self._errors, self._errors_part)
        if retry and self._errors_part.exists():
            _keep_lines(self._errors_part, _is_final)
        return False


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _write(fd: int, line: bytes) -> None:
    written = os.write(fd, line)  # all of it, but on a disk that is filling up
    while written < len(line):
        written += os.write(fd, line[written:])


def _json(data: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(data)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _id_of(line: bytes) -> str | None:
    value = _json(line) if line.endswith(b"\n") else None
    return None if value is None else str(value.get("id"))


def _is_final(line: bytes) -> bool:
    """Whether a failure would happen again."""
    response = (_json(line) or {}).get("response")
    status = response.get("status_code") if isinstance(response, dict) else None
    return isinstance(status, int) and status < 500 and status != 429


def _keep_lines(path: Path, wanted: Callable[[bytes], bool]) -> None:
    kept = [line for line in path.read_bytes().splitlines(keepends=True) if wanted(line)]
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(b"".join(kept))
    sync_file(fresh)
    os.replace(fresh, path)
    sync_folder(path)
