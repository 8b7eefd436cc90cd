"""What a decode step costs besides the model: scheduling, bookkeeping and sampling set-up.

    python -m benchmarks.step [--threads N] [--steps N]

Batches of 1, 8 and 32 sequences decode freely and under a JSON schema with the embedded model.
"overhead" is the loop's time outside the forward pass and the head; the claim is that it is at
most 5 % of the forward pass at 32.
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median
from typing import Any

import sgrt
from benchmarks import common
from sgrt.core import Constraint, Generate, JsonSchema, SamplingParams, Text

SCHEMA = JsonSchema(
    json.dumps(
        {  # long enough to outlast the steps, with wide masks as well as narrow ones
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "day": {"enum": ["Monday", "Friday"]},
                    "note": {"type": "string", "minLength": 20, "maxLength": 60},
                },
                "required": ["day", "note"],
                "additionalProperties": False,
            },
            "minItems": 20,
        }
    )
)


class Clock:
    """Times of each step, taken around the runner's calls."""

    def __init__(self, runner: Any) -> None:
        self.steps: list[tuple[float, float]] = []  # begin, seconds
        for name in ("forward", "sample"):
            setattr(runner, name, self._timed(getattr(runner, name)))

    def _timed(self, call: Any) -> Any:
        def timed(*args: Any) -> Any:
            start = time.perf_counter()
            result = call(*args)
            self.steps.append((start, time.perf_counter() - start))
            return result

        return timed


def decode(
    engine: sgrt.Engine, batch: int, steps: int, constraint: Constraint | None
) -> list[dict[str, float]]:
    """Seconds per step of a batch that decodes: in the model, in the head, besides."""
    clock = Clock(engine._loop.runner)
    params = SamplingParams(max_tokens=steps, temperature=0, ignore_eos=True)
    sessions = [engine.open() for _ in range(batch)]
    handles = []
    for i, session in enumerate(sessions):
        session.extend(Text(f"Notes of day {i}, written down in the evening:\n"))
        handles += session.generate([Generate(params=params, constraint=constraint)])
    for handle in handles:
        handle.result()
    calls = clock.steps  # forward, sample, forward, sample, ...
    rows = []
    for i in range(0, len(calls) - 2, 2):
        (begin, forward), (_, head), (then, _) = calls[i : i + 3]
        rows.append({"forward": forward, "head": head, "overhead": then - begin - forward - head})
    return rows[len(rows) // 4 :]  # the first steps hold the prompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--steps", type=int, default=64)
    args = parser.parse_args()
    rows = []
    for kind, constraint in (("free", None), ("schema", SCHEMA)):
        for batch in (1, 8, 32):
            with sgrt.Engine(num_threads=args.threads, kv_tokens=32768) as engine:
                steps = decode(engine, batch, args.steps, constraint)
            row = {name: median(s[name] for s in steps) * 1e3 for name in steps[0]}
            share = row["overhead"] / row["forward"]
            rows.append({"kind": kind, "batch": batch, "steps": len(steps), "share": share, **row})
            print(
                f"{kind:6} batch {batch:2}: forward {row['forward']:7.2f} ms, "
                f"head {row['head']:6.2f} ms, overhead {row['overhead']:5.2f} ms = {share:.1%}"
            )
    common.save("step", rows, unit="ms per step, medians", threads=args.threads)


if __name__ == "__main__":
    main()
