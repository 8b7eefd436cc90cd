"""The one protocol between constraints and the runtime."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Matcher(Protocol):
    """A constraint at one place of one text. W = ceil(V / 32) words of mask.

    A matcher never sees the end-of-text token: the runtime allows it exactly where
    `is_complete`, and ends the generation by itself where `is_final`.

    Architecture invariant: no caller knows which library stands behind a matcher.
    """

    def fill(self, row: NDArray[np.uint32]) -> None:
        """Write the mask of the next token: bit ``i % 32`` of word ``i // 32`` is token i.

        Args:
            row: [W] uint32, C-contiguous, overwritten. Bits at and above V are 0. Bits of
                special tokens, end of text among them, are 0. Where only one text can follow,
                the mask may hold just the token that the tokenizer would write there.

        Raises:
            GrammarBudgetExceeded: the mask took too long; the matcher cannot be used again.

        Cost: microseconds; releases the GIL.
        """

    def allowed(self) -> Sequence[int] | NDArray[np.int32] | None:
        """The allowed token ids, ascending, where they are few and known without a mask
        (tables and tries); None means "ask `fill`". Not to be changed."""

    @property
    def place(self) -> Hashable | None:
        """Where the text stands, where that is known: at equal places the same can follow. Asked
        by one thread at a time."""

    def accept(self, token_ids: Sequence[int]) -> None:
        """Move over tokens that the masks allowed.

        Raises:
            ConstraintError: a token is not allowed here; the matcher is as it was before.
        """

    def rollback(self, num_tokens: int) -> None:
        """Undo the last ``num_tokens`` accepted tokens."""

    def forced(self) -> list[int]:
        """Tokens of the one text that can follow, as far as they are certain.

        Exactly the tokens that tokenizing the whole text would give, given the token boundary
        that stands here; so never a token that could merge with what comes after the forced
        text. [] where there is a choice.
        """

    def guess(self) -> list[int]:
        """Tokens that are likely to come next where `forced` tells nothing; [] where none are.

        Those of the one text that can follow, where only some of what may come behind it would
        change them. All are allowed, one after the other.
        """

    @property
    def is_complete(self) -> bool:
        """Whether the text so far satisfies the constraint."""

    @property
    def is_final(self) -> bool:
        """Whether it is complete and nothing can follow."""

    def fork(self) -> Matcher:
        """An independent copy."""

    def completes(self, token_ids: Sequence[int]) -> bool:
        """Whether these tokens are allowed here and complete the text. Changes nothing.

        Cost: microseconds; no mask.
        """

    def shortest_completion(self, *, thorough: bool = True) -> list[int] | None:
        """Tokens that complete the text, few of them; [] where it is complete.

        For automata and tries as few as there are. Elsewhere found by a bounded search, which
        may miss shorter ones; what it returns always completes the text. The same text gives
        the same tokens.

        Args:
            thorough: False takes the first completion found.

        Returns:
            None where the search found none within its fuel.

        Cost: some 10 ms, and 10 µs per byte of the text since the last call; not thorough:
            some 25 µs per byte of the completion. 0.1 s in grammars of mostly free text.
        """

    def explain(self, token_id: int) -> str | None:
        """Why a token is not allowed here, and what is; None where `accept` would take it.

        Cost: as `shortest_completion` for the text; for people, not for each step.
        """


class Grammar(Protocol):
    """A compiled constraint: immutable, shared by any number of matchers."""

    def matcher(self) -> Matcher:
        """A matcher at the start of the text."""
