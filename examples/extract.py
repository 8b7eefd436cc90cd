"""Facts from twenty texts as validated objects, and what the runtime does for it.

python examples/extract.py [--limit N]
"""

import datetime as dt
from enum import StrEnum
from typing import Annotated

from _show import arguments, passages, run_all
from pydantic import BaseModel, Field

import sgrt

Short = Annotated[str, Field(min_length=1, max_length=30)]


class Kind(StrEnum):
    INVOICE = "invoice"
    BIOGRAPHY = "biography"
    EVENT = "event"
    INCIDENT = "incident"


class Person(BaseModel):
    name: Short
    role: Short


class Record(BaseModel):
    title: Annotated[str, Field(min_length=1, max_length=60)]
    kind: Kind
    date: dt.date | None
    place: Short | None
    people: Annotated[list[Person], Field(max_length=2)]
    amount: Annotated[int, Field(ge=0, le=9_999_999)] | None
    severity: Annotated[int, Field(ge=1, le=5)]
    keywords: Annotated[list[Short], Field(min_length=1, max_length=3)]


@sgrt.function
def extract(s, text):
    s += sgrt.system(
        "Write the facts of the text as JSON: title, kind, date, place, people with their roles, "
        "amount of money, severity from 1 (harmless) to 5 (grave), keywords. "
        "Take every fact from the text and use null where it says nothing."
    )
    for example in passages("examples.json"):
        s += sgrt.user(example["text"])
        s += sgrt.assistant(Record(**example["record"]).model_dump_json())
    s += sgrt.user(text)
    s += sgrt.assistant(sgrt.gen("record", output=Record, max_tokens=400, temperature=0))
    return s["record"]


if __name__ == "__main__":
    run_all(extract, passages("passages.json")[: arguments().limit])
