"""Long conversations: each turn costs the same, and what is sent is still the full rendering."""

import itertools

import pytest
from test_chat_templates import GATHERED, HEADERS, INST, THINKING, TURNS

import sgrt
from sgrt.core import Message
from sgrt.models.chat_template import JinjaChatTemplate

COUNTING = (  # every fifth message is marked
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ '!' if loop.index % 5 == 0 }}>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
CYCLING = (  # a mark that comes and goes
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ loop.cycle('', '', '', '!', '') }}>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
ENDED = (  # internlm2: an end of text behind the last message, wherever that is
    "{{ bos_token }}{% for m in messages %}<im>{{ m.role }}\n{{ m.content }}</im>\n{% endfor %}"
    "{% if add_generation_prompt %}<im>assistant\n{% else %}{{ eos_token }}{% endif %}"
)
FORGETFUL = (  # only the last ten messages are shown
    "{% for m in messages[-10:] %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
)


class Counted:
    """A template that counts the messages it has rendered."""

    def __init__(self, source, numbers=None):
        self._template = JinjaChatTemplate(
            source, bos="<s>", eos="<eos>", special_tokens=["<s>", "<eos>"]
        )
        self.numbers = self._template.numbers if numbers is None else numbers
        self.num_rendered = 0

    def render(self, messages, *, add_generation_prompt=False):
        self.num_rendered += len(messages)
        return self._template.render(messages, add_generation_prompt=add_generation_prompt)


@sgrt.function
def talk(s, num_turns, system=False):
    if system:
        s += sgrt.system("Be kind.")
    for i in range(num_turns):
        s += sgrt.user(f"q{i}") + sgrt.assistant(sgrt.gen("a"))


def run(template, num_turns, **kwargs):
    backend = sgrt.ScriptedBackend(lambda p, c, q: "A", chat_template=template)
    state = talk.run(num_turns, backend=backend, **kwargs)
    return state.text(), state.messages()


def rendered(template, messages):
    parts = template.render([Message(m["role"], m["content"]) for m in messages])
    return "".join(part.text for part in parts)


@pytest.mark.parametrize("system", [False, True])
@pytest.mark.parametrize("source", [HEADERS, INST, TURNS, GATHERED, THINKING, CYCLING, COUNTING])
def test_long_conversation_equals_the_full_rendering(source, system):
    template = Counted(source)
    sent, messages = run(template, 45, system=system)
    whole = rendered(template, messages)
    if source is THINKING:  # the last answer was opened before it was known to be the last
        whole = whole.replace("<think>\n\n</think>\n\n", "")
    assert sent == whole


@pytest.mark.parametrize("source", [INST, THINKING, COUNTING, CYCLING, ENDED])
def test_conversation_twice_as_long_renders_at_most_twice_as_many_messages(source):
    short, long = Counted(source), Counted(source)
    run(short, 100)
    run(long, 200)
    assert long.num_rendered < 2.2 * short.num_rendered
    assert long.num_rendered < 40 * 200


@pytest.mark.parametrize("source", [HEADERS, GATHERED, THINKING])
def test_conversation_with_instructions_renders_no_more(source):
    plain, instructed = Counted(source), Counted(source)
    run(plain, 60)
    run(instructed, 60, system=True)
    assert instructed.num_rendered < 1.2 * plain.num_rendered


@pytest.mark.parametrize("numbers", [frozenset(), frozenset({3})])  # it has a 5
def test_template_whose_middle_matters_against_its_word_is_rendered_whole(numbers):
    template = Counted(COUNTING, numbers)
    sent, messages = run(template, 20)
    assert sent == rendered(template, messages)


def test_template_that_forgets_earlier_messages_is_refused_when_it_does():
    with pytest.raises(sgrt.ProgramError, match="does not write the user message once"):
        run(Counted(FORGETFUL), 45)


def test_conversations_of_any_roles_are_sent_as_if_nothing_was_left_out():
    @sgrt.function
    def program(s, roles):
        for i, role in enumerate(roles):
            s += {"user": sgrt.user, "assistant": sgrt.assistant, "system": sgrt.system}[role](
                f"c{i}"
            )

    shapes = [
        ["user", "user", "assistant"] * 20,
        [*(["user", "assistant"] * 12), "system", *(["assistant", "user"] * 12)],
        list(itertools.chain.from_iterable(["user"] * i + ["assistant"] for i in range(9))),
    ]
    for source, shape in itertools.product([HEADERS, COUNTING, THINKING], shapes):
        template = Counted(source)
        state = program.run(shape, backend=sgrt.ScriptedBackend([], chat_template=template))
        whole = rendered(template, state.messages())
        assert state.text() == whole.replace("<think>\n\n</think>\n\n", "")


def test_end_of_text_behind_the_last_message_waits_until_nothing_follows_in_the_conversation():
    text, _ = run(Counted(ENDED), 2)
    assert text == (
        "<s><im>user\nq0</im>\n<im>assistant\nA</im>\n<im>user\nq1</im>\n<im>assistant\nA"
    )

    @sgrt.function
    def program(s):
        s += sgrt.user("q") + sgrt.assistant(sgrt.gen("a"))
        s += "And then: " + sgrt.gen("b")

    backend = sgrt.ScriptedBackend(["A", "B"], chat_template=Counted(ENDED))
    assert program.run(backend=backend).text() == (
        "<s><im>user\nq</im>\n<im>assistant\nA</im>\n<eos>And then: B"
    )


def test_conversation_keeps_the_time_it_began_in():
    source = (
        "{{ strftime_now('%f') }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    template = JinjaChatTemplate(source, bos="", eos="", special_tokens=[])
    shown = {template.frozen().render([])[0].text for _ in range(50)}
    assert len(shown) > 1
    frozen = template.frozen()
    assert len({frozen.render([])[0].text for _ in range(50)}) == 1
    text, messages = run(template, 3)
    assert text.endswith("<user>q2<assistant>A") and len(messages) == 6
