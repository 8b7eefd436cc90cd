"""Reading what a program has written: values, text, messages, errors, figures."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Coroutine
from typing import Any, NoReturn, Self

from sgrt.core import GenerateResult, Handle, ScoreResult, Usage
from sgrt.errors import Cancelled, ProgramError, WouldBlock
from sgrt.lang import meta
from sgrt.lang.api import variable_name
from sgrt.lang.run import current
from sgrt.lang.trace import Part, Trace
from sgrt.lang.variables import (
    Captured,
    Derived,
    Generated,
    Produced,
    Selected,
    Variable,
    ended,
    outcome,
)
from sgrt.lang.where import here


class Reader:
    """The reading half of a `ProgramState`."""

    __slots__ = ("__weakref__", "_body", "_inside", "_trace")

    def __init__(self, trace: Trace, body: Handle[Any], *, inside: bool) -> None:
        self._trace = trace
        self._body = body
        self._inside = inside

    def _at(self, trace: Trace, *, inside: bool) -> Self:
        """The same program's state at another trace."""
        return type(self)(trace, self._body, inside=inside)

    def __getitem__(self, name: str) -> Any:
        """The value of a variable.

        Raises:
            ProgramError: no such variable, or it could not be produced; or an async program
                must await it.
        """
        if type(name) is not str or not name:
            name = checked_name(name)
        variable = self._find(name)
        try:
            return self._read(variable)
        except WouldBlock as error:
            raise self._program_error(error.message, name, hint=error.hint) from error

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
        self._send()
        if self._outside() and (raised := outcome(self._body)) is not None:
            return raised
        for variable in self._produced():
            if not variable.handled and (wrong := self._wrong(variable)) is not None:
                return wrong
        children = (self._at(child, inside=self._inside) for child in self._trace.children)
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
        self._send()
        return self._body.result()

    @property
    def ret_value(self) -> Any:
        """`value`, by the peer's name."""
        return self.value

    @property
    def seed(self) -> int | None:
        """The seed of this state."""
        return self._trace.seed

    def probabilities(self, name: str) -> dict[str, float]:
        """How likely each option of a `select` was, from the scores it compared.

        Raises:
            ProgramError: no such variable, not a select, or it failed.
        """
        variable = self._source(name)
        if not isinstance(variable, Selected):
            raise self._program_error(f"{name!r} is not a select; it has no probabilities", name)
        return dict(variable.choice().probabilities)

    def result(self, name: str) -> GenerateResult | list[GenerateResult] | ScoreResult:
        """What the backend gave for a variable: token ids, finish reason, logprobs, usage.

        A list for a gen with n > 1; scores for a select.

        Raises:
            ProgramError: no such variable, not generated, or it failed.
        """
        variable = self._source(name)
        if isinstance(variable, Selected):
            return variable.choice().scores
        if isinstance(variable, Generated):
            results = variable.results()
            return results[0] if len(results) == 1 else list(results)
        raise self._program_error(f"{name!r} was not generated", name)

    def get_meta_info(self, name: str) -> dict[str, Any] | list[dict[str, Any]]:
        """What the backend says about a variable, in the words of SGLang's servers.

        Finish reason, token counts, and log-probabilities where asked for, tokens spelled out; a
        list for a gen with n > 1. Of a select, what its method compared.

        Raises:
            ProgramError: no such variable, not generated, or it failed.
        """
        variable = self._source(name)
        backend = self._trace.backend
        if isinstance(variable, Selected):
            return meta.of_choice(backend, variable.choice())
        if isinstance(variable, Generated):
            told = [meta.of_result(backend, result) for result in variable.results()]
            return told[0] if len(told) == 1 else told
        raise self._program_error(f"{name!r} was not generated", name)

    def usage(self) -> Usage:
        """Wait for everything; tokens of this state and its forks, without what failed."""
        self._send()
        if self._outside():
            outcome(self._body)
        own = self._trace.parts.now()[self._trace.inherited :]
        total = Usage()
        for part in own:
            if part.variable is not None and part.variable.failure() is None:
                total += part.variable.usage()
        for child in list(self._trace.children):
            total += self._at(child, inside=self._inside).usage()
        return total

    # ------------------------------------------------------------ looking

    def to_html(self) -> str:
        """Wait for everything; one self-contained HTML document that shows who wrote what.

        Give gens ``logprobs=5`` for probabilities and alternatives, and ``logprobs_mode=
        "unmasked"`` for what the model wanted and the constraint forbade. What failed is shown
        where it failed.
        """
        from sgrt.lang import html

        return html.page(self._spans(), self._trace.roles(), title=self._trace.program)

    def _repr_html_(self) -> str:
        """For notebooks."""
        from sgrt.lang import html

        return html.fragment(self._spans(), self._trace.roles())

    def __rich__(self) -> Any:
        """For ``rich.print``: the text, coloured by who wrote it."""
        from sgrt.lang.terminal import coloured

        return coloured(self._spans())

    def _spans(self) -> list[Any]:
        from sgrt.lang.spans import Span, spans

        self._send()
        raised = outcome(self._body) if self._outside() else None
        shown = list(spans(self._trace.parts.now(), self._trace.backend))
        if raised is not None:
            shown.append(Span(f"{type(raised).__name__}: {raised}", "error"))
        return shown

    # ------------------------------------------------------------ reading in coroutines

    def get(self, name: str) -> Coroutine[Any, Any, Any]:
        """``s[name]`` for coroutines: awaits the value.

        Raises:
            ProgramError: no such variable, or it could not be produced.
            TypeError: in a program that is no coroutine, where nothing could await.
        """
        checked_name(name)
        if not self._outside() and not _in_coroutine():
            raise TypeError(f"get({name!r}) is for `async def` programs; here, read s[{name!r}]")
        return self._get(name)

    async def _get(self, name: str) -> Any:
        self._send()
        if self._outside() and name not in self._trace.variables:
            async for part in self._trace.parts.afollow():
                if part.variable is not None and part.variable.name == name:
                    break
            else:
                await ended(self._body)
        variable = self._trace.variables.get(name)
        if variable is not None:
            await variable.settled()
            if variable.failure() is not None:
                await self._trace.settled()  # to say what failed first, all must have ended
        return self._read(self._find(name))

    async def settled(self) -> None:
        """Wait, in a coroutine, until nothing is left to wait for; raises nothing.

        Afterwards all that reads without ``await`` returns at once: `text`, `messages`, `error`,
        `usage`, ``s[name]``.
        """
        self._send()
        if self._outside():
            await ended(self._body)
        await self._trace.settled()

    # ------------------------------------------------------------ how reading works

    def _outside(self) -> bool:
        return not self._inside or self._body.done()

    def _send(self) -> None:
        """Have the backend know of all that is about to be waited for."""
        mine, running = self._trace.run, current.get()
        if not self._inside and not self._body.done():
            mine.send_all_from_now_on()
        elif mine.noted:
            mine.send()
        if running is not None and running is not mine:
            running.send()

    def _settle(self) -> None:
        """From outside, wait until the program has said all; raises what it raised."""
        self._send()
        if self._outside():
            self._body.result()

    def _all_parts(self) -> list[Part]:
        self._settle()
        return self._trace.parts.now()

    def _find(self, name: str, *, first: bool = False) -> Variable:
        """The variable of this name; from outside, wait for it to be declared."""
        self._send()
        if self._outside() and (first or not self._body.done()):
            for part in self._trace.parts.follow():
                if part.variable is not None and part.variable.name == name:
                    if first:
                        return part.variable
                    break
        variable = self._trace.variables.get(name)
        if variable is None:
            if self._outside():
                self._settle()
            raise self._unknown(name)
        return variable

    def _source(self, name: str) -> Variable:
        """Wait for the variable of this name, or the one that it was made of."""
        variable = self._find(checked_name(name))
        while isinstance(variable, Derived):
            variable = variable.source
        self._raise_failure(variable)
        return variable

    def _unknown(self, name: str) -> ProgramError:
        known = list(self._trace.variables)
        close = difflib.get_close_matches(name, known, n=1)
        listed = f"known: {', '.join(known)}" if known else "nothing has been named yet"
        return self._program_error(
            f"there is no variable {name!r}; {listed}",
            hint=f"did you mean {close[0]!r}?" if close else None,
        )

    def _read(self, variable: Variable) -> Any:
        if isinstance(variable, Produced):
            if (failure := variable.failure()) is not None:
                self._raise(variable, failure)
        elif isinstance(variable, Derived):
            return variable.made_of(self._read(variable.source))
        elif isinstance(variable, Captured):
            for text in variable.texts:
                self._raise_failure(text if isinstance(text, Variable) else None)
        try:
            return variable.value()
        except ProgramError:
            self._mark(variable)
            raise

    def _raise_failure(self, variable: Variable | None) -> None:
        failure = None if variable is None else variable.failure()
        if variable is not None and failure is not None:
            self._raise(variable, failure)

    def _raise(self, variable: Variable, failure: BaseException) -> NoReturn:
        self._trace.broken = variable
        raise self._failed(variable, failure) from self._cause(failure)

    def _check_unbroken(self) -> None:
        """Refuse to go on with a session whose failure the program has been told."""
        if self._trace.broken is not None:
            self._raise_failure(self._trace.broken)

    def _text_of(self, part: Part) -> str:
        if part.variable is None:
            return part.text
        self._raise_failure(part.variable)
        return part.variable.text()

    def _written(self) -> str:
        """Wait; what a child has added to its parent's text.

        Raises:
            ProgramError: messages are among it.
        """
        self._send()
        own = self._trace.parts.now()[self._trace.inherited :]
        if any(part.template for part in own):
            raise self._program_error("only text can be appended, and it wrote messages")
        return "".join(map(self._text_of, own))

    def _failed(self, variable: Variable, failure: BaseException) -> BaseException:
        """The error to raise for a variable that the backend did not produce."""
        if isinstance(failure, Cancelled) and self._outside():
            ended_by = self._body.error()
            if ended_by is not None:
                return ended_by
        blamed = self._blamed(variable)
        self._mark(variable)
        self._mark(blamed)
        cause = self._cause(failure)
        message = f"{type(cause).__name__}: {cause}"
        if blamed is not variable and variable.name is not None:
            message += f" (so {variable.name!r} was not produced)"
        return blamed.error(message)

    def _cause(self, failure: BaseException) -> BaseException:
        """What the backend says, or why the run was stopped."""
        stopped_by = self._trace.run.stopped_by
        return stopped_by if stopped_by is not None and isinstance(failure, Cancelled) else failure

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


def checked_name(name: object) -> str:
    checked = variable_name(name)
    if checked is None:
        raise TypeError("a variable's name must be a string, not None")
    return checked


def _in_coroutine() -> bool:
    """Whether this thread runs an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
