"""What a sequence is asked to do, one task at a time.

A task says which hidden states it wants, turns them into sampling rows, and takes the tokens
that were drawn. It knows its sequence, its grammar and its text; it knows nothing of pages and
steps. Tasks run on the engine's loop thread only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np

from sgrt import ops
from sgrt.core import (
    FinishReason,
    Generate,
    GenerateResult,
    Generation,
    TokenEvent,
    TokenLogprob,
    Usage,
)
from sgrt.errors import ConstraintError, InvalidSamplingParams, RequestError, SgrtError
from sgrt.grammar import stopping
from sgrt.grammar.closing import Closing
from sgrt.grammar.matcher import Grammar, Matcher
from sgrt.runtime.detokenizer import Detokenizer
from sgrt.runtime.masking import LateMask, ReadyMask, Row, fill_one
from sgrt.runtime.sampler import Token
from sgrt.runtime.sequence import Sequence
from sgrt.runtime.trie import Branch

MIN_DRAFT_SCORE = -2
"""Below that, what the model writes is not what is computed ahead: no more of it."""

_SLOW = 2
"""After so many late masks, those of a sequence are filled before its steps, not beside them."""


class Vocabulary(Protocol):
    """What tasks need of a tokenizer."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def eos_ids(self) -> frozenset[int]: ...

    def token_bytes(self, token_id: int) -> bytes: ...

    def encode(self, text: str, *, after_id: int | None = None) -> list[int]: ...


@dataclass(slots=True)
class Counts:
    """Tokens of one task, filled in while it runs."""

    prompt: int = 0
    cached: int = -1  # not known before the first step
    forced: int = 0
    sampled: int = 0

    def usage(self) -> Usage:
        return Usage(self.prompt, max(0, self.cached), self.forced, self.sampled)


