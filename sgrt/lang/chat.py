"""Roles, spelled by the model's own chat template while the conversation grows.

A template renders whole conversations; a session only appends. So the template is rendered with
a *probe* in place of every content, and the text around the probes is what the template adds:

====================  =======================================================
gap 0                 all before the first content (BOS, default system prompt, role header)
gap i                 close of message i-1 and opening of message i
last gap              close of the last message
====================  =======================================================

When a message is opened, the new rendering must contain the gaps that were already sent; a
template that changes what stands before is refused, because the tokens cannot be taken back. Contents never pass through
the template, only through its rule for their edges: where it strips white space, so do we.
"""

from __future__ import annotations

import datetime
import re
import sys
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

from sgrt.core import ChatTemplate, Message, Text
from sgrt.errors import ProgramError, RequestError
from sgrt.lang.where import here

ROLES = ("system", "user", "assistant")
_PROBE, _PROBES = "Zq{}qZ", re.compile("(Zq[0-9]+qZ)")
_MAX_KNOWN = 1 << 18  # roles in all layouts that are kept


@dataclass(frozen=True)
class Layout:
    """What a template puts around the contents of a sequence of roles.

    Args:
        gaps: one before each content and one after the last.
        strips: per message, whether its content loses white space at its start, at its end.
    """

    gaps: tuple[str, ...]
    strips: tuple[tuple[bool, bool], ...] = ()


@dataclass(frozen=True)
class Piece:
    """Text to append, and the message whose content it is (None: the template's)."""

    text: Text
    message: int | None


