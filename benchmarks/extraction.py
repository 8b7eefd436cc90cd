"""Twenty passages to objects of six fields, by sgrt and its peers, in one run.

    python -m benchmarks.extraction [--engines sgrt,llama.cpp,transformers] [--threads 1,2]

Every engine runs in a process of its own with the same number of threads; repeats are
interleaved, so that a noisy machine is noisy for all; medians are compared. The passages share
an instruction of about 330 tokens and decoding is greedy. The time is that of the answers, from
a loaded model and an empty prefix cache; a schema compiled in a step of its own
(transformers + xgrammar) is reported apart and not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import jsonschema

from benchmarks import common
from benchmarks.peers.workload import LABELLED, ROOT, SCHEMA, passages

Report = dict[str, Any]
RATES = ("prefill_512", "free_short", "free_512", "constrained")


@dataclass(frozen=True)
class Contender:
    """One engine in one setting.

    Args:
        module: script under ``benchmarks.peers``.
        repeats: None takes the command line's; slow ones run less often, which the result says.
    """

    engine: str
    module: str
    options: tuple[str, ...] = ()
    repeats: int | None = None


EXTRACT = (
    Contender("sgrt", "sgrt_engine"),
    Contender("llama.cpp", "llama_cpp", ("--slots", "1")),
    Contender("llama.cpp", "llama_cpp", ("--slots", "4"), repeats=1),
    Contender("llama.cpp", "llama_cpp", ("--slots", "8"), repeats=1),
    Contender("transformers", "transformers_xgrammar", ("--batch", "1"), repeats=1),
    Contender("transformers", "transformers_xgrammar", ("--batch", "8"), repeats=2),
)
STREAM = (
    Contender("sgrt", "sgrt_engine", ("--mode", "stream")),
    Contender("llama.cpp", "llama_cpp", ("--mode", "stream")),
)


def run(contender: Contender, model: Path, threads: int, limit: int | None) -> Report:
    """One process; its report.

    Raises:
        RuntimeError: the engine failed.
    """
    command = [sys.executable, "-m", f"benchmarks.peers.{contender.module}", *contender.options]
    command += ["--model", str(model), "--threads", str(threads)]
    if limit is not None:
        command += ["--limit", str(limit)]
    paths = [str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{contender.module} {contender.options}:\n{done.stderr[-2000:]}")
    report: Report = json.loads(done.stdout.strip().splitlines()[-1])
    return report


def interleaved(
    contenders: Iterable[Contender], model: Path, threads: int, repeats: int, limit: int | None
) -> dict[Contender, list[Report]]:
    """All contenders in turn, again and again."""
    reports: dict[Contender, list[Report]] = {c: [] for c in contenders}
    for index in range(repeats):
        for contender, mine in reports.items():
            if index < min(repeats, contender.repeats or repeats):
                mine.append(run(contender, model, threads, limit))
                say(f"{index + 1}/{repeats}", mine[-1])
    return reports


def say(when: str, report: Report) -> None:
    what = f"{report['engine']} {report['setting']}, {report['threads']} thread(s)"
    print(f"[{when}] {what}: {report['wall_s']:.2f} s, {report['cpu_s']:.2f} s CPU", flush=True)


# ---------------------------------------------------------------- what the answers are worth


def judge(outputs: list[str]) -> dict[str, float]:
    """Share of valid answers, and of labelled fields that are exactly right."""
    validator = jsonschema.Draft202012Validator(
        SCHEMA, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    valid = right = 0
    for output, passage in zip(outputs, passages(len(outputs)), strict=True):
        value = _parsed(output)
        valid += value is not None and validator.is_valid(value)
        right += sum(_is_right(value, passage["labels"], name) for name in LABELLED)
    return {
        "valid": valid / len(outputs),
        "accuracy": right / (len(outputs) * len(LABELLED)),
    }


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _is_right(value: dict[str, Any] | None, labels: dict[str, Any], name: str) -> bool:
    found = (value or {}).get(name)
    if name == "people" and isinstance(found, list):
        return sorted(map(str, found)) == sorted(labels[name])
    return bool(found == labels[name]) and name in (value or {})


# ---------------------------------------------------------------- rows of the result


def extraction_row(reports: list[Report]) -> dict[str, Any]:
    """Medians over the repeats of one contender; every repeat's seconds are kept."""
    first = reports[0]
    num = len(first["outputs"])
    cpu, wall = ([r[key] for r in reports] for key in ("cpu_s", "wall_s"))
    return {
        "kind": "extraction",
        **{key: first[key] for key in ("engine", "setting", "threads", "version")},
        "passages": num,
        "repeats": len(reports),
        "cpu_s": median(cpu),
        "wall_s": median(wall),
        "cpu_s_per_passage": median(cpu) / num,
        "all_cpu_s": cpu,
        "all_wall_s": wall,
        "prompt_tokens": first["prompt_tokens"],
        "output_tokens": first["output_tokens"],
        "compile_s": median(r["compile_s"] for r in reports),
        "load_s": median(r["load_s"] for r in reports),
        "peak_rss_mb": median(r["peak_rss_mb"] for r in reports),
        **judge(first["outputs"]),
        "same_answers_in_all_repeats": all(r["outputs"] == first["outputs"] for r in reports),
        "extra": first["extra"],
    }


