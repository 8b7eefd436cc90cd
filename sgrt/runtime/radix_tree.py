"""Computed prefixes by token ids: a radix tree whose edges are runs of whole pages.

Who owns a page, over pool and tree and callers together::

    free      in the pool
    cached    in a node of the tree      = locked (some sequence reads it) + evictable
    held      by a caller, not yet or no longer in the tree
    total     free + cached + held

A *node* stands for the prefix that ends with its last page. Callers keep nodes as handles: what
they may do with one is `RadixTree.lock` and `RadixTree.unlock`. Where an edge is split, the new
node takes the **upper** half and the old one keeps the lower half and so its end, its handles
and its locks: a lock always covers the whole prefix up to the node, before and after.

A locked node stays until it is unlocked. A node nobody locked may go at the next `evict`,
`clear` or (``retain=False``) `unlock`; lock what a match or an insert returned before that.

Architecture invariant: integers only; no tensors, no locks (one loop thread calls it).
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sgrt.errors import EngineError
from sgrt.runtime.page_pool import PagePool

_TYPECODE = "I"
_TOKEN_BYTES = array(_TYPECODE).itemsize
_MAX_GROWN = 256  # pages of an edge that grows where it is: it is copied each time


class Node:
    """One edge of the tree with the prefix it completes; an opaque handle outside this file."""

    __slots__ = ("children", "end", "handles", "key", "locks", "pages", "parent", "tokens")

    def __init__(self, parent: Node | None, key: bytes, tokens: bytes, pages: list[int]) -> None:
        self.parent = parent
        self.key = key  # in parent.children
        self.tokens = tokens  # token ids of the edge, `_TOKEN_BYTES` each: compared by memcmp
        self.pages = pages  # one per page_size tokens
        self.end: int = len(pages) + (parent.end if parent else 0)  # pages of the whole prefix
        self.children: dict[bytes, Node] = {}  # by their first page of tokens
        self.handles = 0  # locks taken on this very node
        self.locks = 0  # handles of this node and of all below it; not counted on the root


def _encode_namespace(namespace: str) -> bytes:
    return namespace.encode("utf-8", "surrogatepass")


class PrefixMatch(NamedTuple):
    """The longest computed prefix found.

    Args:
        node: its end; the root where nothing was found.
        pages: the tree's pages, in order.
        num_tokens: ``len(pages) * page_size``.
    """

    node: Node
    pages: list[int]
    num_tokens: int


class Inserted(NamedTuple):
    """Where a prefix ended up.

    Args:
        node: its end.
        pages: the tree's own pages for the whole prefix.
        duplicates: given pages in whose place the tree had others; still the caller's, who
            reads ``pages`` from now on and frees these.
    """

    node: Node
    pages: list[int]
    duplicates: list[int]


class RadixTree:
    """Owns the pages of computed prefixes and finds them by token ids.

    Args:
        pool: whose pages these are; evicted ones return there.
        retain: whether prefixes stay once unlocked. False is "prefix cache off": nothing is
            ever matched, a prefix is shared by those who lock it (forks) and its pages are
            freed when the last of them unlocks it.
    """

    def __init__(self, pool: PagePool, *, retain: bool = True) -> None:
        self.pool = pool
        self.retain = retain
        self.num_cached = 0
        """Pages in the tree."""
        self.num_locked = 0
        """Pages in the tree that a lock protects."""
        self._page_bytes = pool.page_size * _TOKEN_BYTES
        self._root = Node(None, b"", b"", [])
        # All nodes without locks, least recently used first. Using a prefix uses all its
        # beginnings, and a node comes before its parent: so the first one is always a leaf.
        self._unlocked: OrderedDict[Node, None] = OrderedDict()

    @property
    def num_evictable(self) -> int:
        """Pages that `evict` could free now: all that no lock protects."""
        return self.num_cached - self.num_locked

    # ------------------------------------------------------------ reading and growing

    def match(self, token_ids: Sequence[int], *, namespace: str = "") -> PrefixMatch:
        """The longest computed prefix, in whole pages. Counts as a use; locks nothing.

        Args:
            token_ids: list, tuple or array (``array('I')`` costs no conversion).
            namespace: prefixes of different namespaces never meet.

        Raises:
            EngineError: a token id that is not an integer in 0..2**32-1.
        Mutates: splits the node in whose middle the prefix ends.
        Cost: O(nodes on the path) in Python; tokens and pages are compared and copied in C.
        """
        if not self.retain:
            return PrefixMatch(self._root, [], 0)
        node, pages = self._descend(self._encode(token_ids), namespace)
        return PrefixMatch(node, pages, len(pages) * self.pool.page_size)

    def insert(
        self, token_ids: Sequence[int], pages: Sequence[int], *, namespace: str = ""
    ) -> Inserted:
        """Hand over the pages of a computed prefix. Counts as a use; locks nothing.

        The tree takes those pages it had no other for. The caller holds the lock of the part
        that came out of the tree, so that its pages cannot have been evicted meanwhile.

        Args:
            token_ids: whole pages of them: ``len(pages) * page_size``.
            pages: where they are computed, the tree's own pages included.

        Raises:
            EngineError: the lengths differ, a new page is not taken in the pool, or a token id
                is not an integer in 0..2**32-1. The tree then holds what it held.
        Cost: as `match`.
        """
        return self._insert(self._root, token_ids, list(pages), namespace)

    def extend(
        self,
        node: Node,
        token_ids: Sequence[int],
        pages: Sequence[int],
        *,
        namespace: str = "",
    ) -> Inserted:
        """`insert` what follows a prefix that the caller has locked, and move that lock to its end.

        Args:
            node: the locked prefix.
            token_ids: those behind it.
            pages: where they are computed; `Inserted.pages` are these too.

        Raises:
            EngineError: as `insert`, or the node is not locked.
        Cost: that of the new part alone, however long the prefix is.
        """
        if node.handles == 0:
            raise EngineError("internal: extension of a prefix that is not locked")
        inserted = self._insert(node, token_ids, list(pages), namespace)
        self._move_lock(node, inserted.node)
        return inserted

    def _insert(
        self, start: Node, token_ids: Sequence[int], given: list[int], namespace: str
    ) -> Inserted:
        if len(token_ids) != len(given) * self.pool.page_size:
            raise EngineError(
                f"internal: {len(token_ids)} token ids on {len(given)} pages "
                f"of {self.pool.page_size}"
            )
        query = self._encode(token_ids)
        node, known = self._descend(query, namespace, start)
        fresh = given[len(known) :]
        duplicates: list[int] = []
        if given[: len(known)] != known:
            duplicates = [own for own, ours in zip(given, known, strict=False) if own != ours]
        if fresh:
            if not self.pool.holds(fresh):
                raise EngineError(f"internal: inserted pages {fresh[:8]} are not all taken")
            tokens = query[len(known) * self._page_bytes :]
            if node is start and self._is_only_callers(node):
                self._prolong(node, tokens, fresh)
            else:
                node = self._grow(node, tokens, fresh, namespace)
        return Inserted(node, known + fresh, duplicates)

    def _is_only_callers(self, node: Node) -> bool:
        """Whether nobody minds if a locked node ends later than it does."""
        return node.handles == 1 and not node.children and 0 < len(node.pages) < _MAX_GROWN

    def _prolong(self, node: Node, tokens: bytes, pages: list[int]) -> None:
        node.tokens += tokens
        node.pages += pages
        node.end += len(pages)
        self.num_cached += len(pages)
        self.num_locked += len(pages)

    def _descend(
        self, query: bytes, namespace: str, start: Node | None = None
    ) -> tuple[Node, list[int]]:
        """Use the longest known prefix: its end, split off where need be, and its pages.

        Args:
            start: where the query begins; None for the root.
        """
        node, at, size = start or self._root, 0, self._page_bytes
        pages: list[int] = []
        prefix = _encode_namespace(namespace) if node is self._root else b""
        while at < len(query):
            child = node.children.get(prefix + query[at : at + size])
            if child is None:
                break
            if not query.startswith(child.tokens, at):
                child = self._split(child, self._common_pages(child.tokens, query, at))
            pages += child.pages
            at += len(child.tokens)
            node, prefix = child, b""
        self._touch(node)
        return node, pages

    def _common_pages(self, tokens: bytes, query: bytes, at: int) -> int:
        """Equal whole pages of an edge and the query from ``at``; the first is known equal."""
        size = self._page_bytes
        low, high = 1, min(len(tokens), len(query) - at) // size
        while low < high:
            middle = (low + high + 1) // 2
            if query.startswith(tokens[low * size : middle * size], at + low * size):
                low = middle
            else:
                high = middle - 1
        return low

    def _split(self, node: Node, num_pages: int) -> Node:
        """Cut an edge after ``num_pages``; returns the new upper node, ``node`` is below it.

        The caller touches the upper node: that gives it its place among the unlocked.
        """
        parent, cut = node.parent, num_pages * self._page_bytes
        assert parent is not None
        upper = Node(parent, node.key, node.tokens[:cut], node.pages[:num_pages])
        upper.end = node.end - len(node.pages) + num_pages
        upper.locks = node.locks
        if not upper.locks:
            self._unlocked[upper] = None
        parent.children[upper.key] = upper
        node.parent = upper
        node.tokens = node.tokens[cut:]
        node.pages = node.pages[num_pages:]
        node.key = node.tokens[: self._page_bytes]
        upper.children[node.key] = node
        return upper

    def _grow(self, parent: Node, tokens: bytes, pages: list[int], namespace: str) -> Node:
        # The page has a fixed length, so namespace + page names one pair only.
        prefix = _encode_namespace(namespace) if parent is self._root else b""
        leaf = Node(parent, prefix + tokens[: self._page_bytes], tokens, pages)
        parent.children[leaf.key] = leaf
        self.num_cached += len(pages)
        self._unlocked[leaf] = None
        self._touch(leaf)
        return leaf

    def _touch(self, node: Node) -> None:
        """Make a prefix the most recently used; what is locked becomes so when it is unlocked."""
        step = node
        while not step.locks and step.parent is not None:
            self._unlocked.move_to_end(step)
            step = step.parent

    def _encode(self, token_ids: Sequence[int]) -> bytes:
        """Whole pages of token ids as bytes."""
        if isinstance(token_ids, (bytes, bytearray)):
            token_ids = tuple(token_ids)  # else `array` takes them for its own memory
        try:
            data = array(_TYPECODE, token_ids).tobytes()
        except (OverflowError, TypeError) as error:
            raise EngineError(
                f"internal: token ids must be integers in 0..2**32-1: {error}"
            ) from error
        return data[: len(data) - len(data) % self._page_bytes]

    # ------------------------------------------------------------ locks

    def lock(self, node: Node) -> None:
        """Protect a prefix from eviction until `unlock` of the same node.

        Raises:
            EngineError: the node was evicted.
        Cost: O(nodes on the path).
        """
        if node.parent is None and node is not self._root:
            raise EngineError("internal: lock of a prefix that was evicted")
        node.handles += 1
        for step in self._path(node):
            if step.locks == 0:
                self.num_locked += len(step.pages)
                del self._unlocked[step]
            step.locks += 1

    def unlock(self, node: Node) -> None:
        """Take back one `lock` of this node. Counts as a use.

        Raises:
            EngineError: the node has no lock.
        Mutates: with ``retain=False`` frees what nobody locks any more.
        Cost: O(nodes on the path).
        """
        if node.handles == 0:
            raise EngineError("internal: unlock of a prefix that is not locked")
        node.handles -= 1
        for step in self._path(node):
            step.locks -= 1
            if step.locks == 0:
                self.num_locked -= len(step.pages)
                self._unlocked[step] = None
        if not self.retain:
            self._drop_upwards(node)

    def _move_lock(self, node: Node, to: Node) -> None:
        """Take a lock of a node as one of a node below it."""
        node.handles -= 1
        to.handles += 1
        step = to
        while step is not node:
            if step.locks == 0:
                self.num_locked += len(step.pages)
                del self._unlocked[step]
            step.locks += 1
            assert step.parent is not None
            step = step.parent

    def _path(self, node: Node) -> Iterator[Node]:
        """The node and all above it but the root, which holds no pages."""
        step = node
        while step.parent is not None:
            yield step
            step = step.parent

    def _drop_upwards(self, node: Node) -> None:
        """Free a leaf without locks, then its parent if that made it one, and so on."""
        freed: list[int] = []
        for step in list(self._path(node)):
            if step.locks or step.children:
                break
            freed += step.pages
            self._remove(step)
        self.pool.free(freed)

    # ------------------------------------------------------------ eviction

    def evict(self, num_pages: int) -> int:
        """Free pages of the least recently used prefixes that no lock protects, ends first.

        Args:
            num_pages: how many; the last leaf may lose only its trailing pages.

        Returns:
            Pages freed; fewer than asked only where nothing evictable is left.
        Cost: O(leaves and pages freed), whatever the size of the tree.
        """
        freed: list[int] = []
        while len(freed) < num_pages and self._unlocked:
            leaf = next(iter(self._unlocked))
            wanted = num_pages - len(freed)
            if len(leaf.pages) <= wanted:
                freed += leaf.pages
                self._remove(leaf)
            else:
                freed += self._trim(leaf, wanted)
        self.pool.free(freed)
        return len(freed)

    def clear(self) -> int:
        """Free all that no lock protects; returns the number of pages. Cost: O(pages)."""
        return self.evict(self.num_evictable)

    def _remove(self, leaf: Node) -> None:
        assert leaf.parent is not None
        del leaf.parent.children[leaf.key]
        del self._unlocked[leaf]
        leaf.parent = None
        self.num_cached -= len(leaf.pages)

    def _trim(self, leaf: Node, num_pages: int) -> list[int]:
        """Cut pages off the end of a leaf, which stays."""
        keep = len(leaf.pages) - num_pages
        pages = leaf.pages[keep:]
        del leaf.pages[keep:]
        leaf.end -= num_pages
        leaf.tokens = leaf.tokens[: keep * self._page_bytes]
        self.num_cached -= num_pages
        return pages

    # ------------------------------------------------------------ invariants

    def check(self) -> None:
        """Verify everything this class promises about itself.

        Raises:
            AssertionError: an invariant does not hold.
        Cost: O(tree); for tests.
        """
        nodes = list(self._nodes())
        for node in nodes:
            self._check_node(node)
        pages = [page for node in nodes for page in node.pages]
        assert len(pages) == len(set(pages)), "a page stands in two places"
        assert self.pool.holds(pages), "a cached page is free in the pool"
        assert self.num_cached == len(pages), f"num_cached={self.num_cached}, is {len(pages)}"
        locked = sum(len(node.pages) for node in nodes if node.locks)
        assert self.num_locked == locked, f"num_locked={self.num_locked}, is {locked}"
        evictable = {node for node in nodes if not node.locks and node is not self._root}
        assert evictable == set(self._unlocked), "not exactly the nodes without locks are in order"
        order = {node: place for place, node in enumerate(self._unlocked)}
        for node in evictable:
            place = order.get(node.parent) if node.parent is not None else None
            assert place is None or place > order[node], "a node goes before its extension"

    def _check_node(self, node: Node) -> None:
        for key, child in node.children.items():
            assert child.parent is node and child.key == key, "a child is hung up wrongly"
            assert key.endswith(child.tokens[: self._page_bytes]), "a key is not the first page"
        if node is self._root:
            return
        below = sum(child.locks for child in node.children.values())
        assert node.locks == node.handles + below, "locks do not add up along a path"
        assert node.pages, "a node without pages"
        assert node.parent is not None and node.end == node.parent.end + len(node.pages), "no end"
        assert len(node.tokens) == len(node.pages) * self._page_bytes, "tokens without pages"

    def _nodes(self) -> Iterator[Node]:
        stack = [self._root]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())
