"""One program state in the making: its text, variables, conversation and lane.

Appending lowers nodes to operations and hands them over; it never waits. `ProgramState` is the
face that users hold; a trace is shared by the face inside the running program and, when
streaming, the one outside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NoReturn

from sgrt.core import Backend, SamplingParams, Text
from sgrt.errors import DeadlineExceeded, ProgramError
from sgrt.lang import peer
from sgrt.lang.chat import Chat, Piece, spelling_of
from sgrt.lang.feed import Feed
from sgrt.lang.interpreter import Claim, Decide, Lane, Operation, Peek, Sample, Split, Write
from sgrt.lang.ir import Concat, Gen, Node, Reasoning, Role, RoleBegin, RoleEnd, Select
from sgrt.lang.rerender import Rebase, Said
from sgrt.lang.run import Run
from sgrt.lang.variables import Captured, Derived, Generated, Produced, Selected, Variable
from sgrt.lang.where import here, place


@dataclass(slots=True)  # not frozen, which would take three times as long to make
class Part:
    """A stretch of a program's text.

    Args:
        text: given text; "" where a variable produces it.
        variable: what produces the text, or was set here without adding text.
        template: the chat template wrote it.
        message: index of the message whose content it is, or None.
    """

    text: str = ""
    variable: Variable | None = None
    template: bool = False
    message: int | None = None


class Parts(Feed[Part]):
    """A program's text. Most parts are a text, or a variable, and nothing else: they are kept as
    what they are (`str` and `Variable` go to `append_held` too), and made parts for who reads."""

    __slots__ = ()

    def _seen(self, items: list[Part | str | Variable]) -> list[Part]:
        return [item if type(item) is Part else _part(item) for item in items]


def _part(item: Part | str | Variable) -> Part:
    if isinstance(item, Part):
        return item
    return Part(item) if isinstance(item, str) else Part(variable=item)


class Trace:
    """Everything that one program state has said so far.

    Attributes:
        own: variables set here, not inherited from a parent.
        inherited: how many parts came from the parent.
    """

    __slots__ = (
        *("_answer", "_chat", "_claim", "_is_noted", "_is_open", "_num_selects", "_pending"),
        *("broken", "children", "ended", "inherited", "lane", "own", "parts", "run", "seed"),
        *("__weakref__", "past_roles", "variables"),
    )

    def __init__(self, run: Run, seed: int | None, parent: Trace | None = None) -> None:
        self.run = run
        self.seed = seed
        self.lane = Lane(run.lock)
        self._claim: Claim = Claim(self.lane, parent._claim if parent else None)
        self.parts = Parts(lock=run.lock)
        self.variables: dict[str, Variable] = {}
        self.own: dict[str, Variable] = {} if parent else self.variables
        self.children: Sequence[Trace] = ()
        self.inherited = 0
        self.ended = False
        self.broken: Variable | None = None  # whose failure the program has been told
        self._is_open = parent is not None
        self._chat: Chat | None = None
        self._pending: Write | None = None  # what has not been handed over
        self._is_noted = False
        self._answer: int | None = None  # message that a rendering was made for
        self._num_selects = 0
        self.past_roles: tuple[str, ...] = ()  # of a run that ended in another process

    @property
    def program(self) -> str:
        """Name of the program."""
        return self.run.program

    @property
    def backend(self) -> Backend:
        """Where it runs."""
        return self.run.backend

    def _open(self) -> None:
        """Get a session; where the backend has none to give, the readers are told."""
        self._is_open = True
        try:
            session = self.run.open(self.seed)
        except Exception as error:
            self.lane.stop(error)
        else:
            self.lane.start(session)

    # appending

    def append(self, node: Node) -> None:
        """Say what a node says; `Run` says when the backend hears of it.

        Raises:
            ProgramError: the program has ended, or roles do not nest.
            InvalidSamplingParams: a value of a gen is out of range.
        """
        with self.run.lock:
            if self.ended:
                self._refuse()
            lower = _LOWER.get(type(node), Trace._lower)  # which says what is wrong
            lower(self, node)

    def _check_open(self) -> None:
        if self.ended:
            self._refuse()

    def _refuse(self) -> NoReturn:
        stopped_by = self.run.stopped_by or self.lane.error()
        why = "it has ended" if stopped_by is None else f"{type(stopped_by).__name__}: {stopped_by}"
        raise ProgramError(
            f"nothing can be appended: {why}", program=self.program, location=here()
        ) from stopped_by

    def _lower(self, node: Node) -> None:
        lower = _LOWER.get(type(node))
        if lower is None:
            raise TypeError(f"unknown expression {node!r:.80}")
        lower(self, node)

    def _concat(self, node: Concat) -> None:
        for part in node.parts:
            self._lower(part)

    def _role(self, node: Role) -> None:
        with self.role(node.role):
            self._lower(node.body)

    def _role_begin(self, node: RoleBegin) -> None:
        self.chat().open(node.role)

    def _role_end(self, node: RoleEnd) -> None:
        self._pieces(self.chat().close(node.role))

    def _reasoning(self, node: Reasoning) -> None:
        before = len(self.parts.now())
        self._lower(node.body)
        for part in self.parts.now()[before:]:
            variable = part.variable
            if not isinstance(variable, Generated):
                continue
            if variable.is_constrained:
                raise variable.error("what a constraint holds has no thoughts to be separated")
            if variable.name is not None:
                self._separate(variable, variable.name, node)

    def _separate(self, variable: Generated, name: str, node: Reasoning) -> None:
        def split(value: str, place: int) -> str:
            return peer.split_reasoning(value, node.tags, is_begun=node.is_begun)[place]

        def made_of(place: int) -> Callable[[Any], Any]:
            return lambda value: (
                [split(one, place) for one in value]
                if isinstance(value, list)
                else split(value, place)
            )

        self._declare(Derived(f"{name}_reasoning_content", variable, made_of(0)))
        self._declare(Derived(name, variable, made_of(1)))

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Text whose whole can be read by a name, also where it is left by an exception."""
        self._check_open()
        begin = len(self.parts.now())
        try:
            yield
        finally:
            if not self.ended:
                with self.run.lock:
                    parts = self.parts.now()[begin:]
                    texts = tuple(
                        part.variable if isinstance(part.variable, Produced) else part.text
                        for part in parts
                    )
                    self._declare(Captured(name, texts))

    @contextmanager
    def role(self, role: str) -> Iterator[None]:
        """A message that is ended whatever happens inside."""
        chat = self.chat()
        chat.open(role)
        mine = chat.current
        try:
            yield
        finally:
            with self.run.lock:
                if chat.current == mine:
                    self._pieces(chat.close(role))

    @contextmanager
    def message(self, role: str) -> Iterator[None]:
        """`role` as a statement of its own."""
        self._check_open()
        with self.role(role):
            yield

    def _text(self, text: Text) -> None:
        if not text.text:
            return
        if self._chat is not None and self._chat.current is not None:
            self._pieces(self._chat.write(text.text))
            return
        if self._chat is not None:
            self._pieces(self._chat.pause())
        self.parts.append_held(text.text)
        if self._pending is None:
            self._pending = Write([], [])
        self._pending.segment.append(text)

    def _pieces(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            if piece.text.text:
                self.parts.append_held(
                    Part(piece.text.text, template=piece.text.special, message=piece.message)
                )
                if not self.run.is_rendered or piece.message == self._answer is not None:
                    self._pending = self._pending or Write([], [])
                    self._pending.segment.append(piece.text)

    def _gen(self, gen: Gen) -> None:
        run = self.run
        request = run.defaults.request(gen)
        # `append` was called by a method of the state, and has called this.
        variable = Generated(gen, run.program, place(3), request.params)
        if self._chat is None:
            self._declare(variable)
        else:
            self._produce(variable)
        is_peek = request.params.max_tokens == 0 and request.params.logprobs is not None
        if gen.n == 1 and not is_peek:
            write = self._pending
            if write is None:
                write = self._pending = Write([], [])
            write.segment.append(request)
            write.variables.append(variable)
            if not self._is_noted:
                self._is_noted = True
                run.note(self)
            return
        params = request.params
        if is_peek:
            self._submit(Peek(request, variable, gen.n))
            return
        requests = [replace(request, params=_with_seed(params, i)) for i in range(gen.n)]
        self._submit(Sample(requests, variable))

    def _select(self, select: Select) -> None:
        self._num_selects += 1
        seed = self.seed if select.seed is None else select.seed
        key = None if seed is None else f"{seed}/{select.name}/{self._num_selects}"
        variable = Selected(select, self.program, place(), key=key)
        self._produce(variable)
        self._submit(Decide(variable))

    def _produce(self, variable: Produced) -> None:
        """Give a variable its place in the text, under its name."""
        message = None
        if self._chat is not None:
            message = self._chat.current
            self._pieces(self._chat.pause() if message is None else self._chat.generate())
            if self.run.is_rendered and message != self._answer:
                self._render(self._chat, message, variable)
        self._declare(variable, message)

    def _render(self, chat: Chat, message: int | None, variable: Produced) -> None:
        """Begin the answer with the conversation as its template renders it now.

        Raises:
            ProgramError: it is no answer of a conversation.
        """
        template = self.backend.chat_template
        parts = [
            part
            for part in self.parts.now()
            if not part.template and (part.text or isinstance(part.variable, Produced))
        ]
        is_answer = message is not None and chat.roles[message] == "assistant"
        if template is None or not is_answer or any(part.message is None for part in parts):
            raise variable.error(
                "where history is rendered, all text stands in messages, and what is generated in"
                " those of the assistant"
            )
        said: list[list[str | Produced]] = [[] for _ in chat.roles]
        for part in parts:
            found = part.variable if isinstance(part.variable, Produced) else part.text
            if part.message is not None and found:
                said[part.message].append(found)
        *before, begun = map(Said, chat.roles, map(tuple, said))
        self._submit(
            Rebase(
                partial(self.run.open, self._split_seed(f"answer {message}")),
                template,
                before,
                "".join(text for text in begun.items if isinstance(text, str)),
                getattr(self.backend, "keeps_tokens", True),
                variable.fail,
            )
        )
        self._answer = message

    def _split_seed(self, name: str) -> int | None:
        return None if self.seed is None else split_seed(self.seed, name)

    def declare(self, variable: Variable) -> None:
        """Let the variable be found under its name; a later one of that name replaces it."""
        with self.run.lock:
            self._declare(variable)

    def _declare(self, variable: Variable, message: int | None = None) -> None:
        name = variable.name
        if name is not None:
            self.variables[name] = variable
            if self.own is not self.variables:
                self.own[name] = variable
        self.parts.append_held(variable if message is None else Part("", variable, False, message))

    def chat(self) -> Chat:
        """The conversation.

        Raises:
            ProgramError: the backend's model has no chat template.
        """
        if self._chat is None:
            template = self.backend.chat_template
            if template is None:
                raise ProgramError(
                    f"roles need a chat template, and {self.backend.name!r} has none",
                    program=self.program,
                    location=here(),
                    hint="write the prompt as plain text, or use a chat model",
                )
            spelling = spelling_of(template)
            self._chat = Chat(spelling, self.program, is_rendered=self.run.is_rendered)
        return self._chat

    def roles(self) -> tuple[str, ...]:
        """Role of each message so far."""
        return self.past_roles if self._chat is None else self._chat.roles

    # handing over

    def hand_over(self) -> None:
        """Give what is kept back to the lane."""
        self._is_noted = False
        write, self._pending = self._pending, None
        if write is not None:
            self._to_lane(write)

    def _submit(self, operation: Operation) -> None:
        self.hand_over()
        self._to_lane(operation)

    def _to_lane(self, operation: Operation) -> None:
        if not self._is_open:
            self._open()
        self.lane.submit(operation)

    def fork(self, size: int) -> list[Trace]:
        """Children that start as this trace is now."""
        with self.run.lock:
            self._check_open()
            first = len(self.children)
            children = [self._child(first + i) for i in range(size)]
            self.children = (*self.children, *children)
            self._submit(Split([child.lane for child in children]))
        return children

    def _child(self, index: int) -> Trace:
        seed = None if self.seed is None else split_seed(self.seed, index)
        child = Trace(self.run, seed, self)
        inherited = self.parts.now()
        child.parts = Parts(inherited, self.run.lock)
        child.inherited = len(inherited)
        child.variables = dict(self.variables)
        child._chat = None if self._chat is None else self._chat.copy()
        child._answer = self._answer
        return child

    def end(self) -> None:
        """Nothing more will be appended; the session goes back when its work is done."""
        with self.run.lock:
            if self.ended:
                return
            self.ended = True
            for child in self.children:
                child.end()
            self.parts.close_held()
            if self._is_noted or self._is_open:
                if self._pending is not None:
                    self.hand_over()
                self.lane.end()
            else:  # it has said nothing that a backend need hear
                self.lane.close()

    def expire(self, seconds: float) -> None:
        """The time that the run was allowed has passed; without effect where all has ended."""
        with self.run.lock:
            if not self.lane.is_closed:
                self.run.stopped_by = DeadlineExceeded(seconds)
                self.cancel(self.run.stopped_by)

    async def settled(self) -> None:
        """Wait, in a coroutine, until all that was asked for has ended, in children too."""
        for part in self.parts.now():
            if part.variable is not None:
                await part.variable.settled()
        for child in list(self.children):
            await child.settled()

    def cancel(self, error: BaseException) -> None:
        """Stop all work; what has not been produced fails with ``error``."""
        with self.run.lock:
            self.ended = self._is_open = True  # a session that it has not got, it does not need
            for child in list(self.children):
                child.cancel(error)
            self.parts.close_held()
            self.lane.stop(error)
            self.hand_over()


_LOWER: dict[type, Callable[[Trace, Any], None]] = {
    Text: Trace._text,
    Concat: Trace._concat,
    Gen: Trace._gen,
    Select: Trace._select,
    Role: Trace._role,
    RoleBegin: Trace._role_begin,
    RoleEnd: Trace._role_end,
    Reasoning: Trace._reasoning,
}


def split_seed(seed: int, *path: int | str) -> int:
    """A seed for one of many: the same for the same path, unrelated for others. 64 bits."""
    text = "/".join(map(str, (seed, *path)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _with_seed(params: SamplingParams, index: int) -> SamplingParams:
    """Later continuations of one gen need seeds of their own where it names one."""
    if params.seed is None or index == 0:
        return params
    return params.override(seed=split_seed(params.seed, index))
