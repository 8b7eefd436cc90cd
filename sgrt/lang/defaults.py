"""The backend of runs that name none."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sgrt.core import Backend
from sgrt.errors import MissingPackage, RequestError
from sgrt.lang.run import current

_lock = threading.Lock()
_default: Backend | None = None


def set_default_backend(backend: Backend | None) -> None:
    """Use this backend where a run names none; None goes back to the embedded engine."""
    global _default
    with _lock:
        _default = None if backend is None else checked(backend)


def default_backend() -> Backend:
    """The default backend; the embedded engine, made at the first use, if none was set.

    Cost: the first use loads the embedded model.
    """
    global _default
    with _lock:
        if _default is None:
            try:
                from sgrt.backends.local import Engine  # heavy; only who needs it pays for it
            except ModuleNotFoundError as error:
                raise MissingPackage(error, extra="engine") from error

            _default = Engine()
        return _default


_wrap: Callable[[Backend], Backend] | None = None


def backend_of_run(backend: Backend | None) -> Backend:
    """Where a run goes: the backend that it names, or the default one; listened to by a recording
    that is under way. Where no default was set, a run inside another goes where that one does.

    Raises:
        TypeError: it is no backend.
    """
    running = current.get()
    if backend is None and _default is None and running is not None:
        return running.backend
    where = default_backend() if backend is None else checked(backend)
    return where if _wrap is None else _wrap(where)


@contextmanager
def wrapping(wrap: Callable[[Backend], Backend]) -> Iterator[None]:
    """Put something between runs and their backends.

    Raises:
        RequestError: something is there already.
    """
    global _wrap
    with _lock:
        if _wrap is not None:
            raise RequestError("another recording is under way")
        _wrap = wrap
    try:
        yield
    finally:
        _wrap = None


def checked(backend: object) -> Backend:
    """The same object, if it can be a backend.

    Raises:
        TypeError: it opens no sessions.
    """
    if isinstance(backend, type):
        raise TypeError(f"a backend must be an object, not the class {backend.__name__}")
    if callable(getattr(backend, "open", None)):
        return backend  # type: ignore[return-value]
    raise TypeError(f"a backend must be a sgrt.core.Backend, not {backend!r:.80}")


def flush_cache(backend: Backend | None = None) -> None:
    """Let a backend forget the prefixes that it has computed; None takes the default one.

    Raises:
        RequestError: it has no cache that it could be told to forget.
    """
    _of("flush_cache", backend)()


def get_server_info(backend: Backend | None = None) -> Mapping[str, Any]:
    """What a backend says about itself; None takes the default one. Of one in this process, its
    counters."""
    where = default_backend() if backend is None else checked(backend)
    told: Mapping[str, Any] = getattr(where, "get_server_info", where.stats)()
    return told


def _of(method: str, backend: Backend | None) -> Any:
    where = default_backend() if backend is None else checked(backend)
    found = getattr(where, method, None)
    if found is None:
        raise RequestError(f"{type(where).__name__} has no {method}()")
    return found


_REFUSED = {
    "verbosity": "nothing is printed; print(state.text())",
    "skip_special_tokens_in_output": "special tokens are never part of a value",
    "spaces_between_special_tokens_in_out": "special tokens are never part of a value",
    "enable_parallel_encoding": "joined texts are appended, and computed where they stand",
}


class GlobalConfig:
    """SGLang's ``global_config``; settings of it that would have no effect are refused.

    Attributes:
        enable_precache_with_tracing: let a batch begin with computing what its items share, on
            backends that hold a prefix.
    """

    __slots__ = ("enable_precache_with_tracing",)

    def __init__(self) -> None:
        self.enable_precache_with_tracing = True

    def __setattr__(self, name: str, value: object) -> None:
        if name not in ("default_backend", *self.__slots__):
            raise RequestError(f"global_config.{name} is not supported", hint=_REFUSED.get(name))
        if name == "enable_precache_with_tracing" and not isinstance(value, bool):
            raise RequestError(f"global_config.{name}={value!r:.80}: must be true or false")
        object.__setattr__(self, name, value)

    @property
    def default_backend(self) -> Backend:
        """Where runs go that name no backend."""
        return default_backend()

    @default_backend.setter
    def default_backend(self, backend: Backend | None) -> None:
        set_default_backend(backend)


global_config = GlobalConfig()
"""SGLang's settings of a process."""
