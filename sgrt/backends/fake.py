"""A backend that answers from a script: for tests of programs, without a model.

Its tokens are bytes. It is as strict as a real one: an answer that breaks its constraint, comes
too late or is not there is an error, not a value.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from sgrt.backends.chatml import ChatML
from sgrt.backends.clock import Clock
from sgrt.backends.satisfied import satisfies
from sgrt.core import (
    ChatTemplate,
    Choices,
    Constraint,
    FinishReason,
    Generate,
    GenerateResult,
    Generation,
    Handle,
    JsonSchema,
    Regex,
    SamplingParams,
    ScoreResult,
    Scoring,
    Seeds,
    Segment,
    Text,
    TokenEvent,
    TokenLogprob,
    Usage,
    check_deadline,
    check_options,
)
from sgrt.errors import (
    BackendError,
    Cancelled,
    ConstraintError,
    DeadlineExceeded,
    EngineClosed,
    GrammarSyntaxError,
    InvalidSamplingParams,
    RequestError,
)

Answer = str | Exception
Answers = (
    Sequence[Answer]
    | Mapping[str, Answer]
    | Callable[[str, Constraint | None, SamplingParams], Answer]
)
_BYTES = 256
_EVENT_CHARS = 8


@dataclass(frozen=True)
class ScriptedCall:
    """Something the backend was asked.

    Args:
        prompt: the session's text before it.
        answer: what was said, or the option that was scored best; None where it failed.
        options: of a score.
    """

    kind: Literal["generate", "score"]
    prompt: str
    answer: str | None
    constraint: Constraint | None = None
    params: SamplingParams | None = None
    options: tuple[str, ...] = ()


class ScriptedBackend:
    """Answers from a script.

    Args:
        answers: where answers come from. A list is used up in the order in which generations
            and scores are carried out, over all sessions. A mapping gives the answer of the key
            that stands last in the session's text (the longest, at the same end). A function is
            given the session's text, the constraint and the parameters (with the seed that a
            seeded session derives). An exception in place of an answer is raised.
        latency: seconds that each generation and score takes; sessions wait side by side.
        fail_on: generations and scores fail with `BackendError` where the session's text
            contains this, or with the exception this function of the text returns.
        scores: log-probability per option, as mapping or as function of the session's text and
            the option. Without it, a score asks ``answers`` for one of the options and gives it
            9/10 of the probability. Unconditional scores ask the function with the text "";
            where there is none, all options are equally likely.
        chat_template: None for a model without one.

    Attributes:
        calls: what was asked, in order of being carried out.
    """

    def __init__(
        self,
        answers: Answers,
        *,
        latency: float = 0.0,
        fail_on: str | Callable[[str], Exception | None] | None = None,
        scores: Mapping[str, float] | Callable[[str, str], float] | None = None,
        chat_template: ChatTemplate | None = ChatML(),  # noqa: B008  (it has no state)
        name: str = "scripted",
    ) -> None:
        takes = isinstance(answers, (Sequence, Mapping)) or callable(answers)
        if not takes or isinstance(answers, (str, bytes)):
            raise TypeError(f"answers must be a list, a mapping or a function, not {answers!r:.80}")
        self.latency = latency
        self.calls: list[ScriptedCall] = []
        self._answers = answers
        self._next = itertools.count()
        self._fail_on = fail_on
        self._scores = scores
        self._chat_template = chat_template
        self._name = name
        self._lock = threading.Lock()
        self._clock = Clock()
        self._usage = Usage()
        self.closed = False

    @property
    def name(self) -> str:
        return self._name

    @property
    def chat_template(self) -> ChatTemplate | None:
        return self._chat_template

    def open(self, *, seed: int | None = None, priority: int = 0) -> ScriptedSession:
        """A new session. ``priority`` changes nothing here: no session waits for another."""
        if self.closed:
            raise EngineClosed()
        return ScriptedSession(self, seed)

    def compile(self, constraint: Constraint) -> None:
        """Check that a constraint can be read.

        Raises:
            GrammarSyntaxError: a pattern or schema that does not parse.
        """
        match constraint:
            case Regex(pattern):
                _compiled(pattern)
            case JsonSchema(schema):
                try:
                    json.loads(schema)
                except json.JSONDecodeError as error:
                    raise GrammarSyntaxError(
                        error.msg, line=error.lineno, column=error.colno
                    ) from error
            case Choices(options):
                if not options:
                    raise ConstraintError("choices=[]: nothing can be chosen")

    def token_texts(self, token_ids: Sequence[int]) -> list[str]:
        """Each byte as text."""
        return [bytes([i]).decode("utf-8", "replace") for i in token_ids]

    def stats(self) -> Mapping[str, float]:
        """Tokens by kind, and calls, since the start."""
        with self._lock:
            usage, calls = self._usage, len(self.calls)
        return {
            "prompt": usage.prompt,
            "cached": usage.cached,
            "forced": usage.forced,
            "sampled": usage.sampled,
            "steps": calls,
        }

    def close(self) -> None:
        """Refuse everything from now on."""
        self.closed = True

    # what sessions ask

    def answer(self, prompt: str, constraint: Constraint | None, params: SamplingParams) -> str:
        """The script's answer here, whether or not it satisfies the constraint."""
        if callable(self._answers):
            found: Answer | None = self._answers(prompt, constraint, params)
        elif isinstance(self._answers, Mapping):
            found = self._by_key(self._answers, prompt)
        else:
            found = self._in_order(self._answers)
        if isinstance(found, Exception):
            raise found
        if found is None:
            raise BackendError(f"no answer in the script for {prompt[-80:]!r}")
        if not isinstance(found, str):
            raise BackendError(f"the script's answer {found!r:.80} is no text")
        return found

    def _by_key(self, answers: Mapping[str, Answer], prompt: str) -> Answer | None:
        ends = {key: prompt.rfind(key) + len(key) for key in answers if key in prompt}
        return answers[max(ends, key=lambda key: (ends[key], len(key)))] if ends else None

    def _in_order(self, answers: Sequence[Answer]) -> Answer:
        index = next(self._next)
        if index >= len(answers):
            raise BackendError(f"the script has {len(answers)} answers, this is call {index + 1}")
        return answers[index]

    def logprob(self, prompt: str, option: str) -> float | None:
        """The scripted log-probability of an option, where ``scores`` were given."""
        if self._scores is None:
            return None
        if callable(self._scores):
            return self._scores(prompt, option)
        if option not in self._scores:
            raise BackendError(f"no score in the script for option {option!r}")
        return self._scores[option]

    def unconditional_logprobs(self, options: Sequence[str]) -> dict[str, float]:
        """The scripted log-probability of each option without any text before it."""
        if callable(self._scores):
            return {option: self._scores("", option) for option in options}
        return dict.fromkeys(options, -math.log(len(set(options))))

    def check(self, prompt: str) -> None:
        """Raise what is to be raised at this text."""
        if self.closed:
            raise EngineClosed()
        if callable(self._fail_on):
            error = self._fail_on(prompt)
            if error is not None:
                raise error
        elif self._fail_on is not None and self._fail_on in prompt:
            raise BackendError(f"scripted failure: {self._fail_on!r} is in the text")

    def record(self, call: ScriptedCall, usage: Usage) -> None:
        """Keep what was asked, and count it."""
        with self._lock:
            self.calls.append(call)
            self._usage += usage

    def after(self, seconds: float, work: Callable[[], None]) -> None:
        """Do something later, on the backend's thread."""
        self._clock.after(seconds, work)


