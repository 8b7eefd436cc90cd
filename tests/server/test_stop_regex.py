"""stop_regex: every route ends the same text at the same place, streamed or not."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.server.support import BODIES, Server

LETTERS = {"temperature": 0, "regex": "[a-d]{24}"}
PATTERN = "a[^a]*c|dd"


def _texts(server: Server, more: dict[str, Any]) -> dict[str, tuple[str, Any]]:
    """What each route writes of the same prompt, and what it says ended it."""
    completion = {**LETTERS, "prompt": "once", "max_tokens": 30, **more}
    native = {"text": "once", "sampling_params": {**LETTERS, "max_new_tokens": 30, **more}}
    answer = server.post("/v1/completions", completion).json()["choices"][0]
    streamed = _events(server.post("/v1/completions", {**completion, "stream": True}).text)
    written = server.post("/generate", native).json()
    last = _events(server.post("/generate", {**native, "stream": True}).text)[-1]
    return {
        "completions": (answer["text"], answer["matched_stop"]),
        "streamed": (
            "".join(e["choices"][0]["text"] for e in streamed),
            streamed[-1]["choices"][0].get("matched_stop"),
        ),
        "native": (written["text"], written["meta_info"]["finish_reason"].get("matched")),
        "native streamed": (last["text"], last["meta_info"]["finish_reason"].get("matched")),
    }


def _events(text: str) -> list[dict[str, Any]]:
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def _cut(text: str) -> str:
    whole = re.compile(PATTERN)
    for end in range(len(text) + 1):
        for start in range(end):
            if whole.fullmatch(text, start, end):
                return text[:start]
    raise AssertionError(f"{text} has no match")


def test_stop_regex_ends_the_text_before_its_first_match_on_every_route(server: Server) -> None:
    (whole,) = {text for text, _ in _texts(server, {}).values()}
    told = _texts(server, {"stop_regex": PATTERN})
    assert set(told.values()) == {(_cut(whole), PATTERN)}, told
    chat = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 30, **LETTERS}
    free = server.post("/v1/chat/completions", chat).json()["choices"][0]["message"]["content"]
    stopped = server.post("/v1/chat/completions", {**chat, "stop_regex": [PATTERN, "zz"]}).json()
    assert stopped["choices"][0]["message"]["content"] == _cut(free)
    server.quiet()


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {"stop_regex": "a*"}, "stop_regex"),
        ("/v1/completions", {"stop_regex": ["b", "("]}, "stop_regex"),
        ("/v1/chat/completions", {"stop_regex": "^a"}, "stop_regex"),
        ("/v1/responses", {"stop_regex": "a(?=b)"}, "stop_regex"),
        ("/v1/completions", {"stop_regex": ["a"] * 1000}, "stop_regex"),
        ("/v1/completions", {"stop_regex": "(a{99}){99}"}, "stop_regex"),
        (
            "/v1/completions",
            {"stop_regex": "a", "include_stop_str_in_output": True},
            "include_stop_str_in_output",
        ),
        ("/generate", {"sampling_params": {"stop_regex": ""}}, "sampling_params.stop_regex"),
        (
            "/generate",
            {"sampling_params": {"stop_regex": "a", "no_stop_trim": True}},
            "sampling_params.no_stop_trim",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_stop_regex_that_cannot_be_followed_is_refused(
    server: Server, path: str, body: dict[str, Any], param: str, stream: bool
) -> None:
    answer = server.post(path, {**BODIES[path], **body, "stream": stream})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
