"""What drawing a token costs: a batch of rows, from hidden states to token ids.

Every case is timed in the native kernels, in the torch reference, and as the plain way (all
logits with `torch.nn.functional.linear`, a mask, argmax or softmax and multinomial). Cases are
interleaved; medians are reported (CPU milliseconds are printed).

    python benchmarks/head_sample.py --threads 1
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sgrt_kernels import head_sample as hs
from sgrt_kernels.native import Library, load
from sgrt_kernels.quant import Format, RawWeight, dequantize

VOCAB, HIDDEN = 49152, 576
BATCHES = (1, 8, 32)
Case = Callable[[], Any]


def quantised_head() -> RawWeight:
    """Random weights in the format of the embedded model's head (Q8_0)."""
    rng = np.random.default_rng(0)
    blocks = np.empty(VOCAB * HIDDEN // 32, [("scale", "<f2"), ("quants", "i1", 32)])
    blocks["scale"] = rng.uniform(1e-4, 1e-3, len(blocks))
    blocks["quants"] = rng.integers(-127, 128, (len(blocks), 32))
    data = torch.from_numpy(np.frombuffer(blocks.tobytes(), np.uint8).copy())
    return RawWeight(data, Format.Q8_0, (VOCAB, HIDDEN))


def masks(num_rows: int) -> dict[str, list[Any]]:
    """Per case, the mask of each row; every row has its own."""
    rng = np.random.default_rng(1)
    words = (VOCAB + 31) // 32
    return {
        "forced": [[int(rng.integers(VOCAB))] for _ in range(num_rows)],
        "16 ids": [rng.choice(VOCAB, 16, replace=False).tolist() for _ in range(num_rows)],
        "256 ids": [rng.choice(VOCAB, 256, replace=False).tolist() for _ in range(num_rows)],
        "half bitmask": [rng.integers(0, 1 << 32, words, dtype=np.uint32) for _ in range(num_rows)],
        "free": [None] * num_rows,
    }


def sampling(kind: str, num_rows: int) -> hs.SamplingRows:
    options: dict[str, dict[str, float]] = {
        "greedy": {},
        "temperature": {"temperature": 0.8},
        "top-p": {"temperature": 0.8, "top_p": 0.95},
    }
    return hs.SamplingRows.build(
        [hs.SamplingRow(seed=i, position=i, **options[kind]) for i in range(num_rows)]  # type: ignore[arg-type]
    )


def plain(matrix: torch.Tensor, hidden: torch.Tensor, mask: list[Any], kind: str) -> Case:
    """All logits, a boolean mask, argmax or multinomial."""
    like = torch.empty(len(mask), VOCAB)
    plan, rows = hs.MaskPlan.build(mask), hs.SamplingRows.greedy(len(mask))
    banned = ~hs.reference.allowed_tokens(plan, rows, like)

    def run() -> torch.Tensor:
        logits = torch.nn.functional.linear(hidden, matrix).masked_fill_(banned, -torch.inf)
        if kind == "greedy":
            return logits.argmax(-1)
        return torch.multinomial((logits / 0.8).softmax(-1), 1)

    return run


def cases(library: Library | None) -> dict[tuple[str, str, int], dict[str, Case]]:
    """(sampling, mask, rows) -> implementation -> what to time."""
    raw = quantised_head()
    matrix = dequantize(raw)
    heads = {"reference": hs.Head.pack(RawWeight.from_tensor(matrix))}
    if library is not None:
        heads["native"] = hs.Head.pack(raw, library)
    result: dict[tuple[str, str, int], dict[str, Case]] = {}
    for num_rows in BATCHES:
        hidden = torch.randn(num_rows, HIDDEN, generator=torch.Generator().manual_seed(2))
        for name, mask in masks(num_rows).items():
            for kind in ("greedy", "temperature", "top-p") if name == "free" else ("greedy",):
                plan, rows = hs.MaskPlan.build(mask), sampling(kind, num_rows)
                timed = {
                    who: (lambda h=head, x=hidden, p=plan, r=rows: hs.head_sample(x, h, p, r))
                    for who, head in heads.items()
                }
                if kind != "top-p":
                    timed["plain torch"] = plain(matrix, hidden, mask, kind)
                result[kind, name, num_rows] = timed
    return result


def measure(timed: dict[str, Case], seconds: float) -> dict[str, dict[str, float]]:
    """Medians of each, interleaved: wall and process CPU milliseconds."""
    took: dict[str, list[tuple[float, float]]] = {who: [] for who in timed}
    for run in timed.values():
        run()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(took.values()))) < 3:
        for who, run in timed.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            took[who].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        who: {
            "wall_ms": round(statistics.median(t[0] for t in times) * 1e3, 4),
            "cpu_ms": round(statistics.median(t[1] for t in times) * 1e3, 4),
        }
        for who, times in took.items()
    }


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    names = [
        line.split(":")[1].strip()
        for line in (info.read_text().splitlines() if info.exists() else [])
        if line.startswith("model name")
    ]
    return {"cpu": names[0] if names else platform.processor(), "cpus": len(names)}


def commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--isa", default=None, help="instruction set of the native library")
    parser.add_argument("--seconds", type=float, default=1.0, help="per case")
    parser.add_argument("--out", default=str(Path(__file__).parent / "results/head_sample.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    library = load(options.isa)
    if library is not None:
        library.set_num_threads(options.threads)
    rows = []
    for (kind, mask, num_rows), timed in cases(library).items():
        row: dict[str, Any] = {"sampling": kind, "mask": mask, "rows": num_rows}
        row |= measure(timed, options.seconds)
        rows.append(row)
        shown = "  ".join(f"{who} {row[who]['cpu_ms']:9.3f}" for who in timed)
        print(f"{kind:12} {mask:13} {num_rows:3} rows   {shown}", flush=True)
    report = {
        "benchmark": "head_sample",
        "command": " ".join(["python", *sys.argv]),
        "commit": commit(),
        "machine": machine() | {"threads": options.threads, "isa": library and library.isa},
        "shape": {"V": VOCAB, "D": HIDDEN, "head": "Q8_0", "reference head": "float32"},
        "unit": "medians; CPU time of the process stands other work on the machine better",
        "rows": rows,
    }
    Path(options.out).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
