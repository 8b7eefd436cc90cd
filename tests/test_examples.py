"""Every example runs, on the real model, and shows what it promises."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import sgrt

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SCRIPTS = sorted(path.stem for path in EXAMPLES.glob("*.py") if not path.stem.startswith("_"))
LONGEST = 60

Run = Callable[..., str]


@pytest.fixture(scope="module")
def default_engine(smollm2: Path) -> Iterator[None]:
    """One default engine for all examples instead of one for each."""
    with sgrt.Engine() as engine:
        sgrt.set_default_backend(engine)
        yield
        sgrt.set_default_backend(None)


@pytest.fixture
def run(
    default_engine: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Runs an example as a script does; returns what it printed."""

    def run_script(name: str, *args: str) -> str:
        monkeypatch.syspath_prepend(str(EXAMPLES))
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *args])
        monkeypatch.setenv("COLUMNS", "160")
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run_script


def test_every_example_has_a_test_and_is_short() -> None:
    tested = {name.split("_")[1] for name in globals() if name.startswith("test_")}
    assert set(SCRIPTS) <= tested
    for name in SCRIPTS:
        assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= LONGEST


@pytest.mark.model
def test_readme_example_prints_objects(
    default_engine: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    script = tmp_path / "readme.py"
    script.write_text(readme.split("```python\n")[1].split("```")[0], encoding="utf-8")
    runpy.run_path(str(script), run_name="__main__")
    assert re.findall(r"name='.*' born=\d{4}", capsys.readouterr().out)


@pytest.mark.model
def test_hello_prints_an_answer(run: Run) -> None:
    answer = run("hello")
    assert "compiler" in answer
    assert answer.strip().endswith(".")  # the model ended its sentence; it was not cut off


@pytest.mark.model
def test_classify_prints_probabilities_that_add_up(run: Run) -> None:
    found = re.findall(r"(positive|negative) \(positive (\d+)%, negative (\d+)%\)", run("classify"))
    assert len(found) == 3
    for chosen, positive, negative in found:
        assert 99 <= int(positive) + int(negative) <= 101
        assert chosen == ("positive" if int(positive) > int(negative) else "negative")


@pytest.mark.model
def test_tree_joins_both_branches_and_shares_their_prefix(run: Run) -> None:
    lines = run("tree").splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == ["for", "against", "verdict"]
    cached, prompt = map(int, re.findall(r"\d+", lines[3]))
    assert 0 < cached < prompt


@pytest.mark.model
def test_stream_prints_a_story(run: Run) -> None:
    assert len(run("stream").split()) > 20


@pytest.mark.model
def test_nested_prints_people_with_their_homes(run: Run) -> None:
    lines = run("nested").splitlines()
    assert len(lines) == 4
    assert re.fullmatch(r"Anna Berg, \d+, .+ \(.+\):", lines[0])


@pytest.mark.model
def test_thoughts_follows_the_idea_judged_best(run: Run) -> None:
    *ideas, followed, first = run("thoughts").splitlines()
    chances = [int(line.split("%")[0]) for line in ideas]
    assert len(ideas) == 3
    best = followed.removeprefix("followed: ")
    assert any(
        line.endswith(best) and c == max(chances) for line, c in zip(ideas, chances, strict=True)
    )
    assert first.startswith("first step: ")


@pytest.mark.model
def test_react_answers_with_what_the_tool_said(run: Run) -> None:
    printed = run("react")
    assert "Action: calculate[57 * 83]\nResult: 4731\n" in printed
    assert printed.endswith("answer: 4731\n")


@pytest.mark.model
def test_judge_prints_shares_that_add_up(run: Run) -> None:
    short, wrong = map(int, re.findall(r"(\d+)%", run("judge")))
    assert 99 <= short + wrong <= 101


@pytest.mark.model
def test_resume_answers_the_second_run_from_its_journal(run: Run, tmp_path: Path) -> None:
    first = run("resume", str(tmp_path))
    written = (tmp_path / "words.jsonl").read_bytes()
    assert run("resume", str(tmp_path)) == first
    assert (tmp_path / "words.jsonl").read_bytes() == written


@pytest.mark.model
def test_chorus_streams_every_subject(run: Run) -> None:
    pieces = re.findall(
        r"^a lighthouse|^a lost key|^the first snow|(\d+) pieces", run("chorus"), re.M
    )
    assert sum(1 for count in pieces if count and int(count) > 3) == 3


def _check_extract(printed: str, num: int) -> None:
    """Every object is valid, and neither cache nor forced runs change one."""
    assert f"{num} texts, {num} valid objects." in printed
    assert printed.count(f"{num} of {num} the same") == 3
    rows = [line for line in printed.splitlines() if re.search(r"\d+ of \d+ the same", line)]
    (hit, forced), (no_hit, _), (_, no_forced) = (
        map(int, re.findall(r"(\d+)%", row)) for row in rows
    )
    assert hit > 0 and forced > 0
    assert (no_hit, no_forced) == (0, 0)


@pytest.mark.model
@pytest.mark.slow
def test_extract_makes_valid_objects_whatever_is_switched_off(run: Run) -> None:
    _check_extract(run("extract", "--limit", "2"), 2)


@pytest.mark.model
@pytest.mark.slow
def test_extract_in_full_makes_valid_objects(run: Run) -> None:
    _check_extract(run("extract"), 20)
