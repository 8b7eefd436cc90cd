"""The page on plans says what is so."""

import re
import runpy
from pathlib import Path

PAGE = Path(__file__).resolve().parents[3] / "docs" / "plans.md"


def test_page_on_plans_runs_and_shows_what_is_printed(tmp_path, capsys):
    text = PAGE.read_text()
    code = "\n\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    shown = "".join(re.findall(r"```text\n(.*?)```", text, re.DOTALL))
    script = tmp_path / "capital.py"
    script.write_text(code)
    runpy.run_path(str(script))
    printed = capsys.readouterr().out.replace(str(script), "capital.py").splitlines()
    expected = shown.splitlines()
    assert printed[: len(expected)] == expected
    assert printed[-3:] == ["What is the capital of ", "{}", "Rome"]
