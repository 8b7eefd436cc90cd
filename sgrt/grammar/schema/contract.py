"""What a schema is promised: keyword by keyword, enforced or not, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["enforced", "subset", "annotation", "refused"]


@dataclass(frozen=True)
class Entry:
    """What becomes of one keyword at one place.

    Attributes:
        pointer: JSON pointer to the schema ("" is the root).
        status: "enforced" exactly; "subset": what is generated is valid, but not everything
            valid is generated (``why`` says what is not); "annotation": allows every value;
            "refused".
    """

    pointer: str
    keyword: str | None
    status: Status
    why: str = ""
    hint: str | None = None


DEPENDENT = {
    "then": "if",
    "else": "if",
    "minContains": "contains",
    "maxContains": "contains",
    "additionalItems": "items",
}
"""Keywords that are read with another one and mean nothing without it."""

ANNOTATIONS = frozenset(
    (
        "$schema", "$comment", "$defs", "definitions", "title", "description", "default",
        "example", "examples", "deprecated", "readOnly", "writeOnly",
        "contentEncoding", "contentMediaType", "contentSchema", "$vocabulary",
    )
)  # fmt: skip
"""Keywords that allow every value; so do all that no draft knows."""
