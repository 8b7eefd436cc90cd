"""What the masks of a step cost: sgrt, llguidance alone and xgrammar on the same texts.

    python -m benchmarks.grammar_masks [--data ~/maskbench/data] [--tokens qwen.tiktoken]

256 texts are fed token by token, a step at a time; before each step the masks of all rows are
made. "one schema": 256 records of one schema. "many schemas": valid instances of the data of
JSONSchemaBench (with --data), as many schemas as fill 256 rows, each row another text, so that
little is shared. Values are compact JSON for all.

- sgrt: from matchers to the plan that the sampler draws by (filled, special tokens cleared,
  rows of few tokens listed), one thread.
- llguidance: its masks alone, one call per row. sgrt's engine underneath; "facade" is what sgrt's
  plan costs above it, per row.
- xgrammar: its batch call, one thread.

Every figure is CPU time of the process. The first pass over the texts builds what engines keep;
the second finds it built. With --tokens "one schema" again for that vocabulary.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import llguidance
import numpy as np

from benchmarks import common, vocabularies
from benchmarks.grammar_schemas import sample
from sgrt.core import JsonSchema
from sgrt.errors import ConstraintError
from sgrt.grammar.compiler import GrammarCompiler
from sgrt.grammar.masks import MaskBuffer
from sgrt.grammar.vocabulary import Vocabulary
from sgrt.runtime.masking import list_few, plan_of

ROWS = 256
STEPS = 48
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 40},
            "born": {"type": "integer", "minimum": 1000, "maximum": 2100},
            "kind": {"enum": ["person", "place", "thing"]},
            "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 4},
            "score": {"type": "number", "minimum": 0, "maximum": 1},
            "known": {"type": "boolean"},
            "note": {"type": "string"},
        },
        "required": ["name", "born", "kind", "tags", "score", "known", "note"],
        "additionalProperties": False,
    }
)
_WORDS = [
    "a",
    "small",
    "bridge",
    "of",
    "stone",
    "over",
    "the",
    "slow",
    "river",
    "near",
    "Oslo;",
    "built",
    "late,",
    "widened",
    "twice",
]

Case = tuple[str, list[int]]
"""A schema and the tokens of a text."""


class Engine(Protocol):
    def start(self, schema: str) -> Any:
        """A matcher. Raises where the schema is refused."""
        ...

    def accept(self, matcher: Any, token_id: int) -> bool: ...
    def fill(self, matchers: Sequence[Any]) -> None: ...


class Sgrt:
    def __init__(self, vocabulary: Vocabulary) -> None:
        self.compiler = GrammarCompiler(vocabulary)
        self._buffer = MaskBuffer(len(vocabulary), lambda masks: list_few(masks, len(vocabulary)))

    def start(self, schema: str) -> Any:
        return self.compiler.compile(JsonSchema(schema)).matcher()

    def accept(self, matcher: Any, token_id: int) -> bool:
        try:
            matcher.accept([token_id])
        except ConstraintError:
            return False
        return True

    def fill(self, matchers: Sequence[Any]) -> None:
        masks = self._buffer.fill(matchers)
        if masks.errors:
            raise next(iter(masks.errors.values()))
        plan_of(len(matchers), range(len(matchers)), masks)


class LLGuidance:
    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._rows = np.zeros((ROWS, vocabulary.num_words), np.uint32)
        self._starts: dict[str, Any] = {}

    def start(self, schema: str) -> Any:
        if schema not in self._starts:
            options: Any = {
                "whitespace_flexible": False,
                "item_separator": ",",
                "key_separator": ":",
            }
            source = llguidance.LLMatcher.grammar_from_json_schema(schema, overrides=options)
            start = llguidance.LLMatcher(self._vocabulary.engine, source, log_level=0)
            if start.is_error():
                raise ValueError(start.get_error())
            self._starts[schema] = start
        return self._starts[schema].deep_copy()

    def accept(self, matcher: Any, token_id: int) -> bool:
        return bool(matcher.consume_token(token_id))

    def fill(self, matchers: Sequence[Any]) -> None:
        start, size = self._rows.ctypes.data, self._rows.strides[0]
        for row, matcher in enumerate(matchers):
            matcher.unsafe_compute_mask_ptr(start + row * size, size)


class XGrammar:
    def __init__(self, vocabulary: Vocabulary) -> None:
        import xgrammar

        info = xgrammar.TokenizerInfo(
            vocabulary.tokens, xgrammar.VocabType.RAW, stop_token_ids=[vocabulary.eos_id]
        )
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=1)
        self._matcher = xgrammar.GrammarMatcher
        self._batch = xgrammar.BatchGrammarMatcher(max_threads=1)
        self._mask = xgrammar.allocate_token_bitmask(ROWS, len(vocabulary))

    def start(self, schema: str) -> Any:
        compiled = self._compiler.compile_json_schema(
            schema, any_whitespace=False, separators=(",", ":"), strict_mode=True
        )
        return self._matcher(compiled)

    def accept(self, matcher: Any, token_id: int) -> bool:
        return bool(matcher.accept_token(token_id))

    def fill(self, matchers: Sequence[Any]) -> None:
        self._batch.batch_fill_next_token_bitmask(list(matchers), self._mask)


ENGINES: dict[str, Callable[[Vocabulary], Engine]] = {
    "sgrt": Sgrt,
    "llguidance": LLGuidance,
    "xgrammar": XGrammar,
}


# texts


def records(vocabulary: Vocabulary, seed: int) -> list[Case]:
    """Texts of `SCHEMA`; no two rows stand at the same place for long."""
    rng = random.Random(seed)

    def some(count: int) -> str:
        return " ".join(rng.choice(_WORDS) for _ in range(count))

    cases = []
    for _ in range(ROWS):
        value = {
            "name": some(rng.randint(1, 5))[:40],
            "born": rng.randint(1000, 2100),
            "kind": rng.choice(["person", "place", "thing"]),
            "tags": [some(1) for _ in range(rng.randint(0, 4))],
            "score": rng.randint(0, 100) / 100,
            "known": rng.random() < 0.5,
            "note": some(60),
        }
        cases.append((SCHEMA, vocabulary.encode(json.dumps(value, separators=(",", ":")))))
    return cases


def instances(vocabulary: Vocabulary, folder: Path, seed: int) -> list[Case]:
    """Valid instances of real schemas that every engine takes, at least 20 tokens long."""
    engines = [make(vocabulary) for make in ENGINES.values()]
    found: list[Case] = []
    for path in sample(folder, 440, seed):
        case = json.loads(path.read_text())
        schema = json.dumps(case["schema"])
        tests = [t["data"] for t in case["tests"] if t["valid"]][:2]
        if len(schema) > 5_000 or not tests:
            continue  # xgrammar takes minutes for some
        for data in tests:
            text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
            ids = vocabulary.encode(text)
            if len(ids) >= 20 and all(takes(engine, schema, ids) for engine in engines):
                found.append((schema, ids))
        if len(found) >= ROWS:
            break
    return [found[i % len(found)] for i in range(ROWS)]


def takes(engine: Engine, schema: str, ids: list[int]) -> bool:
    """Whether an engine takes a text from its beginning to its end."""
    try:
        matcher = engine.start(schema)
    except Exception:  # each raises its own
        return False
    return all(engine.accept(matcher, token_id) for token_id in ids)


# measuring


def batches(engine: Engine, cases: Sequence[Case]) -> list[float]:
    """CPU seconds of the masks of each step; a row whose text is over begins again."""
    matchers = [engine.start(schema) for schema, _ in cases]
    places = [0] * len(cases)
    seconds = []
    for _ in range(STEPS):
        start = time.process_time()
        engine.fill(matchers)
        seconds.append(time.process_time() - start)
        for row, (schema, ids) in enumerate(cases):
            if places[row] == len(ids) - 1:
                matchers[row], places[row] = engine.start(schema), 0
                continue
            if not engine.accept(matchers[row], ids[places[row]]):
                raise RuntimeError(f"{type(engine).__name__} refuses a text")
            places[row] += 1
    return seconds


def singles(engine: Engine, cases: Sequence[Case]) -> list[float]:
    """CPU seconds of each mask of the first texts, alone."""
    seconds = []
    for schema, ids in cases[:: ROWS // 32]:
        matcher = engine.start(schema)
        for token_id in ids[:200]:
            start = time.process_time()
            engine.fill([matcher])
            seconds.append(time.process_time() - start)
            engine.accept(matcher, token_id)
    return seconds


def facade(engine: Sgrt, cases: Sequence[Case]) -> list[float]:
    """CPU seconds per row of sgrt's plan above its engine's masks, on the same matchers."""
    matchers = [engine.start(schema) for schema, _ in cases]
    for matcher, (_, ids) in zip(matchers, cases, strict=True):
        matcher.accept(ids[: len(ids) // 2])
    row = np.zeros(matchers[0].vocabulary.num_words, np.uint32)
    pointer, size = row.ctypes.data, row.nbytes
    parsed = [m.engine for m in matchers if hasattr(m, "engine")]
    extra = []
    for _ in range(30):
        start = time.process_time()
        for matcher in parsed:
            matcher.unsafe_compute_mask_ptr(pointer, size)
        middle = time.process_time()
        engine.fill(matchers)
        extra.append((time.process_time() - middle - (middle - start)) / len(matchers))
    return extra[1:]


def spread(seconds: list[float], scale: float) -> dict[str, float]:
    points = {"p50": 50, "p99": 99, "max": 100}
    return {k: round(float(np.percentile(seconds, p)) * scale, 3) for k, p in points.items()}


def measure(name: str, vocabulary: Vocabulary, workload: str, cases: list[Case]) -> dict[str, Any]:
    engine = ENGINES[name](vocabulary)
    for schema, _ in cases:
        engine.start(schema)  # compiled before the clock runs
    row: dict[str, Any] = {
        "engine": name,
        "vocabulary": len(vocabulary),
        "workload": workload,
        "schemas": len({schema for schema, _ in cases}),
        "batch_ms_first_pass": spread(batches(engine, cases), 1e3),
        "batch_ms": spread(batches(engine, cases), 1e3),
        "one_row_us": spread(singles(engine, cases), 1e6),
    }
    if isinstance(engine, Sgrt):
        row["facade_us_per_row"] = spread(facade(engine, cases), 1e6)
        engine.compiler.close()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="MaskBench's folder of schemas")
    parser.add_argument("--tokens", type=Path, help="a .tiktoken file: one more vocabulary")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    found = [vocabularies.smollm2()]
    if args.tokens:
        found.append(vocabularies.from_ranks(args.tokens))
    rows = []
    for vocabulary in found:
        workloads = {"one schema": records(vocabulary, args.seed)}
        if args.data and vocabulary is found[0]:
            workloads["many schemas"] = instances(vocabulary, args.data, args.seed)
        for workload, cases in workloads.items():
            for name in args.engines:
                rows.append(measure(name, vocabulary, workload, cases))
                print(json.dumps(rows[-1]), flush=True)
    common.save(
        "grammar_masks",
        rows,
        rows_per_batch=ROWS,
        steps=STEPS,
        seed=args.seed,
        versions={p: importlib.metadata.version(p) for p in ("llguidance", "xgrammar")},
    )


if __name__ == "__main__":
    main()
