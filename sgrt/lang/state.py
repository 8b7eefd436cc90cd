"""What a program holds while it runs, and its caller afterwards."""

from __future__ import annotations

import difflib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NoReturn, overload

from sgrt.core import GenerateResult, Handle, ScoreResult, Usage
from sgrt.errors import Cancelled, InvalidSamplingParams, ProgramError
from sgrt.lang.api import variable_name
from sgrt.lang.ir import Node, Role, as_node
from sgrt.lang.trace import Part, Trace
from sgrt.lang.variables import (
    Assigned,
    Gathered,
    Generated,
    Produced,
    Selected,
    StreamEvent,
    Variable,
    outcome,
)
from sgrt.lang.where import here

_NOTHING = object()


class ProgramState:
    """A text that a program writes together with a model.

    ``s += …`` appends and never waits. Reading waits for what is read, and raises what went
    wrong with it: a `ProgramError` that names the program, the variable and the line, with the
    backend's own error as ``__cause__``. An error of the session is raised for every variable
    from there on; text that is no valid value concerns its own variable only.

    A state that nobody holds any more, nor a child of it or a stream that follows it, is
    cancelled: what it still works on could not be read.

    Inside the program a name must have been appended before it is read. Outside, while a
    streaming program still runs, a read waits until the name comes or the program has ended.
    """

    def __init__(self, trace: Trace, body: Handle[Any], *, inside: bool) -> None:
        self._trace = trace
        self._body = body
        self._inside = inside

    # ------------------------------------------------------------ running

    def _execute(self, body: Callable[[], Any]) -> None:
        """Run the program's function to its end; what it raises becomes the state's error.

        `Program.run` and `Program.run_batch` call it, once per state.
        """
        try:
            value = body()
        except BaseException as error:  # whatever it is, the readers must hear of it
            self._fail(error)
        else:
            self._trace.end()
            self._body.finish(value)

    def _fail(self, error: BaseException) -> None:
        """End the program with an error; what it has asked for is cancelled."""
        self._body.fail(error)  # first, so that readers find it behind `Cancelled`
        self._trace.cancel(Cancelled())

    def _raised(self) -> BaseException | None:
        """What the program's function raised; does not wait."""
        return self._body.error()

    def _outside_view(self) -> ProgramState:
        """The same state as its caller sees it while the program runs."""
        return ProgramState(self._trace, self._body, inside=False)

    # ------------------------------------------------------------ writing

    def __iadd__(self, other: object) -> ProgramState:
        self._trace.append(as_node(other))
        return self

    @overload
    def system(self) -> AbstractContextManager[None]: ...
    @overload
    def system(self, expr: object) -> None: ...
    def system(self, expr: object = _NOTHING) -> AbstractContextManager[None] | None:
        """Append a system message, or with no argument: ``with s.system(): …``."""
        return self._role("system", expr)

    @overload
    def user(self) -> AbstractContextManager[None]: ...
    @overload
    def user(self, expr: object) -> None: ...
    def user(self, expr: object = _NOTHING) -> AbstractContextManager[None] | None:
        """Append a user message, or with no argument: ``with s.user(): …``."""
        return self._role("user", expr)

    @overload
    def assistant(self) -> AbstractContextManager[None]: ...
    @overload
    def assistant(self, expr: object) -> None: ...
    def assistant(self, expr: object = _NOTHING) -> AbstractContextManager[None] | None:
        """Append an assistant message, or with no argument: ``with s.assistant(): …``."""
        return self._role("assistant", expr)

    def _role(self, role: str, expr: object) -> AbstractContextManager[None] | None:
        if expr is _NOTHING:
            return self._trace.message(role)
        self._trace.append(Role(role, as_node(expr)))
        return None

    def __setitem__(self, name: str, value: object) -> None:
        """Keep a value of the program's own under a name; the text does not change."""
        self._trace.declare(Assigned(_name(name), value))

    def set_var(self, name: str, value: object) -> None:
        """``s[name] = value``."""
        self[name] = value

    def fork(self, size: int = 1) -> ProgramStateGroup:
        """Children that start with this state's text and variables, computed once.

        Raises:
            InvalidSamplingParams: size below 1.
        """
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise InvalidSamplingParams("size", size, "must be an integer >= 1")
        children = self._trace.fork(size)
        states = [ProgramState(child, self._body, inside=self._inside) for child in children]
        return ProgramStateGroup(states, self)

    def cancel(self) -> None:
        """Stop the program's work; what has not been produced fails with `Cancelled`."""
        self._trace.cancel(Cancelled())

    # ------------------------------------------------------------ reading

    def __getitem__(self, name: str) -> Any:
        """The value of a variable.

        Raises:
            ProgramError: no such variable, or it could not be produced.
        """
        return self._read(self._find(_name(name)))

    def get_var(self, name: str) -> Any:
        """``s[name]``."""
        return self[name]

    def __contains__(self, name: object) -> bool:
        self._settle()
        return name in self._trace.variables

    __iter__ = None  # a state is no sequence

    def variables(self) -> list[str]:
        """Names that can be read."""
        self._settle()
        return list(self._trace.variables)

    def text(self) -> str:
        """Everything so far, template text included."""
        return "".join(self._text_of(part) for part in self._all_parts())

    __str__ = text

    def messages(self) -> list[dict[str, str]]:
        """The conversation so far, as role and content."""
        parts = self._all_parts()
        contents = [""] * len(self._trace.roles())
        for part in parts:
            if part.message is not None:
                contents[part.message] += self._text_of(part)
        return [
            {"role": role, "content": content}
            for role, content in zip(self._trace.roles(), contents, strict=True)
        ]

    def sync(self) -> None:
        """Wait for everything.

        Raises:
            ProgramError: the first thing that could not be produced.
        """
        for part in self._all_parts():
            self._raise_failure(part.variable)

    def error(self) -> BaseException | None:
        """Wait for everything; what went wrong, or None.

        An error that was raised inside the running program, and that the program got over, does
        not count.
        """
        if self._outside() and (raised := outcome(self._body)) is not None:
            return raised
        for variable in self._produced():
            if not variable.handled and (wrong := self._wrong(variable)) is not None:
                return wrong
        children = (ProgramState(c, self._body, inside=False) for c in self._trace.children)
        return next((e for child in children if (e := child.error()) is not None), None)

    def _produced(self) -> list[Produced]:
        parts = self._trace.parts.now()
        return [part.variable for part in parts if isinstance(part.variable, Produced)]

    def _wrong(self, variable: Produced) -> BaseException | None:
        """What a read would raise, unless the program got over its cause."""
        if variable.failure() is not None and self._blamed(variable).handled:
            return None
        try:
            self._read(variable)
        except ProgramError as error:
            return error
        return None

    @property
    def value(self) -> Any:
        """What the program's function returned; waits for it, and raises what it raised."""
        if self._inside and not self._body.done():
            raise self._program_error("the program is still running; it has no value yet")
        return self._body.result()

    @property
    def seed(self) -> int | None:
        """The seed of this state."""
        return self._trace.seed

    def probabilities(self, name: str) -> dict[str, float]:
        """How likely each option of a `select` was, from the scores it compared.

        Raises:
            ProgramError: no such variable, not a select, or it failed.
        """
        variable = self._find(_name(name))
        self._raise_failure(variable)
        if not isinstance(variable, Selected):
            raise self._program_error(f"{name!r} is not a select; it has no probabilities", name)
        return dict(variable.choice().probabilities)

    def result(self, name: str) -> GenerateResult | list[GenerateResult] | ScoreResult:
        """What the backend gave for a variable: token ids, finish reason, logprobs, usage.

        A list for a gen with n > 1; scores for a select.

        Raises:
            ProgramError: no such variable, not generated, or it failed.
        """
        variable = self._find(_name(name))
        self._raise_failure(variable)
        if isinstance(variable, Selected):
            return variable.choice().scores
        if isinstance(variable, Generated):
            results = variable.results()
            return results[0] if len(results) == 1 else list(results)
        raise self._program_error(f"{name!r} was not generated", name)

    def usage(self) -> Usage:
        """Wait for everything; tokens of this state and its forks, without what failed."""
        if self._outside():
            outcome(self._body)
        own = self._trace.parts.now()[self._trace.inherited :]
        total = Usage()
        for part in own:
            if part.variable is not None and part.variable.failure() is None:
                total += part.variable.usage()
        for child in list(self._trace.children):
            total += ProgramState(child, self._body, inside=self._inside).usage()
        return total

    # ------------------------------------------------------------ streaming

    def events(self, name: str | None = None) -> Iterator[StreamEvent]:
        """Follow the text as it comes, of the whole state or of one variable.

        Raises:
            ProgramError: an error is raised where it ends the text.
        """
        if name is not None:
            yield from self._variable_events(self._streamed(_name(name)))
            return
        for part in self._trace.parts.follow() if self._outside() else self._trace.parts.now():
            if isinstance(part.variable, Produced):
                yield from self._variable_events(part.variable)
            elif part.text:
                yield _given(part)
        self._settle()

    async def aevents(self, name: str | None = None) -> AsyncIterator[StreamEvent]:
        """`events` for coroutines."""
        async for part in self._aparts():
            variable = part.variable
            if name is not None and (variable is None or variable.name != name):
                continue
            if isinstance(variable, Produced):
                try:
                    async for event in variable.aevents():
                        yield event
                except Exception as error:
                    raise self._failed(variable, error) from error
            elif part.text:
                yield _given(part)
            if name is not None:
                break
        else:
            if name is not None:
                self._find(name)
            elif self._outside():
                await self._body.wait()
        if name is not None:
            self._streamed(name)

    async def _aparts(self) -> AsyncIterator[Part]:
        if self._outside():
            async for part in self._trace.parts.afollow():
                yield part
        else:
            for part in self._trace.parts.now():
                yield part

    def text_iter(self, name: str | None = None) -> Iterator[str]:
        """`events`, as non-empty pieces of text; together they are the whole text."""
        return (event.text for event in self.events(name) if event.text)

    async def text_async_iter(self, name: str | None = None) -> AsyncIterator[str]:
        """`text_iter` for coroutines."""
        async for event in self.aevents(name):
            if event.text:
                yield event.text

    def _streamed(self, name: str) -> Produced:
        variable = self._find(name, first=True)
        if not isinstance(variable, Produced):
            raise self._program_error(f"{name!r} was not generated; it cannot be streamed", name)
        return variable

    def _variable_events(self, variable: Produced) -> Iterator[StreamEvent]:
        try:
            yield from variable.events()
        except Exception as error:
            raise self._failed(variable, error) from error

    # ------------------------------------------------------------ how reading works

    def _outside(self) -> bool:
        return not self._inside or self._body.done()

    def _settle(self) -> None:
        """From outside, wait until the program has said all; raises what it raised."""
        if self._outside():
            self._body.result()

    def _all_parts(self) -> list[Part]:
        self._settle()
        return self._trace.parts.now()

    def _find(self, name: str, *, first: bool = False) -> Variable:
        """The variable of this name; from outside, wait for it to be declared."""
        if self._outside() and (first or not self._body.done()):
            for part in self._trace.parts.follow():
                if part.variable is not None and part.variable.name == name:
                    if first:
                        return part.variable
                    break
        if name not in self._trace.variables:
            if self._outside():
                self._settle()
            raise self._unknown(name)
        return self._trace.variables[name]

    def _unknown(self, name: str) -> ProgramError:
        known = list(self._trace.variables)
        close = difflib.get_close_matches(name, known, n=1)
        listed = f"known: {', '.join(known)}" if known else "nothing has been named yet"
        return self._program_error(
            f"there is no variable {name!r}; {listed}",
            hint=f"did you mean {close[0]!r}?" if close else None,
        )

    def _read(self, variable: Variable) -> Any:
        self._raise_failure(variable)
        try:
            return variable.value()
        except ProgramError:
            self._mark(variable)
            raise

    def _raise_failure(self, variable: Variable | None) -> None:
        failure = None if variable is None else variable.failure()
        if variable is not None and failure is not None:
            raise self._failed(variable, failure) from failure

    def _text_of(self, part: Part) -> str:
        if part.variable is None:
            return part.text
        self._raise_failure(part.variable)
        return part.variable.text()

    def _failed(self, variable: Variable, failure: BaseException) -> BaseException:
        """The error to raise for a variable that the backend did not produce."""
        if isinstance(failure, Cancelled) and self._outside():
            ended_by = self._body.error()
            if ended_by is not None:
                return ended_by
        blamed = self._blamed(variable)
        self._mark(variable)
        self._mark(blamed)
        message = f"{type(failure).__name__}: {failure}"
        if blamed is not variable and variable.name is not None:
            message += f" (so {variable.name!r} was not produced)"
        return blamed.error(message)

    def _blamed(self, variable: Variable) -> Produced:
        """The first that failed: a session's error is that of its earliest victim."""
        assert isinstance(variable, Produced)
        return next((v for v in self._produced() if v.failure() is not None), variable)

    def _mark(self, variable: Variable) -> None:
        if isinstance(variable, Produced) and not self._outside():
            variable.handled = True

    def _program_error(
        self, message: str, name: str | None = None, *, hint: str | None = None
    ) -> ProgramError:
        return ProgramError(
            message, program=self._trace.program, variable=name, location=here(), hint=hint
        )

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            "a ProgramState cannot be pickled or copied: it belongs to a session of a backend; "
            "take what it holds instead (text(), messages(), state[name]), or fork() it"
        )

    def __repr__(self) -> str:
        if not self._body.done():
            condition = "running"
        else:
            condition = "ended" if self._body.error() is None else "failed"
        names = ", ".join(self._trace.variables) or "no variables"
        return f"<ProgramState {self._trace.program}: {condition}; {names}>"


