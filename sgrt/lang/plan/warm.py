"""What the calls of a program share, made ready once: grammars, and the text they begin with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from sgrt.core import Backend, Constraint, Pin, PrefixCache, Text

_MAX_WORKERS = 8


class Warm:
    """Holds a prefix in a backend's cache. Close it, or use it as a context manager.

    Attributes:
        prefix: the text that is held.
    """

    def __init__(
        self,
        prefix: tuple[Text, ...],
        pin: Pin | None,
        compiled: Sequence[tuple[Constraint, Future[None]]],
    ) -> None:
        self.prefix = prefix
        self._pin = pin
        self._compiled = tuple(compiled)

    @property
    def num_tokens(self) -> int | None:
        """Tokens of the prefix; None where the backend does not hold it."""
        return None if self._pin is None else self._pin.num_tokens

    def refused(self) -> dict[Constraint, BaseException]:
        """Wait for the grammars; those that the backend refuses. Their gens fail where they are
        read, so this is for looking ahead."""
        ended = ((constraint, done.exception()) for constraint, done in self._compiled)
        return {constraint: error for constraint, error in ended if error is not None}

    def close(self) -> None:
        """Let the prefix go. Idempotent."""
        pin, self._pin = self._pin, None
        if pin is not None:
            pin.close()

    def __enter__(self) -> Warm:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()


def warm(
    backend: Backend, prefix: tuple[Text, ...], constraints: Sequence[Constraint], *, wait: bool
) -> Warm:
    """Begin to compute the prefix, and compile the grammars beside it."""
    pin = backend.pin(prefix) if prefix and isinstance(backend, PrefixCache) else None
    pool = ThreadPoolExecutor(
        max(1, min(len(constraints), os.cpu_count() or 1, _MAX_WORKERS)),
        thread_name_prefix="sgrt-compile",
    )
    try:
        compiled = [(c, pool.submit(backend.compile, c)) for c in constraints]
    finally:
        pool.shutdown(wait=wait)
    return Warm(prefix, pin, compiled)
