"""Page numbers of one KV group: which are free, which are taken.

The pool knows numbers only; the tensors behind them belong to the model runner. A taken page
has exactly one owner, the prefix tree or a caller, and only the owner frees it.

Architecture invariant: integers only; no tensors, no locks (one loop thread calls it).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sgrt.errors import EngineError, OutOfPages


class PagePool:
    """Pages ``0 .. num_pages - 1`` of ``page_size`` tokens each.

    Args:
        num_pages: pages in the group, at least 1.
        page_size: tokens per page, at least 1.

    Raises:
        EngineError: a size below 1.
    """

    __slots__ = ("_free", "_taken", "num_pages", "page_size")

    def __init__(self, num_pages: int, page_size: int) -> None:
        if num_pages < 1 or page_size < 1:
            raise EngineError(
                f"a pool needs at least one page of one token, not num_pages={num_pages}, "
                f"page_size={page_size}"
            )
        self.num_pages = num_pages
        self.page_size = page_size
        # A stack, lowest number on top: fresh pages come out ascending and freed ones are taken
        # again first, while they are still warm in the caches.
        self._free = list(range(num_pages - 1, -1, -1))
        self._taken: set[int] = set()

    @property
    def num_free(self) -> int:
        """Pages that can be allocated now."""
        return len(self._free)

    def allocate(self, num: int) -> list[int]:
        """Take pages; all or nothing. The caller owns them.

        Raises:
            OutOfPages: fewer than ``num`` are free; nothing is taken.
            EngineError: ``num`` is negative.
        Cost: O(num).
        """
        if num < 0:
            raise EngineError(f"cannot allocate {num} pages")
        if num > len(self._free):
            raise OutOfPages(num, len(self._free))
        start = len(self._free) - num
        pages = self._free[start:]
        del self._free[start:]
        pages.reverse()
        self._taken.update(pages)
        return pages

    def free(self, pages: Sequence[int]) -> None:
        """Give pages back; they must be taken and differ from each other.

        Raises:
            EngineError: a page is free already, named twice or not of this pool; the pool is
                left as it was.
        Cost: O(len(pages)).
        """
        given = set(pages)
        if len(given) != len(pages) or not given <= self._taken:
            raise EngineError(self._refusal(pages))
        self._taken -= given
        self._free.extend(reversed(pages))

    def holds(self, pages: Iterable[int]) -> bool:
        """Whether all of these pages are taken. Cost: O(number of pages)."""
        return self._taken.issuperset(pages)

    def _refusal(self, pages: Sequence[int]) -> str:
        foreign = [p for p in pages if not 0 <= p < self.num_pages]
        if foreign:
            return f"internal: freed pages {foreign[:8]} are not in 0..{self.num_pages - 1}"
        twice = [p for p in dict.fromkeys(pages) if pages.count(p) > 1 or p not in self._taken]
        return f"internal: pages {twice[:8]} freed twice"
