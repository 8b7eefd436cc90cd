"""A finished text as HTML and in a terminal."""

import io
from html.parser import HTMLParser

import pytest
from rich.console import Console

import sgrt
from sgrt.backends.fake import ScriptedBackend
from sgrt.core import Regex, TokenEvent, TokenLogprob
from sgrt.lang import spans as shown
from sgrt.lang.variables import StreamEvent

HOSTILE = "<script>alert(1)</script>\"'&\x1b[2J\u202e\x00</span>"


class Reader(HTMLParser):
    """Tags, texts per class, and titles; complains about what is not closed."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.titles, self.texts = [], set(), [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag != "meta":
            self.open.append((tag, dict(attrs).get("class", "")))
        self.titles += [value for name, value in attrs if name == "title"]

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        inside = [classes for _, classes in self.open]
        if "legend" not in inside:
            self.texts.append((inside[-1] if inside else "", data))

    def of(self, kind):
        return "".join(text for classes, text in self.texts if kind in classes.split())


@sgrt.function
def program(s, given):
    s += sgrt.user(given)
    s += sgrt.assistant(
        "I say " + sgrt.gen("x", logprobs=1) + " or " + sgrt.select("y", ["a", "b"])
    )


def run(answer, given="Hi"):
    answers = lambda text, constraint, params: answer  # noqa: E731
    backend = ScriptedBackend(answers, scores={"a": -1.0, "b": -3.0})
    return program.run(given, backend=backend)


def test_page_shows_who_wrote_what_and_how_likely_it_was():
    page = Reader(run("yes").to_html())
    assert (page.of("sampled"), page.of("selected")) == ("yes", "a")
    assert "I say " in page.of("text")
    assert [t for c, t in page.texts if c == "role"] == ["user", "assistant"]
    notes = "\n".join(page.titles)
    assert "3 sampled, 0 forced; ended: stop" in notes
    assert "88.1%  a" in notes and "11.9%  b" in notes
    assert page.open == []


def test_page_is_one_file_without_scripts_and_escapes_all_that_is_hostile():
    state = run(HOSTILE, HOSTILE)
    page = state.to_html()
    page.encode("utf-8")
    read = Reader(page)
    assert read.tags <= {"html", "head", "meta", "title", "body", "div", "style", "span"}
    assert "<script>alert(1)</script>" in read.of("text")
    assert "<script>alert(1)</script>" in read.of("sampled")
    assert "http" not in page and "url(" not in page
    assert not {"\x1b", "\u202e", "\x00"} & set(page)


def test_notebooks_get_the_same_without_the_document():
    state = run("yes")
    assert state._repr_html_() in state.to_html()


def test_failure_is_shown_where_it_happened():
    @sgrt.function
    def failing(s):
        s += "before " + sgrt.gen("x") + " after"
        raise ValueError("<b>oh</b>")

    state = failing.run(backend=ScriptedBackend([sgrt.BackendError("<i>down</i>")]), stream=True)
    read = Reader(state.to_html())
    assert "BackendError: <i>down</i>" in read.of("error") or "Cancelled" in read.of("error")
    assert "ValueError: <b>oh</b>" in read.of("error")
    assert "before " in read.of("text")


@pytest.mark.parametrize("text", ["plain", HOSTILE])
def test_terminal_shows_the_text_in_colours_and_nothing_drives_it(text):
    state = run("yes", text)
    told = io.StringIO()
    Console(file=told, force_terminal=True, color_system="standard", width=200).print(state)
    printed = told.getvalue()
    assert "\x1b[32myes" in printed or "\x1b[4;32myes" in printed
    assert "\x1b[2J" not in printed and "\x00" not in printed
    assert str(state) == state.text()


class Unmasked:
    """What `spans` asks of a generation held by a constraint, decoded greedily."""

    is_explained_by_constraint = True
    constraint = Regex("[0-9]{2}")


class Explaining(ScriptedBackend):
    """Says what it was asked."""

    def why_not(self, constraint, token_ids, token_id):
        return f"{constraint.pattern} after {token_ids} not {token_id}"


def test_note_says_what_the_model_wanted_and_the_constraint_forbade(monkeypatch):
    monkeypatch.setattr(shown, "Generated", Unmasked)
    token = TokenLogprob(ord("1"), -3.0, ((ord("N"), -0.1), (ord("1"), -3.0)))
    event = StreamEvent("1", "sampled", "x", TokenEvent((ord("1"),), "1", logprobs=(token,)))
    expected = [
        "5.0%  '1'  (drawn)",
        "90.5%  'N'",
        "the model wanted 'N'; the constraint forbade it",
    ]
    for backend, why in (
        (ScriptedBackend([]), [[], []]),
        (Explaining([]), [["[0-9]{2} after [] not 78"], ["[0-9]{2} after [49] not 78"]]),
    ):
        forbidden = shown._Forbidden(Unmasked(), backend)
        for more in why:
            lines = list(shown._alternatives(event, Unmasked(), backend, forbidden))
            assert lines == expected + more


def test_page_says_which_place_of_a_grammar_forbade_what_the_model_wanted():
    pytest.importorskip("torch")
    from tests.runtime.integer_model import integer_parts

    @sgrt.function
    def held(s):
        s += "abc" + sgrt.gen(
            "x", ebnf='root ::= "[" item "]"\nitem ::= [0-9] [0-9]',
            temperature=0, logprobs=3, logprobs_mode="unmasked",
        )  # fmt: skip

    with sgrt.Engine.from_parts(integer_parts(num_pages=64)) as engine:
        read = Reader(held.run(backend=engine).to_html())
    notes = "\n".join(read.titles)
    assert notes.count("the constraint forbade it") >= 3
    for place in ("root at 1:10", "item at 2:10", "item at 2:16", "root at 1:19"):
        assert f"expected here: {place}" in notes
