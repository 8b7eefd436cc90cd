"""Whose pages are whose, read on the engine's own loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sgrt.backends.local import Engine
from sgrt.core import Handle
from sgrt.runtime.engine import Engine as Loop

T = TypeVar("T")


def on_loop(engine: Engine, read: Callable[[Loop], T]) -> T:
    """Run something on the engine's loop and return what it returns."""
    handle: Handle[T] = Handle()
    engine._loop.post(lambda: handle.finish(read(engine._loop)))
    return handle.result(10)


def check_conservation(engine: Engine) -> None:
    """Free + cached + held = all pages."""

    def read(loop: Loop) -> tuple[int, int]:
        loop.kv.tree.check()
        held = sum(len(s.pages) - s.num_shared for s in loop._lives)
        return loop.kv.pool.num_free + loop.kv.tree.num_cached + held, loop.kv.num_pages

    total, num_pages = on_loop(engine, read)
    assert total == num_pages


def all_pages_back(engine: Engine) -> None:
    """Nothing is held, nothing in the tree is locked, and no sequence is left."""

    def read(loop: Loop) -> tuple[int, int, int, bool]:
        free = loop.kv.pool.num_free + loop.kv.tree.num_evictable
        return free, loop.kv.tree.num_locked, len(loop._lives), loop.scheduler.has_work

    assert on_loop(engine, read) == (engine._loop.kv.num_pages, 0, 0, False)
