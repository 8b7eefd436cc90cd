"""Every idiom of the language page runs and prints what the page says."""

from __future__ import annotations

import contextlib
import io
import json
import linecache
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import sgrt

PAGE = Path(__file__).resolve().parents[1] / "docs" / "language.md"
IDIOM = re.compile(r"^## (\d+)\..*?<!-- answers: (.*?) -->\n```python\n(.*?)```", re.M | re.S)
IDIOMS = IDIOM.findall(PAGE.read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def no_backend_stays() -> Iterator[None]:
    yield
    sgrt.set_default_backend(None)


def test_page_has_ten_idioms() -> None:
    assert [number for number, _, _ in IDIOMS] == [str(i) for i in range(1, 11)]


@pytest.mark.parametrize(("number", "answers", "code"), IDIOMS)
def test_idiom_prints_what_the_page_says(
    number: str,
    answers: str,
    code: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    sgrt.set_default_backend(sgrt.ScriptedBackend(json.loads(answers)))
    name = f"<idiom {number}>"
    linecache.cache[name] = (len(code), None, code.splitlines(True), name)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, name, "exec"), {"__name__": "idiom"})
    expected = re.findall(r"# → (.*)$", code, re.M)
    assert expected
    assert printed.getvalue().splitlines() == expected
