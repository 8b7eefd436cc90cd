"""What a program and a backend say to each other.

A *backend* owns a model. It opens *sessions*; a session is one growing sequence of tokens that
is extended with text, continued by the model, scored against options, and forked. Everything a
session is asked to do is queued and answered through a handle, so a program never waits unless
it reads a value.

Architecture invariant: this module imports nothing of sgrt but `errors`, `constraints`, `handles`
and `json_events`; both sides import it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

from sgrt.constraints import AnyText as AnyText
from sgrt.constraints import Choices as Choices
from sgrt.constraints import Constraint as Constraint
from sgrt.constraints import Ebnf as Ebnf
from sgrt.constraints import JsonSchema as JsonSchema
from sgrt.constraints import Lark as Lark
from sgrt.constraints import OneOf as OneOf
from sgrt.constraints import Regex as Regex
from sgrt.constraints import RepeatOf as RepeatOf
from sgrt.constraints import Separators as Separators
from sgrt.constraints import SequenceOf as SequenceOf
from sgrt.constraints import StructuralFormat as StructuralFormat
from sgrt.constraints import StructuralTag as StructuralTag
from sgrt.constraints import Structure as Structure
from sgrt.constraints import Substring as Substring
from sgrt.errors import Cancelled, InvalidSamplingParams, RequestError, SgrtError
from sgrt.handles import Handle as Handle
from sgrt.handles import TokenEvent as TokenEvent
from sgrt.handles import TokenLogprob as TokenLogprob
from sgrt.json_events import JsonReader as JsonReader
from sgrt.json_events import ValueEvent as ValueEvent

FinishReason = Literal["stop", "length"]
"""``stop``: a stop string or token, end of text, or a constraint that is complete.
``length``: max_tokens or the context ran out first."""


# ---------------------------------------------------------------- what the user asks for


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How tokens are drawn.

    The processors apply in this order: penalties, logit bias, the constraint's mask,
    temperature, top-k, top-p (over what top-k kept), min-p (relative to the best token).

    Args:
        max_tokens: most tokens to produce, forced ones included. 0 produces none.
        min_tokens: end of text and stop tokens are not drawn before this many tokens.
        temperature: 0 takes the most likely token; ties go to the lowest id.
        top_k: keep the k most likely tokens; 0 or -1 keeps all.
        top_p: keep the smallest set of most likely tokens whose mass reaches p.
        min_p: keep tokens at least this fraction as likely as the best one.
        repetition_penalty: divides positive and multiplies negative logits of seen tokens
            (prompt and output); 1 is none. Source: CTRL, arXiv 1909.05858.
        presence_penalty: subtracted once from the logit of each token already produced.
        frequency_penalty: subtracted once per earlier production of the token.
        logit_bias: added to the logits of these token ids.
        seed: key of the random numbers; None takes one from the engine's own generator.
        stop: strings that end the text; not included in the result.
        stop_token_ids: tokens that end the text, besides the model's own.
        ignore_eos: go on after the model's end-of-text token.
        logprobs: None for none, else how many alternatives to report beside the token taken.
        logprobs_mode: "masked" normalises over the allowed tokens, "unmasked" over all.
            Both are taken from the model's own logits, before penalties and temperature.
        finish: what becomes of a constrained text that does not end by itself in time. "cut"
            leaves it unfinished where max_tokens or the context ends. "close" ends it with its
            shortest completion before that, so that it satisfies the constraint; a request for
            which even the shortest text found is too long is refused. Either way finish_reason is
            "length". Text without a constraint is always complete. A stop string still cuts.

    Raises:
        InvalidSamplingParams: a value outside its range.
    """

    max_tokens: int = 128
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    logprobs_mode: Literal["masked", "unmasked"] = "masked"
    finish: Literal["cut", "close"] = "cut"

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        for name in ("stop", "stop_token_ids"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, rule, holds in _RULES:
            value = getattr(self, name)
            if not holds(value):
                raise InvalidSamplingParams(name, value, rule)
        if self.min_tokens > self.max_tokens:
            raise InvalidSamplingParams(
                "min_tokens", self.min_tokens, f"must not exceed max_tokens={self.max_tokens}"
            )
        scored = self.logprobs is not None and self.logprobs_mode == "unmasked"
        if self.finish == "close" and scored:
            raise InvalidSamplingParams(
                "finish", self.finish, "cannot give the unmasked logprobs of tokens it appends"
            )

    def override(self, **changes: Any) -> SamplingParams:
        """A copy with these fields changed; None leaves a field as it is."""
        return replace(self, **{k: v for k, v in changes.items() if v is not None})


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_real(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


_RULES: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    ("max_tokens", "must be an integer >= 0", lambda v: _is_int(v) and v >= 0),
    ("min_tokens", "must be an integer >= 0", lambda v: _is_int(v) and v >= 0),
    ("temperature", "must be a number in 0..100", lambda v: _is_real(v) and 0 <= v <= 100),
    (
        "top_k",
        "must be an integer in 1..2**31-1, or 0 or -1 for no limit",
        lambda v: _is_int(v) and -1 <= v < 1 << 31,
    ),
    ("top_p", "must be a number in 1e-9..1", lambda v: _is_real(v) and 1e-9 <= v <= 1),
    ("min_p", "must be a number in [0, 1]", lambda v: _is_real(v) and 0 <= v <= 1),
    (
        "repetition_penalty",
        "must be a number in 0.01..10",
        lambda v: _is_real(v) and 0.01 <= v <= 10,
    ),
    ("presence_penalty", "must be a number in -2..2", lambda v: _is_real(v) and -2 <= v <= 2),
    ("frequency_penalty", "must be a number in -2..2", lambda v: _is_real(v) and -2 <= v <= 2),
    (
        "logit_bias",
        "must map token ids to numbers in -100..100",
        lambda v: (
            isinstance(v, Mapping)
            and all(
                _is_int(k) and k >= 0 and _is_real(b) and -100 <= b <= 100 for k, b in v.items()
            )
        ),
    ),
    (
        "seed",
        "must be an integer in 0..2**64-1",
        lambda v: v is None or (_is_int(v) and 0 <= v < 1 << 64),
    ),
    (
        "stop",
        "must be non-empty strings",
        lambda v: isinstance(v, tuple) and all(isinstance(s, str) and s for s in v),
    ),
    (
        "stop_token_ids",
        "must be token ids",
        lambda v: isinstance(v, tuple) and all(_is_int(i) and i >= 0 for i in v),
    ),
    ("ignore_eos", "must be true or false", lambda v: isinstance(v, bool)),
    (
        "logprobs",
        "must be an integer in 0..100",
        lambda v: v is None or (_is_int(v) and 0 <= v <= 100),
    ),
    ("logprobs_mode", "must be 'masked' or 'unmasked'", lambda v: v in ("masked", "unmasked")),
    ("finish", "must be 'cut' or 'close'", lambda v: v in ("cut", "close")),
)


@dataclass(frozen=True)
class Text:
    """Text to append.

    Args:
        special: whether the spelling of a special token means that token (chat templates)
            or is plain text (everything a user typed).
    """

    text: str
    special: bool = False


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Let the model continue.

    Args:
        deadline_s: seconds from submission after which it fails with `DeadlineExceeded`.
        stop_regex: patterns; the text ends before the first match that is complete
            (`sgrt.grammar.stopping`). The embedded engine knows them, other backends refuse them.
    """

    params: SamplingParams = field(default_factory=SamplingParams)
    constraint: Constraint | None = None
    deadline_s: float | None = None
    stop_regex: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_deadline(self.deadline_s)


def check_deadline(deadline_s: float | None) -> None:
    """Refuse what is no deadline.

    Raises:
        InvalidSamplingParams: not None and not a number of seconds > 0.
    """
    if deadline_s is not None and not (_is_real(deadline_s) and deadline_s > 0):
        raise InvalidSamplingParams("deadline_s", deadline_s, "must be a number of seconds > 0")


def check_options(options: Sequence[str]) -> None:
    """Refuse what cannot be scored.

    Raises:
        RequestError: there is no option, or one is empty or not a text.
    """
    if not options or not all(isinstance(option, str) and option for option in options):
        raise RequestError(f"options must be non-empty strings, got {list(options)!r:.200}")


Segment = Sequence[Text | Generate]
"""A run of text and constrained gens with no decision between them; the engine takes it whole."""


# ---------------------------------------------------------------- what comes back


@dataclass(frozen=True)
class Usage:
    """Tokens by what they cost.

    ``prompt`` tokens stood before the generation began, ``cached`` of them were found computed;
    ``forced`` tokens were appended without sampling, ``sampled`` were drawn.
    """

    prompt: int = 0
    cached: int = 0
    forced: int = 0
    sampled: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt + other.prompt,
            self.cached + other.cached,
            self.forced + other.forced,
            self.sampled + other.sampled,
        )


@dataclass(frozen=True)
class GenerateResult:
    """A finished generation.

    Args:
        text: without the stop string.
        token_ids: tokens that were kept in the session.
        stop_match: the stop string or token id that ended it; None for the rest.
        logprobs: of the tokens that were kept, where asked for. Where a stop string ends inside
            a token, the text before it is tokenized anew, and those tokens have none.
        end_id: the token that ended it and did not join the text: end of text, or a stop token;
            None for the rest, and on backends that do not tell.
        is_complete: whether the text satisfies its constraint; false only where max_tokens, the
            context or a stop string cut it.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    stop_match: str | int | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    is_complete: bool = True
    end_id: int | None = None


@dataclass(frozen=True)
class ScoreResult:
    """Log-probabilities (natural) of each option's text after the session's text.

    An option stands where generated text would: it is tokenized on its own, so that none of its
    tokens reaches into the text before it. The sum over its tokens is the log-probability of
    the option exactly; nothing is said about what follows it, so an option that another one
    begins with is at least as likely as that one.

    Args:
        token_ids: per option, its tokens.
        token_logprobs: per option, the log-probability of each of its tokens, over the whole
            vocabulary, after the session's text and the option's earlier tokens.
        unconditional_logprobs: the same where the option stands alone, right after the token
            with which the model's texts begin; None where it was not asked for.
        usage: ``prompt`` is the session's text, once.
    """

    token_ids: tuple[tuple[int, ...], ...]
    token_logprobs: tuple[tuple[float, ...], ...]
    usage: Usage
    unconditional_logprobs: tuple[tuple[float, ...], ...] | None = None


Generation = Handle[GenerateResult]
Scoring = Handle[ScoreResult]


# ---------------------------------------------------------------- backends


class Seeds:
    """The seeds that a session gives to what brings none: to each generation one of its own, to
    each child of a fork one for all that it will do. Derived the same way on every backend.

    Args:
        seed: the session's; None gives None to all.
    """

    def __init__(self, seed: int | None) -> None:
        self._seed = seed
        self._num_given = 0

    def of_generation(self) -> int | None:
        """For the next generation."""
        index, self._num_given = self._num_given, self._num_given + 1
        return None if self._seed is None else _mixed(self._seed, index)

    def of_fork(self, num: int) -> list[int | None]:
        """For the children of the next fork."""
        seed = self.of_generation()
        return [None if seed is None else _mixed(seed, i) for i in range(num)]

    def applied(self, item: Generate) -> Generate:
        """A generation with its seed."""
        if item.params.seed is not None:
            return item
        seed = self.of_generation()
        return item if seed is None else replace(item, params=replace(item.params, seed=seed))


def _mixed(seed: int, index: int) -> int:
    """A 64-bit seed from a seed and an index (the finaliser of SplitMix64)."""
    mask = (1 << 64) - 1
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


@dataclass(frozen=True)
class Message:
    """One chat message, as a template sees it.

    Args:
        extra: further fields that some templates read (``name``, ``tool_calls``,
            ``tool_call_id``); plain JSON values.
    """

    role: str
    content: str
    extra: Mapping[str, Any] = field(default_factory=dict)


class ChatTemplate(Protocol):
    """How a model spells a conversation."""

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = False
    ) -> tuple[Text, ...]:
        """The whole conversation.

        Returns:
            Runs of template text (``special=True``) and of the users' own text, in order.

        Raises:
            RequestError: the template refuses these messages (role, order).
        """


