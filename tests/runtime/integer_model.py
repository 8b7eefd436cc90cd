"""A model in integers: its next token is a hash of the page contents that it really reads.

Any stale, aliased or leaked page changes the text, and equality is exact. The oracle is a pure
function of the token ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sgrt import ops
from sgrt.config import EngineConfig
from sgrt.core import Message, Text
from sgrt.grammar.compiler import GrammarCompiler
from sgrt.grammar.vocabulary import Vocabulary
from sgrt.runtime.assemble import Parts
from sgrt.runtime.model_runner import Batch
from sgrt_kernels.head_sample.reference import sample_logits

NUM_TOKENS = 259
BOS, EOS, END_OF_TURN = 256, 257, 258
PRIME = (1 << 61) - 1


def next_hash(state: int, token_id: int, position: int) -> int:
    """One step of the rolling hash."""
    return (state * 1_000_003 + token_id * 7_919 + position + 1) % PRIME


def hash_tokens(token_ids: Sequence[int]) -> int:
    """What the model sees in a context."""
    state = 0
    for position, token_id in enumerate(token_ids):
        state = next_hash(state, token_id, position)
    return state


def logits_of(state: int) -> np.ndarray:
    """[V] float32, all different, in an order that depends on the hash."""
    order = np.random.default_rng(state).permutation(NUM_TOKENS)
    return (order / NUM_TOKENS * 10).astype(np.float32)


class IntegerRunner:
    """Pages hold (token, position) pairs; hidden states are hashes of what is read from them."""

    vocab_size = NUM_TOKENS

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self.pages = np.full((num_pages, page_size, 2), -1, np.int64)
        self.fail_next: Exception | None = None
        self.num_forwards = 0
        self.on_forward: Any = None

    def forward(self, batch: Batch) -> np.ndarray:
        self.num_forwards += 1
        if self.on_forward is not None:
            self.on_forward(batch)
        if self.fail_next is not None:
            error, self.fail_next = self.fail_next, None
            raise error
        places = self._write(batch)
        hidden = [
            self._read(batch.page_table[b], position)
            for b, position in (places[int(r)] for r in batch.out_rows)
        ]
        return np.array(hidden, np.int64)

    def _write(self, batch: Batch) -> list[tuple[int, int]]:
        """Store all new tokens; returns (sequence, position) of each."""
        places = []
        for b in range(len(batch.context_len)):
            tokens = batch.token_ids[batch.query_start[b] : batch.query_start[b + 1]]
            start = int(batch.context_len[b]) - len(tokens)
            for i, token_id in enumerate(tokens):
                page, slot = divmod(start + i, self.page_size)
                self.pages[batch.page_table[b, page], slot] = token_id, start + i
                places.append((b, start + i))
        return places

    def _read(self, table: np.ndarray, position: int) -> int:
        state = 0
        for p in range(position + 1):
            token_id, written_at = self.pages[table[p // self.page_size], p % self.page_size]
            assert written_at == p, f"position {p} reads what was written for {written_at}"
            state = next_hash(state, int(token_id), p)
        return state

    def sample(self, hidden: np.ndarray, plan: ops.MaskPlan, rows: ops.SamplingRows) -> ops.Drawn:
        logits = torch.from_numpy(np.stack([logits_of(int(h)) for h in hidden]))
        return sample_logits(logits, plan, rows, num_computed=logits.numel())

    def copy_page(self, source: int, target: int) -> None:
        self.pages[target] = self.pages[source]


class ByteTokenizer:
    """One token per byte; implements what the engine uses of `models.tokenizer.Tokenizer`."""

    vocab_size = NUM_TOKENS
    bos_id = BOS
    eos_ids = frozenset({EOS})
    special_ids = frozenset({BOS, EOS, END_OF_TURN})
    fingerprint = "bytes"

    def __init__(self, *, add_bos: bool = False) -> None:
        self.add_bos = add_bos

    def encode(self, text: str, *, special: bool = False, after_id: int | None = None) -> list[int]:
        return list(text.encode())

    def encode_parts(self, parts: Sequence[Text], *, after_id: int | None = None) -> list[int]:
        return [i for part in parts for i in self.encode(part.text)]

    def with_bos(self, ids: Sequence[int]) -> list[int]:
        return [BOS, *ids] if self.add_bos and list(ids[:1]) != [BOS] else list(ids)

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < 256 else b""

    def piece(self, token_id: int) -> str:
        return chr(token_id) if token_id < 256 else f"<{token_id}>"

    def token_table(self) -> list[bytes]:
        return [self.token_bytes(i) for i in range(NUM_TOKENS)]

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")


class PlainTemplate:
    """A chat template for tests."""

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = False
    ) -> tuple[Text, ...]:
        parts = [
            part
            for m in messages
            for part in (Text(f"<{m.role}>", True), Text(m.content), Text("</>", True))
        ]
        return (*parts, Text("<assistant>", True)) if add_generation_prompt else tuple(parts)


def byte_vocabulary() -> Vocabulary:
    tokenizer = ByteTokenizer()
    return Vocabulary(
        tokenizer.token_table(),
        special_ids=tokenizer.special_ids,
        eos_id=EOS,
        encode=tokenizer.encode,
        fingerprint="bytes",
    )


_GRAMMARS = GrammarCompiler(byte_vocabulary())


def integer_parts(
    *, num_pages: int = 256, page_size: int = 4, context_len: int = 512, **options: Any
) -> Parts:
    """Parts of an engine over the integer model."""
    add_bos = options.pop("add_bos", False)
    return Parts(
        "integers",
        EngineConfig(page_size=page_size, **options),
        IntegerRunner(num_pages, page_size),
        ByteTokenizer(add_bos=add_bos),  # type: ignore[arg-type]
        PlainTemplate(),
        _GRAMMARS,
        context_len,
    )


def oracle(
    prompt: Sequence[int], max_tokens: int, constraint: Any = None, *, ignore_eos: bool = False
) -> list[int]:
    """Greedy continuation, from the definition: no pages, no batches, no forced runs."""
    matcher = None if constraint is None else _GRAMMARS.compile(constraint).matcher()
    token_ids = list(prompt)
    while len(token_ids) < len(prompt) + max_tokens:
        if matcher is not None and matcher.is_final:
            break
        logits = logits_of(hash_tokens(token_ids))
        if matcher is not None:
            logits = np.where(_allowed(matcher), logits, -np.inf)
        token_id = int(np.argmax(logits))
        if token_id == EOS and not ignore_eos:
            break
        if matcher is not None:
            matcher.accept([token_id])
        token_ids.append(token_id)
    return token_ids[len(prompt) :]


def _allowed(matcher: Any) -> np.ndarray:
    words = np.zeros(-(-NUM_TOKENS // 32), np.uint32)
    matcher.fill(words)
    allowed = np.unpackbits(words.view(np.uint8), bitorder="little")[:NUM_TOKENS].astype(bool)
    if matcher.is_complete:
        allowed[EOS] = True
    return allowed
