"""What every benchmark script shares: a stopwatch, the machine's description, one result format.

A result file says what ran where: nothing in it names a host, a user or a path.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def machine() -> dict[str, Any]:
    """CPU model, CPUs this process may use, GPU name, versions. None where there is none."""
    return {
        "cpu": _cpu_model(),
        "cores": _usable_cpus(),
        "gpu": _gpu_name(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": _version("torch"),
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpu_name() -> str | None:
    if _version("torch") is None:
        return None
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """Hash of the checked-out commit, with ``+changes`` where tracked files differ from it.

    Result files do not count as changes: one benchmark's must not taint the next one's.
    """
    head = _git("rev-parse", "HEAD")
    if head is None:
        return None
    results = RESULTS.relative_to(ROOT).as_posix()
    dirty = _git("status", "--porcelain", "--untracked-files=no", "--", ".", f":!{results}")
    return head + ("+changes" if dirty else "")


def _git(*args: str) -> str | None:
    try:
        done = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def measure(fn: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of wall clock that each of ``repeats`` calls took, after one call that does not count."""
    fn()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        fn()
        seconds.append(time.perf_counter() - start)
    return seconds


def save(name: str, rows: Sequence[Mapping[str, Any]], **extra: Any) -> Path:
    """Write ``benchmarks/results/<name>.json``.

    Args:
        rows: one mapping per measurement, JSON values only.
        extra: facts about the run as a whole: units, options, versions of peers.

    Returns:
        The file written.
    """
    result = {
        "benchmark": name,
        "command": command_line(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        **extra,
        "rows": list(rows),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    return path


def command_line() -> str:
    """How to repeat this run from the checkout; absolute paths are cut to their last part."""
    script = Path(sys.argv[0]).resolve()
    if script.is_relative_to(ROOT):
        module = ".".join(script.relative_to(ROOT).with_suffix("").parts)
        command = f"python -m {module}"
    else:
        command = f"python {script.name}"
    return " ".join([command, *map(_without_directories, sys.argv[1:])])


def _without_directories(argument: str) -> str:
    option, equals, value = (
        argument.partition("=") if argument.startswith("-") else ("", "", argument)
    )
    value = Path(value).name if value.startswith(("/", "~")) else value
    return f"{option}{equals}{value}"