@runtime_checkable
class Session(Protocol):
    """One growing sequence of tokens on a backend.

    Calls are queued in order and return at once. Text appended by consecutive `extend` calls is
    tokenized as one piece when the next other call needs it; generated tokens are never
    tokenized again. After an error every later call of the session fails with that error.
    """

    def extend(self, *parts: Text) -> None:
        """Append text."""

    def extend_ids(self, token_ids: Sequence[int]) -> None:
        """Append tokens. Raises RequestError for an id outside the vocabulary."""

    def generate(self, segment: Segment) -> tuple[Generation, ...]:
        """Append and continue; one handle per `Generate` of the segment, in order."""

    def score(
        self,
        options: Sequence[str],
        *,
        unconditional: bool = False,
        deadline_s: float | None = None,
    ) -> Scoring:
        """Score each option as a continuation; the session itself does not change.

        Args:
            options: non-empty texts; the same one twice is scored alike.
            unconditional: score each option without the session's text, too, in the same call.
            deadline_s: seconds from submission after which it fails with `DeadlineExceeded`.
        """

    def fork(self, num: int) -> list[Session]:
        """Children that start with this session's state as it is after the queued calls."""

    def token_ids(self) -> list[int]:
        """Wait for the queue to drain, then all tokens so far."""

    def usage(self) -> Usage:
        """Sum over the finished calls."""

    def sync(self, timeout: float | None = None) -> None:
        """Wait until every queued call has ended; raises the session's error."""

    def close(self) -> None:
        """Cancel what is queued and give the pages back. Idempotent."""


