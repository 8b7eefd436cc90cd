"""Conversations that their template renders anew at each answer: ``history="rendered"``.

Some templates show earlier answers otherwise than they were written; those of reasoning models drop
the thoughts. There a new session begins with each answer, with the conversation as the template
renders it then. What the template keeps of a generated text keeps its tokens, where it begins at one.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sgrt.core import ChatTemplate, Handle, Message, Session, Text
from sgrt.lang.interpreter import Lane, Operation, when_done
from sgrt.lang.variables import Generated, Produced

Atom = tuple[str, tuple[int, ...] | None]
"""Text, and the tokens that it is made of; None for text that was given."""


@dataclass(frozen=True)
class Said:
    """A message so far: texts, and what produces texts."""

    role: str
    items: tuple[str | Produced, ...]

    def atoms(self) -> list[Atom]:
        """Its text in the smallest pieces whose tokens are known."""
        found: list[Atom] = []
        for item in self.items:
            if isinstance(item, Generated):
                found += _atoms_of(item)
            else:
                found.append((item if isinstance(item, str) else item.text(), None))
        return found


def _atoms_of(variable: Generated) -> list[Atom]:
    handle = variable.handle()
    result = handle.result()
    found: list[Atom] = []
    ids: tuple[int, ...] = ()
    for event in handle.events_from(0):
        ids += event.token_ids
        if event.text:
            found.append((event.text, ids))
            ids = ()
    is_whole = not ids and "".join(text for text, _ in found) == result.text
    told = sum((ids or () for _, ids in found), ())
    return found if is_whole and told == result.token_ids else [(result.text, result.token_ids)]


@dataclass(slots=True)
class Rebase(Operation):
    """Go on in a new session, with a conversation as its template renders it now.

    Args:
        messages: that have ended.
        begun: what the answer begins with.
        keeps_tokens: whether sessions take tokens.
    """

    open: Callable[[], Session]
    template: ChatTemplate
    messages: Sequence[Said]
    begun: str
    keeps_tokens: bool
    tell: Callable[[BaseException], None]

    def run(self, lane: Lane, session: Session) -> Handle[Any] | None:
        waiting = [handle for handle in self._handles() if not handle.done()]
        if not waiting:
            self.resume(lane, session)
            return None
        ended: Handle[None] = Handle()
        left = iter(waiting)

        def next_one() -> None:
            handle = next((each for each in left if not each.done()), None)
            if handle is None:
                ended.finish(None)
            else:
                when_done(handle, next_one)

        next_one()
        return ended

    def _handles(self) -> list[Handle[Any]]:
        items = (item for message in self.messages for item in message.items)
        return [item.handle() for item in items if isinstance(item, Generated)]

    def resume(self, lane: Lane, session: Session) -> None:
        atoms = [message.atoms() for message in self.messages]
        shown = [
            Message(message.role, "".join(text for text, _ in each))
            for message, each in zip(self.messages, atoms, strict=True)
        ]
        plain = self.template.render(shown, add_generation_prompt=True)
        rendering = self._marked(shown, atoms, plain) if self.keeps_tokens else plain
        fresh = self.open()
        lane.move_to(fresh)
        for part in rendering:
            if isinstance(part, Text):
                fresh.extend(part)
            else:
                fresh.extend_ids(part)
        if self.begun:
            fresh.extend(Text(self.begun))

    def _marked(
        self, shown: Sequence[Message], atoms: Sequence[list[Atom]], plain: Sequence[Text]
    ) -> Sequence[Text | list[int]]:
        """The rendering, in which what was generated stands as its tokens.

        Where an answer ends in the rendering is told by a mark that is put behind it; what the mark
        itself changes, as where white space is trimmed, is left as plain text.
        """
        mark = _unused_mark("".join(message.content for message in shown))
        answers = [
            Message(m.role, f"{m.content}{mark}{i}{mark}") if any(ids for _, ids in each) else m
            for i, (m, each) in enumerate(zip(shown, atoms, strict=True))
        ]
        found: list[Text | list[int]] = []
        whole = ""
        for run in self.template.render(answers, add_generation_prompt=True):
            pieces = [run.text] if run.special else re.split(f"{mark}([0-9]+){mark}", run.text)
            for text, index in zip(pieces[::2], [*pieces[1::2], None], strict=True):
                found += _with_tokens(text, run.special, atoms[int(index)] if index else [])
                whole += text
        return found if whole == "".join(run.text for run in plain) else plain

    def fail(self, lane: Lane, error: BaseException) -> None:
        self.tell(error)


def _unused_mark(text: str) -> str:
    """What a text does not spell."""
    return next(mark for n in itertools.count() if (mark := f"Zq{n}qZ") not in text)


def _with_tokens(text: str, special: bool, atoms: Sequence[Atom]) -> list[Text | list[int]]:
    """A text that ends with what is kept of an answer."""
    kept = _kept(text, atoms)
    before = text[: len(text) - sum(len(each) for each, _ in kept)]
    found: list[Text | list[int]] = [Text(before, special)] if before else []
    for each, ids in kept:
        if ids is None:
            found.append(Text(each))
        elif found and isinstance(found[-1], list):
            found[-1] += ids
        else:
            found.append(list(ids))
    return found


def _kept(text: str, atoms: Sequence[Atom]) -> list[Atom]:
    """The atoms with which an answer ends that a text ends with."""
    kept: list[Atom] = []
    for atom in reversed(atoms):
        if not atom[0] or not text.endswith(atom[0]):
            break
        kept.insert(0, atom)
        text = text[: len(text) - len(atom[0])]
    return kept if any(ids for _, ids in kept) else []
