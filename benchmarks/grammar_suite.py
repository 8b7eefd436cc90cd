"""The JSON-Schema-Test-Suite judged through a matcher over bytes.

    python -m benchmarks.grammar_suite --suite ~/JSON-Schema-Test-Suite

A schema of the suite is compiled as a user's would be, and every instance is fed to a matcher as
compact JSON text. Per group (one schema with its instances):

- right: every instance is judged as the suite says. ``right_spelled``: counting keys in another
  order, and integers that the suite writes with a fraction (1.0), in our spelling of the value.
- refused: the schema is refused by name.
- over: a valid instance is not accepted in any spelling.
- unsound: an invalid instance is accepted.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import common
from sgrt.core import JsonSchema
from sgrt.errors import ConstraintError
from sgrt.grammar.compiler import build
from sgrt.grammar.matcher import Grammar
from sgrt.grammar.vocabulary import Vocabulary

OUTCOMES = ("right", "right_spelled", "refused", "over", "unsound")
MAX_SPELLINGS = 200
DIALECTS = {f"draft{n}": f"http://json-schema.org/draft-0{n}/schema#" for n in (4, 6, 7)}
"""What a schema of an older draft says of itself where the suite leaves it to the folder."""


def byte_vocabulary() -> Vocabulary:
    """256 bytes and an end-of-text token."""
    tokens = [bytes([i]) for i in range(256)] + [b""]
    return Vocabulary(tokens, [256], 256, lambda text: list(text.encode()), "bytes")


def accepts(grammar: Grammar, value: Any) -> bool:
    """Whether a matcher takes the compact text of a value to its end."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    matcher = grammar.matcher()
    try:
        matcher.accept(list(text.encode("utf-8", "surrogatepass")))
    except ConstraintError:
        return False
    return matcher.is_complete


def spellings(value: Any) -> Iterator[Any]:
    """The value with keys in every order and integers without fraction."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        yield int(value)
    elif isinstance(value, list):
        yield from map(list, itertools.product(*map(_few, value)))
    elif isinstance(value, dict):
        for keys in itertools.permutations(value):
            for parts in itertools.product(*(_few(value[k]) for k in keys)):
                yield dict(zip(keys, parts, strict=True))
    else:
        yield value


def _few(value: Any) -> list[Any]:
    return list(itertools.islice(spellings(value), MAX_SPELLINGS))


def judge(group: dict[str, Any], vocabulary: Vocabulary, draft: str) -> tuple[str, str]:
    """The outcome of one group, and what it was about."""
    schema = group["schema"]
    if draft in DIALECTS and isinstance(schema, dict):
        schema = {"$schema": DIALECTS[draft], **schema}
    try:
        grammar = build(JsonSchema(json.dumps(schema)), vocabulary)
    except ConstraintError as error:
        return _judge_refusal(group, error)
    outcome, reason = "right", ""
    for test in group["tests"]:
        accepted = accepts(grammar, test["data"])
        if accepted and not test["valid"]:
            return "unsound", test["description"]
        if not accepted and any(accepts(grammar, v) for v in _few(test["data"])):
            accepted = True
            if not test["valid"]:
                return "unsound", test["description"]
            outcome = "right_spelled" if outcome == "right" else outcome
        if test["valid"] and not accepted:
            outcome, reason = "over", test["description"]
    return outcome, reason


def _judge_refusal(group: dict[str, Any], error: ConstraintError) -> tuple[str, str]:
    """A schema that nothing satisfies is refused, and rightly: there is nothing to generate."""
    empty = not any(test["valid"] for test in group["tests"])
    is_told = any(word in error.message for word in ("satisfies this", "allows no value"))
    return ("right" if empty and is_told else "refused"), error.message


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--suite", type=Path, required=True, help="a checkout of the suite")
    parser.add_argument("--draft", default="draft2020-12")
    parser.add_argument("--verbose", action="store_true", help="tell every group that is not right")
    args = parser.parse_args()
    folder = args.suite / "tests" / args.draft
    if not folder.is_dir():
        parser.error(
            f"no {args.draft} in {args.suite}: give --suite a checkout of "
            "https://github.com/json-schema-org/JSON-Schema-Test-Suite"
        )
    vocabulary = byte_vocabulary()
    rows = []
    total: Counter[str] = Counter()
    for path in sorted(folder.glob("*.json")):
        counts: Counter[str] = Counter()
        for group in json.loads(path.read_text()):
            outcome, reason = judge(group, vocabulary, args.draft)
            counts[outcome] += 1
            if args.verbose and outcome != "right":
                print(f"{path.stem} | {group['description']} | {outcome} | {reason}")
        rows.append({"keyword": path.stem, "groups": counts.total(), **_table(counts)})
        print(rows[-1])
        total += counts
    print({"groups": total.total(), **_table(total)})
    common.save(f"grammar_suite_{args.draft}", rows, draft=args.draft, total=_table(total))


def _table(counts: Counter[str]) -> dict[str, int]:
    return {outcome: counts[outcome] for outcome in OUTCOMES}


if __name__ == "__main__":
    main()