class Backend(Protocol):
    """A model that can be talked to."""

    @property
    def name(self) -> str:
        """What the model is called."""

    @property
    def chat_template(self) -> ChatTemplate | None:
        """The model's own template, or None where it has none."""

    def open(self, *, seed: int | None = None, priority: int = 0) -> Session:
        """A new empty session (begins with the model's BOS token where it wants one).

        Args:
            seed: from which the seeds of unseeded generations are derived, in order.
            priority: larger goes first.
        """

    def compile(self, constraint: Constraint) -> None:
        """Check a constraint, and have it ready, before it is needed.

        Raises:
            ConstraintError: it cannot be enforced exactly.
        """

    def token_texts(self, token_ids: Sequence[int]) -> list[str]:
        """Each token's own text, to be shown; bytes that are no text alone are marked."""

    def stats(self) -> Mapping[str, float]:
        """Counters since the start: tokens (prompt, cached, forced, sampled), seconds
        (forward, mask, sample, schedule, idle), steps, pages."""

    def close(self) -> None:
        """Release the model. Idempotent."""


@runtime_checkable
class GuessesAhead(Protocol):
    """A backend whose requests are charged with their whole prompt, so that it may let one serve
    several generations."""

    def open_ahead(self, num_tokens: int, *, seed: int | None = None) -> Session:
        """`Backend.open`, for a session that may ask for so many tokens to have text for later
        generations, too. They mean what they would without; a seed counts for whole requests."""


