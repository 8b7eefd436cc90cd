"""A model's own chat template: jinja, sandboxed, with users' text kept apart.

Templates come with the weights and are programs. They run in jinja's immutable sandbox with a
budget of loop turns and of text, so a bad one fails the request and nothing else.

What a user types must never become a special token. A template sees plain strings, so before it
runs every spelling of a special token inside a message is broken by a private-use character
that occurs nowhere else; what still spells a special token afterwards is the template's own. A
message without such spellings reaches the template unchanged, so its conditions and trims work.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sgrt.core import Message, Text
from sgrt.errors import ModelError, RequestError, SgrtError

MAX_SOURCE_CHARS = 200_000
MAX_OUTPUT_CHARS = 16_000_000
MAX_LOOP_TURNS = 100_000

_FIRST_PRIVATE, _LAST_PRIVATE = 0xF0000, 0xFFFFD


class JinjaChatTemplate:
    """One model's template; implements `core.ChatTemplate`. Safe to share between threads.

    Attributes:
        variables: that the template reads.
        numbers: integers that its source names, without their sign: what it can count with.

    Args:
        source: jinja text.
        bos: spelling of the token that begins a text, "" for none.
        eos: spelling of the token that ends a text, "" for none.
        special_tokens: spellings of all special tokens.

    Raises:
        ModelError: the source does not parse, or is longer than MAX_SOURCE_CHARS.

    Cost: milliseconds, once.
    """

    def __init__(self, source: str, *, bos: str, eos: str, special_tokens: Sequence[str]) -> None:
        if len(source) > MAX_SOURCE_CHARS:
            raise ModelError(
                f"the chat template has {len(source)} characters, the limit is {MAX_SOURCE_CHARS}"
            )
        self.source = source
        self._shield = _Shield([token for token in special_tokens if token])
        self._given = {key: v for key, v in (("bos_token", bos), ("eos_token", eos)) if v}
        self._template, self.variables, self.numbers = _compile(source)
        self._clock: Callable[[], datetime] = datetime.now

    def frozen(self) -> JinjaChatTemplate:
        """The same template in a time that stands still: a conversation that goes on past
        midnight keeps the date it began with."""
        now = datetime.now()
        twin = copy.copy(self)
        twin._clock = lambda: now
        return twin

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> tuple[Text, ...]:
        """The conversation as the model wants it spelled.

        Args:
            add_generation_prompt: end with the opening of an assistant's message.
            continue_final_message: end where the text of the last message ends.
            tools: descriptions of functions, for templates with the variable ``tools``.
            variables: further variables of the template (see ``self.variables``).

        Returns:
            Special tokens (``special=True``) and the text between them, in order.
            `Tokenizer.encode_parts` gives the ids of the whole.

        Raises:
            RequestError: the template refuses the messages (its own words are in the error), or
                exceeds its budget.

        Cost: about 0.1 ms.
        """
        shown = [{"role": m.role, "content": m.content, **m.extra} for m in messages]
        given = {"messages": shown, "tools": tools, **(variables or {})}
        mark = self._shield.unused_mark([self.source, *_strings(given)])
        covered = {key: self._shield.cover_all(value, mark) for key, value in given.items()}
        text = self._run(add_generation_prompt=add_generation_prompt, **covered)
        if continue_final_message:
            text = self._until_end_of(text, messages[-1], mark)
        return tuple(self._shield.runs(text, mark))

    def _until_end_of(self, text: str, message: Message, mark: str) -> str:
        """The text up to where the last message's own content ends."""
        content = self._shield.cover(message.content, mark)
        for shown in (content, content.strip()):
            at = text.rfind(shown) if shown else -1
            if at >= 0:
                return text[: at + len(shown)]
        raise RequestError("chat template: it does not show the message that is to go on")

    def _run(self, **variables: Any) -> str:
        budget = _BUDGET.set(_Budget(self._clock))
        try:
            pieces, length = [], 0
            for piece in self._template.generate({"documents": None, **self._given, **variables}):
                length += len(piece)
                if length > MAX_OUTPUT_CHARS:
                    raise RequestError(f"chat template: more than {MAX_OUTPUT_CHARS} characters")
                pieces.append(piece)
            return "".join(pieces)
        except SgrtError:
            raise
        except RecursionError:
            raise RequestError("chat template: its macros call themselves too deeply") from None
        except Exception as error:  # a template may fail in any way that Python code may
            raise RequestError(f"chat template: {error}") from error
        finally:
            _BUDGET.reset(budget)


def end_of_turn(template: JinjaChatTemplate) -> str | None:
    """The special token that a template puts after an assistant's message, or None."""
    probe = "probe"
    try:
        runs = template.render([Message("user", "Hi"), Message("assistant", probe)])
    except RequestError:
        return None
    after = [
        i for i, run in enumerate(runs) if not run.special and run.text.rstrip().endswith(probe)
    ]
    if not after or after[-1] + 1 == len(runs):
        return None
    return runs[after[-1] + 1].text


# ---------------------------------------------------------------- users' text and special tokens


