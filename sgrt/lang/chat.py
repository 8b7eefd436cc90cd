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

Rendering a whole conversation for each message would make long ones quadratic. So the middle of a
long one is left out where that makes no difference (`Spelling.shorten`), and a turn costs the same
however many stand before it. Each time that the conversation has doubled it is rendered whole, and
all that was sent is compared; a template to which the middle matters is rendered whole thereafter.
"""

from __future__ import annotations

import copy
import datetime
import math
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
_AROUND, _MAX_PERIOD, _MAX_TRIES = 4, 64, 8


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
    """One template's layouts, computed once per sequence of roles. Shared by all programs on the
    template that begin on the same day, which templates may print.

    Attributes:
        day: the day.
        edge: how many messages at the start `shorten` never leaves out.
    """

    def __init__(self, template: ChatTemplate) -> None:
        self.day = datetime.date.today()
        frozen = getattr(template, "frozen", None)
        self._template: ChatTemplate = template if frozen is None else frozen()
        self._known: dict[tuple[object, ...], Layout] = {}
        self._num_known = 0
        self._cut = _Cut.of(template)
        self.edge = 0 if self._cut is None else self._cut.edge

    def shorten(self, roles: Sequence[str]) -> tuple[str, ...]:
        """The roles, of which a middle may be missing that makes no difference."""
        return tuple(roles) if self._cut is None else self._cut.applied(roles)

    def never_shorten(self) -> None:
        """The middle does make a difference."""
        self._cut = None

    def layout(self, roles: tuple[str, ...]) -> Layout:
        """Raises RequestError where the template refuses or loses a content."""
        if roles not in self._known:
            self._remember(roles, self._layout(roles))
        return self._known[roles]

    def generation_prompt(self, roles: tuple[str, ...]) -> str:
        """The last gap where the assistant is asked to go on."""
        key = (roles, "generate")
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


@dataclass(frozen=True)
class _Cut:
    """Which middle a template does not miss.

    A template tells one place in a long conversation from another by the roles around it and by
    counting, for which it needs numbers. So whole periods of all its numbers are taken out, between
    two places with the same roles before them, farther from both ends than it has a number for.

    Args:
        edge: messages that stay at either end, at least.
        period: a multiple of so many messages is taken out.
    """

    edge: int
    period: int

    @classmethod
    def of(cls, template: ChatTemplate) -> _Cut | None:
        """None for a template that does not tell its numbers, or has large ones."""
        numbers = getattr(template, "numbers", None)
        if numbers is None:
            return None
        period = math.lcm(2, *(number for number in numbers if number))
        edge = max(numbers, default=0) + 2 * _AROUND  # the first messages may be of their own kind
        return None if period > _MAX_PERIOD else cls(edge, period)

    def applied(self, roles: Sequence[str]) -> tuple[str, ...]:
        edge, period = self.edge, self.period
        before = roles[edge - _AROUND : edge]
        most = (len(roles) - 2 * edge) // period * period
        for gone in range(most, max(0, most - _MAX_TRIES * period), -period):
            if roles[edge + gone - _AROUND : edge + gone] == before:
                return (*roles[:edge], *roles[edge + gone :])
        return tuple(roles)


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
    """Today's `Spelling` of a template; a new one where the template cannot be a key."""
    try:
        with _SPELLINGS_LOCK:
            found = _SPELLINGS.get(template)
            if found is None or found.day != datetime.date.today():
                found = _SPELLINGS[template] = Spelling(template)
            return found
    except TypeError:
        return Spelling(template)


