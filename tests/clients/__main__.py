"""Real clients, unmodified, against ``sgrt serve`` and the embedded model: ``make clients``.

Every ``with_*.py`` here is a script for one client. Its head (PEP 723) says what it needs; it runs
in a virtual environment of its own, because the clients' requirements contradict each other.
Environments are made once and kept in a cache.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.clients import page

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
_HEAD = re.compile(r"^# /// script\n(.*?)^# ///$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Client:
    """One script.

    Args:
        requires: what pip installs.
        alone: what pip installs without its dependencies.
    """

    path: Path
    requires: tuple[str, ...]
    alone: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.path.stem.removeprefix("with_")

    def python(self, cache: Path) -> Path:
        """The interpreter of its environment."""
        key = hashlib.sha256(repr((self.requires, self.alone)).encode()).hexdigest()[:12]
        return cache / f"{self.name}-{key}" / "bin" / "python"


def read_client(path: Path) -> Client:
    """A script and what its head asks for."""
    match = _HEAD.search(path.read_text(encoding="utf-8"))
    if match is None:
        raise SystemExit(f"{path.name} does not say what it needs")
    lines = (line.removeprefix("#").removeprefix(" ") for line in match[1].splitlines())
    head = tomllib.loads("\n".join(lines))
    alone = head.get("tool", {}).get("sgrt", {}).get("without-dependencies", [])
    return Client(path, tuple(head["dependencies"]), tuple(alone))


def make_environment(client: Client, cache: Path) -> Path:
    """The interpreter of the client's environment, which is made if it is not there."""
    python = client.python(cache)
    folder = python.parents[1]
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        print(f"{client.name}: making its environment", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        for packages, flags in ((client.requires, ()), (client.alone, ("--no-deps",))):
            if packages:
                subprocess.run([*_installer(python), "--quiet", *flags, *packages], check=True)
        (folder / "complete").touch()
    return python


def _installer(python: Path) -> list[str | Path]:
    """uv where there is one, since it is many times faster."""
    uv = shutil.which("uv")
    if uv is not None:
        return [uv, "pip", "install", "--python", python]
    return [python, "-m", "pip", "install"]


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


def run_client(client: Client, python: Path, url: str, key: str, timeout_s: float) -> str:
    """Run one script, and the client's block of docs/serve.md; what to say of them in the table,
    "ok" first where they passed."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "OPENAI_API_KEY")}
    env |= {"SGRT_URL": url, "SGRT_KEY": key, "PYTHONUNBUFFERED": "1"}
    commands = {"script": [python, client.path]}
    if (block := page.blocks().get(client.name)) is not None:
        env |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        if client.alone:  # its script knows how to import a package that lacks others
            env["PYTHONPATH"] = str(HERE)
            block = f"import {client.path.stem}\n{block}"
        commands["page"] = [python, "-c", block.replace(page.ADDRESS, url)]
    for what, command in commands.items():
        try:
            done = subprocess.run(command, env=env, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired:
            return f"FAILED: {what} not done in {timeout_s:g} s"
        if done.returncode != 0:
            return f"FAILED: {what} ended with {done.returncode}"
    return "ok"


def main(argv: Sequence[str] | None = None) -> int:
    """Run clients, print a table; exit status 1 where one failed."""
    clients = [read_client(path) for path in sorted(HERE.glob("with_*.py"))]
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
    pythons = [make_environment(client, args.cache) for client in chosen]
    key = "EMPTY"  # the one that SGLang's kits send
    rows = []
    with server(key, args.cache / "server.log") as url:
        for client, python in zip(chosen, pythons, strict=True):
            print(f"--- {client.name}", flush=True)
            began = time.perf_counter()
            said = run_client(client, python, url, key, args.timeout)
            rows.append((client.name, said, time.perf_counter() - began))
    print()
    for name, said, seconds in rows:
        print(f"{name:18} {said:40} {seconds:6.1f} s")
    return int(any(not said.startswith("ok") for _, said, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
