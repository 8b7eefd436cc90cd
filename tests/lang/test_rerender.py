"""``history="rendered"``: at each answer the model sees what its template shows of earlier ones."""

import pytest

import sgrt
from sgrt.backends.local import Engine
from sgrt.core import GenerateResult, Handle, Message, Text, TokenEvent, Usage
from sgrt.errors import PlanError, RequestError
from sgrt.models.chat_template import JinjaChatTemplate
from tests.runtime.accounting import all_pages_back
from tests.server.support import parts, wait_until

R1 = JinjaChatTemplate(
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<|User|>{{ m.content }}"
    "{% elif m.role == 'assistant' %}{% set c = m.content %}{% if '</think>' in c %}"
    "{% set c = c.split('</think>')[-1] %}{% endif %}<|Assistant|>{{ c }}<|end|>"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}",
    bos="<s>",
    eos="<|end|>",
    special_tokens=["<s>", "<|User|>", "<|Assistant|>", "<|end|>"],
)
QWEN = JinjaChatTemplate(
    "{% for m in messages %}{% set c = m.content %}{% if m.role == 'assistant' and '</think>' in c "
    "and not loop.last %}{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ c }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    bos="",
    eos="<|im_end|>",
    special_tokens=["<|im_start|>", "<|im_end|>"],
)
ANSWERS = ["hm.</think>\n\nOne.", "ok</think>\n\nTwo", "so</think>\n\nThree"]
THOUGHT = ["<think>\n" + answer for answer in ANSWERS]


def backend(template, answers, **options):
    answers = answers if callable(answers) else list(answers)
    return sgrt.ScriptedBackend(answers, chat_template=template, **options)


def rendered(template, *pairs):
    messages = [Message(role, content) for role, content in pairs]
    return "".join(part.text for part in template.render(messages, add_generation_prompt=True))


@sgrt.function(history="rendered")
def chat(s, *questions):
    s += sgrt.system("Be kind.")
    for i, question in enumerate(questions):
        s += sgrt.user(question) + sgrt.assistant(sgrt.gen(f"a{i}"))


@pytest.mark.parametrize(("template", "answers"), [(R1, ANSWERS), (QWEN, THOUGHT)])
def test_each_answer_begins_as_the_template_renders_the_conversation(template, answers):
    where = backend(template, answers)
    state = chat.run("A", "B", "C", backend=where)
    state.sync()
    said = [("system", "Be kind.")]
    for call, question, answer in zip(where.calls, "ABC", answers, strict=True):
        said.append(("user", question))
        assert call.prompt == rendered(template, *said)
        said.append(("assistant", answer))
    assert [(m["role"], m["content"]) for m in state.messages()] == said
    assert "hm." not in where.calls[-1].prompt and "One." in where.calls[-1].prompt


def test_template_that_rewrites_is_refused_without_it_and_the_hint_says_so():
    kept = sgrt.function(chat.func)
    with pytest.raises(sgrt.ProgramError, match=r'history="rendered"'):
        kept.run("A", "B", backend=backend(R1, ANSWERS)).sync()


def test_an_answer_of_several_pieces_goes_on_where_it_was():
    @sgrt.function(history="rendered")
    def program(s):
        for i in range(2):
            s += sgrt.user(f"{i}")
            with s.assistant():
                s += "So: " + sgrt.gen(f"a{i}") + " and " + sgrt.gen(f"b{i}")
                s += "!"

    where = backend(R1, ["x</think>y", "1", "z</think>w", "2"])
    assert program.run(backend=where)["b1"] == "2"
    first = "<s><|User|>0<|Assistant|><think>\nSo: "
    second = "<s><|User|>0<|Assistant|>y and 1!<|end|><|User|>1<|Assistant|><think>\nSo: "
    assert [call.prompt for call in where.calls] == [
        *(first, first + "x</think>y and "),
        *(second, second + "z</think>w and "),
    ]


def test_forks_choices_and_later_answers_see_the_same_conversation():
    @sgrt.function(history="rendered")
    def program(s):
        s += sgrt.user("A") + sgrt.assistant(sgrt.gen("a"))
        branches = s.fork(2)
        branches += lambda i: sgrt.user(f"{i}") + sgrt.assistant(sgrt.gen("b"))
        branches.join()
        s += sgrt.user("B") + sgrt.assistant(sgrt.select("c", ["yes", "no"]))
        return s["c"]

    where = backend(R1, lambda p, c, q: "t</think>u" if c is None else "yes")
    assert program.run(backend=where).value == "yes"
    before = "<s><|User|>A<|Assistant|>u<|end|><|User|>{}<|Assistant|><think>\n"
    assert sorted(call.prompt for call in where.calls[1:]) == [before.format(x) for x in "01B"]


def test_seeds_differ_from_answer_to_answer_and_repeat():
    def seeds():
        where = backend(R1, lambda p, c, q: f"{q.seed}")
        return [chat.run("A", "B", "C", backend=where, seed=3)[f"a{i}"] for i in range(3)]

    assert seeds() == seeds() and len(set(seeds())) == 3


