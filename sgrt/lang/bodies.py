"""Running a program's function to its end, wherever it runs."""

from __future__ import annotations

import asyncio
import functools
import inspect
import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any, get_type_hints

from sgrt.errors import ProgramError
from sgrt.lang.outputs import return_check
from sgrt.lang.state import ProgramState
from sgrt.lang.trace import Trace
from sgrt.lang.variables import outcome

Start = Callable[[], Any]
"""A program's function with its state and arguments."""
Then = Callable[[ProgramState], None]


def complete(state: ProgramState, start: Start, then: Then | None) -> None:
    """Run a function; ``then`` is called when all that it asked for has ended, too."""
    try:
        state._execute(start)
        if then is not None:
            state._trace.lane.join()
    finally:
        if then is not None:
            then(state)


async def acomplete(state: ProgramState, start: Start, then: Then | None) -> None:
    """`complete` for async functions."""
    try:
        await state._aexecute(start)
        if then is not None:
            await state.settled()
    except asyncio.CancelledError:
        pass  # user code cancelled its own task; the state has the error
    finally:
        if then is not None:
            then(state)


def wait(state: ProgramState) -> None:
    """Wait for the function; an interrupt of the wait cancels it."""
    try:
        outcome(state._body)
    except BaseException:
        state.cancel()
        raise


def expire(trace: weakref.ref[Trace], seconds: float) -> None:
    """The time has passed that a run was allowed."""
    if (found := trace()) is not None:
        found.expire(seconds)


def value_check(func: Callable[..., Any], name: str) -> Callable[[Any], Any] | None:
    """What passes on the values of a function, and raises ProgramError for those that are not what
    its annotation says; None where that says nothing, or cannot be evaluated."""
    try:
        wrong = return_check(get_type_hints(func, include_extras=True))
    except Exception:  # names that exist for type checkers alone
        return None
    if wrong is None:
        return None

    def checked(value: Any) -> Any:
        if (problem := wrong(value)) is not None:
            code = (func.__func__ if isinstance(func, MethodType) else func).__code__
            place = f"{code.co_filename}:{code.co_firstlineno}"
            raise ProgramError(problem, program=name, location=place)
        return value

    return checked


def with_checked_value(func: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A function, plain or async, that raises ProgramError where its value is not what its
    annotation says."""
    checked = value_check(func, name)
    if checked is None:
        return func

    if inspect.iscoroutinefunction(func):

        @functools.wraps(func)
        async def acall(*args: Any, **kwargs: Any) -> Any:
            return checked(await func(*args, **kwargs))

        return acall

    @functools.wraps(func)
    def call(*args: Any, **kwargs: Any) -> Any:
        return checked(func(*args, **kwargs))

    return call
