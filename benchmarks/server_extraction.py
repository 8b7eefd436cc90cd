"""Twenty passages to objects of six fields over HTTP, 16 requests at a time: sgrt and llama.cpp.

    python -m benchmarks.server_extraction [--threads N] [--slots 1,4] [--limit N] [--repeats N]

Both servers read the same GGUF file, get the same requests (`/v1/completions` with
``json_schema``, greedy; a shared instruction of about 330 tokens) and run in a process of their
own with as many threads. The time is that of all answers, from a loaded model and an empty prefix
cache; CPU seconds are the server's own. llama.cpp's queue does the waiting where it has fewer
slots than there are clients.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from statistics import median
from typing import Any

import httpx

from benchmarks import common
from benchmarks.extraction import default_model, judge
from benchmarks.peers.workload import MAX_TOKENS, SCHEMA, passages, prompt

CONCURRENCY = 16
SGRT = "from sgrt.cli.main import main; main()"
LLAMA = """
import sys, time
from benchmarks.peers import llama_cpp
server = llama_cpp.start(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
print("listening on", server.listening_address, flush=True)
time.sleep(1e6)
"""


@dataclass(frozen=True)
class Contender:
    """One server in one setting."""

    engine: str
    setting: str
    version: str
    command: tuple[str, ...]


def contenders(model: str, threads: int, slots: list[int]) -> list[Contender]:
    """sgrt, and llama.cpp with each number of slots."""
    flags = ("--port", "0", "--num-threads", str(threads), model)
    ours = (sys.executable, "-c", SGRT, "serve", *flags)
    peers = [
        Contender(
            "llama.cpp",
            f"slots={n}",
            f"xllamacpp {version('xllamacpp')}",
            (sys.executable, "-c", LLAMA, model, str(threads), str(n)),
        )
        for n in slots
    ]
    return [Contender("sgrt", "", version("sgrt"), ours), *peers]


@contextmanager
def running(contender: Contender, threads: int) -> Iterator[tuple[str, int]]:
    """The address and the process id of a server that is ready."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(
        contender.command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=common.ROOT,
    )
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "listening on " in line:
                break
        else:
            raise RuntimeError(f"{contender}:\n{''.join(lines[-20:])}")
        url = lines[-1].partition("listening on ")[2].split()[0]
        ask(url, {"prompt": "Hello", "max_tokens": 2}, patience_s=60)
        yield url, process.pid
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def ask(url: str, body: dict[str, Any], patience_s: float = 0) -> dict[str, Any]:
    """One completion; waits for a server that is loading.

    Raises:
        RuntimeError: the server refuses it.
    """
    end = time.monotonic() + patience_s
    while True:
        answer = httpx.post(f"{url}/v1/completions", json={"temperature": 0, **body}, timeout=900)
        if answer.status_code == 200:
            return dict(answer.json())
        if answer.status_code != 503 or time.monotonic() > end:
            raise RuntimeError(answer.text[:2000])
        time.sleep(0.2)


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(contender: Contender, threads: int, limit: int | None) -> dict[str, Any]:
    """All passages, once, on a fresh server."""
    bodies = [
        {"prompt": prompt(p["text"]), "max_tokens": MAX_TOKENS, "json_schema": SCHEMA}
        for p in passages(limit)
    ]
    with running(contender, threads) as (url, pid), ThreadPoolExecutor(CONCURRENCY) as pool:
        before, began = cpu_s(pid), time.perf_counter()
        answers = list(pool.map(lambda body: ask(url, body), bodies))
        wall, cpu = time.perf_counter() - began, cpu_s(pid) - before
    outputs = [answer["choices"][0]["text"] for answer in answers]
    return {
        "engine": contender.engine,
        "setting": contender.setting,
        "version": contender.version,
        "threads": threads,
        "concurrency": CONCURRENCY,
        "passages": len(bodies),
        "wall_s": wall,
        "cpu_s": cpu,
        "requests_per_s": len(bodies) / wall,
        "requests_per_cpu_s": len(bodies) / cpu,
        "output_tokens": sum(a["usage"]["completion_tokens"] for a in answers),
        **judge(outputs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--slots", default="1,4")
    parser.add_argument("--limit", type=int, default=None, help="passages (default: all)")
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    slots = [int(n) for n in options.slots.split(",") if n]
    chosen = contenders(str(default_model()), options.threads, slots)
    rows = []
    for _ in range(options.repeats):
        for contender in chosen:
            rows.append(measure(contender, options.threads, options.limit))
            print(json.dumps(rows[-1]), flush=True)
    ours = median(r["requests_per_cpu_s"] for r in rows if r["engine"] == "sgrt")
    ours_wall = median(r["requests_per_s"] for r in rows if r["engine"] == "sgrt")
    for contender in chosen:
        mine = [
            r for r in rows if (r["engine"], r["setting"]) == (contender.engine, contender.setting)
        ]
        ratio = ours / median(r["requests_per_cpu_s"] for r in mine)
        wall = ours_wall / median(r["requests_per_s"] for r in mine)
        print(
            f"{contender.engine} {contender.setting}: sgrt serves {ratio:.1f}x per CPU second, ",
            end="",
        )
        print(f"{wall:.1f}x per second")
    common.save("server_extraction", rows)


if __name__ == "__main__":
    main()
