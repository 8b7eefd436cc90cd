"""What compiling a constraint and filling a mask cost: sgrt, llguidance and xgrammar alike.

    python -m benchmarks.grammar_compile --data ~/maskbench/data --tokens qwen.tiktoken

The schemas are those of `grammar_schemas` (a seeded sample of MaskBench), each compiled anew by
each engine in a process of its own; masks are filled at every token of the valid instances. Two
vocabularies: SmolLM2's (49k tokens), and that of a tiktoken file (the PyPI package ``dashscope``
carries Qwen's, 152k tokens). Then a few constraints that are small to say and large to build.

Times are CPU seconds of the thread that asks, which a busy machine disturbs least. Where sgrt
hands a schema to its compile process, wall time is taken instead (``via_process`` says how often).
Spreads are over the schemas that every engine of the run compiles ("common"), and over all that
an engine compiles ("all").
"""

from __future__ import annotations

import argparse
import base64
import gc
import importlib.metadata
import itertools
import json
import re
import resource
import time
from collections.abc import Callable
from functools import lru_cache, partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.grammar_schemas import (
    ENGINES,
    MAX_BYTES,
    Engine,
    Row,
    Sgrt,
    Worker,
    sample,
    smollm2_vocabulary,
    spread,
)
from sgrt.core import Choices
from sgrt.grammar.compiler import GrammarCompiler
from sgrt.grammar.vocabulary import Vocabulary

_PIECE = re.compile(r"\s?\w+|\s?[^\w\s]+|\s+")
REPEATS = 3


def tiktoken_vocabulary(path: Path) -> Vocabulary:
    """The tokens of a tiktoken file (base64 and rank per line), and an end of text.

    Texts are cut into words roughly as such models cut them, and merged by rank.
    """
    lines = (line.split() for line in path.read_bytes().splitlines() if line)
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    tokens = sorted(ranks, key=ranks.__getitem__)
    merge = lru_cache(maxsize=1 << 16)(partial(_merge, ranks))

    def encode(text: str) -> list[int]:
        return [i for piece in _PIECE.findall(text) for i in merge(piece.encode())]

    return Vocabulary([*tokens, b""], [len(tokens)], len(tokens), encode, path.name)


def _merge(ranks: dict[bytes, int], piece: bytes) -> tuple[int, ...]:
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while len(parts) > 1:
        pairs = [ranks.get(a + b) for a, b in itertools.pairwise(parts)]
        best = min((rank for rank in pairs if rank is not None), default=None)
        if best is None:
            break
        at = pairs.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return tuple(ranks[part] for part in parts)


# one schema


def cost(engine: Engine, vocabulary: Vocabulary, case: dict[str, Any]) -> Row:
    """Seconds to compile a schema, and of each mask along its valid instances."""
    try:
        compile_s, via_process, grammar = _timed(engine, json.dumps(case["schema"]))
    except Exception as error:  # each engine raises its own
        return {"refused": f"{error!s:.100}"}
    mask_s: list[float] = []
    try:
        for test in case["tests"]:
            if test["valid"]:
                _walk(engine, vocabulary, grammar(), test["data"], mask_s)
    except Exception as error:
        return {"refused": f"{error!s:.100}"}
    return {"compile_s": compile_s, "mask_s": mask_s, "via_process": via_process}


def _timed(engine: Engine, schema: str) -> tuple[float, bool, Callable[[], Any]]:
    """Seconds, whether a process did it, and the grammar."""
    stats = engine.stats if isinstance(engine, Sgrt) else None
    num_proved = stats.num_proved if stats else 0
    cpu, wall = time.thread_time(), time.perf_counter()
    grammar = engine.compile(schema)
    cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
    via_process = stats is not None and stats.num_proved > num_proved
    return wall if via_process else cpu, via_process, grammar


def _walk(
    engine: Engine, vocabulary: Vocabulary, walk: Any, value: Any, mask_s: list[float]
) -> None:
    text = json.dumps(value, separators=engine.separators, ensure_ascii=False)
    for token_id in vocabulary.encode(text):
        start = time.thread_time()
        walk.fill()
        mask_s.append(time.thread_time() - start)
        if not walk.accept(token_id):
            return


def _serve(tokens: Path | None, name: str, connection: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_BYTES, MAX_BYTES))
    vocabulary = _vocabulary(tokens)
    engine = ENGINES[name](vocabulary)
    _timed(engine, "{}")  # tries, tables and tokenizers are made now
    gc.collect()
    gc.freeze()  # as a server does: no look for garbage is at what is loaded
    connection.send(None)
    while True:
        path = connection.recv()
        if path is None:
            return
        connection.send(cost(engine, vocabulary, json.loads(Path(path).read_text())))