class GenerateTask:
    """One generation: draws tokens until something ends it.

    The order of endings, after each token: stop string, complete constraint, max_tokens,
    context. End-of-text and stop tokens end it without joining the text. Asked to close, it ends
    with the shortest completion as soon as what was drawn leaves no room for one.

    Args:
        request: as the user gave it; its seed is set.
        handle: where events and the result go.
        grammar: of its constraint; None generates freely.
        limit: most tokens the sequence may have (context and KV pool).
        forced_runs: whether text without choice is appended unsampled, and computed ahead where
            its tokens are not certain.
    """

    def __init__(
        self,
        request: Generate,
        handle: Generation,
        vocabulary: Vocabulary,
        *,
        seed: int,
        grammar: Grammar | None,
        limit: int,
        forced_runs: bool,
    ) -> None:
        self.params = params = request.params
        self.handle = handle
        self.matcher = None if grammar is None else grammar.matcher()
        self._grammar = grammar
        to_close = None if params.finish == "cut" else self.matcher
        self._closing = None if to_close is None else Closing(to_close)
        self.counts = Counts()
        self._vocabulary = vocabulary
        self._seed = seed
        self._limit = limit
        # An unmasked log-probability needs the head, so those tokens cannot be skipped.
        unmasked = params.logprobs is not None and params.logprobs_mode == "unmasked"
        self._forced_runs = forced_runs and not unmasked
        patterns = [stopping.compile(source) for source in request.stop_regex]
        self._detokenizer = Detokenizer(vocabulary.token_bytes, params.stop, patterns)
        eos = frozenset() if params.ignore_eos else vocabulary.eos_ids
        self._end_ids = eos | frozenset(params.stop_token_ids)
        self._logprobs: list[TokenLogprob] = []
        self._output: list[int] = []
        self._last_prompt_id: int | None = None
        self._mask: ReadyMask | None = None  # of the next token, where it took too long
        self._ahead: list[Matcher] = []  # behind each token of the last draft
        self._draft: tuple[int, list[int]] = (0, [])  # where in the output it begins
        self._draft_score = 0  # right ones less wrong ones
        self._num_late = 0
        self._prompt_counts: Counter[int] = Counter()
        self._output_counts: Counter[int] = Counter()
        self._penalised = (
            params.repetition_penalty != 1 or params.presence_penalty or params.frequency_penalty
        )
        self._row = ops.SamplingRow(
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            min_p=params.min_p,
            seed=seed,
            repetition=params.repetition_penalty,
            presence=params.presence_penalty,
            frequency=params.frequency_penalty,
            bias=params.logit_bias,
            num_top=-1 if params.logprobs is None else params.logprobs,
            unmasked=unmasked,
        )

    # -- start

    def begin(self, token_ids: list[int]) -> None:
        """Look at the prompt.

        Raises:
            RequestError: there is nothing to continue, a parameter names a token that the
                vocabulary does not have, or the shortest text does not fit (finish="close").
        """
        self.counts.prompt = len(token_ids)
        if not token_ids:
            raise RequestError("nothing to continue: the sequence is empty and has no BOS token")
        size = self._vocabulary.vocab_size
        for name in ("logit_bias", "stop_token_ids"):
            missing = [i for i in getattr(self.params, name) if i >= size]
            if missing:
                raise InvalidSamplingParams(name, missing[0], f"the vocabulary has {size} tokens")
        if self._closing is not None:
            self._closing.check_room(self._room())
        self._last_prompt_id = token_ids[-1]
        if self._penalised:
            self._prompt_counts.update(token_ids)

    def opening(self) -> Step:
        """Append what can be appended before the model is asked at all."""
        if self.params.max_tokens == 0:
            return Ending("length")
        return self._append_forced()

    # -- a step

    def row(self, seq: Sequence, position: int) -> Row:
        """How a token is drawn; it will stand at ``position``, behind what was drawn or, further
        on, behind tokens of the last draft."""
        ahead = position - self.next_position
        matcher = self._ahead[ahead - 1] if ahead else self.matcher
        num_tokens = len(self._output) + ahead
        changes: dict[str, object] = {"position": position}
        if self._penalised:
            changes["history"] = self._history()
        if num_tokens < self.params.min_tokens:
            changes["banned"] = sorted(self._end_ids)
        may_end = num_tokens >= self.params.min_tokens and matcher and matcher.is_complete
        end_ids = self._end_ids if may_end else frozenset[int]()
        mask = matcher if ahead else self._mask or matcher
        return Row(seq, position, _replace(self._row, changes), mask, end_ids)

    @property
    def next_position(self) -> int:
        """Where in the sequence the next token will stand."""
        return self.counts.prompt + len(self._output)

    def draft(self) -> list[int]:
        """Tokens that are likely to be drawn next. Computed along with the last token, they save
        a step where they are drawn; what is drawn does not depend on them."""
        self._score_draft()
        if self.matcher is None or not self._forced_runs or self._penalised or self._num_late:
            return []
        if self._draft_score < MIN_DRAFT_SCORE:
            return []
        matcher, ids = self.matcher, self.matcher.guess()[: self._room() - 1]
        self._draft = len(self._output), ids
        for token_id in ids:
            matcher = matcher.fork()
            matcher.accept([token_id])
            self._ahead.append(matcher)
        return ids

    def _score_draft(self) -> None:
        start, ids = self._draft
        if ids:
            is_right = self._output[start : start + len(ids)] == ids
            self._draft_score += 1 if is_right else -1
        self._ahead, self._draft = [], (0, [])

    def _history(self) -> Mapping[int, tuple[int, int]]:
        seen = self._prompt_counts.keys() | self._output_counts.keys()
        return {i: (self._prompt_counts[i], self._output_counts[i]) for i in seen}

    def take(self, token_id: int, logprob: TokenLogprob | None) -> Step:
        """Take a drawn token, and the run it forces.

        Raises:
            ConstraintError: the grammar gave up.
        """
        self.counts.sampled += 1
        self._mask = None
        if token_id in self._end_ids:
            stop = token_id if token_id in self.params.stop_token_ids else None
            return Ending("stop", stop, token_id)
        return self._accept((token_id,), partial(self._took, token_id, logprob))

    def _took(self, token_id: int, logprob: TokenLogprob | None) -> Step:
        if logprob is not None:
            self._logprobs.append(logprob)
        ending = self._append((token_id,), () if logprob is None else (logprob,))
        return ending or self._append_forced()

    def _append_forced(self) -> Step:
        if self.matcher is None or not self._forced_runs:
            return self._took_forced(())
        if self._num_late >= _SLOW:
            return Search(self.matcher.forced, self._found_forced)
        return self._found_forced(self.matcher.forced())

    def _found_forced(self, run: Seq[int]) -> Step:
        run = run[: self._room()]
        return self._accept(run, partial(self._took_forced, run)) if run else self._took_forced(())

    def _took_forced(self, run: Seq[int]) -> Step:
        ending = self._append_unsampled(run) if run else None
        if ending or self.matcher is None:
            return ending
        if self._num_late >= _SLOW:
            return Search(self._look_ahead, self._looked_ahead)
        if self.matcher.is_final:
            return Ending("stop")
        return None if self._room() > 0 else Ending("length")

    def await_mask(self, mask: LateMask) -> Search:
        """The mask of the next token was not there in time."""
        self._num_late += 1
        return Search(mask.ready, self._looked_ahead)

    def _look_ahead(self) -> ReadyMask | None:
        """The next token's mask, or None where nothing can follow."""
        assert self.matcher is not None
        if self.matcher.is_final:
            return None
        words = np.zeros((self._vocabulary.vocab_size + 31) // 32, np.uint32)
        fill_one(self.matcher, words)
        return ReadyMask(words)

    def _looked_ahead(self, mask: ReadyMask | None) -> Step:
        if mask is None:
            return Ending("stop")
        self._mask = mask
        return None if self._room() > 0 else Ending("length")

    def _accept(self, run: Seq[int], then: Callable[[], Step]) -> Step:
        """Move the matcher over tokens and go on; where no completion fits behind them, close."""
        if self.matcher is None:
            return then()
        self.matcher.accept(run)
        room = self._room() - len(run)
        if self._closing is None or self._closing.try_follow(run, room):
            return then()
        return Search(partial(self._closing.search, room), partial(self._searched, len(run), then))

    def _searched(self, num_tokens: int, then: Callable[[], Step], found: bool) -> Step:
        if found:
            return then()
        assert self.matcher is not None
        self.matcher.rollback(num_tokens)
        return self._close()

    def _close(self) -> Ending:
        """Complete the text with the tokens that were kept for that."""
        assert self.matcher is not None and self._closing is not None
        run = self._closing.completion
        self.matcher.accept(run)
        ending = self._append_unsampled(run) if run else None
        return ending or Ending("length")

    def _append_unsampled(self, run: Seq[int]) -> Ending | None:
        logprobs: tuple[TokenLogprob, ...] = ()
        if self.params.logprobs is not None:
            logprobs = tuple(TokenLogprob(i, 0.0, ((i, 0.0),)) for i in run)
            self._logprobs += logprobs
        self.counts.forced += len(run)
        return self._append(run, logprobs, forced=True)

    def _room(self) -> int:
        """Tokens that may still be appended."""
        used = self.counts.prompt + len(self._output)
        return min(self.params.max_tokens - len(self._output), self._limit - used)

    def _append(
        self, run: Seq[int], logprobs: tuple[TokenLogprob, ...], *, forced: bool = False
    ) -> Ending | None:
        self._output += run
        if self._penalised:
            self._output_counts.update(run)
        delta = self._detokenizer.push(run)
        self.handle.push(TokenEvent(tuple(run), delta, forced, logprobs))
        if self._detokenizer.match is not None:
            return Ending("stop", self._detokenizer.match.stop)
        if self.matcher is None and self._room() <= 0:
            return Ending("length")
        return None

    # -- end

    @property
    def output(self) -> Seq[int]:
        """Tokens appended so far, those of a stop string included."""
        return self._output

    def kept_tokens(self) -> tuple[int, list[int]]:
        """What stays in the sequence once it has ended.

        Returns:
            How many of the output tokens stay, and the tokens that follow them. Where a stop
            string ends inside a token, the text before it is tokenized on its own.
        """
        match = self._detokenizer.match
        if match is None or not match.rest:
            return (len(self._output) if match is None else match.num_tokens), []
        before = self._output[match.num_tokens - 1] if match.num_tokens else self._last_prompt_id
        return match.num_tokens, self._vocabulary.encode(match.rest, after_id=before)

    def result(self, ending: Ending, token_ids: tuple[int, ...]) -> GenerateResult:
        """The result, after the last held-back text has been released."""
        rest = self._detokenizer.finish()
        if rest:
            self.handle.push(TokenEvent((), rest))
        text = self._detokenizer.text
        num_kept, _ = self.kept_tokens()
        logprobs = None if self.params.logprobs is None else tuple(self._logprobs[:num_kept])
        return GenerateResult(
            text,
            token_ids,
            ending.reason,
            self.counts.usage(),
            ending.stop,
            logprobs,
            is_complete=self._is_complete(text),
            end_id=ending.token_id,
        )

    def _is_complete(self, text: str) -> bool:
        """Whether the text satisfies the constraint."""
        if self.matcher is None or self._grammar is None:
            return True
        if self._detokenizer.match is None:
            return self.matcher.is_complete
        cut = self._grammar.matcher()  # a stop string took away some of what was matched
        try:
            cut.accept(self._vocabulary.encode(text, after_id=self._last_prompt_id))
        except ConstraintError:
            return False
        return cut.is_complete


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a generation ends."""

    reason: FinishReason
    stop: str | int | None = None
    token_id: int | None = None


@dataclass(frozen=True, slots=True)
class Search:
    """A generation cannot go on before something slow is known.

    Args:
        run: finds it out, on a thread of its choice; nobody touches the task meanwhile.
        then: takes what ``run`` returned, back on the loop.
    """

    run: Callable[[], Any]
    then: Callable[[Any], Step]


Step: TypeAlias = Ending | Search | None
"""What becomes of a generation: it ends, it waits, or it asks for the next token."""


def _replace(row: ops.SamplingRow, changes: dict[str, object]) -> ops.SamplingRow:
    """`dataclasses.replace` without its checks, which cost more than the step's bookkeeping."""
    copy = object.__new__(ops.SamplingRow)
    copy.__dict__.update(row.__dict__)
    copy.__dict__.update(changes)
    return copy


@dataclass(eq=False)
class BranchTask:
    """Asks for what follows each node of a branch.

    Args:
        branch: whose nodes are filled in.
        start: where the token of its first node stands in the sequence.
        done: called once, with the error that prevents it or with None when all are known.
    """

    branch: Branch
    start: int
    done: Callable[[SgrtError | None], None]
    counts: Counts = field(default_factory=Counts)
    num_filled: int = 0

    def row(self, seq: Sequence, position: int) -> Row:
        """Ask for the log-probabilities of all tokens that may stand at ``position``."""
        targets = self.branch.nodes[position - 1 - self.start].targets
        return Row(seq, position, ops.SamplingRow(targets=targets, unmasked=True))

    def take(self, position: int, token: Token) -> bool:
        """Take those log-probabilities; returns whether they were the last."""
        self.branch.nodes[position - 1 - self.start].fill(token.targets)
        self.num_filled += 1
        return self.num_filled == len(self.branch.nodes)


@dataclass(eq=False)
class TextTask:
    """Asks how likely the tokens of a text were, and what else could have stood there.

    Args:
        start: position of the first token that is asked for, 1 or more.
        end: position behind the last one.
        num_top: how many of the likeliest tokens to tell beside each.
        done: as for `BranchTask`.
    """

    start: int
    end: int
    num_top: int
    done: Callable[[SgrtError | None], None]
    counts: Counts = field(default_factory=Counts)
    found: dict[int, TokenLogprob] = field(default_factory=dict)

    def row(self, seq: Sequence, position: int) -> Row:
        """Ask for the token that stands at ``position``."""
        sampling = ops.SamplingRow(
            targets=(seq.token_ids[position],), num_top=self.num_top, unmasked=True
        )
        return Row(seq, position, sampling)

    def take(self, position: int, token: Token) -> bool:
        """Take its log-probability; returns whether it was the last."""
        self.found[position] = TokenLogprob(-1, token.targets[0], token.top)
        return len(self.found) == self.end - self.start

    def result(self, token_ids: Seq[int]) -> tuple[TokenLogprob, ...]:
        """All of them in order, once they are known; ``token_ids`` are those asked for."""
        found = (self.found[position] for position in range(self.start, self.end))
        return tuple(
            TokenLogprob(i, one.logprob, one.top) for i, one in zip(token_ids, found, strict=True)
        )
