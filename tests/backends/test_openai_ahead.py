"""Guessing ahead: fewer requests, the same values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import sgrt
from sgrt.backends.openai import OpenAI
from sgrt.backends.openai.ahead import Guess, first_stop
from sgrt.core import SamplingParams
from tests.backends.http_server import Asked, HttpServer, Reply, sse

ASKED = "Make somebody up.\nName:"
WRITTEN = " Ada Lovelace\nBorn: 1815.\nJob: writer of programs\n\nThe end."
Start = Callable[..., tuple[HttpServer, OpenAI]]


class Model:
    """Always writes the same, in tokens of three characters.

    Args:
        world: texts that it knows by heart; from others it goes on with what it was given last.
        ends: whether it stops at the end, or goes on.
        counts: whether it says how many tokens there were.
    """

    def __init__(self, *world: str, ends: bool = True, counts: bool = True) -> None:
        self.world = world
        self.ends = ends
        self.counts = counts

    def continue_text(self, prompt: str) -> str:
        known = next((w[len(prompt) :] for w in self.world if w.startswith(prompt)), None)
        text = f" something else than{prompt[-9:]}\nand more\n" if known is None else known
        return text if self.ends else text + " and on" * 200

    def __call__(self, asked: Asked) -> Reply:
        chat = "messages" in asked.body
        prompt = asked.body["messages"][-1]["content"] if chat else asked.body["prompt"]
        text, reason, num = cut(self.continue_text(prompt), asked.body)
        choice: dict[str, Any] = {"delta": {"content": text}} if chat else {"text": text}
        usage = {"prompt_tokens": -(-len(prompt) // 3), "completion_tokens": num}
        told = [{"choices": [], "usage": usage}] if self.counts else []
        return sse({"choices": [{**choice, "finish_reason": reason}]}, *told)


def cut(text: str, body: dict[str, Any]) -> tuple[str, str, int]:
    """What a server gives of a text: it looks for stop strings after every token."""
    for num in range(1, body["max_tokens"] + 1):
        found = first_stop(text[: num * 3], body.get("stop", []))
        if found is not None:
            return text[: found[0]], "stop", num
        if num * 3 >= len(text):
            return text, "stop", num
    return text[: body["max_tokens"] * 3], "length", body["max_tokens"]


@pytest.fixture
def start() -> Iterator[Start]:
    made: list[tuple[HttpServer, OpenAI]] = []

    def run(model: Callable[[Asked], Reply], *, chat: bool) -> tuple[HttpServer, OpenAI]:
        server = HttpServer(model)
        made.append((server, OpenAI("m", chat, base_url=server.url + "/v1", api_key="")))
        return made[-1]

    yield run
    for server, backend in made:
        backend.close()
        server.close()


def character(s: Any, max_tokens: int, stop: str = "\n") -> None:
    s += ASKED + sgrt.gen("name", stop=stop, max_tokens=max_tokens)
    s += "\nBorn:" + sgrt.gen("born", stop=[".", "\n"], max_tokens=max_tokens)
    s += ".\nJob:" + sgrt.gen("job", stop=stop, max_tokens=max_tokens)


plain = sgrt.function(character)
ahead = sgrt.function(character, num_api_spec_tokens=32)
NAMES = ("name", "born", "job")


def values(state: sgrt.ProgramState) -> list[Any]:
    reasons = [state.get_meta_info(name)["finish_reason"]["type"] for name in NAMES]
    return [state.text(), reasons, *(state[name] for name in NAMES)]


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("stop", ["\n", "of pro", "nowhere"])
@pytest.mark.parametrize("max_tokens", [1, 3, 5, 16, 31, 32, 33, 128])
def test_values_are_those_of_a_request_each(
    start: Start, max_tokens: int, stop: str, ends: bool, counts: bool
) -> None:
    model = Model(ASKED + WRITTEN, ends=ends, counts=counts)
    _, backend = start(model, chat=False)
    found = [values(p.run(max_tokens, stop, backend=backend)) for p in (plain, ahead)]
    assert found[0] == found[1]


def test_one_request_serves_what_the_program_foresees(start: Start) -> None:
    server, backend = start(Model(ASKED + WRITTEN), chat=False)
    plain.run(128, backend=backend).sync()
    charged, num_asked = backend.token_usage.prompt_tokens, len(server.asked)
    backend.token_usage.reset()
    state = ahead.run(128, backend=backend)
    assert [state[name] for name in NAMES] == [" Ada Lovelace", " 1815", " writer of programs"]
    assert (num_asked, len(server.asked) - num_asked) == (3, 1)
    assert backend.token_usage.prompt_tokens * 3 < charged
    assert state.usage().prompt == backend.token_usage.prompt_tokens


def test_program_that_goes_on_otherwise_asks_again(start: Start) -> None:
    server, backend = start(Model(ASKED + WRITTEN), chat=False)

    @sgrt.function(num_api_spec_tokens=64)
    def program(s):
        s += ASKED + sgrt.gen("name", stop="\n") + "\nAge:" + sgrt.gen("age", stop="\n")

    assert program.run(backend=backend)["age"] == " something else thanlace"
    assert len(server.asked) == 2
    assert server.asked[1].body["prompt"].endswith("Lovelace\nAge:")


@pytest.mark.parametrize(
    "asked",
    [
        {"regex": "[ a-zA-Z]+"}, {"logprobs": 1}, {"presence_penalty": 1.0}, {"temperature": 0.5},
        {"stop": None},
    ],
)  # fmt: skip
def test_generation_that_asks_for_more_is_never_read_from_a_guess(
    start: Start, asked: dict[str, Any]
) -> None:
    server, backend = start(Model(ASKED + WRITTEN), chat=False)
    backend.server = "vllm"

    @sgrt.function(num_api_spec_tokens=64)
    def program(s):
        s += ASKED + sgrt.gen("name", stop="\n") + "\nBorn:"
        s += sgrt.gen("born", **{"stop": "\n", **asked})

    program.run(backend=backend).error()
    assert len(server.asked) == 2


def test_forks_write_each_their_own(start: Start) -> None:
    server, backend = start(Model(ASKED + WRITTEN), chat=False)

    @sgrt.function(num_api_spec_tokens=64)
    def program(s):
        s += ASKED + sgrt.gen("name", stop="\n")
        forks = s.fork(3)
        forks += "\nBorn:" + sgrt.gen("born", stop=".")
        forks.join()

    assert program.run(backend=backend)["born"] == [" 1815"] * 3
    assert len(server.asked) == 4


MESSAGE = "Name: Ada\nAge: 36\nJob: none"


@sgrt.function(num_api_spec_tokens=64)
def interview(s):
    s += sgrt.user("Who?")
    s += sgrt.assistant(
            "Name:" + sgrt.gen("name", stop="\n") + "\nAge:" + sgrt.gen("age", stop="\n")
            + "\nJob:" + sgrt.gen("job")
        )  # fmt: skip
    s += sgrt.user("Thanks.")
    s += sgrt.assistant(sgrt.gen("bye", stop="!"))


def test_message_of_a_chat_is_written_in_one_go(start: Start) -> None:
    server, backend = start(Model("Who?" + MESSAGE, "Thanks.You're welcome! Bye"), chat=True)
    state = interview.run(backend=backend)
    assert [state[x] for x in ("name", "age", "job", "bye")] == [
        " Ada",
        " 36",
        " none",
        "You're welcome",
    ]
    assert [m["content"] for m in state.messages()] == [
        "Who?",
        MESSAGE,
        "Thanks.",
        "You're welcome",
    ]
    assert [len(asked.body["messages"]) for asked in server.asked] == [1, 3]
    assert server.asked[1].body["messages"][1] == {"role": "assistant", "content": MESSAGE}
    streamed = interview.run(backend=backend, stream=True)
    assert "".join(streamed.text_iter("age")) == " 36"


class Learner(Model):
    """Writes another message each time."""

    def continue_text(self, prompt: str) -> str:
        self.world = self.world[1:]
        return self.world[0] if self.world else ""


def test_message_without_the_form_is_asked_for_again(start: Start) -> None:
    model = Learner("", "Sure! Name: X", "Name: Bob\nno age", MESSAGE, "So long!")
    server, backend = start(model, chat=True)
    state = interview.run(backend=backend)
    assert (state["name"], state["job"], state["bye"]) == (" Ada", " none", "So long")
    assert len(server.asked) == 4


def test_message_that_never_has_the_form_is_an_error_with_what_came(start: Start) -> None:
    _, backend = start(Learner("", "Sure!", "Of course!", "Yes!"), chat=True)
    state = interview.run(backend=backend)
    with pytest.raises(sgrt.ProgramError, match=r"3 times .* 'Name:', and wrote 'Yes!'"):
        _ = state["name"]


def test_message_that_is_longer_than_asked_for_is_refused(start: Start) -> None:
    _, backend = start(Model("Who?Name:", ends=False), chat=True)
    state = interview.run(backend=backend, max_tokens=64)
    with pytest.raises(sgrt.ProgramError, match="cannot be told from an answer of 64"):
        _ = state["name"]


@pytest.mark.parametrize("stop", ["\n", "!"])
@pytest.mark.parametrize("max_tokens", [1, 2, 30, 64, 90])
def test_answer_that_begins_its_message_is_that_of_a_request_of_its_own(
    start: Start, max_tokens: int, stop: str
) -> None:
    _, backend = start(Model("Who?Ada\nLovelace, of London! Ask" + " more" * 30), chat=True)

    def body(s: Any) -> None:
        s += sgrt.user("Who?")
        s += sgrt.assistant(sgrt.gen("who", stop=stop, max_tokens=max_tokens))

    programs = [sgrt.function(body), sgrt.function(body, num_api_spec_tokens=40)]
    plain, ahead = (program.run(backend=backend) for program in programs)
    assert plain["who"] == ahead["who"]
    told = [state.get_meta_info("who")["finish_reason"]["type"] for state in (plain, ahead)]
    assert told[0] == told[1]


def test_server_that_continues_messages_needs_no_guess(start: Start) -> None:
    server, backend = start(Model("Name: Ada\n"), chat=True)
    backend.continue_final_message = True

    @sgrt.function(num_api_spec_tokens=64)
    def program(s):
        s += sgrt.user("Who?") + sgrt.assistant("Name:" + sgrt.gen("name", stop="\n"))

    assert program.run(backend=backend)["name"] == " Ada"
    assert server.asked[0].body["continue_final_message"] is True


@pytest.mark.parametrize("value", [0, -1, True, "64", 1.5])
def test_no_number_of_tokens_is_refused(value: Any) -> None:
    with pytest.raises(sgrt.RequestError, match="num_api_spec_tokens="):
        sgrt.function(num_api_spec_tokens=value)


def test_other_backends_have_nothing_to_save() -> None:
    backend = sgrt.ScriptedBackend([" Ada\nBorn: 1", " 1815. x", " writer\n"])
    state = ahead.run(8, backend=backend)
    assert [state[name] for name in NAMES] == [" Ada", " 1815", " writer"]


def test_stop_string_that_is_complete_first_ends_the_text() -> None:
    assert first_stop("abcd", ["d", "bc"]) == (1, 3)
    assert first_stop("abcd", ["c", "bc"]) == (1, 3)
    assert first_stop("abcd", ["x"]) is None


def test_guess_gives_nothing_that_may_be_too_long() -> None:
    guess = Guess("ab\ncd", max_tokens=9, num_tokens=4, reason="length", asked={})
    params = SamplingParams(stop=("\n",), max_tokens=3)
    assert guess.cut(params) is not None  # three bytes are three tokens at most
    assert guess.cut(params.override(max_tokens=2)) is None
    left = guess.take("ab\n")
    assert left is not None and left.cut(params) is None  # it may have gone on
    assert guess.take("b") is None
