"""Allocation and its refusals."""

from __future__ import annotations

import pytest

from sgrt.errors import EngineError, OutOfPages
from sgrt.runtime.page_pool import PagePool


def test_allocate_whole_pool_every_page_once() -> None:
    pool = PagePool(10, 16)
    pages = pool.allocate(3) + pool.allocate(0) + pool.allocate(7)
    assert sorted(pages) == list(range(10))
    assert pool.num_free == 0


def test_allocate_fresh_pool_ascending_run() -> None:
    assert PagePool(8, 1).allocate(5) == [0, 1, 2, 3, 4]


def test_allocate_after_free_last_freed_first_in_order() -> None:
    pool = PagePool(8, 1)
    pool.allocate(5)
    pool.free([1, 2, 3])
    assert pool.allocate(3) == [1, 2, 3]


def test_allocate_too_many_takes_nothing() -> None:
    pool = PagePool(4, 16)
    pool.allocate(1)
    with pytest.raises(OutOfPages) as caught:
        pool.allocate(4)
    assert (caught.value.needed, caught.value.free) == (4, 3)
    assert pool.num_free == 3


@pytest.mark.parametrize(
    ("pages", "told"),
    [([0, 0], "[0] freed twice"), ([1, 3], "[3] freed twice"), ([1, 9], "[9]"), ([0, -1], "[-1]")],
)
def test_free_wrong_page_refused_and_pool_unchanged(pages: list[int], told: str) -> None:
    pool = PagePool(4, 16)
    taken = pool.allocate(3)
    with pytest.raises(EngineError) as caught:
        pool.free(pages)
    assert told in str(caught.value)
    assert pool.num_free == 1
    assert pool.holds(taken) and not pool.holds([3])
    pool.free(taken)
    assert pool.num_free == 4


def test_free_second_time_refused() -> None:
    pool = PagePool(4, 16)
    pages = pool.allocate(2)
    pool.free(pages)
    with pytest.raises(EngineError, match="freed twice"):
        pool.free(pages)
    assert sorted(pool.allocate(4)) == [0, 1, 2, 3]


@pytest.mark.parametrize(("num_pages", "page_size"), [(0, 16), (4, 0), (-1, 1)])
def test_pool_impossible_size_refused(num_pages: int, page_size: int) -> None:
    with pytest.raises(EngineError, match=f"num_pages={num_pages}, page_size={page_size}"):
        PagePool(num_pages, page_size)


def test_allocate_negative_refused() -> None:
    with pytest.raises(EngineError, match="-1"):
        PagePool(4, 1).allocate(-1)
