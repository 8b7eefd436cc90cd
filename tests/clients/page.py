"""The blocks of docs/serve.md, one per client; what the page shows is what runs here."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "serve.md"
ADDRESS = "http://127.0.0.1:30000"
_BLOCKS = {
    language: re.compile(rf"^```{language}\n{mark} (\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    for language, mark in (("python", "#"), ("js", "//"))
}


def blocks(language: str = "python") -> dict[str, str]:
    """Programs in "python" or "js" by the name of their client."""
    return dict(_BLOCKS[language].findall(PAGE.read_text(encoding="utf-8")))
