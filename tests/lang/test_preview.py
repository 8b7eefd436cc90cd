"""The prompt, before there is a model."""

import pytest

import sgrt


@sgrt.function
def program(s, name):
    s += sgrt.user(f"Hello, {name}.")
    s += sgrt.assistant("So: " + sgrt.gen("x", max_tokens=5) + "!")
    s += sgrt.user("Well?") + sgrt.assistant(sgrt.select("y", ["a", "b"]))
    if s["x"] == "never":
        s += "not seen"
    raise AssertionError("the function goes on")


def test_preview_shows_the_prompt_and_stops_at_the_first_read():
    backend = sgrt.ScriptedBackend([])
    seen = program.preview(name="Ada", backend=backend)
    assert seen.prompt == "<|im_start|>user\nHello, Ada.<|im_end|>\n<|im_start|>assistant\nSo: "
    assert seen.text == str(seen)
    assert seen.text.startswith(seen.prompt + "{x}!<|im_end|>\n")
    assert seen.text.endswith("<|im_start|>assistant\n{y}<|im_end|>\n")
    assert not seen.is_whole
    assert backend.calls == []
    assert "Hello, Ada." in seen._repr_html_()
    assert "{x}" in seen.__rich__().plain


def test_preview_of_a_program_without_reads_is_whole_and_runs_it_once():
    ran = []

    @sgrt.function
    def whole(s):
        ran.append(1)
        s += "a" + sgrt.gen("x")
        forks = s.fork(2)
        forks += sgrt.gen("z")
        forks.join()
        s += "b"

    seen = whole.preview(backend=sgrt.ScriptedBackend([]))
    assert (seen.prompt, seen.text, seen.is_whole, ran) == ("a", "a{x}b", True, [1])


def test_preview_of_an_async_program():
    @sgrt.function
    async def program(s):
        s += "a" + sgrt.gen("x")
        await s.get("x")
        s += "b"

    seen = program.preview(backend=sgrt.ScriptedBackend([]))
    assert (seen.text, seen.is_whole) == ("a{x}", False)


def test_preview_raises_what_the_function_raises():
    @sgrt.function
    def broken(s):
        s += "a"
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        broken.preview(backend=sgrt.ScriptedBackend([]))
    with pytest.raises(TypeError, match="program"):
        broken.preview(1, backend=sgrt.ScriptedBackend([]))
