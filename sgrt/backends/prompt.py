"""What a caller may give as a prompt or as options, told apart and checked."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Seq
from typing import Any

from sgrt.core import ChatTemplate, Message, Session, Text
from sgrt.errors import RequestError

Prompt = str | Seq[int] | Seq[Message] | Seq[Mapping[str, str]]
"""Plain text, token ids, or a conversation for the model's chat template."""


def append_prompt(
    session: Session, prompt: Prompt, template: ChatTemplate | None, model: str
) -> None:
    """Append a prompt to a new session.

    Args:
        prompt: text; token ids (any iterable of integers, arrays too); or messages.

    Raises:
        RequestError: it is none of these, or messages for a model without a template.
    """
    if isinstance(prompt, str):
        session.extend(Text(prompt))
        return
    items = _items(prompt)
    if not any(isinstance(item, (Message, Mapping)) for item in items):
        session.extend_ids(token_ids(items))
        return
    if template is None:
        raise RequestError(f"model {model!r} has no chat template")
    messages = [_message(item) for item in items]
    session.extend(*template.render(messages, add_generation_prompt=True))


def _items(prompt: object) -> list[Any]:
    if hasattr(prompt, "tolist"):
        prompt = prompt.tolist()
    if isinstance(prompt, (bytes, bytearray, Mapping)) or not isinstance(prompt, Iterable):
        raise RequestError(
            f"the prompt is a {type(prompt).__name__}: it must be text, token ids or messages"
        )
    return list(prompt)


def token_ids(items: Iterable[object]) -> list[int]:
    """Plain integers.

    Raises:
        RequestError: something is not an integer.
    """
    ids = []
    for item in items:
        try:
            if isinstance(item, bool):
                raise TypeError
            ids.append(operator.index(item))  # type: ignore[arg-type]
        except TypeError:
            raise RequestError(f"{item!r} is not a token id") from None
    return ids


def _message(item: object) -> Message:
    if isinstance(item, Mapping):
        if item.keys() != {"role", "content"}:
            raise RequestError(f"a message has 'role' and 'content', not {sorted(map(str, item))}")
        item = Message(item["role"], item["content"])
    if not isinstance(item, Message):
        raise RequestError(f"{item!r} is not a message")
    if not (isinstance(item.role, str) and isinstance(item.content, str)):
        raise RequestError(f"role and content of a message are text, not {item!r}")
    return item


def check_names(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse options that do not exist.

    Raises:
        RequestError: names the option and the one that was probably meant.
    """
    known = list(known)
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
            raise RequestError(f"{name!r} is not {what}", hint=hint)
