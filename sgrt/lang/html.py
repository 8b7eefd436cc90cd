"""A finished text as one HTML file, without scripts and without anything from elsewhere.

Colours say who wrote what, the line below a token how likely it was, and what else there was to
say is shown where the pointer rests. Everything from programs and models is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby

from sgrt.lang.spans import Span, visible

_STYLE = """
.sgrt{font:14px/1.6 ui-monospace,SFMono-Regular,Menlo,monospace;color:#1c1c1c;background:#fff;
max-width:60rem;padding:1rem;overflow-wrap:anywhere}
.sgrt .message{border-left:3px solid #d0d7de;margin:.6rem 0;padding:.1rem .8rem}
.sgrt .role{color:#57606a;font-size:.8em}
.sgrt .body{white-space:pre-wrap}
.sgrt .template{color:#a0a7ae}
.sgrt .sampled{background:#d8f0dc}
.sgrt .forced{background:#fde9c8}
.sgrt .selected{background:#d9e8fb}
.sgrt .error{background:#ffd9d6;color:#82071e}
.sgrt .first{border-left:2px solid #57606a;padding-left:2px}
.sgrt .legend{color:#57606a;font-size:.8em;margin-top:.8rem}
.sgrt .legend span{padding:0 .3rem;margin-right:.5rem;color:#1c1c1c}
@media (prefers-color-scheme:dark){.sgrt{background:#0d1117;color:#e6edf3}
.sgrt .template{color:#6e7681}.sgrt .sampled{background:#12361f}.sgrt .forced{background:#4a3410}
.sgrt .selected{background:#12305a}.sgrt .error{background:#5c1a1a;color:#ffdcd7}
.sgrt .legend span{color:#e6edf3}}
"""
_LEGEND = ("text", "template", "sampled", "forced", "selected")


def page(spans: Sequence[Span], roles: Sequence[str], *, title: str) -> str:
    """A whole document."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(visible(title))}</title></head>\n<body>{fragment(spans, roles)}</body></html>\n"
    )


def fragment(spans: Sequence[Span], roles: Sequence[str]) -> str:
    """What goes into a page or a notebook's cell."""
    body = "".join(_blocks(spans, roles))
    legend = "".join(f'<span class="{kind}">{kind}</span>' for kind in _LEGEND)
    return (
        f'<div class="sgrt"><style>{_STYLE}</style>{body}'
        f'<div class="legend">{legend}the line below: how likely</div></div>'
    )


def _blocks(spans: Sequence[Span], roles: Sequence[str]) -> Iterator[str]:
    for message, inside in groupby(spans, key=lambda span: span.message):
        body = f'<span class="body">{"".join(map(_span, inside))}</span>'
        if message is None:
            yield body
        else:
            role = escape(roles[message])
            yield f'<div class="message"><div class="role">{role}</div>{body}</div>'


def _span(span: Span) -> str:
    classes = f"{span.kind} first" if span.is_first else span.kind
    note = f' title="{escape(visible(chr(10).join(span.note)))}"' if span.note else ""
    return f'<span class="{classes}"{_line(span.probability)}{note}>{escape(visible(span.text))}</span>'


def _line(probability: float | None) -> str:
    """Green where it was certain, red where it was not."""
    if probability is None:
        return ""
    hue = round(120 * min(1.0, max(0.0, probability)))
    return f' style="border-bottom:2px solid hsl({hue},70%,45%)"'