class ProgramStateGroup:
    """Children of a fork. They run side by side: appending to one does not wait.

    ``group += expr`` appends to all, a list appends one item to each, and a function is called
    with each index. As a context manager it joins at the end.
    """

    def __init__(self, states: list[ProgramState], parent: ProgramState) -> None:
        self.states = states
        self._parent = parent
        self._joined = False

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, index: int) -> ProgramState:
        return self.states[index]

    def __setitem__(self, index: int, state: ProgramState) -> None:
        if self.states[index] is not state:  # `group[i] += …` stores what it has read
            raise TypeError("a child of a fork cannot be replaced, only extended with +=")

    def __iter__(self) -> Iterator[ProgramState]:
        return iter(self.states)

    def __iadd__(self, other: object) -> ProgramStateGroup:
        for state, node in zip(self.states, self._nodes(other), strict=True):
            state += node
        return self

    def _nodes(self, other: object) -> Sequence[Node | str]:
        if callable(other):
            make: Callable[[int], Any] = other
            return [make(i) for i in range(len(self))]
        if isinstance(other, (list, tuple)):
            if len(other) != len(self):
                raise ValueError(f"{len(other)} items for {len(self)} children of a fork")
            return list(other)
        return [other] * len(self)  # type: ignore[list-item]  # checked where it is appended

    def join(self) -> None:
        """Give the parent a list per name that the children have set, and end them.

        Does not wait. A list holds one value per child, in order, None for a child that did not
        set the name. A later round of forks with the same name adds to the list. An error of a
        child is raised where the list is read. Joining again does nothing.
        """
        if self._joined:
            return
        self._joined = True
        names = dict.fromkeys(name for state in self.states for name in state._trace.own)
        for name in names:
            self._parent._trace.declare(self._gathered(name))
        for state in self.states:
            state._trace.end()

    def _gathered(self, name: str) -> Gathered:
        earlier = self._parent._trace.variables.get(name)
        rounds = earlier.readers if isinstance(earlier, Gathered) else ()
        return Gathered(name, (*rounds, *(_reader(state, name) for state in self.states)))

    def __enter__(self) -> ProgramStateGroup:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.join()
        else:
            for state in self.states:
                state.cancel()


def _reader(state: ProgramState, name: str) -> Callable[[], Any]:
    variable = state._trace.own.get(name)
    return (lambda: None) if variable is None else (lambda: state._read(variable))


def _given(part: Part) -> StreamEvent:
    return StreamEvent(part.text, "template" if part.template else "text")


def _name(name: object) -> str:
    checked = variable_name(name)
    if checked is None:
        raise TypeError("a variable's name must be a string, not None")
    return checked
