"""Five fields in a row: as one segment, with a read after every field, and as a request per field.

    python -m benchmarks.fused_extraction [--passages N] [--repeats N]

"fused" is the plan of a program that reads nothing before its end: the engine gets text and
constrained generations as one segment. "read" is the same program reading every value as soon as
it is asked for. "requests" is what a client of a completion server does: a session per field, to
which the whole text so far is given again (the prefix cache finds most of it). One program at a
time, greedy; the texts must be equal. CPU seconds of the whole process, medians; "submissions" are
the times that the engine was handed work, per program.

No way can take fewer "steps", forward passes, than tokens were drawn ("sampled"), since each is
drawn from a state that the one before it is part of. Where the two are equal, neither prompts nor
literal text nor the ends of fields cost a pass of their own, and what is left to save between the
ways is what stands around the passes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import sgrt
from benchmarks import common
from sgrt.core import Choices, Constraint, Generate, Regex, SamplingParams, Text

RULES = "You extract facts from a text: a name, a place, a year, a kind and a topic.\n\n"
NAME, PLACE, YEAR = r"[A-Z][a-z]{1,10}( [A-Z][a-z]{1,10})?", r"[A-Z][a-z]{1,12}", r"[12]\d{3}"
KINDS = ["person", "event", "place", "thing"]
TOPIC = r"[a-z]{3,12}"
FIELDS: list[tuple[str, Constraint]] = [
    ("\nname: ", Regex(NAME)),
    ("\nplace: ", Regex(PLACE)),
    ("\nyear: ", Regex(YEAR)),
    ("\nkind: ", Choices(tuple(KINDS))),
    ("\ntopic: ", Regex(TOPIC)),
]


@sgrt.function
def fused(s: Any, text: str) -> Any:
    s += RULES + text
    s += "\nname: " + sgrt.gen("name", regex=NAME)
    s += "\nplace: " + sgrt.gen("place", regex=PLACE)
    s += "\nyear: " + sgrt.gen("year", regex=YEAR)
    s += "\nkind: " + sgrt.gen("kind", grammar=Choices(tuple(KINDS)))
    s += "\ntopic: " + sgrt.gen("topic", regex=TOPIC)
    return s["topic"]


@sgrt.function
def read(s: Any, text: str) -> Any:
    s += RULES + text
    s += "\nname: " + sgrt.gen("name", regex=NAME)
    name = s["name"]
    s += "\nplace: " + sgrt.gen("place", regex=PLACE)
    place = s["place"]
    s += "\nyear: " + sgrt.gen("year", regex=YEAR)
    year = s["year"]
    s += "\nkind: " + sgrt.gen("kind", grammar=Choices(tuple(KINDS)))
    kind = s["kind"]
    s += "\ntopic: " + sgrt.gen("topic", regex=TOPIC)
    return name, place, year, kind, s["topic"]


def requests(engine: sgrt.Engine, text: str) -> str:
    """The whole text again for every field."""
    written = RULES + text
    for label, constraint in FIELDS:
        session = engine.open()
        asked = Generate(params=SamplingParams(temperature=0), constraint=constraint)
        (handle,) = session.generate([Text(written + label), asked])
        written += label + handle.result().text
        session.close()
    return written


def measured(
    engine: sgrt.Engine, run: Callable[[str], str], passages: Sequence[str]
) -> tuple[list[str], dict[str, float]]:
    """The texts, and what they took per program."""
    engine.flush_cache()
    before = engine.stats()
    begun = time.process_time()
    texts = [run(passage) for passage in passages]
    seconds = time.process_time() - begun
    after = engine.stats()
    counts = ("submissions", "steps", "sampled", "computed")
    per_program = {c: (after[c] - before[c]) / len(passages) for c in counts}
    return texts, {"cpu_s": seconds / len(passages), **per_program}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--passages", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    path = common.ROOT / "examples" / "data" / "passages.json"
    passages = [p["text"] for p in json.loads(path.read_text())][: options.passages]
    plan, reading = fused.compile(), read.compile()
    assert plan.is_whole and reading.is_whole
    with sgrt.Engine() as engine:
        ways: dict[str, Callable[[str], str]] = {
            "fused": lambda text: plan.run(text, backend=engine, temperature=0).text(),
            "read": lambda text: reading.run(text, backend=engine, temperature=0).text(),
            "requests": lambda text: requests(engine, text),
        }
        plan.warm(engine).refused()  # the grammars are no part of the claim
        rows = compare(engine, ways, passages, options.repeats)
    for row in rows:
        print(row)
    print(common.save("fused_extraction", rows, passages=len(passages), fields=len(FIELDS)))


def compare(
    engine: sgrt.Engine,
    ways: dict[str, Callable[[str], str]],
    passages: Sequence[str],
    repeats: int,
) -> list[dict[str, Any]]:
    """All ways in turn, several times."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    written: dict[str, list[str]] = {}
    for _ in range(repeats):
        for name, run in ways.items():
            written[name], figures = measured(engine, run, passages)
            runs[name].append(figures)
    rows = []
    for name, found in runs.items():
        row: dict[str, Any] = {"way": name}
        row |= {key: round(median(r[key] for r in found), 4) for key in found[0]}
        row["same_text"] = sum(
            a == b for a, b in zip(written[name], written["fused"], strict=True)
        ) / len(passages)
        rows.append(row)
    for row in rows:
        row["x_fused"] = round(row["cpu_s"] / rows[0]["cpu_s"], 2)
    return rows


if __name__ == "__main__":
    main()
