"""`sgrt chat`: over the integer model, whose answers are noise but always the same."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sgrt.backends.local import Engine
from sgrt.cli.main import main
from sgrt.runtime import assemble
from tests.runtime.integer_model import integer_parts

Talk = Callable[..., tuple[int, str, str]]


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = integer_parts()
    monkeypatch.setattr(assemble, "load_parts", lambda config: made)
    return made


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[str, str]]]:
    """What the model was asked, as (role, text)."""
    asked: list[list[tuple[str, str]]] = []
    stream = Engine.stream

    def seen(self: Engine, messages: Any, **options: Any) -> Iterator[Any]:
        asked.append([(m.role, m.content) for m in messages])
        return stream(self, messages, **options)

    monkeypatch.setattr(Engine, "stream", seen)
    return asked


@pytest.fixture
def talk(parts: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Talk:
    """Call the verb with lines typed by somebody; returns status, output, errors."""

    def talk(*argv: str, typed: str, terminal: bool = True) -> tuple[int, str, str]:
        stdin = io.TextIOWrapper(io.BytesIO(typed.encode()), encoding="utf-8")
        monkeypatch.setattr(stdin, "isatty", lambda: terminal, raising=False)
        monkeypatch.setattr("sys.stdin", stdin)
        status = main(["chat", *argv])
        told = capsys.readouterr()
        return status, told.out, told.err

    return talk


def test_a_conversation_is_kept_and_reset_keeps_the_instruction(talk: Talk, prompts: Any) -> None:
    lines = "one\ntwo\n/reset\nthree\n\n/system new\nfour\n/system\nfive\n/exit\nnever\n"
    status, _, _ = talk("--system", "be", "--max-tokens", "3", typed=lines)
    assert status == 0
    roles = [[role for role, _ in messages] for messages in prompts]
    assert roles[0] == ["system", "user"]
    assert roles[1] == ["system", "user", "assistant", "user"]
    assert [messages[0] for messages in prompts[2:]] == [
        ("system", "be"),
        ("system", "new"),
        ("user", "five"),
    ]
    assert [messages[-1][1] for messages in prompts] == ["one", "two", "three", "four", "five"]


def test_what_is_printed_is_what_the_model_is_told_it_said(talk: Talk, prompts: Any) -> None:
    _, out, _ = talk("--max-tokens", "5", "--seed", "1", typed="one\ntwo\n")
    said = prompts[1][1][1]
    assert said and said in out


def test_piped_input_is_one_question_and_the_output_its_answer(talk: Talk, prompts: Any) -> None:
    status, out, err = talk("--max-tokens", "4", typed="one\n/reset\ntwo\n", terminal=False)
    assert (status, err) == (0, "")
    assert prompts == [[("user", "one\n/reset\ntwo")]]
    assert out.endswith("\n")


def test_a_schema_holds_each_answer(talk: Talk, tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text('{"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}')
    for _ in range(2):
        _, out, _ = talk("--schema", str(file), typed="x", terminal=False)
        assert json.loads(out)["a"] in (1, 2)


def test_an_interrupt_stops_the_answer_and_not_the_program(
    talk: Talk, prompts: Any, parts: Any, interruptible: None
) -> None:
    def interrupt(batch: Any) -> None:
        if parts.runner.num_forwards == 4:
            os.kill(os.getpid(), signal.SIGINT)

    parts.runner.on_forward = interrupt
    status, _, err = talk("--max-tokens", "400", typed="one\ntwo\n/exit\n")
    assert status == 0 and "(stopped)" in err
    assert [role for role, _ in prompts[1]] == ["user", "assistant", "user"]
    assert len(prompts[1][1][1]) < 400


def test_a_question_that_is_too_long_is_told_and_forgotten(talk: Talk, prompts: Any) -> None:
    status, _, err = talk("--max-tokens", "2", typed=f"{'x' * 600}\nshort\n")
    assert status == 0 and "/reset begins again" in err
    assert prompts[1] == [("user", "short")]


@pytest.mark.parametrize(
    ("argv", "typed", "told"),
    [
        (["--schema", "/no/such"], "x", "cannot read /no/such"),
        (["--schema", __file__], "x", "JSON"),
        (["--temperature", "-1"], "x", "temperature=-1.0"),
        ([], " \n", "the input is empty"),
        (["one", "--model", "two"], "x", "two models"),
    ],
)
def test_what_cannot_work_is_told_in_one_line(
    argv: list[str], typed: str, told: str, talk: Talk
) -> None:
    status, _, err = talk(*argv, typed=typed, terminal=False)
    assert status == 2
    assert told in err and err.startswith("sgrt: error: ") and err.count("\n") == 1


def test_an_unknown_command_asks_nothing(talk: Talk, prompts: Any) -> None:
    _, out, _ = talk(typed="/dance\n/help\n")
    assert "there is no /dance" in out and "/system TEXT" in out
    assert prompts == []
