"""Conversations in the shapes of well-known templates: what is sent equals the full rendering."""

import pytest

import sgrt
from sgrt.core import Message
from sgrt.models.chat_template import JinjaChatTemplate

HEADERS = (  # Llama 3: a system message always, contents trimmed
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set sys = messages[0].content | trim %}"
    "{% set rest = messages[1:] %}{% else %}{% set sys = '' %}{% set rest = messages %}{% endif %}"
    "<h>system</h>\n\nDate: 2023\n\n{{ sys }}<eos>{% for m in rest %}"
    "<h>{{ m.role }}</h>\n\n{{ m.content | trim }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<h>assistant</h>\n\n{% endif %}"
)
INST = (  # Mistral: the system text inside the first user message, roles alternate
    "{% if messages[0].role == 'system' %}{% set sys = messages[0].content + '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set sys = '' %}{% set rest = messages %}{% endif %}"
    "{{ bos_token }}{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% if m.role == 'user' %}"
    "[INST]{{ sys if loop.first else '' }}{{ m.content }}[/INST]"
    "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
TURNS = (  # Gemma 3: the assistant is called model, the system text begins the first turn
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set sys = messages[0].content + '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set sys = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ sys if loop.first else '' }}{{ m.content | trim }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
GATHERED = (  # DeepSeek: system text first, wherever it stood
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% endif %}"
    "{% endfor %}{% for m in messages %}{% if m.role == 'user' %}<User>{{ m.content }}"
    "{% elif m.role == 'assistant' %}<Assistant>{{ m.content }}<eos>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<Assistant>{% endif %}"
)
THINKING = (  # Qwen 3: the last answer gets an empty block of thoughts
    "{% for m in messages %}<im>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}"
    "<think>\n\n</think>\n\n{% endif %}{{ m.content }}</im>\n{% endfor %}"
    "{% if add_generation_prompt %}<im>assistant\n{% endif %}"
)


@sgrt.function
def talk(s, system):
    if system:
        s += sgrt.system(" You are kind. ")
    s += sgrt.user(" one \n") + sgrt.assistant(sgrt.gen("a"))
    s += sgrt.user("two") + sgrt.assistant("fixed " + sgrt.gen("b"))
    s += sgrt.user("three")


def run(source, system):
    template = JinjaChatTemplate(source, bos="<s>", eos="<eos>", special_tokens=["<s>", "<eos>"])
    state = talk.run(system, backend=sgrt.ScriptedBackend(["A1", "B1"], chat_template=template))
    messages = [Message(m["role"], m["content"]) for m in state.messages()]
    return state.text(), "".join(part.text for part in template.render(messages))


@pytest.mark.parametrize("system", [False, True])
@pytest.mark.parametrize("source", [HEADERS, INST, TURNS, GATHERED, THINKING])
def test_conversation_that_grows_equals_the_full_rendering(source, system):
    sent, rendered = run(source, system)
    assert sent == rendered


def test_template_that_refuses_a_system_message_says_so_in_its_own_words():
    source = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    with pytest.raises(sgrt.ProgramError, match="no system"):
        run(source + TURNS, True)
