"""What the demo prints: the objects beside their texts, then figures of three runs."""

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

import sgrt

DATA = Path(__file__).parent / "data"
console = Console()


class Run(NamedTuple):
    """One pass over the texts with an engine of its own."""

    label: str
    seconds: float
    stats: dict[str, float]
    objects: list[BaseModel]

    @property
    def tokens_per_s(self) -> float:
        return (self.stats["forced"] + self.stats["sampled"]) / self.seconds

    @property
    def cached_share(self) -> float:
        return self.stats["cached"] / max(1.0, self.stats["prompt"])

    @property
    def forced_share(self) -> float:
        return self.stats["forced"] / max(1.0, self.stats["forced"] + self.stats["sampled"])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Extract records from texts.")
    parser.add_argument("--limit", type=int, default=None, help="texts to take (default: all)")
    return parser.parse_args()


def passages(file: str) -> list[dict[str, Any]]:
    return json.loads((DATA / file).read_text(encoding="utf-8"))


def measure(program: Any, texts: Iterable[str], label: str, **options: Any) -> Run:
    """Run the program over the texts; every object is valid or this raises."""
    with sgrt.Engine(**options) as engine:
        begin = time.perf_counter()
        states = program.run_batch([{"text": t} for t in texts], backend=engine, progress_bar=True)
        seconds = time.perf_counter() - begin
        return Run(label, seconds, dict(engine.stats()), [state.value for state in states])


def run_all(program: Any, items: list[dict[str, Any]]) -> None:
    """The demo: run, show the objects, run again with parts of the runtime switched off."""
    texts = [item["text"] for item in items]
    runs = [measure(program, texts, "as it is")]
    show_objects(texts, runs[0].objects)
    console.print("Once more, without two of the things that make it fast:")
    runs.append(measure(program, texts, "prefix cache off", prefix_cache=False))
    runs.append(measure(program, texts, "forced runs off", forced_runs=False))
    show_figures(runs)


def show_objects(texts: list[str], objects: list[BaseModel]) -> None:
    table = Table("text", "object", show_lines=True)
    for text, record in zip(texts, objects, strict=True):
        fields = record.model_dump(mode="json").items()
        lines = (f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields)
        table.add_row(Text(text), Text("\n".join(lines)))
    console.print(table)
    console.print(f"{len(objects)} texts, {len(objects)} valid objects.\n")


def show_figures(runs: list[Run]) -> None:
    table = Table("run", "seconds", "tokens/s", "prompt from cache", "tokens forced", "objects")
    for run in runs:
        same = sum(a == b for a, b in zip(run.objects, runs[0].objects, strict=True))
        table.add_row(
            run.label,
            f"{run.seconds:.2f}",
            f"{run.tokens_per_s:.0f}",
            f"{run.cached_share:.0%}",
            f"{run.forced_share:.0%}",
            f"{same} of {len(run.objects)} the same",
        )
    console.print(table)
