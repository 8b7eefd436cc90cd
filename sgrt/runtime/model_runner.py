"""One step of work, as arrays, and the model that computes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from sgrt import ops
from sgrt.runtime.sequence import Work


@dataclass(frozen=True)
class Batch:
    """Prefill chunks and decode rows of one step, flat. All int32.

    Args:
        token_ids: [T].
        query_start: [B + 1]; tokens of sequence b are ``query_start[b]:query_start[b + 1]``.
        context_len: [B], tokens of each sequence whose KV is valid after this step.
        page_table: [B, Pmax], padded with 0.
        out_rows: [R], indices into T of the tokens whose hidden state is wanted.
    """

    token_ids: NDArray[np.int32]
    query_start: NDArray[np.int32]
    context_len: NDArray[np.int32]
    page_table: NDArray[np.int32]
    out_rows: NDArray[np.int32]

    @classmethod
    def build(cls, works: Sequence[Work], page_size: int) -> Batch:
        token_ids: list[int] = []
        query_start, out_rows = [0], []
        num_pages = [-(-w.end // page_size) for w in works]
        page_table = np.zeros((len(works), max(num_pages)), np.int32)
        for b, work in enumerate(works):
            offset = len(token_ids) - work.start
            out_rows += [offset + position for position in work.output_positions]
            token_ids += work.seq.token_ids[work.start : work.end]
            query_start.append(len(token_ids))
            page_table[b, : num_pages[b]] = work.seq.pages[: num_pages[b]]
        return cls(
            np.array(token_ids, np.int32),
            np.array(query_start, np.int32),
            np.array([w.end for w in works], np.int32),
            page_table,
            np.array(out_rows, np.int32),
        )


class Runner(Protocol):
    """What the engine needs of a model: pages in, hidden states out, tokens drawn from them."""

    vocab_size: int
    page_size: int
    num_pages: int

    def forward(self, batch: Batch) -> Any:
        """Write the KV of all tokens; return the hidden states of ``out_rows`` (opaque)."""

    def sample(self, hidden: Any, plan: ops.MaskPlan, rows: ops.SamplingRows) -> ops.Drawn:
        """One token per row."""

    def copy_page(self, source: int, target: int) -> None:
        """Copy a page in every KV group."""


class Decoder(Protocol):
    """A stack of layers over paged KV: native, torch, or a fake."""

    def forward(self, batch: ops.DecoderBatch, kv: ops.PagedKV) -> torch.Tensor:
        """Hidden states [R, D] float32 of the rows wanted, after the last norm."""


@dataclass(frozen=True)
class KVGroup:
    """Storage of the layers that cache alike, indexed by page number.

    Args:
        name: "full" holds keys and values of every position.
        storage: the pages.
    """

    name: str
    storage: ops.PagedKV


class ModelRunner:
    """A decoder, its head, and the KV pages of its groups.

    Args:
        decoder: computes hidden states.
        head: draws from them.
        groups: all groups share one page numbering; Llama-like models have the group "full".
    """

    def __init__(self, decoder: Decoder, head: ops.Head, groups: Sequence[KVGroup]) -> None:
        self.decoder = decoder
        self.head = head
        self.groups = tuple(groups)
        storage = self.groups[0].storage
        self.num_pages = storage.num_pages
        self.page_size = storage.page_size
        self.vocab_size = head.vocab_size

    def forward(self, batch: Batch) -> torch.Tensor:  # [R, D] float32
        tensors = {f.name: torch.from_numpy(getattr(batch, f.name)) for f in fields(batch)}
        return self.decoder.forward(ops.DecoderBatch(**tensors), self.groups[0].storage)

    def sample(self, hidden: torch.Tensor, plan: ops.MaskPlan, rows: ops.SamplingRows) -> ops.Drawn:
        return ops.head_sample(hidden, self.head, plan, rows)

    def copy_page(self, source: int, target: int) -> None:
        for group in self.groups:
            group.storage.copy_page(source, target)
