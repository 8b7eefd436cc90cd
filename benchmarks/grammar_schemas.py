"""Real schemas with real instances: sgrt, llguidance and xgrammar in the same run.

    python -m benchmarks.grammar_schemas --data ~/maskbench/data

Every schema of a seeded sample, spread evenly over the splits, is compiled for SmolLM2's
vocabulary and every instance is fed to a matcher, token by token. Instances stand in the dialect
an engine writes: compact for sgrt, ``", "`` and ``": "`` for the others; keys in the order given.
Each engine works in a process of its own, which is ended where one schema takes too long.

Per schema and engine:

- right: compiled, and every instance is judged as the data says. ``right_ordered``: counting
  keys in another order (searched, the order of the schema's properties first), and integers written with a fraction (1.0) in our
  spelling of the value (sgrt only).
- right, too: refused because nothing satisfies the schema, and no instance is valid.
- refused, time_out: not compiled. died: its process ended, or a mask could not be made.
- unsound: an invalid instance is accepted. over: a valid one is not.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import random
import re
import resource
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks import common
from benchmarks.grammar_suite import byte_vocabulary
from benchmarks.key_order import accepted_order, ordered
from sgrt.core import JsonSchema
from sgrt.errors import ConstraintError, UnsupportedSchema
from sgrt.grammar.compiler import CompileStats, GrammarCompiler, build
from sgrt.grammar.vocabulary import Vocabulary
from sgrt.models import hub
from sgrt.models.tokenizer import Tokenizer
from sgrt.runtime.assemble import grammar_vocabulary

OUTCOMES = ("right", "right_ordered", "refused", "time_out", "died", "over", "unsound")
MAX_BYTES = 4 * 1024**3
"""Memory of one engine's process."""

_SPLIT = re.compile(r"Github_[a-z]+|[^_-]*")

Row = dict[str, Any]


class Walk(Protocol):
    """One instance being fed to a grammar."""

    def fill(self) -> None: ...
    def accept(self, token_id: int) -> bool: ...
    def is_complete(self) -> bool: ...


class Engine(Protocol):
    """One engine over one vocabulary."""

    separators: tuple[str, str]

    def compile(self, schema: str) -> Callable[[], Walk]:
        """Raises any exception where it refuses the schema."""
        ...


class Sgrt:
    separators = (",", ":")

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._compiler = GrammarCompiler(vocabulary)
        self._row = np.zeros(vocabulary.num_words, np.uint32)
        self._bytes = byte_vocabulary()
        self._schema = ""

    @property
    def stats(self) -> CompileStats:
        return self._compiler.stats

    def compile(self, schema: str) -> Callable[[], Walk]:
        grammar = self._compiler.compile(JsonSchema(schema))
        self._schema = schema
        return lambda: _SgrtWalk(grammar.matcher(), self._row)

    def accepts_ordered(self, value: Any) -> bool:
        """Whether the last schema takes a value with its keys in some order."""
        grammar = build(JsonSchema(self._schema), self._bytes)
        return accepted_order(value, grammar.matcher()) is not None


class _SgrtWalk:
    def __init__(self, matcher: Any, row: Any) -> None:
        self._matcher, self._row = matcher, row

    def fill(self) -> None:
        self._matcher.fill(self._row)

    def accept(self, token_id: int) -> bool:
        try:
            self._matcher.accept([token_id])
        except ConstraintError:
            return False
        return True

    def is_complete(self) -> bool:
        return bool(self._matcher.is_complete)


class LLGuidance:
    separators = (", ", ": ")

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._row = np.zeros(vocabulary.num_words, np.uint32)

    def compile(self, schema: str) -> Callable[[], Walk]:
        import llguidance

        source = llguidance.LLMatcher.grammar_from_json_schema(schema)
        start = llguidance.LLMatcher(self._vocabulary.engine, source, log_level=0)
        if start.is_error():
            raise ValueError(start.get_error())
        return lambda: _LLGuidanceWalk(start.deep_copy(), self._row)


class _LLGuidanceWalk:
    def __init__(self, matcher: Any, row: Any) -> None:
        self._matcher, self._row = matcher, row

    def fill(self) -> None:
        self._matcher.unsafe_compute_mask_ptr(self._row.ctypes.data, self._row.nbytes)

    def accept(self, token_id: int) -> bool:
        return bool(self._matcher.consume_token(token_id))

    def is_complete(self) -> bool:
        return bool(self._matcher.is_accepting())


