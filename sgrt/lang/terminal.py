"""A finished text in a terminal: ``rich.print(state)``."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from sgrt.lang.spans import Span, visible

_STYLES = {
    "template": "dim",
    "sampled": "green",
    "forced": "yellow",
    "selected": "cyan",
    "error": "bold red",
}


def coloured(spans: Sequence[Span]) -> Text:
    """The text, coloured by who wrote it; what was unlikely is underlined."""
    shown = Text()
    for span in spans:
        style = _STYLES.get(span.kind, "")
        if span.probability is not None and span.probability < 0.5:
            style += " underline"
        shown.append(visible(span.text), style=style.strip())
    return shown
