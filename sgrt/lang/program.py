"""`@sgrt.function`: a Python function that writes a text together with a model."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from types import MethodType
from typing import Any, overload

from sgrt.core import Backend, Handle, SamplingParams
from sgrt.errors import RequestError
from sgrt.lang.api import did_you_mean, sequence_of
from sgrt.lang.batch import run_all
from sgrt.lang.defaults import checked, default_backend
from sgrt.lang.state import ProgramState
from sgrt.lang.trace import Trace, split_seed

SAMPLING = tuple(f.name for f in fields(SamplingParams))
_OPTIONS = ("backend", "stream", "sampling")


class Program:
    """A function whose first argument is a `ProgramState`; made by `function`.

    Keeps the function's name, doc and signature. Called with a state first, it runs as part of
    that state's program and returns what the function returns; called without, it is `run`.
    """

    def __init__(self, func: Callable[..., Any]) -> None:
        functools.update_wrapper(self, func)
        self._func = func
        self._name = func.__qualname__.rpartition("<locals>.")[2]
        self._signature = inspect.signature(func)

    def __get__(self, instance: object, owner: type | None = None) -> Program:
        return self if instance is None else Program(MethodType(self._func, instance))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], ProgramState):
            return self._func(*args, **kwargs)
        return self.run(*args, **kwargs)

    def run(
        self,
        *args: Any,
        backend: Backend | None = None,
        stream: bool = False,
        sampling: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> ProgramState:
        """Run the program; returns when the function has, whether or not the model has.

        Args:
            args: the function's arguments after the state; so are keywords of its parameters.
            backend: where to run; None takes the default backend.
            stream: run the function in a thread of its own and return at once.
            sampling: defaults for every gen of the run. The fields of `core.SamplingParams` may
                also be given as keywords, where the program has no parameter of that name.
                ``seed`` is the seed of the run: every gen and fork has one derived from it.

        Raises:
            TypeError: arguments that the program or the run does not take.
            InvalidSamplingParams: a default outside its range.
            Exception: whatever the function raises, as it is (unless streaming: then readers
                get it).
        """
        arguments, params = self._divide(kwargs, sampling)
        self._check_arguments(args, arguments)
        where = default_backend() if backend is None else checked(backend)
        state = self._start(where, params, params.seed)
        body = functools.partial(self._func, state, *args, **arguments)
        if stream:
            threading.Thread(
                target=state._execute, args=(body,), name="sgrt-program", daemon=True
            ).start()
            return state._outside_view()
        state._execute(body)
        if (error := state._raised()) is not None:
            raise error
        return state

    def run_batch(
        self,
        batch: Sequence[Mapping[str, Any] | tuple[Any, ...]],
        *,
        backend: Backend | None = None,
        num_threads: int | str = "auto",
        progress_bar: bool = False,
        sampling: Mapping[str, Any] | None = None,
        **defaults: Any,
    ) -> list[ProgramState]:
        """Run the program once per item, side by side.

        Each item runs exactly once. One that fails does not touch the others: its state has an
        `error()`, and its reads raise it. An interrupt cancels what is under way.

        Args:
            batch: arguments per item: a mapping of keywords, or a tuple.
            num_threads: most items under way at once; "auto" is 128.
            progress_bar: items, tokens/s and failures on standard error.
            sampling, defaults: as for `run`. With a seed, item i runs with a seed split from it.

        Returns:
            One finished state per item, in order.
        """
        _, params = self._divide(defaults, sampling, batch=True)
        where = default_backend() if backend is None else checked(backend)
        items = [_item(item) for item in batch]

        def start(index: int) -> tuple[ProgramState, Callable[[], Any]]:
            seed = None if params.seed is None else split_seed(params.seed, index)
            state = self._start(where, params, seed)
            args, kwargs = items[index]
            return state, lambda: self._func(state, *args, **kwargs)

        return run_all(
            start,
            len(items),
            name=self._name,
            num_threads=_num_threads(num_threads),
            progress_bar=progress_bar,
        )

    def _start(self, backend: Backend, params: SamplingParams, seed: int | None) -> ProgramState:
        trace = Trace(self._name, backend, replace(params, seed=None), seed)
        trace.open()
        return ProgramState(trace, Handle(), inside=True)

    def _divide(
        self, given: Mapping[str, Any], sampling: Mapping[str, Any] | None, *, batch: bool = False
    ) -> tuple[dict[str, Any], SamplingParams]:
        """Keywords for the program, and what its gens do unless they say otherwise."""
        mine = {} if batch else {k: v for k, v in given.items() if self._takes(k)}
        defaults = {k: v for k, v in given.items() if k not in mine}
        defaults.update(sampling or {})
        for name in defaults:
            if name not in SAMPLING:
                raise TypeError(self._unexpected(name))
        given = {k: sequence_of(v) for k, v in defaults.items()}
        return mine, SamplingParams().override(**given)

    def _takes(self, name: str) -> bool:
        parameters = list(self._signature.parameters.values())[1:]
        named = {p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY}
        has_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
        return name in named or (has_any and name not in SAMPLING)

    def _unexpected(self, name: str) -> str:
        known = [*list(self._signature.parameters)[1:], *SAMPLING, *_OPTIONS]
        return (
            f"program {self._name!r} takes no argument {name!r}, nor is it a default of gens"
            + did_you_mean(name, known)
        )

    def _check_arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        try:
            self._signature.bind(None, *args, **kwargs)
        except TypeError as error:
            raise TypeError(f"program {self._name!r}: {error}") from None

    def __reduce__(self) -> str | tuple[Any, ...]:
        """By name, as functions are pickled."""
        if isinstance(self._func, MethodType):
            return getattr, (self._func.__self__, self._func.__name__)
        return self._func.__qualname__

    def __repr__(self) -> str:
        return f"<sgrt program {self._name}{self._signature}>"


@overload
def function(func: Callable[..., Any]) -> Program: ...
@overload
def function(func: None = None) -> Callable[[Callable[..., Any]], Program]: ...
def function(
    func: Callable[..., Any] | None = None,
) -> Program | Callable[[Callable[..., Any]], Program]:
    """Make a program of a function whose first argument is a `ProgramState`.

    Works with and without parentheses, and for methods (the state comes after ``self``).

    Raises:
        TypeError: not a plain function, no parameter for the state, or a parameter whose name
            `Program.run` needs for itself.
    """
    if func is None:
        return function
    _check_function(func)
    return Program(func)


def _check_function(func: Callable[..., Any]) -> None:
    if not inspect.isfunction(func):
        raise TypeError(f"a program must be a plain function, not {func!r:.80}")
    if inspect.iscoroutinefunction(func) or inspect.isasyncgenfunction(func):
        raise TypeError(f"{func.__qualname__}: a program must be a plain function, not async")
    if inspect.isgeneratorfunction(func):
        raise TypeError(f"{func.__qualname__}: a program must be a plain function, not a generator")
    parameters = inspect.signature(func).parameters
    if not parameters:
        raise TypeError(f"{func.__qualname__}: a program needs a parameter for its state")
    for name in _OPTIONS:
        if name in parameters:
            raise TypeError(f"{func.__qualname__}: the parameter name {name!r} belongs to run()")


def _item(item: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(item, Mapping):
        return (), dict(item)
    if isinstance(item, tuple):
        return item, {}
    raise TypeError(f"a batch item must be a dict or a tuple of arguments, not {item!r:.80}")


def _num_threads(value: int | str) -> int:
    if value == "auto":
        return 128
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise RequestError(f"num_threads={value!r}: must be 'auto' or an integer >= 1")
