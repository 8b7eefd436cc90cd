"""What the language itself costs: programs per second where the model takes no time, programs that
wait, threads, and a generation on a live state; beside SGLang's frontend.

    python -m benchmarks.programs [--peer sglang-….whl] [--repeats 5]

Each measurement is a process of its own, ours and the peer's in turn. The peer's `sglang.lang` is
loaded alone from its wheel (`pip download --no-deps sglang`); the rest of the package, which the
frontend needs for images and errors only, is replaced by empty functions. Both backends answer
"x" at once, or after the latency of the row.

CPU seconds are of the whole process. The bars: 10 times the peer's programs per second; 2,000
programs with one call of 0.5 s in 0.8 s; 500 programs that fork 8 times in at most 4 threads beside
the main one; 150 µs per generation on a live state.
"""

from __future__ import annotations

import argparse
import json
import queue
import statistics
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.common import ROOT, save

ROWS = {
    "1 gen, no latency": ("one", 3000, 0.0),
    "8 gens, no latency": ("eight", 600, 0.0),
    "1 gen of 0.5 s": ("one", 2000, 0.5),
    "8 forks, 1 gen of 0.2 s each": ("forks", 500, 0.2),
    "gen and read, 2,000 times in 1 program": ("live", 1, 0.0),
}
NUM_LIVE = 2000


def programs(sg: Any) -> dict[str, Any]:
    """The measured programs, written with either package."""

    @sg.function
    def one(s, q):  # type: ignore[no-untyped-def]
        s += q + " "
        s += sg.gen("a", max_tokens=8, temperature=0)
        return s["a"]

    @sg.function
    def eight(s, q):  # type: ignore[no-untyped-def]
        for i in range(8):
            s += q + " "
            s += sg.gen(f"a{i}", max_tokens=8, temperature=0)

    @sg.function
    def forks(s, q):  # type: ignore[no-untyped-def]
        s += q + " "
        children = s.fork(8)
        children += sg.gen("a", max_tokens=8, temperature=0)
        children.join()
        return s["a"]

    @sg.function
    def live(s, q):  # type: ignore[no-untyped-def]
        for _ in range(NUM_LIVE):
            s += q
            s += sg.gen("a", max_tokens=8, temperature=0)
            _ = s["a"]

    return {"one": one, "eight": eight, "forks": forks, "live": live}


# ---------------------------------------------------------------- ours


def our_backend(latency: float) -> Any:
    """A backend that answers at once, or each question after a latency, however many there are."""
    from sgrt.core import Generate, GenerateResult, Handle, Usage

    result = GenerateResult("x", (1,), "stop", Usage(sampled=1))
    asked: queue.SimpleQueue[tuple[float, Handle[Any]]] = queue.SimpleQueue()

    def answer() -> None:
        while True:
            due, handle = asked.get()
            time.sleep(max(0.0, due - time.monotonic()))
            handle.finish(result)

    def ask(handle: Handle[Any]) -> Handle[Any]:
        if latency:
            asked.put((time.monotonic() + latency, handle))
        else:
            handle.finish(result)
        return handle

    class Session:
        def extend(self, *parts: Any) -> None:
            pass

        def generate(self, segment: Any) -> tuple[Any, ...]:
            return tuple([ask(Handle()) for item in segment if isinstance(item, Generate)])

        def fork(self, num: int) -> list[Session]:
            return [Session() for _ in range(num)]

        def close(self) -> None:
            pass

    class Backend:
        name = "mock"
        chat_template = None

        def open(self, *, seed: int | None = None, priority: int = 0) -> Any:
            return Session()

    if latency:
        threading.Thread(target=answer, daemon=True).start()
    return Backend()


def ours(latency: float) -> tuple[Any, Any]:
    """The package and a backend."""
    import sgrt

    return sgrt, our_backend(latency)


# ---------------------------------------------------------------- the peer's


def peers(latency: float, wheel: Path) -> tuple[Any, Any]:
    """The frontend out of its wheel, and a backend."""
    folder = wheel.parent / "unpacked"
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith("sglang/lang/")]
        archive.extractall(folder, names)
    package, utils = ModuleType("sglang"), ModuleType("sglang.utils")
    package.__path__ = [str(folder / "sglang")]
    for name in ("encode_image_base64", "encode_video_base64", "get_exception_traceback"):
        setattr(utils, name, lambda *args: "")
    utils.http_request = None  # type: ignore[attr-defined]
    sys.modules |= {"sglang": package, "sglang.utils": utils}
    from sglang.lang import api
    from sglang.lang.backend.base_backend import BaseBackend
    from sglang.lang.chat_template import get_chat_template

    class Backend(BaseBackend):  # type: ignore[misc]
        def get_chat_template(self) -> Any:
            return get_chat_template("default")

        def generate(self, s: Any, sampling_params: Any) -> tuple[str, dict[str, Any]]:
            if latency:
                time.sleep(latency)
            return "x", {}

    return api, Backend()


# ---------------------------------------------------------------- measuring


def child(kind: str, row: str, wheel: Path | None) -> dict[str, Any]:
    """One measurement, in this process."""
    name, num, latency = ROWS[row]
    package, backend = ours(latency) if wheel is None else peers(latency, wheel)
    program = programs(package)[name]
    items = [{"q": str(i)} for i in range(num)]
    program.run_batch(items[: 1 if name == "live" else 50], backend=backend)
    peak, base, ended = [0], threading.active_count(), threading.Event()
    if latency:  # looking costs time, which rows without a wait would feel
        threading.Thread(target=_look, args=(peak, ended), daemon=True).start()
    cpu, wall = time.process_time(), time.perf_counter()
    program.run_batch(items, backend=backend)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    ended.set()
    return {"package": kind, "cpu_s": cpu, "wall_s": wall, "threads": peak[0] - 1, "before": base}


def _look(peak: list[int], ended: threading.Event) -> None:
    """The most threads at any time, but for this one."""
    while not ended.wait(0.002):
        peak[0] = max(peak[0], threading.active_count() - 1)


def measured(kind: str, row: str, wheel: Path | None) -> dict[str, Any]:
    """One measurement, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.programs", "--child", kind, "--row", row]
    command += ["--peer", str(wheel)] if wheel else []
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def summary(row: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of one package's runs of one row."""
    name, num, latency = ROWS[row]
    times = NUM_LIVE if name == "live" else num
    middle: Callable[[str], float] = lambda key: statistics.median(run[key] for run in runs)  # noqa: E731
    figures: dict[str, Any] = {
        "row": row,
        "package": runs[0]["package"],
        "cpu_us_each": round(1e6 * middle("cpu_s") / times, 1),
        "each_per_cpu_s": round(times / middle("cpu_s")),
        "wall_s": round(middle("wall_s"), 3),
    }
    if latency:
        figures["threads_beside_the_main_one"] = max(run["threads"] for run in runs)
    return figures


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--child")
    parser.add_argument("--row")
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(options.child, options.row, options.peer)))
        return
    packages = [("sgrt", None), *([("sglang.lang", options.peer)] if options.peer else [])]
    rows = []
    for row in ROWS:
        runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind, _ in packages}
        for _ in range(options.repeats):
            for kind, wheel in packages:
                runs[kind].append(measured(kind, row, wheel))
        for found in runs.values():
            rows.append(summary(row, found))
            print(rows[-1], flush=True)
    peer = options.peer.name if options.peer else None
    save("programs", rows, repeats=options.repeats, peer=peer)


if __name__ == "__main__":
    main()