def stream_row(reports: list[Report]) -> dict[str, Any]:
    """Tokens per second of one sequence; medians over the repeats, wall and CPU."""
    first = reports[0]
    rates = {
        f"{name}_{clock}_tokens_per_s": median(r["extra"][name][clock] for r in reports)
        for name in RATES
        for clock in ("wall", "cpu")
    }
    common_keys = {key: first[key] for key in ("engine", "setting", "threads", "version")}
    row = {"kind": "stream", **common_keys, "repeats": len(reports), **rates}
    row["constrained_over_free"] = (
        rates["constrained_cpu_tokens_per_s"] / (rates["free_512_cpu_tokens_per_s"])
    )
    return row


def add_ratios(rows: list[dict[str, Any]]) -> None:
    """To each row, what it is worth beside sgrt's with the same threads.

    ``times_sgrt_cpu`` and ``times_sgrt_wall``: seconds for the set ÷ sgrt's, above 1 is slower.
    ``of_sgrt``: tokens/s (CPU time) ÷ sgrt's, below 1 is slower.
    """
    mine = {(r["kind"], r["threads"]): r for r in rows if r["engine"] == "sgrt"}
    for row in rows:
        ours = mine.get((row["kind"], row["threads"]))
        if ours is not None and row["kind"] == "extraction":
            row["times_sgrt_cpu"] = row["cpu_s"] / ours["cpu_s"]
            row["times_sgrt_wall"] = row["wall_s"] / ours["wall_s"]
        elif ours is not None:
            keys = [f"{name}_cpu_tokens_per_s" for name in RATES]
            row["of_sgrt"] = {key: row[key] / ours[key] for key in keys}


def show(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        head = f"{row['engine']:<24} {row['setting']:<12} {row['threads']} thread(s)"
        if row["kind"] == "extraction":
            times = f"  {row['times_sgrt_cpu']:5.2f}x" if "times_sgrt_cpu" in row else ""
            print(
                f"{head}  {row['cpu_s']:7.2f} s CPU {row['wall_s']:7.2f} s wall{times}"
                f"  valid {row['valid']:.0%}  accuracy {row['accuracy']:.2f}"
            )
        else:
            rates = (f"{name} {row[f'{name}_cpu_tokens_per_s']:.0f}" for name in RATES)
            print(f"{head}  tokens/s (CPU time): {', '.join(rates)}")


def default_model() -> Path:
    """The embedded model, where it lies already."""
    from sgrt.models import hub

    return hub.resolve(None, fetch=False).path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", default="sgrt,llama.cpp,transformers")
    parser.add_argument("--threads", default="1", help="thread counts, separated by commas")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=int, default=None, help="passages (default: all)")
    parser.add_argument("--model", type=Path, default=None, help="GGUF file")
    parser.add_argument("--name", default="extraction", help="of the file under results/")
    options = parser.parse_args()
    model = options.model or default_model()
    chosen = options.engines.split(",")
    rows = []
    for threads in map(int, options.threads.split(",")):
        for contenders, row in ((EXTRACT, extraction_row), (STREAM, stream_row)):
            taking_part = [c for c in contenders if c.engine in chosen]
            reports = interleaved(taking_part, model, threads, options.repeats, options.limit)
            rows += [row(r) for r in reports.values()]
    add_ratios(rows)
    show(rows)
    common.save(options.name, rows)


if __name__ == "__main__":
    main()
