"""Runs `sgrt batch` over the integer model in a child process per line of standard input.

Everything is imported once, then forked: a kill costs milliseconds instead of a start. Each line
is a JSON list of arguments; what is printed is the child's process id, then its exit status.
"""

from __future__ import annotations

import json
import os
import sys

import sgrt.cli.batch
import sgrt.server.batch.job  # noqa: F401  (imported once, here)
from sgrt.cli.main import main
from sgrt.runtime import assemble
from tests.runtime.integer_model import integer_parts

assemble.load_parts = lambda config: integer_parts(num_pages=2048, max_running=16)  # type: ignore[assignment]

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        os._exit(main(["batch", *json.loads(line)]))
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
