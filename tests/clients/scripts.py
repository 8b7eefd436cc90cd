"""Scripts of clients: what each needs, how it gets that, and how it is run."""

from __future__ import annotations

import functools
import hashlib
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.clients import page

HERE = Path(__file__).resolve().parent
NODE = HERE / "node"
MIN_NODE = 20
_HEAD = re.compile(r"^# /// script\n(.*?)^# ///$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Runs:
    """The commands of a client by what they run, its script first.

    Args:
        env: to set beside what all clients are given. folder: to run in.
    """

    commands: dict[str, list[str | Path]]
    env: dict[str, str] = field(default_factory=dict)
    folder: Path | None = None


@dataclass(frozen=True)
class PythonClient:
    """A script with an environment of its own.

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

    def lacks(self) -> str | None:
        """Why it cannot run on this machine."""
        return None

    def prepare(self, cache: Path) -> None:
        """Make its environment, if it is not there."""
        folder = self._folder(cache)
        if (folder / "complete").exists():
            return
        shutil.rmtree(folder, ignore_errors=True)
        print(f"{self.name}: making its environment", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        for packages, flags in ((self.requires, ()), (self.alone, ("--no-deps",))):
            if packages:
                install = _installer(_python(folder))
                subprocess.run([*install, "--quiet", *flags, *packages], check=True)
        (folder / "complete").touch()

    def runs(self, cache: Path, url: str) -> Runs:
        """Its script, and its block of docs/serve.md where it has one."""
        python = _python(self._folder(cache))
        commands: dict[str, list[str | Path]] = {"script": [python, self.path]}
        block = page.blocks().get(self.name)
        if block is None:
            return Runs(commands)
        env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        if self.alone:  # its script knows how to import a package that lacks others
            env["PYTHONPATH"] = str(HERE)
            block = f"import {self.path.stem}\n{block}"
        commands["page"] = [python, "-c", block.replace(page.ADDRESS, url)]
        return Runs(commands, env)

    def _folder(self, cache: Path) -> Path:
        return cache / f"{self.name}-{_digest(repr((self.requires, self.alone)).encode())}"


@dataclass(frozen=True)
class NodeClient:
    """A script for node; all of them share what ``node/package.json`` names."""

    path: Path

    @property
    def name(self) -> str:
        return "node_" + self.path.stem.removeprefix("with_")

    def lacks(self) -> str | None:
        """Why it cannot run on this machine."""
        return _lacks_node()

    def prepare(self, cache: Path) -> None:
        """Make the folder in which it finds what it imports, if it is not there."""
        folder = self._folder(cache)
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            print("node: making its environment", flush=True)
            shutil.copy(NODE / "package.json", folder)
            install = ["npm", "install", "--silent", "--no-audit", "--no-fund"]
            subprocess.run(install, cwd=folder, check=True)
            (folder / "complete").touch()
        for script in (self.path, NODE / "harness.mjs"):
            shutil.copy(script, folder)

    def runs(self, cache: Path, url: str) -> Runs:
        """Its script, and its block of docs/serve.md."""
        block = page.blocks("js")[self.name.removeprefix("node_")].replace(page.ADDRESS, url)
        commands: dict[str, list[str | Path]] = {
            "script": ["node", self.path.name],
            "page": ["node", "--input-type=module", "--eval", block],
        }
        return Runs(commands, folder=self._folder(cache))

    def _folder(self, cache: Path) -> Path:
        return cache / f"node-{_digest((NODE / 'package.json').read_bytes())}"


Client = PythonClient | NodeClient


def all_clients() -> Iterator[Client]:
    """Every script of this folder."""
    for path in sorted(HERE.glob("with_*.py")):
        yield _read(path)
    for path in sorted(NODE.glob("with_*.mjs")):
        yield NodeClient(path)


def _read(path: Path) -> PythonClient:
    match = _HEAD.search(path.read_text(encoding="utf-8"))
    if match is None:
        raise SystemExit(f"{path.name} does not say what it needs")
    lines = (line.removeprefix("#").removeprefix(" ") for line in match[1].splitlines())
    head = tomllib.loads("\n".join(lines))
    alone = head.get("tool", {}).get("sgrt", {}).get("without-dependencies", [])
    return PythonClient(path, tuple(head["dependencies"]), tuple(alone))


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _installer(python: Path) -> list[str | Path]:
    """uv where there is one, since it is many times faster."""
    uv = shutil.which("uv")
    if uv is not None:
        return [uv, "pip", "install", "--python", python]
    return [python, "-m", "pip", "install"]


@functools.cache
def _lacks_node() -> str | None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "there is no node, or no npm"
    told = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    found = int(told.stdout.strip().removeprefix("v").partition(".")[0])
    return f"node {found} is older than {MIN_NODE}" if found < MIN_NODE else None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]
