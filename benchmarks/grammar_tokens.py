"""Tokens per model step: how much of real JSON is forced by its schema.

    python -m benchmarks.grammar_tokens --data ~/maskbench/data

Valid instances of real schemas are written as a model that wants just them would write them, as
the engine does it: where the grammar leaves one text, its tokens are appended without the model
(`Matcher.forced`); tokens that are likely then (`Matcher.guess`) are computed along with them, and
where the text goes on with them they cost no step of their own, until they are wrong too often;
every other token costs one.
Counted are the instances that sgrt accepts, keys in the schema's order, for every policy of
separators; and the steps that there would be without guesses.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common, vocabularies
from benchmarks.grammar_schemas import sample
from benchmarks.key_order import ordered
from sgrt.core import JsonSchema
from sgrt.errors import ConstraintError
from sgrt.grammar.compiler import GrammarCompiler
from sgrt.grammar.matcher import Matcher
from sgrt.grammar.vocabulary import Vocabulary
from sgrt.runtime.tasks import MIN_DRAFT_SCORE

POLICIES: dict[Any, tuple[str, str]] = {"compact": (",", ":"), "fixed": (", ", ": ")}


def write(
    matcher: Matcher, vocabulary: Vocabulary, text: bytes, *, guesses: bool
) -> tuple[int, int] | None:
    """Tokens and model steps of a text; None where the grammar does not take it."""
    num_tokens = num_steps = at = 0
    planned: list[int] = []  # tokens of the rest of the text
    ahead: list[int] = []  # tokens that the last step computed ahead of the text
    is_known = False  # whether it tells what follows here
    score = 0  # guesses that were right less those that were wrong
    while at < len(text):
        run = matcher.forced()
        if run:
            planned = []
        else:
            planned = planned or vocabulary.encode(text[at:].decode())
            run, planned = planned[:1], planned[1:]
            if not is_known:
                num_steps += 1
                ahead = matcher.guess() if guesses and score >= MIN_DRAFT_SCORE else []
        spelled = vocabulary.bytes_of(run)
        if not text.startswith(spelled, at):
            return None
        try:
            matcher.accept(run)
        except ConstraintError:
            return None
        was_ahead, is_known = bool(ahead), bool(ahead) and ahead[: len(run)] == run
        ahead = ahead[len(run) :] if is_known else []
        if was_ahead and not ahead:
            score += 1 if is_known else -1
        num_tokens += len(run)
        at += len(spelled)
    return (num_tokens, num_steps) if matcher.is_complete else None


def measure(
    vocabulary: Vocabulary, cases: list[dict[str, Any]], policy: Any
) -> tuple[dict[str, Any], list[float]]:
    compiler = GrammarCompiler(vocabulary)
    counts: Counter[str] = Counter()
    ratios = []
    for case in cases:
        try:
            grammar = compiler.compile(JsonSchema(json.dumps(case["schema"]), separators=policy))
        except ConstraintError:
            counts["schemas_refused"] += 1
            continue
        counts["schemas"] += 1
        for test in case["tests"]:
            if not test["valid"]:
                continue
            value = ordered(test["data"], case["schema"])
            text = json.dumps(value, separators=POLICIES[policy], ensure_ascii=False)
            data = text.encode("utf-8", "surrogatepass")
            found = write(grammar.matcher(), vocabulary, data, guesses=True)
            alone = write(grammar.matcher(), vocabulary, data, guesses=False)
            if found is None or alone is None:
                counts["instances_not_taken"] += 1
                continue
            counts["instances"] += 1
            counts["tokens"] += found[0]
            counts["steps"] += found[1]
            counts["steps_without_guesses"] += alone[1]
            ratios.append(found[0] / max(found[1], 1))
    compiler.close()
    row = {"separators": policy, **counts}
    row["tokens_per_step"] = round(counts["tokens"] / counts["steps"], 3)
    row["without_guesses"] = round(counts["tokens"] / counts["steps_without_guesses"], 3)
    row["median_of_instances"] = round(float(np.median(ratios)), 3)
    return row, ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="MaskBench's folder of schemas")
    parser.add_argument("--tokens", type=Path, help="a .tiktoken file instead of SmolLM2's tokens")
    parser.add_argument("--sample", type=int, default=440)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    vocabulary = vocabularies.from_ranks(args.tokens) if args.tokens else vocabularies.smollm2()
    paths = sample(args.data, args.sample, args.seed)
    cases = [json.loads(path.read_text()) for path in paths]
    rows = []
    for policy in POLICIES:
        row, _ = measure(vocabulary, cases, policy)
        rows.append(row)
        print(json.dumps(row), flush=True)
    common.save(
        "grammar_tokens", rows, vocabulary=len(vocabulary), sample=args.sample, seed=args.seed
    )


if __name__ == "__main__":
    main()