@dataclass(eq=False)
class _Job:
    """Work in a session's queue; ``fail`` tells whoever waits that it will not be done."""

    work: Callable[[], None]
    fail: Callable[[Exception], None] = lambda error: None
    latency: float = 0.0
    deadline: float = math.inf  # on time.monotonic()
    allowed: float = math.inf


class ScriptedSession:
    """One text and the queue of what is to be done with it."""

    def __init__(self, backend: ScriptedBackend, seed: int | None, *, text: str = "") -> None:
        self._seeds = Seeds(seed)
        self._backend = backend
        self._text = text
        self._computed = 0  # tokens that stood at an earlier call
        self._usage = Usage()
        self._jobs: deque[_Job] = deque()
        self._busy = False
        self._error: Exception | None = None
        self._lock = threading.RLock()
        self._idle: threading.Condition | None = None  # as soon as somebody waits for it

    # the protocol

    def extend(self, *parts: Text) -> None:
        text = "".join(part.text for part in parts)
        self._submit(_Job(lambda: self._append(text)))

    def extend_ids(self, token_ids: Sequence[int]) -> None:
        bad = [i for i in token_ids if not 0 <= i < _BYTES]
        if bad:
            raise RequestError(f"token id {bad[0]} is outside the vocabulary of {_BYTES}")
        text = bytes(token_ids).decode("utf-8", "replace")
        self._submit(_Job(lambda: self._append(text)))

    def generate(self, segment: Segment) -> tuple[Generation, ...]:
        handles: list[Generation] = []
        for item in segment:
            if isinstance(item, Text):
                self.extend(item)
            else:
                handles.append(self._queue_generation(item))
        return tuple(handles)

    def score(
        self,
        options: Sequence[str],
        *,
        unconditional: bool = False,
        deadline_s: float | None = None,
    ) -> Scoring:
        check_deadline(deadline_s)
        handle: Scoring = Handle(lambda: self._cancel(handle))
        chosen = tuple(options)
        work = lambda: handle.finish(self._score(chosen, unconditional))  # noqa: E731
        self._submit(self._job(work, handle, deadline_s))
        return handle

    def fork(self, num: int) -> list[ScriptedSession]:
        children = [self._child(seed) for seed in self._seeds.of_fork(num)]

        def start() -> None:
            for child in children:
                child._begin(self._text, self._computed)

        def fail(error: Exception) -> None:
            for child in children:
                child._break(error)

        self._submit(_Job(start, fail))
        return children

    def token_ids(self) -> list[int]:
        self.sync()
        return list(self._text.encode())

    def usage(self) -> Usage:
        return self._usage

    def sync(self, timeout: float | None = None) -> None:
        with self._lock:
            self._idle = self._idle or threading.Condition(self._lock)
            if not self._idle.wait_for(lambda: not self._busy and not self._jobs, timeout):
                raise TimeoutError(f"still working after {timeout:g} s")
            if self._error is not None:
                raise self._error

    def close(self) -> None:
        if self._error is None:
            self._break(Cancelled())

    # the queue

    def _submit(self, job: _Job) -> None:
        with self._lock:
            if self._error is not None:
                job.fail(self._error)
                return
            self._jobs.append(job)
            if not self._busy:
                self._go_on()

    def _begin(self, text: str, computed: int) -> None:
        """The queue of what it is a fork of has come to the fork."""
        with self._lock:
            self._text, self._computed, self._busy = text, computed, False
            self._go_on()

    def _go_on(self) -> None:
        """Do jobs until one has to wait; the caller holds the lock."""
        while self._jobs and not self._busy:
            self._busy = True
            job = self._jobs[0]
            wait = job.latency and min(job.latency, max(0.0, job.deadline - time.monotonic()))
            if wait:
                self._backend.after(wait, partial(self._is_due, job))
            else:
                self._do(job)
        if self._idle is not None:
            self._idle.notify_all()

    def _is_due(self, job: _Job) -> None:
        with self._lock:
            if self._jobs and self._jobs[0] is job:
                self._do(job)
                self._go_on()

    def _do(self, job: _Job) -> None:
        try:
            if job.deadline < math.inf and time.monotonic() >= job.deadline:
                raise DeadlineExceeded(job.allowed)
            job.work()
        except Exception as error:
            self._break(error)
        else:
            if self._error is None:  # else the work has ended the session
                self._jobs.popleft()
                self._busy = False

    def _break(self, error: Exception) -> None:
        """Fail all that is queued and all that will be."""
        with self._lock:
            self._error = self._error or error
            jobs, self._jobs, self._busy = list(self._jobs), deque(), False
            if self._idle is not None:
                self._idle.notify_all()
        for job in jobs:
            job.fail(error)

    def _cancel(self, handle: Handle[Any]) -> None:
        self._break(Cancelled())
        handle.fail(Cancelled())

    def _child(self, seed: int | None) -> ScriptedSession:
        child = ScriptedSession(self._backend, seed)
        child._busy = True  # until the queue here has come to the fork
        return child

    # the work

    def _append(self, text: str) -> None:
        self._text += text

    def _queue_generation(self, item: Generate) -> Generation:
        handle: Generation = Handle(lambda: self._cancel(handle))
        seeded = self._seeds.applied(item)
        self._submit(self._job(lambda: self._generate(seeded, handle), handle, item.deadline_s))
        return handle

    def _job(self, work: Callable[[], None], handle: Handle[Any], deadline_s: float | None) -> _Job:
        job = _Job(work, handle.fail, self._backend.latency)
        if deadline_s is not None:
            job.allowed, job.deadline = deadline_s, time.monotonic() + deadline_s
        return job

    def _generate(self, item: Generate, handle: Generation) -> None:
        params = item.params
        prompt, answer = self._text, None
        usage = self._take_prompt()
        try:
            if item.stop_regex:
                rule = "only the embedded engine knows these"
                raise InvalidSamplingParams("stop_regex", item.stop_regex, rule)
            self._backend.check(prompt)
            if item.constraint is not None:
                self._backend.compile(item.constraint)
            answer = self._backend.answer(prompt, item.constraint, params)
            result = _finished(answer, item.constraint, params, usage)
            usage = result.usage
        finally:
            self._usage += usage
            self._backend.record(
                ScriptedCall("generate", prompt, answer, item.constraint, params), usage
            )
        self._text += result.text
        for event in _events(result):
            handle.push(event)
        handle.finish(result)

    def _take_prompt(self) -> Usage:
        num_tokens = len(self._text.encode())
        cached, self._computed = self._computed, num_tokens
        return Usage(prompt=num_tokens, cached=cached)

    def _score(self, options: tuple[str, ...], unconditional: bool) -> ScoreResult:
        prompt, usage, best = self._text, self._take_prompt(), None
        try:
            check_options(options)
            self._backend.check(prompt)
            logprobs = self._logprobs(prompt, options)
            best = max(options, key=logprobs.__getitem__)
            alone = self._backend.unconditional_logprobs(options) if unconditional else None
        finally:
            self._usage += usage
            self._backend.record(ScriptedCall("score", prompt, best, options=options), usage)
        ids = tuple(tuple(option.encode()) for option in options)
        return ScoreResult(
            ids,
            _spread(options, logprobs),
            usage,
            None if alone is None else _spread(options, alone),
        )

    def _logprobs(self, prompt: str, options: tuple[str, ...]) -> dict[str, float]:
        given = {option: self._backend.logprob(prompt, option) for option in options}
        known = {option: value for option, value in given.items() if value is not None}
        if known:
            return known
        answer = self._backend.answer(prompt, Choices(options), SamplingParams())
        _check(answer, Choices(options))
        rest = math.log(0.1 / max(1, len(options) - 1))
        return {option: math.log(0.9) if option == answer else rest for option in options}


