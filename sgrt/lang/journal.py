"""`run_batch(resume=path)`: a batch that goes on where a killed process left it.

The journal is JSON lines: a head, then one row per item that has succeeded, written and synced to
disk before the item counts as ended; rows that end at the same time share one sync. So whatever
kills the process, an item has either a whole row or none, and a row is never written twice: an
item with a row does not run again, one without runs from its beginning. A line that the kill cut
off is dropped. Items that failed have no row; the next run tries them again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import IO, Any

from sgrt.core import Handle, SamplingParams
from sgrt.errors import RequestError
from sgrt.files import sync_folder
from sgrt.lang import kept
from sgrt.lang.background import Work
from sgrt.lang.hub import in_thread
from sgrt.lang.state import ProgramState
from sgrt.lang.trace import Part, Parts
from sgrt.lang.variables import Assigned

_VERSION = 1
Blank = Callable[[int], ProgramState]
"""Makes a state for item i in which nothing has happened."""


class Journal:
    """The journal of one batch, open for writing.

    Args:
        program: name of the program.
        params, seed: of the batch.
        items: arguments per item.
        blank: makes the states of items that have a row.

    Raises:
        RequestError: the file is no journal, that of another batch, or in use; or the arguments
            cannot be told from others, because JSON cannot hold them.
        OSError: the file cannot be read or written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        program: str,
        params: SamplingParams,
        seed: int | None,
        items: Sequence[tuple[tuple[Any, ...], Any]],
        blank: Blank,
    ) -> None:
        self._path = Path(path)
        self._hashes = [_hash_of(i, item) for i, item in enumerate(items)]
        sampling = json.dumps([asdict(params), seed], sort_keys=True, default=str)
        self._head = {"sgrt_journal": _VERSION, "program": program, "sampling": _digest(sampling)}
        self._lock = Lock()
        self._waiting: list[tuple[bytes, Work]] = []
        self._is_writing = False
        try:
            self._file: IO[bytes] | None = open(self._path, "a+b")  # noqa: SIM115
        except OSError as error:
            raise RequestError(f"resume={str(path)!r}: {error.strerror}") from error
        try:
            _lock_file(self._file, self._path)
            self.done = self._restored(self._rows(), blank)
        except BaseException:
            self.close()
            raise

    # reading

    def _rows(self) -> list[dict[str, Any]]:
        """The rows of an earlier run; the head is written where there is none."""
        assert self._file is not None
        self._file.seek(0)
        data = self._file.read()
        whole = data[: data.rfind(b"\n") + 1]
        lines = [self._line(number, line) for number, line in enumerate(whole.splitlines(), 1)]
        head = _line_of(self._head)
        if lines:
            self._check_head(lines[0])
        elif not head.startswith(data):
            raise self._refusal("it is no journal")
        if len(whole) < len(data):  # a line that was cut; only now is the file known to be ours
            self._file.truncate(len(whole))
        if not lines:
            self._write(head)
            sync_folder(self._path)
        return lines[1:]

    def _line(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            value = json.loads(line)
        except ValueError as error:
            raise self._refusal(f"line {number} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise self._refusal(f"line {number} is not an object")
        return value

    def _check_head(self, head: dict[str, Any]) -> None:
        if head.get("sgrt_journal") != _VERSION:
            raise self._refusal(f"it does not begin as a journal of version {_VERSION} does")
        for key, what in (("program", "program"), ("sampling", "sampling parameters or seed")):
            if head.get(key) != self._head[key]:
                raise self._refusal(f"it was written with another {what}")

    def _restored(self, rows: list[dict[str, Any]], blank: Blank) -> dict[int, ProgramState]:
        done: dict[int, ProgramState] = {}
        for number, row in enumerate(rows, 2):
            index = row.get("item")
            if type(index) is not int or not 0 <= index < len(self._hashes):
                raise self._refusal(f"line {number}: the batch has no item {index!r:.40}")
            if index in done:
                raise self._refusal(f"line {number}: item {index} stands there twice")
            if row.get("arguments") != self._hashes[index]:
                raise self._refusal(f"item {index} of the batch had other arguments then")
            try:
                done[index] = _state_of(blank(index), row)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise self._refusal(f"line {number} cannot be read: {error!r:.200}") from error
        return done

    def _refusal(self, why: str) -> RequestError:
        return RequestError(
            f"resume={str(self._path)!r}: {why}",
            hint="name another file to begin anew, or run the batch that was begun",
        )

    # writing

    def put(
        self, index: int, state: ProgramState, then: Work, fail: Callable[[Exception], None]
    ) -> None:
        """Keep an item that has ended; ``then`` is called when it cannot be lost any more.

        Args:
            fail: called instead where it cannot be kept.
        """
        if state.error() is not None:
            then()
            return
        try:
            line = _line_of(_row_of(index, self._hashes[index], state))
        except Exception as error:
            fail(error)
            return
        with self._lock:
            self._waiting.append((line, then))
            begin, self._is_writing = not self._is_writing, True
        if begin:
            in_thread(lambda: self._write_all(fail))

    def _write_all(self, fail: Callable[[Exception], None]) -> None:
        try:
            while waiting := self._write_some():
                for then in waiting:
                    then()
        except Exception as error:
            fail(error)

    def _write_some(self) -> list[Work]:
        """Write all that waits, with one sync; what to call now."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
            self._is_writing = bool(waiting)
            if waiting:
                self._write(b"".join(line for line, _ in waiting))
        return [then for _, then in waiting]

    def _write(self, data: bytes) -> None:
        if self._file is None:
            raise RequestError(f"resume={str(self._path)!r}: the journal is closed")
        self._file.write(data)
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let others use the file."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None


def _lock_file(file: IO[bytes], path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # not on this system; two runs at once are then not noticed
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise RequestError(f"resume={str(path)!r}: another run is writing it") from error


def _line_of(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _hash_of(index: int, item: tuple[tuple[Any, ...], Any]) -> str:
    try:
        arguments = kept.encode([list(item[0]), dict(item[1])], by_name=True)
    except TypeError as error:
        raise RequestError(
            f"resume needs arguments that JSON can hold; item {index}: {error}"
        ) from error
    return _digest(json.dumps(arguments, sort_keys=True))


def _row_of(index: int, arguments: str, state: ProgramState) -> dict[str, Any]:
    trace = state._trace
    variables = {}
    for name in trace.variables:
        try:
            variables[name] = kept.encode(state[name])
        except TypeError as error:
            raise RequestError(f"resume cannot keep {name!r} of item {index}: {error}") from error
    try:
        value = kept.encode(state.value)
    except TypeError as error:
        raise RequestError(f"resume cannot keep what item {index} returned: {error}") from error
    parts = [
        [state._text_of(part), part.template, part.message]
        for part in trace.parts.now()
        if part.text or part.variable is not None
    ]
    return {
        "item": index,
        "arguments": arguments,
        "parts": parts,
        "roles": list(trace.roles()),
        "variables": variables,
        "value": value,
    }


def _state_of(state: ProgramState, row: dict[str, Any]) -> ProgramState:
    """The state of an item as it was when its row was written."""
    trace, body = state._trace, Handle[Any]()
    parts = [
        Part(str(text), template=bool(template), message=None if message is None else int(message))
        for text, template, message in row["parts"]
    ]
    trace.parts = Parts(parts)
    trace.past_roles = tuple(map(str, row["roles"]))
    trace.variables = {
        name: Assigned(name, kept.decode(value)) for name, value in row["variables"].items()
    }
    trace.end()
    body.finish(kept.decode(row["value"]))
    return ProgramState(trace, body, inside=True)
