"""Nothing a user sends ends the process, stops it for long or fills it: over 250 attempts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import hostile
import pytest

MAX_SECONDS = 5.0
MAX_KB = 1 << 20

Rows = dict[str, dict[str, Any]]

OUTCOMES = {
    "regex: (a+)+$": "built",
    "regex: (a|b)*a(a|b){14}": "built",
    "regex: look": "GrammarSyntaxError",
    "lark: ambiguous": "built",
    "lark: endless": "ConstraintError: no text",
    "lark: doubling": "GrammarBudgetExceeded",
    "ebnf: left": "built",
    "ebnf: surrogate": "GrammarSyntaxError",
    "json: braces": "GrammarBudgetExceeded",
    "json: long": "GrammarBudgetExceeded: grammar exceeds its budget: 300000 characters of one val",
    "json: long enough": "built",
    "json: long list": "GrammarBudgetExceeded: grammar exceeds its budget: 48000 parts of one value",
    "json: list": "built",
    "json: NaN": "UnsupportedSchema: schema at /: NaN",
    "schema: tree": "built",
    "schema: ref in a circle": "UnsupportedSchema: schema at /: keyword '$ref' leads back",
    "schema: allOf doubling 25": "built",
    "schema: allOf of anyOf": "GrammarBudgetExceeded",
    "schema: definitions unused 900": "built",
    "schema: maxLength 1000": "built",
    "schema: maxLength 10**12": "GrammarBudgetExceeded: grammar exceeds its budget: 1e+12 maxLength",
    "schema: not anything": "UnsupportedSchema: schema at /: no value",
    "schema: ref file": "UnsupportedSchema",
    "choices NUL": "built",
    "choices surrogate": "ConstraintError",
    "sequence 5000": "GrammarBudgetExceeded",
    "doubling 60": "GrammarBudgetExceeded",
    "tag inside": "ConstraintError",
    # slow
    "choices 20000": "built",
    "schema: enum 10000": "built",
    "schema: multipleOf prime": "GrammarBudgetExceeded: grammar exceeds its budget: 2 seconds",
    "schema inside": "GrammarBudgetExceeded: grammar exceeds its budget: 2 seconds",
}


def run(which: str) -> Rows:
    """What became of the cases, in a process of their own."""
    done = subprocess.run(
        [sys.executable, hostile.__file__, which],
        capture_output=True,
        text=True,
        cwd=Path(hostile.__file__).parent,
        timeout=500,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (lines[-1:], done.stderr[-1_000:])
    return {row["name"]: row for row in lines if "name" in row}


def check(rows: Rows, names: set[str]) -> None:
    assert rows.keys() == names
    for name, row in rows.items():
        assert row["cpu_s"] < MAX_SECONDS, row
        assert row["peak_kb"] < MAX_KB, row
        kind, _, reason = row["outcome"].partition(": ")
        assert kind == "built" or reason.strip(), row
        assert row["outcome"].startswith(OUTCOMES.get(name, "")), row


@pytest.mark.parametrize("which", ["sample", pytest.param("fast", marks=pytest.mark.slow)])
def test_hostile_constraints_are_refused_or_enforced_within_their_budget(which: str) -> None:
    names = hostile.cases().keys()
    assert hostile.SLOW | OUTCOMES.keys() <= names and len(names) >= 250
    families = Counter(name.partition(": ")[0] for name in names if ": " in name)
    assert families.keys() == {"json", "regex", "lark", "ebnf", "schema"}
    check(run(which), hostile.names(which))


@pytest.mark.slow
def test_hostile_constraints_that_cost_more_end_within_their_budget() -> None:
    check(run("slow"), set(hostile.SLOW))