def _spread(
    options: tuple[str, ...], logprobs: Mapping[str, float]
) -> tuple[tuple[float, ...], ...]:
    """Each option's log-probability in equal parts over its tokens, which are bytes."""
    lengths = [len(option.encode()) for option in options]
    return tuple((logprobs[o] / n,) * n for o, n in zip(options, lengths, strict=True))


def _finished(
    answer: str, constraint: Constraint | None, params: SamplingParams, usage: Usage
) -> GenerateResult:
    """The answer as a generation, cut where the parameters end it."""
    text, reason, match = _cut(answer, params)
    is_complete = constraint is None or _believed(text, constraint)
    if constraint is not None and reason == "stop" and match is None:
        _check(text, constraint)
    if params.finish == "close" and not is_complete and reason == "length":
        raise BackendError(
            f"the scripted answer {answer[:200]!r} does not fit max_tokens={params.max_tokens}"
        )
    ids = tuple(text.encode())
    if len(ids) < params.min_tokens:
        raise BackendError(f"the answer has {len(ids)} tokens, min_tokens is {params.min_tokens}")
    logprobs = tuple(TokenLogprob(i, 0.0) for i in ids) if params.logprobs is not None else None
    taken = usage + Usage(sampled=len(ids))
    return GenerateResult(text, ids, reason, taken, match, logprobs, is_complete)


