"""Options as a trie: what they share is computed once.

The log-probability of a token is asked of the state *before* it, so an option's last token is
never computed: the nodes that need the model are those that something follows. They are cut into
*branches*, runs of tokens without a fork among such nodes, each of which is one chunk of work.

Architecture invariant: integers only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


class Node:
    """What has been read of some options, and what comes next in them.

    Args:
        next: the node behind each token that follows here.
        logprobs: of those tokens; empty before `fill`.
    """

    __slots__ = ("logprobs", "next")

    def __init__(self) -> None:
        self.next: dict[int, Node] = {}
        self.logprobs: dict[int, float] = {}

    @property
    def targets(self) -> tuple[int, ...]:
        """The tokens that follow here, ascending."""
        return tuple(sorted(self.next))

    def fill(self, logprobs: Sequence[float]) -> None:
        """Give the tokens that follow their log-probabilities, in the order of `targets`."""
        self.logprobs = dict(zip(self.targets, logprobs, strict=True))


@dataclass(eq=False)
class Branch:
    """Tokens computed together.

    Args:
        token_ids: the run; empty for the root, which stands for the text before the options.
        nodes: the node behind each token of the run; for the root its own node.
        children: the branches that begin where the run ends.
    """

    token_ids: tuple[int, ...]
    nodes: tuple[Node, ...]
    children: list[Branch] = field(default_factory=list)


class Trie:
    """Options by their common beginnings.

    Args:
        options: token ids, none empty; the same ones may be given again.

    Cost: O(tokens).
    """

    def __init__(self, options: Iterable[Sequence[int]]) -> None:
        node = Node()
        self.root = Branch((), (node,))
        for option in options:
            at = node
            for token_id in option:
                at = at.next.setdefault(token_id, Node())
        ends = [self.root]
        while ends:
            branch = ends.pop()
            branch.children = [_run(i, n) for i, n in branch.nodes[-1].next.items() if n.next]
            ends += branch.children

    def logprobs(self, option: Sequence[int]) -> tuple[float, ...]:
        """Of each token of an option, once its nodes have been filled in."""
        node, found = self.root.nodes[0], []
        for token_id in option:
            found.append(node.logprobs[token_id])
            node = node.next[token_id]
        return tuple(found)


def _run(token_id: int, node: Node) -> Branch:
    """The branch that begins with this token, up to where more than one way needs the model."""
    token_ids, nodes = [token_id], [node]
    while len(ways := [(i, n) for i, n in nodes[-1].next.items() if n.next]) == 1:
        token_ids.append(ways[0][0])
        nodes.append(ways[0][1])
    return Branch(tuple(token_ids), tuple(nodes))
