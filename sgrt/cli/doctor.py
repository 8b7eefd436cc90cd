"""``sgrt doctor``: what works on this machine, and what to do about the rest."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sgrt.config import ServerConfig, available_cpus, env, home
from sgrt.errors import EngineError, SgrtError

Status = Literal["ok", "note", "problem"]
_EXTRAS = {
    "engine": ("torch", "numpy", "tokenizers", "safetensors", "jinja2", "llguidance"),
    "serve": ("uvicorn", "httptools", "msgspec", "prometheus_client", "yaml"),
    "http": ("httpx2",),
}
_MEMORY = 1 << 30
_DISK = 200 << 20
_FILES = 1024


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        status: "problem" is what the default settings do not work with.
        advice: what to do, where there is something.
    """

    subject: str
    status: Status
    what: str
    advice: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the server would be started with."""
    parser.add_argument("--port", type=int, default=ServerConfig.port, help="to look at")
    parser.add_argument("--json", action="store_true", help="print a JSON list of findings")


def run(args: argparse.Namespace) -> int:
    """Print the findings: 0 the defaults work here, 1 they do not."""
    findings = list(examine(args.port))
    if args.json:
        import json
        from dataclasses import asdict

        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            advice = f"\n{'':17}→ {finding.advice}" if finding.advice else ""
            print(f"{finding.status:8} {finding.subject:8} {finding.what}{advice}")
    return int(any(finding.status == "problem" for finding in findings))


def examine(port: int) -> Iterator[Finding]:
    """All findings; a check that breaks is a finding too."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _python,
        _packages,
        _kernels,
        _memory,
        _gpu,
        _model,
        _disk,
        lambda: _port(port),
        _limits,
        _environment,
    )
    for check in checks:
        try:
            yield from check()
        except SgrtError as error:
            yield Finding("setting", "problem", error.message, error.hint or "correct or unset it")


def _python() -> Iterator[Finding]:
    from importlib import metadata

    try:
        version = metadata.version("sgrt")
    except metadata.PackageNotFoundError:
        version = "not installed"
    what = (
        f"{platform.python_version()} on {platform.system()} {platform.machine()}; sgrt {version}"
    )
    yield Finding("python", "ok", what)


def _packages() -> Iterator[Finding]:
    for extra, names in _EXTRAS.items():
        missing = [name for name in names if importlib.util.find_spec(name) is None]
        if not missing:
            yield Finding(extra, "ok", f"{', '.join(names)} installed")
            continue
        status: Status = "note" if extra == "http" else "problem"
        what = f"not installed: {', '.join(missing)}"
        yield Finding(extra, status, what, f"pip install 'sgrt[{extra}]'")


def _kernels() -> Iterator[Finding]:
    if importlib.util.find_spec("torch") is None:
        return
    from sgrt.runtime import machine

    features = _cpu_features()
    what = f"{available_cpus()} threads; CPU has {', '.join(features) or 'no known vector units'}"
    try:
        isa = machine.native_kernels()
    except EngineError as error:
        yield Finding(
            "kernels", "problem", error.message, "install sgrt again, or SGRT_CPU_ISA=none"
        )
        return
    if isa is not None:
        yield Finding("kernels", "ok", f"native, {isa}; {what}")
    elif env("SGRT_CPU_ISA") == "none":
        yield Finding("kernels", "note", f"none; {what}", "unset SGRT_CPU_ISA to use native ones")
    else:
        advice = "install a C++ compiler, then sgrt again; torch is many times slower here"
        yield Finding("kernels", "note", f"none; {what}", advice)


def _cpu_features() -> list[str]:
    """Those that matter to the kernels, as Linux tells them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    words = set(text.split())
    names = ("avx2", "fma", "avx512f", "avx512_vnni", "amx_int8", "asimd", "asimddp", "i8mm")
    return [name for name in names if name in words]


def _memory() -> Iterator[Finding]:
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        free = _available() or os.sysconf("SC_AVPHYS_PAGES") * page
        total = os.sysconf("SC_PHYS_PAGES") * page
    except (ValueError, OSError, AttributeError):
        return
    what = f"{_size(free)} free of {_size(total)}"
    limit = _container_limit()
    if limit is not None and limit < total:
        what += f"; limited to {_size(limit)}"
        free = min(free, limit)
    if free < _MEMORY:
        yield Finding("memory", "problem", what, "the default model needs 1 GB; end other programs")
    else:
        yield Finding("memory", "ok", what)


def _available() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def _container_limit() -> int | None:
    """Bytes that the control group of this process may use."""
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return int(Path(name).read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
    return None


def _gpu() -> Iterator[Finding]:
    if importlib.util.find_spec("torch") is None:
        return
    from sgrt.runtime import machine

    device = machine.cuda_device()
    if device is not None:
        name, free, total = device
        yield Finding("gpu", "ok", f"{name}, {_size(free)} free of {_size(total)}")
    elif shutil.which("nvidia-smi") is not None:
        what = f"there is one, which torch {machine.torch_version()} cannot use"
        yield Finding("gpu", "note", what, "install a build of torch that fits the driver")
    else:
        yield Finding("gpu", "ok", "none; the CPU does the work")


def _model() -> Iterator[Finding]:
    from sgrt.models import hub

    known = hub.KNOWN[hub.DEFAULT]
    found = hub.status(known)
    what = f"{known.name}: {found.state}"
    if found.state in ("ready", "not checked yet"):
        yield Finding("model", "ok", f"{what}, at {found.path}")
    elif found.state == "damaged":
        yield Finding("model", "problem", f"{what}, at {found.path}", "sgrt pull")
    elif env("SGRT_OFFLINE") not in (None, "0"):
        advice = "unset SGRT_OFFLINE and call sgrt pull, or name a model that is here"
        yield Finding("model", "problem", f"{what}, and SGRT_OFFLINE forbids fetching", advice)
    else:
        size = f"{known.num_bytes / 1e6:.0f} MB"
        yield Finding(
            "model", "note", what, f"sgrt pull fetches it now ({size}); else the first use does"
        )


def _disk() -> Iterator[Finding]:
    folder = home()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    what = f"{_size(free)} free at {folder}"
    if not os.access(there, os.W_OK):
        yield Finding(
            "disk", "problem", f"{there} cannot be written", "set SGRT_HOME to a folder that can"
        )
    elif free < _DISK:
        yield Finding("disk", "problem", what, "make room, or set SGRT_HOME to another disk")
    else:
        yield Finding("disk", "ok", what)


def _port(port: int) -> Iterator[Finding]:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            advice = "sgrt serve --port N, or --port 0 for a free one"
            yield Finding("port", "problem", f"{port} cannot be used: {error}", advice)
        else:
            yield Finding("port", "ok", f"{port} is free")


def _limits() -> Iterator[Finding]:
    try:
        import resource
    except ImportError:  # not on this system
        return
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    shown = "unlimited" if files == resource.RLIM_INFINITY else str(files)
    if files != resource.RLIM_INFINITY and files < _FILES:
        advice = f"ulimit -n {_FILES} in the shell that serves"
        yield Finding("limits", "note", f"{shown} open files: as many connections", advice)
    else:
        yield Finding("limits", "ok", f"{shown} open files")


def _environment() -> Iterator[Finding]:
    from sgrt.config import ENVIRONMENT

    keys = [name for name in ENVIRONMENT if env(name) is not None]
    shown = [n if n.endswith("KEY") else f"{n}={env(n)}" for n in keys]
    yield Finding("settings", "ok", ", ".join(shown) or "no variable of sgrt is set")


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