class XGrammar:
    separators = (", ", ": ")

    def __init__(self, vocabulary: Vocabulary, *, strict: bool) -> None:
        import xgrammar

        info = xgrammar.TokenizerInfo(
            vocabulary.tokens, xgrammar.VocabType.RAW, stop_token_ids=[vocabulary.eos_id]
        )
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
        self._matcher = xgrammar.GrammarMatcher
        self._mask = xgrammar.allocate_token_bitmask(1, len(vocabulary))
        self._strict = strict

    def compile(self, schema: str) -> Callable[[], Walk]:
        grammar = self._compiler.compile_json_schema(schema, strict_mode=self._strict)
        return lambda: _XGrammarWalk(self._matcher(grammar), self._mask)


class _XGrammarWalk:
    def __init__(self, matcher: Any, mask: Any) -> None:
        self._matcher, self._mask = matcher, mask

    def fill(self) -> None:
        self._matcher.fill_next_token_bitmask(self._mask)

    def accept(self, token_id: int) -> bool:
        return bool(self._matcher.accept_token(token_id))

    def is_complete(self) -> bool:
        return bool(self._matcher.is_completed())


ENGINES: dict[str, Callable[[Vocabulary], Engine]] = {
    "sgrt": Sgrt,
    "llguidance": LLGuidance,
    "xgrammar strict": lambda v: XGrammar(v, strict=True),
    "xgrammar non-strict": lambda v: XGrammar(v, strict=False),
}


# one schema


def judge(engine: Engine, vocabulary: Vocabulary, case: dict[str, Any]) -> Row:
    """The outcome of one schema, and how long everything took."""
    start = time.perf_counter()
    try:
        grammar = engine.compile(json.dumps(case["schema"]))
    except Exception as error:  # each engine raises its own
        row = {"compile_s": time.perf_counter() - start}
        if _is_rightly_refused(case, error):
            return {**row, "outcome": "right"}
        return {**row, "outcome": "refused", "reason": _reason(error)}
    row: Row = {"compile_s": time.perf_counter() - start, "mask_s": []}
    try:
        return {**row, **_judge_instances(engine, vocabulary, grammar, case, row["mask_s"])}
    except Exception as error:
        return {**row, "outcome": "died", "reason": _reason(error)}


def _judge_instances(
    engine: Engine,
    vocabulary: Vocabulary,
    grammar: Callable[[], Walk],
    case: dict[str, Any],
    mask_s: list[float],
) -> Row:
    outcome = "right"
    wrong = []
    for test in case["tests"]:
        accepted = _accepts(engine, vocabulary, grammar(), test, mask_s)
        if isinstance(engine, Sgrt) and not accepted:
            accepted = engine.accepts_ordered(ordered(test["data"], case["schema"]))
            if accepted and outcome == "right":
                outcome = "right_ordered"
        if accepted != test["valid"]:
            outcome = "over" if outcome != "unsound" and test["valid"] else "unsound"
            wrong.append(test.get("description", ""))
    return {"outcome": outcome, "wrong": wrong}


def _accepts(
    engine: Engine, vocabulary: Vocabulary, walk: Walk, test: dict[str, Any], mask_s: list[float]
) -> bool:
    text = json.dumps(test["data"], separators=engine.separators, ensure_ascii=False)
    for token_id in vocabulary.encode(text):
        if test["valid"]:
            start = time.perf_counter()
            walk.fill()
            mask_s.append(time.perf_counter() - start)
        if not walk.accept(token_id):
            return False
    return walk.is_complete()


def _is_rightly_refused(case: dict[str, Any], error: Exception) -> bool:
    """Whether it is told that nothing satisfies the schema, and no instance does."""
    told = ("satisfies this", "allows no value", "Unsatisfiable schema")
    return any(text in str(error) for text in told) and not any(t["valid"] for t in case["tests"])


def _reason(error: Exception) -> str:
    if isinstance(error, UnsupportedSchema):
        quoteless = re.sub(r"'(?:[^'\\]|\\.)*'|\"[^\"]*\"", "'...'", error.reason)
        return f"{error.keyword}: {quoteless:.80}"
    return re.sub(r"\d+", "N", str(error).split("\n")[0])[:100]


# processes


def _serve(name: str, connection: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_BYTES, MAX_BYTES))
    vocabulary = smollm2_vocabulary()
    engine = ENGINES[name](vocabulary)
    connection.send(None)
    while True:
        path = connection.recv()
        if path is None:
            return
        connection.send(judge(engine, vocabulary, json.loads(Path(path).read_text())))


