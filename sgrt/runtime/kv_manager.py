"""Who holds which KV page: the one place where pages, tree and sequences meet.

Pages are numbered once for all *groups* of a model (full attention, latent, ...): a group is a
storage indexed by page number, so one allocation serves them all, and sharing, eviction and
copying are decided here without knowing what a page contains.

Architecture invariant: integers only; contents are copied through the function given.
"""

from __future__ import annotations

from collections.abc import Callable

from sgrt.runtime.page_pool import PagePool
from sgrt.runtime.radix_tree import RadixTree
from sgrt.runtime.sequence import Sequence


class KVManager:
    """Gives pages to sequences and takes them back.

    A sequence's pages are first the shared ones (owned by the tree, kept alive by a lock on
    ``seq.node``), then private ones. Only private pages are ever written.

    Args:
        num_pages: pages in the pool.
        page_size: tokens per page.
        copy_page: copies the contents of a page to another, in every group.
        prefix_cache: whether computed prefixes outlive their sequences.
    """

    def __init__(
        self,
        num_pages: int,
        page_size: int,
        copy_page: Callable[[int, int], None],
        *,
        prefix_cache: bool = True,
    ) -> None:
        self.page_size = page_size
        self.prefix_cache = prefix_cache
        self.pool = PagePool(num_pages, page_size)
        self.tree = RadixTree(self.pool, retain=prefix_cache)
        self._copy_page = copy_page

    @property
    def num_pages(self) -> int:
        return self.pool.num_pages

    @property
    def num_available(self) -> int:
        """Pages that could be handed out now, eviction included."""
        return self.pool.num_free + self.tree.num_evictable

    def pages_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.page_size)

    def find(self, seq: Sequence) -> int:
        """Tokens of ``seq`` that a new start would find computed (nothing is taken)."""
        if seq.origin is not None and seq.origin.num_computed:
            return seq.origin.num_computed
        return self.tree.match(self._matchable(seq), namespace=seq.namespace).num_tokens

    def attach(self, seq: Sequence) -> int:
        """Take the longest computed prefix for a sequence that holds nothing.

        That is what its origin has computed, where there is one that still holds it.

        Returns:
            Number of tokens found. Never so many that a needed hidden state is skipped.
        """
        if seq.origin is not None and seq.origin.num_computed:
            self.fork(seq.origin, seq)
            return seq.num_computed
        match = self.tree.match(self._matchable(seq), namespace=seq.namespace)
        self.tree.lock(match.node)
        seq.node = match.node
        seq.pages = list(match.pages)
        seq.num_shared = len(seq.pages)
        seq.num_computed = match.num_tokens
        return match.num_tokens

    def _matchable(self, seq: Sequence) -> list[int]:
        whole_pages = seq.first_output // self.page_size * self.page_size
        return seq.token_ids[:whole_pages]

    def try_grow(self, seq: Sequence, num_tokens: int) -> bool:
        """Make room for ``num_tokens`` tokens in all, evicting cached pages where needed."""
        missing = self.pages_for(num_tokens) - len(seq.pages)
        if missing <= 0:
            return True
        if missing > self.pool.num_free:
            self.tree.evict(missing - self.pool.num_free)
            if missing > self.pool.num_free:
                return False
        seq.pages += self.pool.allocate(missing)
        return True

    def share(self, seq: Sequence) -> None:
        """Hand the sequence's whole computed pages to the tree, so that others find them."""
        num_whole = seq.num_computed // self.page_size
        if num_whole <= seq.num_shared:
            return
        node, first = seq.node, seq.num_shared
        if node is None or node.end != first:  # rewound: its lock covers more than it shares
            node, first = self.tree.match(()).node, 0  # the start of all
            self.tree.lock(node)
        size = self.page_size
        inserted = self.tree.extend(
            node,
            seq.token_ids[first * size : num_whole * size],
            seq.pages[first:num_whole],
            namespace=seq.namespace,
        )
        if seq.node is not None and seq.node is not node:
            self.tree.unlock(seq.node)
        seq.node = inserted.node
        seq.pages[first:num_whole] = inserted.pages
        seq.num_shared = num_whole
        self.pool.free(inserted.duplicates)

    def release(self, seq: Sequence) -> None:
        """Take all pages from a sequence; what it computed stays findable in the tree."""
        if self.prefix_cache:
            self.share(seq)
        self.drop(seq)

    def drop(self, seq: Sequence) -> None:
        """Take all pages from a sequence and forget what it computed privately."""
        self.pool.free(seq.pages[seq.num_shared :])
        if seq.node is not None:
            self.tree.unlock(seq.node)
        seq.node = None
        seq.pages = []
        seq.num_shared = 0
        seq.num_computed = 0

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Give an empty child the parent's computed tokens.

        Whole pages are shared. The last, partly filled page is copied, since both will write
        behind it; where no page is left for that, the child computes those tokens again.
        """
        self.share(parent)
        if parent.node is None:
            return
        self.tree.lock(parent.node)
        child.node = parent.node
        child.pages = parent.pages[: parent.num_shared]
        child.num_shared = parent.num_shared
        child.num_computed = parent.num_shared * self.page_size
        if parent.num_computed > child.num_computed and self.try_grow(child, parent.num_computed):
            self._copy_page(parent.pages[child.num_shared], child.pages[child.num_shared])
            child.num_computed = parent.num_computed

    def rewind(self, seq: Sequence, num_tokens: int) -> None:
        """Count only the first ``num_tokens`` tokens as computed, and make the rest writable.

        A page that others share is replaced by a copy, or, where no page is left for that, its
        tokens are computed again.
        """
        if num_tokens >= seq.num_computed:
            return
        num_whole = num_tokens // self.page_size
        if num_whole >= seq.num_shared:
            seq.num_computed = num_tokens
            return
        shared_page = seq.pages[num_whole]  # alive: the lock on seq.node covers it
        self.pool.free(seq.pages[seq.num_shared :])
        del seq.pages[num_whole:]
        seq.num_shared = num_whole
        seq.num_computed = num_whole * self.page_size
        if num_tokens > seq.num_computed and self.try_grow(seq, num_tokens):
            self._copy_page(shared_page, seq.pages[num_whole])
            seq.num_computed = num_tokens

    def truncate(self, seq: Sequence, num_tokens: int) -> None:
        """Cut the sequence to its first ``num_tokens`` tokens."""
        self.rewind(seq, num_tokens)
        num_kept = max(seq.num_shared, self.pages_for(num_tokens))
        self.pool.free(seq.pages[num_kept:])
        del seq.pages[num_kept:]
        del seq.token_ids[num_tokens:]