class Pin(Protocol):
    """A prefix that a backend keeps computed."""

    @property
    def num_tokens(self) -> int:
        """Tokens of it."""

    def close(self) -> None:
        """Let it go. Idempotent."""


@runtime_checkable
class PrefixCache(Protocol):
    """A backend that can keep what many sessions begin with. A remote one has its own cache, and
    needs no telling."""

    def pin(self, prefix: Sequence[Text]) -> Pin:
        """Begin to compute a prefix, and keep it while there is room; does not wait."""


@runtime_checkable
class Explains(Protocol):
    """A backend that knows why a constraint forbids a token."""

    def why_not(
        self, constraint: Constraint, token_ids: Sequence[int], token_id: int
    ) -> str | None:
        """Why a token may not follow others, all generated; None where it may, or where that is
        not known. Cost: milliseconds, for people."""


def wait_all(handles: Sequence[Handle[Any]], timeout: float | None = None) -> None:
    """Wait until all have ended, well or badly.

    Raises:
        TimeoutError: some had not ended within ``timeout`` seconds.
    """
    end = None if timeout is None else time.monotonic() + timeout
    for handle in handles:
        try:
            handle.result(None if end is None else max(0.0, end - time.monotonic()))
        except TimeoutError:
            if not handle.done():
                raise
        except (SgrtError, Cancelled):
            continue
