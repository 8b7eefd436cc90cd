"""What every engine is asked to do, and the form in which it reports.

Twenty passages, one instruction in front of all of them, a schema of six fields, greedy
decoding. Nothing here knows an engine, so that each runs in a process without the others.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PASSAGES = ROOT / "examples" / "data" / "passages.json"
INSTRUCTION = ROOT / "benchmarks" / "data" / "instruction.json"
MAX_TOKENS = 160

FIELDS = ("title", "kind", "date", "place", "people", "amount")
LABELLED = ("kind", "date", "place", "people", "amount")

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "minLength": 1, "maxLength": 60},
        "kind": {"enum": ["invoice", "biography", "event", "incident"]},
        "date": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]},
        "place": {"anyOf": [{"type": "string", "maxLength": 40}, {"type": "null"}]},
        "people": {"type": "array", "items": {"type": "string", "maxLength": 40}, "maxItems": 3},
        "amount": {
            "anyOf": [{"type": "integer", "minimum": 0, "maximum": 9999999}, {"type": "null"}]
        },
    },
    "required": list(FIELDS),
    "additionalProperties": False,
}


def passages(limit: int | None = None) -> list[dict[str, Any]]:
    """The passages with their labels, kinds taking turns; the first ``limit`` of them."""
    every: list[dict[str, Any]] = json.loads(PASSAGES.read_text(encoding="utf-8"))
    return every[:limit]


def prompt(text: str) -> str:
    """One whole prompt, special tokens spelled out, in the model's own chat format (ChatML)."""
    instruction = json.loads(INSTRUCTION.read_text(encoding="utf-8"))
    messages = [("system", instruction["system"])]
    for question, answer in instruction["turns"]:
        messages += [("user", question), ("assistant", answer)]
    messages.append(("user", text))
    said = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in messages)
    return said + "<|im_start|>assistant\n"


@dataclass(kw_only=True)
class Report:
    """What one engine did in one process.

    Args:
        wall_s, cpu_s: of the answers alone; CPU seconds of the whole process, all threads.
        load_s: wall seconds from the start of the script to the first request.
        compile_s: seconds to compile the schema where that is a step of its own, not in wall_s.
        peak_rss_mb: largest resident size of the process.
    """

    engine: str
    setting: str
    threads: int
    version: str
    load_s: float = 0.0
    compile_s: float = 0.0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    peak_rss_mb: float = 0.0
    outputs: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    def show(self) -> None:
        """Print the one line that `extraction.py` reads."""
        self.peak_rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(asdict(self)), flush=True)


@contextmanager
def timed(report: Report) -> Iterator[None]:
    """Add the wall and CPU seconds of the block to the report."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    report.wall_s += time.perf_counter() - wall
    report.cpu_s += time.process_time() - cpu


def arguments(description: str, *extra: tuple[str, dict[str, Any]]) -> argparse.Namespace:
    """The command line that all engines share, and what one adds to it."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", type=Path, required=True, help="GGUF file")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int, default=None, help="passages (default: all)")
    parser.add_argument("--mode", choices=("extract", "stream"), default="extract")
    for name, options in extra:
        parser.add_argument(name, **options)
    return parser.parse_args()
