"""llama.cpp (its own server inside the `xllamacpp` wheel): same GGUF file, JSON-schema grammar.

The prompt cache is on. With several slots the key-value cache is one pool, and the first passage
is answered alone so that the others can copy its prefix instead of computing it once per slot.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any

import xllamacpp

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

TOKENS_PER_SLOT = 1024


def start(model: str, threads: int, slots: int) -> xllamacpp.Server:
    """A server on the CPU with ``slots`` sequences, nothing cached on disk or in spare memory."""
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_gpu_layers = 0
    params.n_ctx = TOKENS_PER_SLOT * max(slots, 2)
    params.n_parallel = slots
    params.kv_unified = slots > 1
    params.cont_batching = True
    params.cache_prompt = True
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.warmup = True
    params.verbosity = 0
    return xllamacpp.Server(params)


def complete(server: xllamacpp.Server, request: dict[str, Any]) -> dict[str, Any]:
    """One greedy completion: text, usage and times."""
    body = {"temperature": 0.0, "top_k": 1, "cache_prompt": True, "stream": False, **request}
    answer: dict[str, Any] = server.handle_completions(body)
    if "choices" not in answer:
        raise RuntimeError(f"llama.cpp refused the request: {answer}")
    return answer


def text_of(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["text"])


def extract(server: xllamacpp.Server, report: Report, limit: int | None, slots: int) -> None:
    """Answer all passages, ``slots`` at a time."""
    requests = [
        {"prompt": prompt(p["text"]), "max_tokens": MAX_TOKENS, "json_schema": SCHEMA}
        for p in passages(limit)
    ]
    with timed(report), ThreadPoolExecutor(slots) as pool:
        first = complete(server, requests[0])
        answers = [first, *pool.map(lambda r: complete(server, r), requests[1:])]
    report.outputs = [text_of(a) for a in answers]
    report.prompt_tokens = sum(a["usage"]["prompt_tokens"] for a in answers)
    report.output_tokens = sum(a["usage"]["completion_tokens"] for a in answers)
    report.extra["prompt_tokens_computed"] = sum(a["timings"]["prompt_n"] for a in answers)


def stream(server: xllamacpp.Server, report: Report) -> None:
    """Prefill, free decode and constrained decode of one sequence."""

    def run(text: str, max_tokens: int, schema: dict[str, Any] | None, fresh: bool) -> int:
        request: dict[str, Any] = {
            "prompt": text,
            "max_tokens": max_tokens,
            "cache_prompt": not fresh,
        }
        if schema is None:
            request["ignore_eos"] = True
        else:
            request["json_schema"] = schema
        answer = complete(server, request)
        report.outputs.append(text_of(answer))
        if fresh:
            return int(answer["timings"]["prompt_n"])
        return int(answer["usage"]["completion_tokens"])

    report_stream(report, run, document(), constrained_schema())


def main() -> None:
    begin = time.perf_counter()
    options = arguments(__doc__ or "", ("--slots", {"type": int, "default": 1}))
    setting = f"slots={options.slots}" if options.mode == "extract" else "stream"
    report = Report(
        engine="llama.cpp",
        setting=setting,
        threads=options.threads,
        version=f"xllamacpp {version('xllamacpp')}",
    )
    server = start(str(options.model), options.threads, options.slots)
    complete(server, {"prompt": "Hello", "max_tokens": 2})
    report.load_s = time.perf_counter() - begin
    if options.mode == "extract":
        extract(server, report, options.limit, options.slots)
    else:
        stream(server, report)
    report.show()


if __name__ == "__main__":
    main()
