"""A sequence: the engine's side of a session, with one owner for each part of its state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sgrt.runtime.radix_tree import Node


class Sequence:
    """Token ids, the KV pages that hold them, and what is wanted next.

    ====================  ==================  ==========================================
    field                 written by          meaning
    ====================  ==================  ==========================================
    token_ids             engine              all tokens; the truth the text derives from
    target_len            engine              tokens that must be computed for the task
    first_output          engine              first position whose hidden state is needed
    origin                engine              a sequence that this one begins with, or None
    pages                 KVManager           page of tokens [i * S, (i + 1) * S)
    num_shared            KVManager           leading pages that the radix tree owns
    num_computed          KVManager           KV is valid for tokens [0, num_computed)
    node                  KVManager           locked tree node at the end of those pages
    arrival, overtaken    Scheduler           order and aging while it waits
    last_step             Scheduler           step in which it last got tokens computed
    suspended             Scheduler           it keeps its turn, but wants nothing for now
    ====================  ==================  ==========================================

    Invariants: num_shared <= len(pages); num_computed <= len(pages) * S;
    ``token_ids[:num_computed]`` never changes without `KVManager.truncate`.
    """

    __slots__ = (
        "arrival",
        "first_output",
        "group",
        "last_step",
        "namespace",
        "node",
        "num_computed",
        "num_shared",
        "origin",
        "overtaken",
        "pages",
        "priority",
        "suspended",
        "target_len",
        "token_ids",
    )

    def __init__(
        self,
        token_ids: list[int] | None = None,
        *,
        group: int = 0,
        priority: int = 0,
        namespace: str = "",
    ) -> None:
        self.token_ids: list[int] = token_ids if token_ids is not None else []
        self.target_len = len(self.token_ids)
        self.first_output = max(0, self.target_len - 1)
        self.origin: Sequence | None = None
        self.pages: list[int] = []
        self.num_shared = 0
        self.num_computed = 0
        self.node: Node | None = None
        self.group = group
        self.priority = priority
        self.namespace = namespace
        self.arrival = 0
        self.overtaken = 0
        self.last_step = 0
        self.suspended = False

    @property
    def todo(self) -> int:
        """Tokens still to compute before the task gets its output."""
        return self.target_len - self.num_computed

    def want_states(self, start: int) -> None:
        """Ask for the hidden states of tokens [start, len)."""
        self.target_len = len(self.token_ids)
        self.first_output = start


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens [start, end) of a sequence, to be computed in one step."""

    seq: Sequence
    start: int
    end: int

    @property
    def output_positions(self) -> range:
        """Positions of this chunk whose hidden states are wanted."""
        return range(max(self.start, self.seq.first_output), self.end)