def _cut(answer: str, params: SamplingParams) -> tuple[str, FinishReason, str | int | None]:
    reason: FinishReason = "stop"
    match: str | int | None = None
    data = answer.encode()
    ends: list[tuple[int, str | int]] = [
        (data.find(stop.encode()), stop) for stop in params.stop if stop.encode() in data
    ]
    ends += [(data.index(i), i) for i in params.stop_token_ids if i in data]
    if ends:
        end, match = min(ends, key=lambda found: found[0])
        data = data[:end]
    if len(data) > params.max_tokens:
        data, reason, match = data[: params.max_tokens], "length", None
    return data.decode("utf-8", "ignore"), reason, match


def _check(text: str, constraint: Constraint) -> None:
    if not _believed(text, constraint):
        raise ConstraintError(f"the scripted answer {text[:200]!r} breaks {constraint!r:.200}")


def _believed(text: str, constraint: Constraint) -> bool:
    """Grammars and compositions are the engine's to read; there the script is believed."""
    return satisfies(text, constraint) is not False


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        column = None if error.pos is None else error.pos + 1
        raise GrammarSyntaxError(error.msg, column=column) from error


def _events(result: GenerateResult) -> list[TokenEvent]:
    events = []
    for at in range(0, len(result.text), _EVENT_CHARS):
        text = result.text[at : at + _EVENT_CHARS]
        ids = tuple(text.encode())
        logprobs = tuple(TokenLogprob(i, 0.0) for i in ids) if result.logprobs is not None else ()
        events.append(TokenEvent(ids, text, logprobs=logprobs))
    return events