class Spelling:
    """One template's layouts, computed once per sequence of roles and day (templates may
    print the date). Shared by all programs on the template."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._known: dict[tuple[object, ...], Layout] = {}
        self._num_known = 0

    def layout(self, roles: tuple[str, ...]) -> Layout:
        """Raises RequestError where the template refuses or loses a content."""
        key = (roles, datetime.date.today())
        if key not in self._known:
            self._remember(key, self._layout(roles))
        return self._known[key]

    def generation_prompt(self, roles: tuple[str, ...]) -> str:
        """The last gap where the assistant is asked to go on."""
        key = (roles, "generate", datetime.date.today())
        if key not in self._known:
            self._remember(key, Layout(self._gaps(roles, generate=True)))
        return self._known[key].gaps[-1]

    def _remember(self, key: tuple[object, ...], layout: Layout) -> None:
        self._num_known += len(layout.gaps)
        if self._num_known > _MAX_KNOWN:
            self._known.clear()
            self._num_known = len(layout.gaps)
        self._known[key] = layout

    def _layout(self, roles: tuple[str, ...]) -> Layout:
        gaps = self._gaps(roles)
        return Layout(gaps, _strips(gaps, self._gaps(roles, left="\n", right=" ")))

    def _gaps(
        self, roles: tuple[str, ...], *, generate: bool = False, left: str = "", right: str = ""
    ) -> tuple[str, ...]:
        probes = [_PROBE.format(i) for i in range(len(roles))]
        messages = [Message(r, left + p + right) for r, p in zip(roles, probes, strict=True)]
        parts = self._template.render(messages, add_generation_prompt=generate)
        return _split("".join(part.text for part in parts), probes, roles)


def _split(text: str, probes: Sequence[str], roles: Sequence[str]) -> tuple[str, ...]:
    pieces = _PROBES.split(text)
    found = pieces[1::2]
    if found != list(probes):
        wrong = [role for probe, role in zip(probes, roles, strict=True) if found.count(probe) != 1]
        raise RequestError(
            f"the chat template does not write the {[*wrong, *roles][0]} message once, in its place"
        )
    return tuple(map(sys.intern, pieces[::2]))  # long conversations repeat few gaps


def _strips(gaps: Sequence[str], padded: Sequence[str]) -> tuple[tuple[bool, bool], ...]:
    """Which contents lost the "\\n" before them, or the " " after them."""
    return tuple(
        (padded[i] in (gaps[i], " " + gaps[i]), padded[i + 1] in (gaps[i + 1], gaps[i + 1] + "\n"))
        for i in range(len(gaps) - 1)
    )


def _a(role: str) -> str:
    return f"{'an' if role == 'assistant' else 'a'} {role}"  # "user" begins like "you"


_SPELLINGS: weakref.WeakKeyDictionary[ChatTemplate, Spelling] = weakref.WeakKeyDictionary()
_SPELLINGS_LOCK = threading.Lock()


def spelling_of(template: ChatTemplate) -> Spelling:
    """The shared `Spelling` of a template; a new one where the template cannot be a key."""
    try:
        with _SPELLINGS_LOCK:
            found = _SPELLINGS.get(template)
            if found is None:
                found = _SPELLINGS[template] = Spelling(template)
            return found
    except TypeError:
        return Spelling(template)


class Chat:
    """The conversation of one program state.

    Opening is lazy: the template's text is sent with the first content, because an assistant
    message that starts with generated text opens with the generation prompt, while one that
    starts with given text opens as the template writes it in a finished conversation.

    Attributes:
        roles: of all messages so far.
        current: index of the open message, or None.
    """

    def __init__(self, spelling: Spelling, program: str) -> None:
        self._spelling = spelling
        self._program = program
        self.roles: tuple[str, ...] = ()
        self.current: int | None = None
        self._sent: tuple[str, ...] = ()  # gap before each message, as sent
        self._tail = ""  # close of the last message, as sent
        self._entered = False
        self._held_system: str | None = None  # a system text that waits for the next message
        self._at_start = True
        self._held = ""  # white space that is dropped if the message ends here
        self._strips = (False, False)

    def copy(self) -> Chat:
        """The same conversation, to go on separately."""
        twin = Chat.__new__(Chat)
        twin.__dict__.update(self.__dict__)
        return twin

    def open(self, role: str) -> None:
        """Begin a message.

        Raises:
            ProgramError: an unknown role, or one message inside another.
        """
        if role not in ROLES:
            raise self._error(f"unknown role {role!r}, not one of {', '.join(ROLES)}")
        if self.current is not None:
            raise self._error(
                f"{_a(role)} message cannot begin inside {_a(self.roles[self.current])} message"
            )
        self.roles = (*self.roles, role)
        self.current = len(self.roles) - 1
        self._entered, self._at_start, self._held = False, True, ""

    def write(self, text: str) -> list[Piece]:
        """Given text in the open message; white space at the edges may be kept back."""
        assert self.current is not None
        pieces = self._enter(generated=False)
        if self._held_system is not None:
            self._held_system += text
            return pieces
        kept = self._without_edges(text)
        return [*pieces, Piece(Text(kept), self.current)] if kept else pieces

    def generate(self) -> list[Piece]:
        """What stands before generated text in the open message."""
        pieces = self._enter(generated=True)
        held, self._held, self._at_start = self._held, "", False
        return [*pieces, Piece(Text(held), self.current)] if held else pieces

    def close(self, role: str) -> list[Piece]:
        """End the message.

        Raises:
            ProgramError: no message of this role is open.
        """
        if self.current is None or self.roles[self.current] != role:
            is_open = "none is" if self.current is None else f"{self.roles[self.current]} is"
            raise self._error(f"no {role} message is open to be ended ({is_open})")
        pieces = self._enter(generated=False)
        self.current = None
        if self._held_system is not None:
            return pieces
        self._tail = self._layout(self.roles).gaps[-1]
        return [*pieces, Piece(Text(self._tail, special=True), None)] if self._tail else pieces

    def _without_edges(self, text: str) -> str:
        left, right = self._strips
        if left and self._at_start:
            text = text.lstrip()
        if not text:
            return ""
        self._at_start = False
        text = self._held + text
        kept = text.rstrip() if right else text
        self._held = text[len(kept) :]
        return kept

    def _enter(self, *, generated: bool) -> list[Piece]:
        """Send the opening of the message, if that has not been done."""
        if self._entered:
            if generated and self._held_system is not None:
                raise self._error("this chat template cannot hold a generated system message")
            return []
        self._entered = True
        if self._must_wait():
            self._held_system = ""
            return [] if not generated else self._enter(generated=True)
        layout = self._layout(self.roles)
        self._check(layout.gaps)
        pieces = self._send_held(layout)
        self._strips = layout.strips[-1]
        return [*pieces, *self._send(self._opening(layout, generated))]

    def _must_wait(self) -> bool:
        """Whether the template writes this system message only as part of the next one."""
        if self.roles != ("system",):
            return False
        try:
            self._spelling.layout(self.roles)
        except RequestError:
            return True
        return False

    def _opening(self, layout: Layout, generated: bool) -> str:
        """The gap before the open message."""
        if self.roles[-1] != "assistant" or len(self.roles) == 1:
            return layout.gaps[-2]
        prompt, settled = self._generation_prompt(), self._settled(layout)
        if not generated or not prompt.startswith(self._tail):
            return settled
        # A template that ignores the flag adds nothing, and then its header is needed; but where
        # only white space is missing, that is for the model to write.
        ignored = prompt == self._tail and settled[len(prompt) :].strip()
        return settled if ignored else prompt

    def _generation_prompt(self) -> str:
        try:
            return self._spelling.generation_prompt(self.roles[:-1])
        except RequestError as error:
            raise self._error(f"the chat template refuses: {error.message}") from error

    def _settled(self, layout: Layout) -> str:
        """How the message is opened once another follows; some templates differ there."""
        try:
            return self._spelling.layout((*self.roles, "user")).gaps[-3]
        except RequestError:
            return layout.gaps[-2]

    def _send_held(self, layout: Layout) -> list[Piece]:
        """The system text that waited for this message, with what stands before it."""
        if self._held_system is None:
            return []
        self._at_start, self._held, self._strips = True, "", layout.strips[0]
        kept, self._held_system = self._without_edges(self._held_system), None
        self._at_start, self._held = True, ""
        self._sent = layout.gaps[:1]
        return [Piece(Text(layout.gaps[0], special=True), None), Piece(Text(kept), 0)]

    def _send(self, opening: str) -> list[Piece]:
        if not opening.startswith(self._tail):
            raise self._rewritten(self._tail, opening)
        fresh = opening[len(self._tail) :]
        self._sent, self._tail = (*self._sent, opening), ""
        return [Piece(Text(fresh, special=True), None)] if fresh else []

    def _layout(self, roles: tuple[str, ...]) -> Layout:
        try:
            return self._spelling.layout(roles)
        except RequestError as error:
            raise self._error(
                f"the chat template refuses the roles {', '.join(roles)}: {error.message}"
            ) from error

    def _check(self, gaps: tuple[str, ...]) -> None:
        """What was sent still stands in the new rendering.

        An assistant message may have been opened with less than the template writes into a
        finished one (an empty block of thoughts, a space): the model writes that itself.
        """
        for role, sent, now in zip(self.roles, self._sent, gaps, strict=False):
            if sent != now and not (role == "assistant" and now.startswith(sent)):
                raise self._rewritten(sent, now)

    def _rewritten(self, sent: str, now: str) -> ProgramError:
        return self._error(
            f"the chat template rewrites earlier text: {sent!r:.200} became {now!r:.200}",
            hint="put the conversation into one message, or use a model whose template appends",
        )

    def _error(self, message: str, *, hint: str | None = None) -> ProgramError:
        return ProgramError(message, program=self._program, location=here(), hint=hint)