def test_failed_answer_is_told_where_it_is_read_and_nothing_hangs():
    where = sgrt.ScriptedBackend(["one</think>1"], chat_template=R1)
    state = chat.run("A", "B", "C", backend=where)
    assert state["a0"] == "one</think>1"
    for name in ("a1", "a2"):
        with pytest.raises(sgrt.ProgramError, match=r"variable 'a1'.*test_rerender"):
            _ = state[name]


def test_where_the_template_appends_it_is_what_is_kept_on_the_engine():
    def turns(s, x):
        s += sgrt.system("Be kind.")
        for i in range(3):
            s += sgrt.user(f"{x}{i}") + sgrt.assistant(sgrt.gen(f"a{i}", max_tokens=5))

    with Engine.from_parts(parts()) as engine:
        items = [{"x": x} for x in "abc"]
        kept, rendered = (
            sgrt.function(turns, history=history).run_batch(items, backend=engine, temperature=0)
            for history in ("kept", "rendered")
        )
        for one, other in zip(kept, rendered, strict=True):
            assert one.messages() == other.messages()
            assert one.text() == other.text()
        state = sgrt.function(turns, history="rendered").run("s", backend=engine, stream=True)
        assert "".join(state.text_iter()) == state.text()
        wait_until(lambda: not engine._loop._lives)
        all_pages_back(engine)


def outside(s):
    s += "plain" + sgrt.gen("a")


def before(s):
    s += "plain"
    s += sgrt.user("A") + sgrt.assistant(sgrt.gen("a"))


def by_user(s):
    s += sgrt.user("A" + sgrt.gen("a"))


@pytest.mark.parametrize("body", [before, by_user])
def test_text_that_no_rendering_holds_is_refused(body):
    program = sgrt.function(body, history="rendered")
    with pytest.raises(sgrt.ProgramError, match="where history is rendered"):
        program.run(backend=backend(R1, ["x"])).sync()


def test_program_without_messages_is_as_ever_and_options_are_checked():
    program = sgrt.function(outside, history="rendered")
    assert program.run(backend=backend(R1, ["x"])).text() == "plainx"
    with pytest.raises(RequestError, match="history='some'"):
        sgrt.function(outside, history="some")
    with pytest.raises(PlanError, match="history"):
        program.compile().to_json()
    assert chat.compile().run("A", "B", backend=backend(R1, ANSWERS))["a1"] == ANSWERS[1]


def test_recording_replays(tmp_path):
    path = tmp_path / "run.json"
    with sgrt.record(path):
        first = chat.run("A", "B", backend=backend(R1, ANSWERS))
        first.sync()
    again = chat.run("A", "B", backend=sgrt.replay(path))
    assert (again["a0"], again["a1"]) == (first["a0"], first["a1"])


class Tokens:
    """A backend that notes what its sessions are given; its answers come in tokens."""

    name, chat_template = "tokens", QWEN

    def __init__(self, *answers):
        self.answers = list(answers)
        self.given = []

    def open(self, *, seed=None, priority=0):
        self.given.append([])
        return _TokenSession(self, self.given[-1])


class _TokenSession:
    def __init__(self, backend, given):
        self.backend, self.given = backend, given

    def extend(self, *parts):
        self.given += [part.text for part in parts]

    def extend_ids(self, ids):
        self.given.append(list(ids))

    def generate(self, segment):
        handles = []
        for item in segment:
            if isinstance(item, Text):
                self.extend(item)
                continue
            tokens, handle = self.backend.answers.pop(0), Handle()
            for token_id, text in tokens:
                handle.push(TokenEvent((token_id,), text))
            ids = tuple(token_id for token_id, _ in tokens)
            text = "".join(text for _, text in tokens)
            handle.finish(GenerateResult(text, ids, "stop", Usage(sampled=len(ids))))
            handles.append(handle)
        return tuple(handles)

    def close(self):
        pass


@pytest.mark.parametrize(
    "change", ["[:7]", " | trim", "[:18]", ".replace('some', 'no')", ".replace('0', '')"]
)
def test_template_that_changes_answers_otherwise_is_believed(change):
    template = JinjaChatTemplate(
        "{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' %}{{ m.content"
        + change
        + " }}{% else %}{{ m.content }}{% endif %}|{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}",
        bos="",
        eos="",
        special_tokens=["|"],
    )
    where = backend(template, ["  some answer  ", "b"])
    state = chat.run("A", "B", backend=where)
    assert state["a1"] == "b"
    said = [("system", "Be kind."), ("user", "A"), ("assistant", "  some answer  "), ("user", "B")]
    assert where.calls[1].prompt == rendered(template, *said)


def test_what_the_template_keeps_of_an_answer_keeps_its_tokens():
    answer = [(1, "<think>"), (2, "hm"), (3, "</think>"), (4, "\n\n"), (5, "H"), (6, ""), (7, "i")]
    where = Tokens(answer, [(8, "Yes")])
    assert chat.run("A", "B", backend=where)["a1"] == "Yes"
    *_, second = where.given
    assert [5, 6, 7] in second
    assert "".join(x for x in second if isinstance(x, str)).count("Hi") == 0
    plain = [x if isinstance(x, str) else "Hi" for x in second]
    said = [("system", "Be kind."), ("user", "A"), ("assistant", "Hi"), ("user", "B")]
    assert "".join(plain) == rendered(QWEN, *said)
