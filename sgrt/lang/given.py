"""What a program is made of and called with, checked."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sgrt.errors import RequestError

OPTIONS = ("backend", "stream", "sampling", "deadline_s")
"""Parameters that `Program.run` keeps for itself."""

_IN_FLIGHT = 4096  # of a batch, where nothing is said
Arguments = tuple[tuple[Any, ...], Mapping[str, Any]]


def bound(func: Callable[..., Any], values: Mapping[str, Any]) -> Callable[..., Any]:
    """A function with some keywords given; its signature lacks them."""
    given = inspect.signature(functools.partial(func, **values))
    left = [p for name, p in given.parameters.items() if name not in values]

    if inspect.iscoroutinefunction(func):

        @functools.wraps(func)
        async def call(*args: Any, **kwargs: Any) -> Any:
            return await func(*args, **kwargs, **values)

    else:

        @functools.wraps(func)
        def call(*args: Any, **kwargs: Any) -> Any:
            return func(*args, **kwargs, **values)

    call.__signature__ = given.replace(parameters=left)  # type: ignore[attr-defined]
    return call


def check_function(func: Callable[..., Any]) -> None:
    """Refuse what cannot be a program.

    Raises:
        TypeError: not a plain function, no parameter for the state, or a parameter whose name
            `Program.run` needs for itself.
    """
    if not inspect.isfunction(func):
        raise TypeError(f"a program must be a function, not {func!r:.80}")
    if inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
        raise TypeError(f"{func.__qualname__}: a program must be a function, not a generator")
    parameters = inspect.signature(func).parameters
    if not parameters:
        raise TypeError(f"{func.__qualname__}: a program needs a parameter for its state")
    for name in OPTIONS:
        if name in parameters:
            raise TypeError(f"{func.__qualname__}: the parameter name {name!r} belongs to run()")


def batch(items: Iterable[Any]) -> list[Arguments]:
    """The arguments of each item.

    Raises:
        TypeError: it is no sequence of arguments.
    """
    if isinstance(items, (str, bytes)) or hasattr(items, "keys"):
        kind = type(items).__name__
        hint = '; give its to_dict("records")' if hasattr(items, "to_dict") else ""
        raise TypeError(f"a batch must be a list of arguments, not a {kind}{hint}")
    if not isinstance(items, Iterable):
        raise TypeError(f"a batch must be a list of arguments, not {items!r:.80}")
    return [item(each) for each in items]


def item(item: object) -> Arguments:
    """The arguments of one item of a batch.

    Raises:
        TypeError: it is none.
    """
    if isinstance(item, Mapping):
        return (), dict(item)
    if isinstance(item, (tuple, list)):
        return tuple(item), {}
    raise TypeError(
        f"a batch item must be a dict, or a tuple or list of arguments, not {item!r:.80}"
    )


def num_in_flight(value: int | str) -> int:
    """How many items of a batch may be under way.

    Raises:
        RequestError: neither "auto" nor a number >= 1.
    """
    if value == "auto":
        return _IN_FLIGHT
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise RequestError(f"num_threads={value!r}: must be 'auto' or an integer >= 1")


def check_history(value: object) -> None:
    """Refuse what is no way to show earlier answers.

    Raises:
        RequestError: neither "kept" nor "rendered".
    """
    if value not in ("kept", "rendered"):
        raise RequestError(f"history={value!r:.80}: must be 'kept' or 'rendered'")


def check_num_ahead(value: int | None) -> None:
    """Refuse what is no number of tokens.

    Raises:
        RequestError: neither None nor a number >= 1.
    """
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise RequestError(f"num_api_spec_tokens={value!r:.80}: must be an integer >= 1")