class _Shield:
    """Keeps users' spellings of special tokens from being taken for special tokens."""

    def __init__(self, special: list[str]) -> None:
        ordered = sorted(set(special), key=len, reverse=True)
        self.find = re.compile("|".join(map(re.escape, ordered)) or "(?!)")
        # A message can also end in the beginning of a spelling that the template's text would
        # complete, or begin with the end of one.
        self.heads = {token[:n] for token in ordered for n in range(1, len(token))}
        self.tails = {token[n:] for token in ordered for n in range(1, len(token))}
        self.longest = max(map(len, ordered), default=0)
        single = [token for token in ordered if len(token) == 1]
        self.stand_ins = {t: chr(_LAST_PRIVATE - i) for i, t in enumerate(single)}

    def unused_mark(self, texts: Sequence[str]) -> str:
        """A private-use character that none of the texts has."""
        used = set().union(*texts)
        if used & set(self.stand_ins.values()):
            raise RequestError("a message has private-use characters that are needed here")
        for code in range(_FIRST_PRIVATE, _LAST_PRIVATE - len(self.stand_ins)):
            if chr(code) not in used:
                return chr(code)
        raise RequestError("the messages use every private-use character")

    def cover(self, text: str, mark: str) -> str:
        def broken(match: re.Match[str]) -> str:
            token = match[0]
            return self.stand_ins.get(token) or token[0] + mark + token[1:]

        # Again, because a match can hide another one that overlaps it.
        while self.find.search(text):
            text = self.find.sub(broken, text)
        lengths = range(1, min(self.longest, len(text) + 1))
        if any(text[-n:] in self.heads for n in lengths):
            text += mark
        if any(text[:n] in self.tails for n in lengths):
            text = mark + text
        return text

    def cover_all(self, value: Any, mark: str) -> Any:
        """`cover` for every string of a JSON value, keys included."""
        if isinstance(value, str):
            return self.cover(value, mark)
        if isinstance(value, Mapping):
            return {self.cover(k, mark): self.cover_all(v, mark) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.cover_all(item, mark) for item in value]
        return value

    def runs(self, text: str, mark: str) -> Iterator[Text]:
        begin = 0
        for match in self.find.finditer(text):
            yield from self._plain(text[begin : match.start()], mark)
            yield Text(match[0], special=True)
            begin = match.end()
        yield from self._plain(text[begin:], mark)

    def _plain(self, text: str, mark: str) -> Iterator[Text]:
        text = text.replace(mark, "")
        for token, stand_in in self.stand_ins.items():
            text = text.replace(stand_in, token)
        if text:
            yield Text(text)


def _strings(value: Any) -> Iterator[str]:
    """Every string of a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)


# ---------------------------------------------------------------- the sandbox


class _Budget:
    """Loop turns that a rendering may still take, and what time it is in it."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self.turns = MAX_LOOP_TURNS
        self.clock = clock

    def spend(self) -> None:
        self.turns -= 1
        if self.turns < 0:
            raise RequestError(f"chat template: more than {MAX_LOOP_TURNS} loop turns")


_BUDGET: ContextVar[_Budget] = ContextVar("chat template budget")


class _Meter(Extension):
    """Makes every loop and macro body pay; accepts transformers' ``{% generation %}`` blocks."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> list[nodes.Node]:
        next(parser.stream)
        body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return body

    def spend(self) -> None:
        _BUDGET.get().spend()

    def install(self, tree: nodes.Template) -> None:
        # Through an extension attribute: a template cannot reach or redefine it.
        bodies: list[tuple[int, list[nodes.Node]]] = [
            *((node.lineno, node.body) for node in tree.find_all(nodes.For)),
            *((node.lineno, node.body) for node in tree.find_all(nodes.Macro)),
        ]
        for line, body in bodies:
            body.insert(0, nodes.ExprStmt(self.call_method("spend"), lineno=line))


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("*", "**", "+"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if _result_len(operator, left, right) > MAX_OUTPUT_CHARS:
            raise RequestError(f"chat template: the result of {operator!r} is too large")
        return super().call_binop(context, operator, left, right)


def _result_len(operator: str, left: Any, right: Any) -> int:
    """How long a string, list or integer an operation would build; 0 where it is harmless."""
    if operator == "**":
        is_int = isinstance(left, int) and isinstance(right, int)
        return left.bit_length() * max(0, right) if is_int else 0
    sizes = [len(v) for v in (left, right) if isinstance(v, (str, list, tuple))]
    if operator == "+" or len(sizes) != 1:
        return sum(sizes)
    times = right if isinstance(right, int) else left
    return sizes[0] * times if isinstance(times, int) else 0


def _compile(source: str) -> tuple[jinja2.Template, frozenset[str], frozenset[int]]:
    """The template, the variables that it reads, and the integers that it names."""
    env = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_Meter, loopcontrols])
    env.filters["tojson"] = _to_json
    env.globals["raise_exception"] = _raise_exception
    env.globals["strftime_now"] = _strftime_now
    try:
        tree = env.parse(source)
        variables = frozenset(meta.find_undeclared_variables(tree))
        numbers = frozenset(_numbers(tree))
        env.extensions[_Meter.identifier].install(tree)  # type: ignore[attr-defined]
        template = env.template_class.from_code(env, env.compile(tree), env.make_globals(None))
        return template, variables, numbers
    except jinja2.TemplateSyntaxError as error:
        raise ModelError(f"chat template, line {error.lineno}: {error.message}") from error
    except (RecursionError, SyntaxError) as error:
        raise ModelError("the chat template is nested too deeply") from error


def _numbers(tree: nodes.Template) -> Iterator[int]:
    """Integers that a template names, and the lengths of its cycles."""
    for node in tree.find_all((nodes.Const, nodes.Call)):
        if isinstance(node, nodes.Call):
            called = node.node
            name = getattr(called, "attr", None) or getattr(called, "name", None)
            if name in ("cycle", "cycler"):
                yield len(node.args)
        elif isinstance(node, nodes.Const) and type(node.value) is int:
            yield abs(node.value)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja's own escapes for HTML; templates expect plain JSON.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise RequestError(f"chat template: {message}")


def _strftime_now(pattern: str) -> str:
    return _BUDGET.get().clock().strftime(pattern)