class Chat:
    """The conversation of one program state.

    Opening is lazy: the template's text is sent with the first content, because an assistant
    message that starts with generated text opens with the generation prompt, while one that
    starts with given text opens as the template writes it in a finished conversation.

    Args:
        is_rendered: whoever asks for it renders the conversation anew (`lang.rerender`), so that
            earlier text may change.

    Attributes:
        current: index of the open message, or None.
    """

    def __init__(self, spelling: Spelling, program: str, *, is_rendered: bool = False) -> None:
        self._spelling = spelling
        self._is_rendered = is_rendered
        self._program = program
        self.current: int | None = None
        self._roles: list[str] = []
        self._num_checked = 0  # messages when all of it was last compared
        self._sent: list[str] = []  # gap before each message, as sent
        self._close = ""  # of the last message
        self._tail = ""  # what of it was sent
        self._entered = False
        self._held_system: str | None = None  # a system text that waits for the next message
        self._at_start = True
        self._held = ""  # white space that is dropped if the message ends here
        self._strips = (False, False)

    def copy(self) -> Chat:
        """The same conversation, to go on separately."""
        twin = copy.copy(self)
        twin._roles, twin._sent = self._roles[:], self._sent[:]
        return twin

    @property
    def roles(self) -> tuple[str, ...]:
        """Of all messages so far."""
        return tuple(self._roles)

    def open(self, role: str) -> None:
        """Begin a message.

        Raises:
            ProgramError: an unknown role, or one message inside another.
        """
        if role not in ROLES:
            raise self._error(f"unknown role {role!r}, not one of {', '.join(ROLES)}")
        if self.current is not None:
            raise self._error(
                f"{_a(role)} message cannot begin inside {_a(self._roles[self.current])} message"
            )
        self._roles.append(role)
        self.current = len(self._roles) - 1
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
        if self.current is None or self._roles[self.current] != role:
            is_open = "none is" if self.current is None else f"{self._roles[self.current]} is"
            raise self._error(f"no {role} message is open to be ended ({is_open})")
        pieces = self._enter(generated=False)
        self.current = None
        if self._held_system is not None:
            return pieces
        self._close, self._tail = self._layout().gaps[-1], ""
        return [*pieces, *self.pause()] if self._close_stays() else pieces

    def pause(self) -> list[Piece]:
        """What is to be sent of the last message before something follows that is no message."""
        unsent, self._tail = self._close[len(self._tail) :], self._close
        return [Piece(Text(unsent, special=True), None)] if unsent else []

    def _close_stays(self) -> bool:
        """Whether the close of the last message stands there too when the conversation goes on.

        Where it does not, as with an end of text behind the last answer, it waits for what comes.
        """
        follows = "assistant" if self._roles[-1] == "user" else "user"
        try:
            layout = self._spelling.layout(self._spelling.shorten([*self._roles, follows]))
        except RequestError:
            return True
        return layout.gaps[-2].startswith(self._close)

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
        layout = self._layout()
        self._check(layout)
        pieces = self._send_held(layout)
        self._strips = layout.strips[-1]
        return [*pieces, *self._send(self._opening(layout, generated))]

    def _must_wait(self) -> bool:
        """Whether the template writes this system message only as part of the next one."""
        if self._roles != ["system"]:
            return False
        try:
            self._spelling.layout(("system",))
        except RequestError:
            return True
        return False

    def _opening(self, layout: Layout, generated: bool) -> str:
        """The gap before the open message."""
        if self._roles[-1] != "assistant":
            return layout.gaps[-2]
        settled = self._settled(layout)
        if not generated or len(self._roles) == 1:
            return settled
        prompt = self._generation_prompt()
        if not prompt.startswith(self._tail):
            return settled
        # A template that ignores the flag adds nothing, and then its header is needed; but where
        # only white space is missing, that is for the model to write.
        ignored = prompt == self._close and settled[len(prompt) :].strip()
        return settled if ignored else prompt

    def _generation_prompt(self) -> str:
        try:
            return self._spelling.generation_prompt(self._spelling.shorten(self._roles[:-1]))
        except RequestError as error:
            raise self._error(f"the chat template refuses: {error.message}") from error

    def _settled(self, layout: Layout) -> str:
        """How the message is opened once another follows; some templates differ there."""
        try:
            roles = self._spelling.shorten([*self._roles, "user"])
            return self._spelling.layout(roles).gaps[-3]
        except RequestError:
            return layout.gaps[-2]

    def _send_held(self, layout: Layout) -> list[Piece]:
        """The system text that waited for this message, with what stands before it."""
        if self._held_system is None:
            return []
        self._at_start, self._held, self._strips = True, "", layout.strips[0]
        kept, self._held_system = self._without_edges(self._held_system), None
        self._at_start, self._held = True, ""
        self._sent = [layout.gaps[0]]
        return [Piece(Text(layout.gaps[0], special=True), None), Piece(Text(kept), 0)]

    def _send(self, opening: str) -> list[Piece]:
        if not opening.startswith(self._tail):
            if not self._is_rendered:
                raise self._rewritten(self._tail, opening)
            self._tail = ""
        fresh = opening[len(self._tail) :]
        self._sent.append(opening)
        self._close = self._tail = ""
        return [Piece(Text(fresh, special=True), None)] if fresh else []

    def _layout(self) -> Layout:
        """Of the conversation, or of one that cannot be told from it at its ends."""
        spelling = self._spelling
        short = spelling.shorten(self._roles)
        num = len(self._roles)
        try:
            layout = spelling.layout(short)
            if len(short) == num:
                return layout
            is_wrong = self._rewritten_by(layout) is not None
            if not is_wrong and num < 2 * self._num_checked:
                return layout
            whole = spelling.layout(tuple(self._roles))
            self._check(whole)
            self._num_checked = num
            if is_wrong or (whole.gaps[-2:], whole.strips[-1]) != (
                layout.gaps[-2:],
                layout.strips[-1],
            ):
                spelling.never_shorten()
            return whole
        except RequestError as error:
            raise self._error(
                f"the chat template refuses the roles {', '.join(short)}: {error.message}"
            ) from error

    def _check(self, layout: Layout) -> None:
        """What was sent still stands in the new rendering."""
        if not self._is_rendered and (changed := self._rewritten_by(layout)) is not None:
            raise self._rewritten(*changed)

    def _rewritten_by(self, layout: Layout) -> tuple[str, str] | None:
        """What was sent and does not stand in a rendering, and what stands there.

        An assistant message may have been opened with less than the template writes into a
        finished one (an empty block of thoughts, a space): the model writes that itself.
        """
        gaps = layout.gaps
        num_missing = len(self._roles) + 1 - len(gaps)
        num_sent = min(len(self._sent), len(self._roles) - 1)
        for i, now in enumerate(gaps[: num_sent - num_missing]):
            at = i + num_missing if i >= self._spelling.edge else i
            sent, role = self._sent[at], self._roles[at]
            if sent != now and not (role == "assistant" and now.startswith(sent)):
                return sent, now
        return None

    def _rewritten(self, sent: str, now: str) -> ProgramError:
        return self._error(
            f"the chat template rewrites earlier text: {sent!r:.200} became {now!r:.200}",
            hint='@sgrt.function(history="rendered") renders the conversation anew for each answer',
        )

    def _error(self, message: str, *, hint: str | None = None) -> ProgramError:
        return ProgramError(message, program=self._program, location=here(), hint=hint)
