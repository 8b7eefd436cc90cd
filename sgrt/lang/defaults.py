"""The backend of runs that name none."""

from __future__ import annotations

import threading

from sgrt.core import Backend
from sgrt.errors import MissingPackage

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


def checked(backend: object) -> Backend:
    """The same object, if it can be a backend.

    Raises:
        TypeError: it opens no sessions.
    """
    if callable(getattr(backend, "open", None)):
        return backend  # type: ignore[return-value]
    raise TypeError(f"a backend must be a sgrt.core.Backend, not {backend!r:.80}")
