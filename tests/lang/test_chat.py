"""Roles are spelled by the backend's template, and only so."""

import random

import pytest

import sgrt
from sgrt.backends.chatml import ChatML
from sgrt.core import Message, Text
from sgrt.errors import RequestError


class Template:
    """A template given as a function of [(role, content)] and the generation prompt."""

    def __init__(self, spell):
        self.spell = spell

    def render(self, messages, *, add_generation_prompt=False):
        pairs = [(m.role, m.content) for m in messages]
        return (Text(self.spell(pairs, add_generation_prompt), special=True),)


def trimming(messages, generate):
    text = "<bos>" + "".join(f"<h>{r}</h>\n\n{c.strip()}<eot>" for r, c in messages)
    return text + ("<h>assistant</h>\n\n" if generate else "")


def left_trimming(messages, generate):
    text = "".join(f"[{r}]{c.lstrip()}|" for r, c in messages)
    return text + ("[assistant]" if generate else "")


def system_in_user(messages, generate):
    """No system role of its own: its text begins the first user message; roles alternate."""
    system = ""
    if messages and messages[0][0] == "system":
        system, messages = messages[0][1].strip() + "\n\n", messages[1:]
    text = "<bos>"
    for i, (role, content) in enumerate(messages):
        if role != ("user", "assistant")[i % 2]:
            raise RequestError("roles must alternate")
        name = "model" if role == "assistant" else role
        text += f"<turn>{name}\n{system if i == 0 else ''}{content.strip()}<end>\n"
    return text + ("<turn>model\n" if generate else "")


def instruct(messages, generate):
    """No generation prompt of its own, and a space that the model writes itself."""
    spelled = {"user": "[INST] {} [/INST]", "assistant": " {}</s>", "system": "[SYS] {}\n"}
    return "<s>" + "".join(spelled[r].format(c) for r, c in messages)


def thoughts(messages, generate):
    """An empty block of thoughts in the last answer only."""
    text = ""
    for i, (role, content) in enumerate(messages):
        last = role == "assistant" and i == len(messages) - 1
        text += f"<im>{role}\n{'<think></think>' if last else ''}{content}</im>\n"
    return text + ("<im>assistant\n" if generate else "")


def default_system(messages, generate):
    return "".join(
        p.text
        for p in ChatML("Be kind.").render(
            [Message(r, c) for r, c in messages], add_generation_prompt=generate
        )
    )


def headers_only(messages, generate):
    """Ignores the generation prompt."""
    return "".join(f"[{r}]{c}[end]" for r, c in messages)


def forgetting(messages, generate):
    return "".join(f"<{r}>{c}" for r, c in messages[-2:])


def counting(messages, generate):
    return f"{len(messages)} messages:" + "".join(f"<{r}>{c}" for r, c in messages)


TEMPLATES = [trimming, left_trimming, system_in_user, instruct, thoughts, default_system]
WORDS = ["a", "b c", "\n", " ", "  x ", "<eot>", "{}", "é🙂", "Zq", "\n\nhi\n"]


def conversation(rng):
    roles = ["system"] * rng.randrange(2) + ["user", "assistant"] * rng.randint(1, 3)
    return [(role, [rng.choice(WORDS) for _ in range(rng.randint(1, 4))]) for role in roles]


def backend_with(spell, answers=()):
    return sgrt.ScriptedBackend(list(answers), chat_template=Template(spell))


@pytest.mark.parametrize("spell", TEMPLATES)
@pytest.mark.parametrize("form", ["expression", "with", "begin"])
def test_given_conversation_equals_the_full_rendering(spell, form):
    begin = {
        "system": sgrt.system_begin,
        "user": sgrt.user_begin,
        "assistant": sgrt.assistant_begin,
    }
    end = {"system": sgrt.system_end, "user": sgrt.user_end, "assistant": sgrt.assistant_end}

    @sgrt.function
    def program(s, turns):
        for role, words in turns:
            if form == "expression":
                s += getattr(sgrt, role)("".join(words))
            elif form == "with":
                with getattr(s, role)():
                    for word in words:
                        s += word
            else:
                s += begin[role]()
                for word in words:
                    s += word
                s += end[role]()

    rng = random.Random(form)
    for _ in range(30):
        # What a last answer looks like depends on whether another message follows.
        turns = [*conversation(rng), ("user", ["end"])]
        state = program.run(turns, backend=backend_with(spell))
        given = [(role, "".join(words)) for role, words in turns]
        assert state.text() == spell(given, False)
        assert [m["role"] for m in state.messages()] == [role for role, _ in given]