def smollm2_vocabulary() -> Vocabulary:
    return grammar_vocabulary(Tokenizer.open(hub.resolve(None, fetch=False).path))


class Worker:
    """One engine in a process that is started anew where it was ended."""

    def __init__(
        self, name: str, limit_s: float, serve: Callable[[str, Connection], None] | None = None
    ) -> None:
        self._name, self._limit_s, self._serve = name, limit_s, serve or _serve
        self._process: Any = None

    def judge(self, path: Path) -> Row:
        if self._process is None:
            self._start()
        try:
            self._connection.send(str(path))
            if self._connection.poll(self._limit_s):
                row: Row = self._connection.recv()
                return row
            outcome = "time_out"
        except (EOFError, OSError):
            outcome = "died"
        self.close()
        return {"outcome": outcome, "compile_s": self._limit_s}

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=self._serve, args=(self._name, theirs))
        self._process.start()
        theirs.close()
        self._connection.recv()

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None


# all


def sample(folder: Path, count: int, seed: int) -> list[Path]:
    """So many files, as evenly as there are from each split (the first part of a name)."""
    splits: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        splits[_SPLIT.match(path.name)[0]].append(path)  # type: ignore[index]
    generator = random.Random(seed)
    chosen: list[Path] = []
    for number, name in enumerate(sorted(splits, key=lambda n: len(splits[n]))):
        share = (count - len(chosen)) // (len(splits) - number)
        chosen += generator.sample(splits[name], min(share, len(splits[name])))
    return sorted(chosen)


def summary(rows: list[Row]) -> Row:
    """One engine's line of the table."""
    counts = Counter(row["outcome"] for row in rows)
    compiled = [row for row in rows if "mask_s" in row]
    masks = [s * 1e6 for row in compiled for s in row["mask_s"]]
    return {
        "schemas": len(rows),
        "compiled": len(compiled),
        **{outcome: counts[outcome] for outcome in OUTCOMES},
        "compile_ms": spread([row["compile_s"] * 1e3 for row in compiled]),
        "mask_us": spread(masks),
    }


def spread(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    points = {"p50": 50, "p99": 99, "max": 100}
    return {k: round(float(np.percentile(values, p)), 2) for k, p in points.items()}


def _tally(rows: list[Row]) -> dict[str, int]:
    reasons = Counter(row["reason"] for row in rows if "reason" in row)
    return dict(reasons.most_common())


def _judge_all(name: str, paths: list[Path], limit_s: float) -> Iterator[Row]:
    worker = Worker(name, limit_s)
    try:
        for path in paths:
            yield {"schema": path.stem, **worker.judge(path)}
    finally:
        worker.close()


def _kept(engines: list[str], facts: dict[str, Any]) -> list[Row]:
    """Rows of the last result about engines not measured now, where the sample was the same."""
    path = common.RESULTS / "grammar_schemas.json"
    last = json.loads(path.read_text()) if path.exists() else {}
    if any(last.get(key) != value for key, value in facts.items()):
        return []
    return [row for row in last["rows"] if row["engine"] not in engines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="MaskBench's folder of schemas")
    parser.add_argument("--sample", type=int, default=440)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=20.0, help="seconds per schema and engine")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--verbose", action="store_true", help="tell every schema not right")
    args = parser.parse_args()
    if not args.data.is_dir() or not any(args.data.glob("*.json")):
        parser.error(
            f"no schemas in {args.data}: give --data the unpacked data folder of "
            "https://github.com/guidance-ai/jsonschemabench (maskbench/data)"
        )
    paths = sample(args.data, args.sample, args.seed)
    rows = []
    refusals = {}
    for name in args.engines:
        found = []
        for row in _judge_all(name, paths, args.limit):
            found.append(row)
            if args.verbose and row["outcome"] != "right":
                detail = row.get("reason", row.get("wrong", ""))
                print(name, row["schema"], row["outcome"], detail, sep=" | ", flush=True)
        rows.append({"engine": name, "commit": common.commit(), **summary(found)})
        refusals[name] = _tally(found)
        print(rows[-1], flush=True)
    facts = {"sample": args.sample, "seed": args.seed, "limit_s": args.limit}
    common.save(
        "grammar_schemas",
        [*rows, *_kept(args.engines, facts)],
        **facts,
        versions={p: importlib.metadata.version(p) for p in ("llguidance", "xgrammar")},
        refused_by_sgrt=refusals.get("sgrt", {}),
    )


if __name__ == "__main__":
    main()
