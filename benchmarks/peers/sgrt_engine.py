"""sgrt's embedded engine on the same workload: all passages at once, prompts as plain sessions.

Uses `Session` directly, the form in which the other engines get the work too: whole prompts.
"""

from __future__ import annotations

import json
import time
from typing import Any

import sgrt
from benchmarks.peers.stream import constrained_schema, document, report_stream
from benchmarks.peers.workload import (
    MAX_TOKENS,
    SCHEMA,
    Report,
    arguments,
    passages,
    prompt,
    timed,
)
from sgrt.core import Generate, Generation, JsonSchema, SamplingParams, Text

GREEDY = SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS)


def submit(engine: sgrt.Engine, text: str, request: Generate) -> Generation:
    session = engine.open()
    session.extend(Text(text, special=True))
    (handle,) = session.generate([request])
    return handle


def extract(engine: sgrt.Engine, report: Report, limit: int | None) -> None:
    """Answer all passages, submitted together."""
    request = Generate(params=GREEDY, constraint=JsonSchema(json.dumps(SCHEMA)))
    before = dict(engine.stats())
    with timed(report):
        handles = [submit(engine, prompt(p["text"]), request) for p in passages(limit)]
        results = [handle.result() for handle in handles]
    after = engine.stats()
    report.outputs = [result.text for result in results]
    report.prompt_tokens = sum(result.usage.prompt for result in results)
    report.output_tokens = sum(len(result.token_ids) for result in results)
    report.extra = {name: after[name] - before[name] for name in after if name in before}


def stream(engine: sgrt.Engine, report: Report) -> None:
    """Prefill, free decode and constrained decode of one sequence."""

    def run(text: str, max_tokens: int, schema: dict[str, Any] | None, fresh: bool) -> int:
        constraint = None if schema is None else JsonSchema(json.dumps(schema))
        params = GREEDY.override(max_tokens=max_tokens, ignore_eos=schema is None)
        request = Generate(params=params, constraint=constraint)
        result = submit(engine, text, request).result()
        report.outputs.append(result.text)
        return result.usage.prompt - result.usage.cached if fresh else len(result.token_ids)

    report_stream(report, run, document(), constrained_schema())


def main() -> None:
    begin = time.perf_counter()
    options = arguments(__doc__ or "")
    report = Report(
        engine="sgrt",
        setting="all at once" if options.mode == "extract" else "stream",
        threads=options.threads,
        version=sgrt.__version__,
    )
    with sgrt.Engine(str(options.model), num_threads=options.threads, device="cpu") as engine:
        engine.generate("Hello", max_tokens=2, temperature=0.0)
        report.load_s = time.perf_counter() - begin
        if options.mode == "extract":
            extract(engine, report, options.limit)
        else:
            stream(engine, report)
        report.extra["library"] = engine.config.precision
    report.show()


if __name__ == "__main__":
    main()
