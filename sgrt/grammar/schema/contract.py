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
