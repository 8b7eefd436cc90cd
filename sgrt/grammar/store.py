"""A directory of what risky constraints became: the engine's grammar texts, by content.

A file is named after everything its text depends on (the constraint, the vocabulary, the code of
this layer and the engine's version), and holds a checksum and the text. So a file is never out
of date, only unused; one that is damaged counts as missing. Nothing in it is ever executed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from sgrt.core import Constraint
from sgrt.grammar.worker import encode

log = logging.getLogger("sgrt.grammar")

MAX_STORED_BYTES = 64 * 1024 * 1024
_SUFFIX = ".grammar"


class Store:
    """Grammar texts of one vocabulary. Any number of threads and processes may share a directory.

    Args:
        directory: made where it is missing; nobody else may write to it. Where it cannot be read
            or written, nothing is kept.
        fingerprint: of the vocabulary.
        max_bytes: of all files together; the least recently written go first.
    """

    def __init__(
        self, directory: Path, fingerprint: str, *, max_bytes: int = MAX_STORED_BYTES
    ) -> None:
        self._directory = directory
        self._fingerprint = fingerprint
        self._max_bytes = max_bytes

    def get(self, constraint: Constraint) -> str | None:
        """The text kept for a constraint, None where there is none that is whole."""
        try:
            data = self._path(constraint).read_bytes()
        except OSError:
            return None
        checksum, _, text = data.partition(b"\n")
        if checksum != _checksum(text):
            return None
        return text.decode("utf-8", "surrogatepass")

    def put(self, constraint: Constraint, text: str) -> None:
        """Keep a text. Whoever reads meanwhile sees all of it or nothing."""
        data = text.encode("utf-8", "surrogatepass")
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._make_room(len(data))
            descriptor, name = tempfile.mkstemp(_SUFFIX, dir=self._directory)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(_checksum(data) + b"\n" + data)
                os.replace(name, self._path(constraint))
            except OSError:
                with suppress(FileNotFoundError):
                    os.unlink(name)
                raise
        except OSError as error:
            log.warning("%s: cannot keep a grammar: %s", self._directory, error)

    def _path(self, constraint: Constraint) -> Path:
        key = json.dumps([encode(constraint), self._fingerprint, _code_version()])
        return self._directory / (hashlib.sha256(key.encode()).hexdigest() + _SUFFIX)

    def _make_room(self, num_bytes: int) -> None:
        files = [(path.stat(), path) for path in self._directory.glob("*" + _SUFFIX)]
        total = num_bytes + sum(stat.st_size for stat, _ in files)
        for stat, path in sorted(files, key=lambda file: file[0].st_mtime_ns):
            if total <= self._max_bytes:
                return
            with suppress(FileNotFoundError):
                path.unlink()
            total -= stat.st_size


def _checksum(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


@cache
def _code_version() -> str:
    """Differs where the code that writes grammars does."""
    digest = hashlib.sha256(importlib.metadata.version("llguidance").encode())
    here = Path(__file__).parent
    files = sorted(here.rglob("*.py"))
    for path in files:
        digest.update(path.relative_to(here).as_posix().encode() + path.read_bytes())
    if not files:  # not installed as files: nothing is known, so nothing is ever found again
        digest.update(os.urandom(16))
    return digest.hexdigest()
