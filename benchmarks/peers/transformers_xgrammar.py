"""transformers with xgrammar's logits processor: the GGUF weights dequantised to fp32.

The batch is padded on the left. Plain `generate`, as its documentation shows it: no prefix is
kept between batches. Whitespace is fixed to the compact form, as for the other engines.
"""

from __future__ import annotations

import json
import time
from importlib.metadata import version
from typing import Any

import torch
import xgrammar
from transformers import AutoModelForCausalLM, AutoTokenizer
from xgrammar.contrib.hf import LogitsProcessor

from benchmarks.peers.workload import (
    MAX_TOKENS,
    SCHEMA,
    Report,
    arguments,
    passages,
    prompt,
    timed,
)


def load(path: Any) -> tuple[Any, Any]:
    """(model in fp32, tokenizer that pads on the left)."""
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()
    model.generation_config.pad_token_id = model.generation_config.pad_token_id or 0
    return model, tokenizer


def compile_schema(model: Any, tokenizer: Any, report: Report) -> Any:
    """The compiled grammar; its time is reported apart."""
    begin = time.perf_counter()
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=model.config.vocab_size)
    compiled = xgrammar.GrammarCompiler(info, max_threads=report.threads).compile_json_schema(
        json.dumps(SCHEMA), any_whitespace=False, separators=(",", ":"), strict_mode=True
    )
    report.compile_s = time.perf_counter() - begin
    return compiled


@torch.inference_mode()
def answer(model: Any, tokenizer: Any, compiled: Any, prompts: list[str], report: Report) -> None:
    """One batch, greedily, into the report."""
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    output = model.generate(
        **inputs,
        max_new_tokens=MAX_TOKENS,
        do_sample=False,
        logits_processor=[LogitsProcessor(compiled)],
    )
    fresh = output[:, inputs.input_ids.shape[1] :]  # [B, new] int64
    eos = torch.tensor(model.generation_config.eos_token_id)
    done = torch.isin(fresh, eos) | (fresh == model.generation_config.pad_token_id)
    report.prompt_tokens += int(inputs.attention_mask.sum())
    report.output_tokens += int((~done).sum())
    report.outputs += tokenizer.batch_decode(fresh, skip_special_tokens=True)


def main() -> None:
    begin = time.perf_counter()
    options = arguments(__doc__ or "", ("--batch", {"type": int, "default": 1}))
    if options.mode != "extract":
        raise SystemExit("transformers runs the extraction only")
    torch.set_num_threads(options.threads)
    report = Report(
        engine="transformers + xgrammar",
        setting=f"batch={options.batch}",
        threads=options.threads,
        version=f"transformers {version('transformers')}, xgrammar {version('xgrammar')}, "
        f"torch {torch.__version__}",
    )
    model, tokenizer = load(options.model)
    compiled = compile_schema(model, tokenizer, report)
    model.generate(**tokenizer("Hello", return_tensors="pt"), max_new_tokens=2, do_sample=False)
    report.load_s = time.perf_counter() - begin
    prompts = [prompt(p["text"]) for p in passages(options.limit)]
    with timed(report):
        for at in range(0, len(prompts), options.batch):
            answer(model, tokenizer, compiled, prompts[at : at + options.batch], report)
    report.show()


if __name__ == "__main__":
    main()