def _vocabulary(tokens: Path | None) -> Vocabulary:
    return smollm2_vocabulary() if tokens is None else tiktoken_vocabulary(tokens)


# constraints that are small to say


def large_schemas() -> dict[str, str]:
    """Schemas by name."""
    values = [f"value number {i * 7919 % 10_007}" for i in range(5_000)]
    fields = {f"field_{i}": {"type": "string", "maxLength": 100} for i in range(200)}
    nodes: dict[str, Any] = {
        "maxLength 1000": {"type": "string", "maxLength": 1_000},
        "enum of 5,000": {"enum": values},
        "200 required fields": {
            "type": "object",
            "properties": fields,
            "required": list(fields),
            "additionalProperties": False,
        },
    }
    return {name: json.dumps(node) for name, node in nodes.items()}


def large_rows(name: str, tokens: Path | None) -> list[Row]:
    """What an engine takes for each, the median of some tries."""
    vocabulary = _vocabulary(tokens)
    rows = []
    for what, schema in large_schemas().items():
        seconds = []
        for i in range(REPEATS + 1):
            engine = ENGINES[name](vocabulary)
            seconds.append(_timed(engine, schema + " " * i)[0])
        rows.append({"what": what, "compile_ms": _median_ms(seconds[1:])})
    if name == "sgrt":
        for count in (5_000, 20_000):
            options = tuple(f"option number {i * 7919 % 20_011}" for i in range(count))
            rows.append(
                {"what": f"{count:,} choices", "compile_ms": _choices_ms(vocabulary, options)}
            )
    return rows


def _choices_ms(vocabulary: Vocabulary, options: tuple[str, ...]) -> float:
    seconds = []
    for i in range(REPEATS):
        start = time.thread_time()
        GrammarCompiler(vocabulary).compile(Choices((*options[1:], f"another {i}")))
        seconds.append(time.thread_time() - start)
    return _median_ms(seconds)


def _median_ms(seconds: list[float]) -> float:
    return round(sorted(seconds)[len(seconds) // 2] * 1e3, 2)


# all


def measure(
    tokens: Path | None, engines: list[str], paths: list[Path], limit_s: float
) -> list[Row]:
    """One row per engine for one vocabulary."""
    found: dict[str, list[Row]] = {}
    for name in engines:
        worker = Worker(name, limit_s, partial(_serve, tokens))
        try:
            found[name] = [worker.judge(path) for path in paths]
        finally:
            worker.close()
        print(name, _spreads(found[name]), flush=True)
    is_common = [all("mask_s" in found[name][i] for name in engines) for i in range(len(paths))]
    rows = []
    for name in engines:
        both = [row for row, ok in zip(found[name], is_common, strict=True) if ok]
        rows.append(
            {
                "engine": name,
                "vocabulary": "SmolLM2" if tokens is None else tokens.name,
                "num_tokens": len(_vocabulary(tokens)),
                "common": _spreads(both),
                "all": _spreads(found[name]),
                "large": large_rows(name, tokens),
            }
        )
        print(rows[-1], flush=True)
    return rows


def _spreads(rows: list[Row]) -> Row:
    compiled = [row for row in rows if "mask_s" in row]
    return {
        "schemas": len(compiled),
        "via_process": sum(row["via_process"] for row in compiled),
        "compile_ms": spread([row["compile_s"] * 1e3 for row in compiled]),
        "mask_us": spread([s * 1e6 for row in compiled for s in row["mask_s"]]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="MaskBench's folder of schemas")
    parser.add_argument("--tokens", type=Path, help="a tiktoken file: a second vocabulary")
    parser.add_argument("--sample", type=int, default=440)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=20.0, help="seconds per schema and engine")
    parser.add_argument(
        "--engines", nargs="+", choices=ENGINES, default=["sgrt", "llguidance", "xgrammar strict"]
    )
    args = parser.parse_args()
    if not args.data.is_dir() or not any(args.data.glob("*.json")):
        parser.error(f"no schemas in {args.data}: give --data MaskBench's unpacked data folder")
    paths = sample(args.data, args.sample, args.seed)
    rows = []
    for tokens in [None, args.tokens] if args.tokens else [None]:
        rows += measure(tokens, args.engines, paths, args.limit)
    common.save(
        "grammar_compile",
        rows,
        sample=args.sample,
        seed=args.seed,
        limit_s=args.limit,
        versions={p: importlib.metadata.version(p) for p in ("llguidance", "xgrammar")},
    )


if __name__ == "__main__":
    main()
