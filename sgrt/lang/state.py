"""What a program holds while it runs, and its caller afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any, NoReturn, ParamSpec, TypeVar, overload

from sgrt.core import Text
from sgrt.errors import Cancelled, InvalidSamplingParams, RequestError
from sgrt.handles import no_waiting, waiting_context
from sgrt.lang import hub, peer
from sgrt.lang.ir import Expr, Node, Role, as_node
from sgrt.lang.reading import checked_name
from sgrt.lang.run import current
from sgrt.lang.streams import Streams
from sgrt.lang.variables import Assigned, Derived, Gathered, Variable

P = ParamSpec("P")
R = TypeVar("R")
_NOTHING = object()


class ProgramState(Streams):
    """A text that a program writes together with a model.

    ``s += …`` appends and never waits. Reading waits for what is read, and raises what went
    wrong with it: a `ProgramError` that names the program, the variable and the line, with the
    backend's own error as ``__cause__``. An error of the session is raised for every variable
    from there on, and once a read has raised it by every append too; text that is no valid value
    concerns its own variable only.

    A state that nobody holds any more, nor a child of it or a stream that follows it, is
    cancelled: what it still works on could not be read.

    Inside the program a name must have been appended before it is read. Outside, while a
    streaming program still runs, a read waits until the name comes or the program has ended.
    """

    __slots__ = ()

    # ------------------------------------------------------------ running

    def _execute(self, body: Callable[[], Any]) -> None:
        """Run the program's function to its end; what it raises becomes the state's error.

        `Program` calls it, once per state.
        """
        token = current.set(self._trace.run)
        try:
            value = body()
        except BaseException as error:  # whatever it is, the readers must hear of it
            self._fail(error)
        else:
            self._finish(value)
        finally:
            current.reset(token)

    async def _aexecute(self, body: Callable[[], Awaitable[Any]]) -> None:
        """`_execute` for async functions; the state is cancelled together with the task."""
        token = current.set(self._trace.run)
        try:
            with no_waiting():
                value = await body()
        except BaseException as error:
            self._fail(error)
            if isinstance(error, asyncio.CancelledError):
                raise
        else:
            self._finish(value)
        finally:
            current.reset(token)

    def _finish(self, value: Any) -> None:
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
        trace = self._trace
        if trace.broken is not None:
            self._check_unbroken()
        if type(other) is str:
            trace.append(Text(other))
        else:
            trace.append(other if isinstance(other, Expr) else as_node(other))
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
        self._check_unbroken()
        if expr is _NOTHING:
            return self._trace.message(role)
        self._trace.append(Role(role, as_node(expr)))
        return None

    def __setitem__(self, name: str, value: object) -> None:
        """Keep a value of the program's own under a name; the text does not change."""
        self._trace.declare(Assigned(checked_name(name), value))

    def set_var(self, name: str, value: object) -> None:
        """``s[name] = value``."""
        self[name] = value

    def var_scope(self, name: str) -> AbstractContextManager[None]:
        """``with s.var_scope("x"): …``: all that is appended inside can be read as ``s["x"]``."""
        return self._trace.scope(checked_name(name))

    def fork(
        self, size: int = 1, position_ids_offset: Sequence[int] | None = None
    ) -> ProgramStateGroup:
        """Children that start with this state's text and variables, computed once.

        Raises:
            InvalidSamplingParams: size below 1.
            RequestError: position_ids_offset, which has no effect.
        """
        peer.refuse("position_ids_offset", position_ids_offset)
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise InvalidSamplingParams("size", size, "must be an integer >= 1")
        self._check_unbroken()
        children = self._trace.fork(size)
        states = [ProgramState(child, self._body, inside=self._inside) for child in children]
        return ProgramStateGroup(states, self)

    @contextmanager
    def copy(self, position_ids_offset: Sequence[int] | None = None) -> Iterator[ProgramState]:
        """``with s.copy() as c: …``: write on without changing this state's text; variables that
        the copy sets can be read here afterwards.

        Raises:
            RequestError: position_ids_offset, which has no effect.
        """
        (child,) = self.fork(1, position_ids_offset).states
        try:
            yield child
        except BaseException:
            child.cancel()
            raise
        for name, variable in child._trace.own.items():
            self._trace.declare(Derived(name, variable, _same))
        child._trace.end()

    def call(self, func: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """``func(…)`` for code that blocks, a tool or a request: other programs go on meanwhile.

        What the program has asked of the model so far is worked on at the same time.

        Raises:
            Exception: whatever the function raises.
        """
        self._trace.run.send()
        work: Callable[[], R] = partial(func, *args, **kwargs)
        return hub.call(work, copy_context())  # type: ignore[no-any-return]

    async def acall(self, func: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """`call` for coroutines."""
        self._trace.run.send()
        work: Callable[[], R] = partial(func, *args, **kwargs)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, waiting_context().run, work)

    def cancel(self) -> None:
        """Stop the program's work; what has not been produced fails with `Cancelled`."""
        self._trace.cancel(Cancelled())

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
        try:
            return self.states[index]
        except IndexError:
            raise IndexError(f"there is no child {index}: the fork has {len(self)}") from None

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

    def join(self, mode: str = "gather_variable") -> None:
        """End the children, and let the parent have what they made.

        By default the parent gets a list per name that the children have set; that does not
        wait. With ``mode="concate_and_append"`` the parent's text goes on with what the children
        wrote, one after the other; what they generated is waited for. A list holds one value per child, in order, None for a child that did not
        set the name. A later round of forks with the same name adds to the list. An error of a
        child is raised where the list is read. Joining again does nothing.

        Raises:
            RequestError: another mode.
            ProgramError: a text to be appended holds messages, or could not be produced.
        """
        if mode not in ("gather_variable", "concate_and_append"):
            raise RequestError(
                f"mode={mode!r:.80}: must be 'gather_variable' or 'concate_and_append'"
            )
        if self._joined:
            return
        self._joined = True
        if mode == "gather_variable":
            self._gather()
        else:
            for state in self.states:
                self._parent._trace.append(Text(state._written()))
        for state in self.states:
            state._trace.end()

    def _gather(self) -> None:
        names = dict.fromkeys(name for state in self.states for name in state._trace.own)
        for name in names:
            self._parent._trace.declare(self._gathered(name))

    def _gathered(self, name: str) -> Gathered:
        earlier = self._parent._trace.variables.get(name)
        readers: list[Callable[[], Any]] = []
        sources: list[Variable] = []
        if isinstance(earlier, Gathered):
            readers, sources = [*earlier.readers], [*earlier.sources]
        for state in self.states:
            variable = state._trace.own.get(name)
            sources += [] if variable is None else [variable]
            readers.append(_nothing if variable is None else partial(state._read, variable))
        return Gathered(name, tuple(readers), tuple(sources))

    def __enter__(self) -> ProgramStateGroup:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.join()
        else:
            for state in self.states:
                state.cancel()


def _nothing() -> None:
    return None


def _same(value: Any) -> Any:
    return value
