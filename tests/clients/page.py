"""The blocks of docs/serve.md, one per client; what the page shows is what runs here."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "serve.md"
ADDRESS = "http://127.0.0.1:30000"
_BLOCK = re.compile(r"^```python\n# (\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks() -> dict[str, str]:
    """Programs by the name of their client."""
    return dict(_BLOCK.findall(PAGE.read_text(encoding="utf-8")))