@pytest.mark.parametrize("spell", TEMPLATES)
def test_generated_answer_follows_the_generation_prompt(spell):
    @sgrt.function
    def program(s):
        s += sgrt.system("S") + sgrt.user("U")
        s += sgrt.assistant(sgrt.gen("a"))
        s += sgrt.user("V") + sgrt.assistant(sgrt.gen("b"))

    backend = backend_with(spell, ["one", "two"])
    state = program.run(backend=backend)
    given = [("system", "S"), ("user", "U")]
    assert state["b"] == "two"
    assert backend.calls[0].prompt == spell(given, True)
    middle = [*given, ("assistant", "one"), ("user", "V")]
    if spell is not instruct:  # its space before the answer is the model's to write
        assert backend.calls[1].prompt == spell(middle, True)
    assert state.messages() == [
        {"role": role, "content": content} for role, content in [*middle, ("assistant", "two")]
    ]


def test_template_without_generation_prompt_gives_the_header_it_writes():
    @sgrt.function
    def program(s):
        s += sgrt.user("U") + sgrt.assistant(sgrt.gen("a"))

    backend = backend_with(headers_only, ["one"])
    assert program.run(backend=backend).text() == "[user]U[end][assistant]one[end]"


def test_users_text_is_plain_and_template_text_is_special():
    seen = []

    class Watching(sgrt.ScriptedBackend):
        def open(self, **options):
            session = super().open(**options)
            extend = session.extend
            session.extend = lambda *parts: (seen.extend(parts), extend(*parts))
            return session

    @sgrt.function
    def program(s):
        s += "<|im_start|>"
        s += sgrt.user("say <|im_end|>" + sgrt.gen("x"))

    program.run(backend=Watching(["y"])).sync()
    assert {p.text for p in seen if not p.special} == {"<|im_start|>", "say <|im_end|>"}
    assert [p.text for p in seen if p.special] == ["<|im_start|>user\n", "<|im_end|>\n"]


def test_default_system_prompt_appears_exactly_where_the_template_puts_it():
    @sgrt.function
    def program(s, system):
        if system:
            s += sgrt.system("Mine.")
        s += sgrt.user("Hi") + sgrt.assistant(sgrt.gen("a"))

    texts = [program.run(x, backend=backend_with(default_system, ["b"])).text() for x in (0, 1)]
    assert [text.count("Be kind.") for text in texts] == [1, 0]


@pytest.mark.parametrize("spell", [forgetting, counting])
def test_template_that_rewrites_history_is_refused(spell):
    @sgrt.function
    def program(s):
        for i in range(4):
            s += sgrt.user(str(i)) + sgrt.assistant("x")

    with pytest.raises(sgrt.ProgramError, match="chat template") as caught:
        program.run(backend=backend_with(spell))
    assert __file__ in caught.value.location


def test_template_that_drops_its_own_prompt_serves_one_answer_and_refuses_the_next():
    def reasoning(messages, generate):
        return instruct(messages, False) + ("<think>" if generate else "")

    @sgrt.function
    def program(s, turns):
        for _ in range(turns):
            s += sgrt.user("U") + sgrt.assistant(sgrt.gen("a"))

    backend = backend_with(reasoning, ["one", "two"])
    assert program.run(1, backend=backend).text() == "<s>[INST] U [/INST]<think>one</s>"
    with pytest.raises(sgrt.ProgramError, match=r"rewrites earlier text.*<think>"):
        program.run(2, backend=backend)


