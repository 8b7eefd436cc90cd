"""What values of a plan become where the program's Python is not at hand."""

from __future__ import annotations

import json
from typing import Any


class Record(dict[str, Any]):
    """A JSON object, in place of an instance of the program's own class."""

    def field(self, name: str) -> Any:
        """``record.name``

        Raises:
            AttributeError: it has no such key.
        """
        if name not in self:
            raise AttributeError(f"the object has no field {name!r}; it has {', '.join(self)}")
        return self[name]


def read_json(text: str | bytes) -> Any:
    """JSON with objects as `Record`."""
    return json.loads(text, object_pairs_hook=Record)
