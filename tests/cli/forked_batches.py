"""Runs `sgrt batch` over the integer model in a child process per line of standard input.

Everything is imported once, then forked: a kill costs milliseconds instead of a start. Each line
is JSON: the arguments, and None or when the child sends itself a signal: as soon as a file has
so many lines. What is printed is its exit status.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import sgrt.cli.batch
import sgrt.server.batch.job  # noqa: F401  (imported once, here)
from sgrt.cli.main import main
from sgrt.runtime import assemble
from sgrt.server.batch.ledger import Journal
from tests.runtime.integer_model import integer_parts

assemble.load_parts = lambda config: integer_parts(num_pages=2048, max_running=16)  # type: ignore[assignment]


def send_at(file: str, count: int, number: int) -> None:
    """Send this process a signal once a commit has given a file so many lines."""
    path, commit = Path(file), Journal.commit

    def and_send(journal: Journal, lines: Mapping[str, bytes]) -> None:
        commit(journal, lines)
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            Journal.commit = commit  # type: ignore[method-assign]
            os.kill(os.getpid(), number)

    Journal.commit = and_send  # type: ignore[method-assign]


for line in sys.stdin:
    argv, ends = json.loads(line)
    pid = os.fork()
    if pid == 0:
        if ends is not None:
            send_at(*ends)
        os._exit(main(["batch", *argv]))
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