def test_template_that_refuses_roles_is_quoted():
    @sgrt.function
    def program(s):
        s += sgrt.user("a")
        s += sgrt.user("b")

    with pytest.raises(sgrt.ProgramError, match=r"user, user: .*alternate"):
        program.run(backend=backend_with(system_in_user))


def test_backend_without_template_refuses_roles_by_name():
    @sgrt.function
    def program(s):
        s += "plain" + sgrt.gen("x")
        s += sgrt.user("a")

    backend = sgrt.ScriptedBackend(["1"], chat_template=None, name="base-model")
    with pytest.raises(sgrt.ProgramError, match="base-model"):
        program.run(backend=backend)


def test_roles_in_an_error_are_good_english():
    @sgrt.function
    def program(s):
        with s.user(), pytest.raises(sgrt.ProgramError, match=r": an assistant .* a user message"):
            s += sgrt.assistant("a")
        with (
            s.assistant(),
            pytest.raises(sgrt.ProgramError, match=r": a user .* an assistant mess"),
        ):
            s += sgrt.user("b")

    program.run(backend=sgrt.ScriptedBackend([]))


def test_role_inside_a_role_is_refused_and_the_outer_one_still_closes():
    @sgrt.function
    def program(s):
        with s.user():
            s += "a"
            with pytest.raises(sgrt.ProgramError, match="inside a user message"):
                s += sgrt.assistant("b")
        with pytest.raises(sgrt.ProgramError, match="no user message is open"):
            s += sgrt.user_end()
        with pytest.raises(sgrt.ProgramError, match="unknown role"):
            s += sgrt.lang.ir.Role("boss", Text("x"))

    state = program.run(backend=sgrt.ScriptedBackend([]))
    assert state.messages() == [{"role": "user", "content": "a"}]
    assert state.text() == "<|im_start|>user\na<|im_end|>\n"


def test_role_is_closed_when_its_block_raises():
    @sgrt.function
    def program(s):
        with pytest.raises(KeyError), s.user():
            s += "a"
            raise KeyError("mine")
        with pytest.raises(sgrt.errors.InvalidSamplingParams):
            s += sgrt.assistant("x" + sgrt.gen("y", temperature=-1))
        s += sgrt.user("b")

    state = program.run(backend=sgrt.ScriptedBackend([]))
    assert [m["content"] for m in state.messages()] == ["a", "x", "b"]


def test_open_message_shows_what_it_has_so_far():
    @sgrt.function
    def program(s):
        s += sgrt.user_begin() + "a"
        return s.messages()

    state = program.run(backend=sgrt.ScriptedBackend([]))
    assert state.value == [{"role": "user", "content": "a"}]


def test_fork_inside_a_message_closes_in_each_child():
    @sgrt.function
    def program(s):
        with s.user():
            s += "pick:"
            with s.fork(2) as forks:
                for i, child in enumerate(forks):
                    child += f" {i}" + sgrt.user_end() + sgrt.assistant(sgrt.gen("x"))
            return [child.messages() for child in forks]

    state = program.run(backend=sgrt.ScriptedBackend(lambda p, c, q: p[-40:].split("pick: ")[1][0]))
    assert state["x"] == ["0", "1"]
    assert [m[0]["content"] for m in state.value] == ["pick: 0", "pick: 1"]
    assert state.messages() == [{"role": "user", "content": "pick:"}]


def test_templates_are_rendered_once_per_shape_of_conversation():
    rendered = []

    def spell(messages, generate):
        rendered.append(messages)
        return trimming(messages, generate)

    @sgrt.function
    def program(s, i):
        s += sgrt.user(f"q{i}") + sgrt.assistant(sgrt.gen("a"))

    backend = sgrt.ScriptedBackend(lambda p, c, q: "x", chat_template=Template(spell))
    program.run(0, backend=backend)
    first = len(rendered)
    program.run_batch([(i,) for i in range(20)], backend=backend)
    assert len(rendered) == first
