"""What xgrammar defines means here what it means there: its EBNF and its structural tags."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import pytest
from grammar_support import accepts, grammar
from test_ebnf import _XGRAMMAR
from test_tag_format import _TABLE

from sgrt.core import Ebnf, StructuralFormat

_PIECES = {
    "ebnf": ["a", "b", "c", "d", "e", "x", "y", "1", "12", "+", "(", ")", "=", '"', "\\", "\n", "ID-"],
    "format": ["<f=", "a>", "b>", "true", "k", "</f>", "</g>", ">", "<", "[", "]", "(", ")", "x", "!", ", "],
}  # fmt: skip
# Formats that are read otherwise here, each with the reason.
_OTHERWISE = {
    '"end": ""': "xgrammar refuses free text in a tag without end",
    '"excludes": ["<k>"': "xgrammar drops lengths there, and takes what has no type for an object",
    '"json_schema": true': "xgrammar writes white space, \\u escapes and other spellings",
}


def _texts(kind: str, known: list[str]) -> list[str]:
    rng = random.Random(7)
    random_ = ["".join(rng.choices(_PIECES[kind], k=rng.randint(0, 5))) for _ in range(150)]
    return [*known, *(a + b for a, b in itertools.product(known[:5], repeat=2)), *random_]


def _check(compiled: Any, peer: Any, texts: list[str]) -> None:
    from xgrammar.testing import _is_grammar_accept_string

    for text in texts:
        assert accepts(compiled, text) == _is_grammar_accept_string(peer, text), text


@pytest.mark.parametrize(("text", "good", "bad"), _XGRAMMAR)
def test_ebnf_of_xgrammar_means_the_same(text: str, good: list[str], bad: list[str]) -> None:
    from xgrammar import Grammar

    _check(grammar(Ebnf(text, "xgrammar")), Grammar.from_ebnf(text), _texts("ebnf", good + bad))


@pytest.mark.parametrize(("form", "good", "bad"), _TABLE)
def test_format_of_xgrammar_means_the_same(form: Any, good: list[str], bad: list[str]) -> None:
    from xgrammar import Grammar

    text = json.dumps(form)
    if any(mark in text for mark in _OTHERWISE):
        return
    peer = Grammar.from_structural_tag(json.dumps({"type": "structural_tag", "format": form}))
    texts = [t for t in _texts("format", good + bad) if " true" not in t]  # white space of JSON
    _check(grammar(StructuralFormat(text)), peer, texts)
