"""Real clients, unmodified, against ``sgrt serve`` and the embedded model: ``make clients``.

Every ``with_*.py`` here is a script for one client. Its head (PEP 723) says what it needs; it runs
in a virtual environment of its own, because the clients' requirements contradict each other.
Those of ``node/`` share what its ``package.json`` names; without node and npm they are skipped.
Environments are made once and kept in a cache.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.clients.scripts import Client, all_clients

ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def server(key: str, log: Path) -> Iterator[str]:
    """``sgrt serve`` on a free port; its address."""
    command = [sys.executable, "-m", "sgrt.cli.main", "serve", "--port", "0"]
    keys = ["--api-key", f"{key}-other", "--admin-api-key", key]  # one client empties the cache
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen([*command, *keys], cwd=ROOT, stderr=output)
        try:
            yield _address(process, log)
        finally:
            process.terminate()
            process.wait(60)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + 180
    while time.monotonic() < end and process.poll() is None:
        text = log.read_text(encoding="utf-8")
        found = re.search(r"https?://127\.0\.0\.1:\d+", text)
        if found and "ready" in text:
            return found[0]
        time.sleep(0.2)
    raise SystemExit(f"the server did not start:\n{log.read_text(encoding='utf-8')}")


def run_client(client: Client, cache: Path, url: str, key: str, timeout_s: float) -> str:
    """Run what a client has; what to say of it in the table, "ok" where all passed."""
    runs = client.runs(cache, url)
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "OPENAI_API_KEY")}
    env |= {"SGRT_URL": url, "SGRT_KEY": key, "PYTHONUNBUFFERED": "1", **runs.env}
    for what, command in runs.commands.items():
        try:
            done = subprocess.run(command, env=env, cwd=runs.folder, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired:
            return f"FAILED: {what} not done in {timeout_s:g} s"
        if done.returncode != 0:
            return f"FAILED: {what} ended with {done.returncode}"
    return "ok"


def main(argv: Sequence[str] | None = None) -> int:
    """Run clients, print a table; exit status 1 where one failed."""
    clients = list(all_clients())
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    parser = argparse.ArgumentParser(prog="python -m tests.clients", description=__doc__)
    parser.add_argument("names", nargs="*", help="; ".join(c.name for c in clients))
    parser.add_argument("--cache", type=Path, default=home / "sgrt-clients", help="environments")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for one script")
    args = parser.parse_args(argv)
    unknown = set(args.names) - {c.name for c in clients}
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    chosen = [c for c in clients if not args.names or c.name in args.names]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # takes the server with it
    args.cache.mkdir(parents=True, exist_ok=True)
    rows = [(c.name, f"skipped: {c.lacks()}", 0.0) for c in chosen if c.lacks()]
    chosen = [c for c in chosen if not c.lacks()]
    for client in chosen:
        client.prepare(args.cache)
    key = "EMPTY"  # the one that SGLang's kits send
    with server(key, args.cache / "server.log") as url:
        for client in chosen:
            print(f"--- {client.name}", flush=True)
            began = time.perf_counter()
            said = run_client(client, args.cache, url, key, args.timeout)
            rows.append((client.name, said, time.perf_counter() - began))
    print()
    for name, said, seconds in rows:
        print(f"{name:18} {said:40} {seconds:6.1f} s")
    return int(any(said.startswith("FAILED") for _, said, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
