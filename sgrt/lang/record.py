"""`record` a run, `replay` it without the model: for users' own tests.

A recording holds every answer that a backend gave, under what it was asked: the text before it,
the parameters and the constraint. A replay gives the same answers to the same questions, each
once; any other question is an error that shows what differs.
"""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sgrt.core import (
    Backend,
    ChatTemplate,
    Constraint,
    Generate,
    GenerateResult,
    Generation,
    Handle,
    Message,
    SamplingParams,
    ScoreResult,
    Scoring,
    Segment,
    Session,
    Text,
    TokenEvent,
    TokenLogprob,
    Usage,
    check_deadline,
    check_options,
)
from sgrt.errors import BackendError, Cancelled, RequestError, SgrtError
from sgrt.lang import defaults
from sgrt.lang.variables import outcome

_VERSION = 1
_AROUND = 40


@contextmanager
def record(path: str | os.PathLike[str]) -> Iterator[None]:
    """``with sgrt.record("run.json"): …``: what backends answer to the runs that begin inside is
    written to a file at the end, also where the block is left by an exception.

    Programs run as ever; the file is for `replay`. Waits for what is still being generated.

    Raises:
        RequestError: another recording is under way, or the file cannot be written.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise RequestError(f"record({str(path)!r}): there is no folder {str(target.parent)!r}")
    log = _Log()
    with defaults.wrapping(log.recorder):
        try:
            yield
        finally:
            log.save(target)


def replay(path: str | os.PathLike[str]) -> Replay:
    """A backend that answers as the recorded one did.

    Raises:
        RequestError: the file is no recording.
    """
    try:
        told = json.loads(Path(path).read_text(encoding="utf-8"))
        if told["version"] != _VERSION:
            raise RequestError(f"{path}: a recording of version {told['version']!r:.40}")
        return Replay(told)
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error
    except KeyError as error:
        raise RequestError(f"{path} is no recording: it has no {error}") from error
    except (ValueError, TypeError) as error:
        raise RequestError(f"{path} is no recording: {error}") from error


# ---------------------------------------------------------------- recording


@dataclasses.dataclass
class _Asked:
    """One question on its way; the text before it may still be generated."""

    before: tuple[str | Handle[GenerateResult], ...]
    asked: dict[str, Any]
    answer: Handle[Any]

    def told(self) -> dict[str, Any]:
        """Wait; as JSON."""
        failed = outcome(self.answer)
        prompt = "".join(_text_of(item) for item in self.before)
        answer: dict[str, Any]
        if failed is not None:
            answer = {"error": f"{type(failed).__name__}: {failed}"}
        else:
            answer = {"result": dataclasses.asdict(self.answer.result())}
            answer["events"] = [dataclasses.asdict(e) for e in self.answer.events()]
        return {"prompt": prompt, **self.asked, **answer}


def _text_of(item: str | Handle[GenerateResult]) -> str:
    if isinstance(item, str):
        return item
    return "" if outcome(item) is not None else item.result().text


class _Log:
    """What was asked, in order."""

    def __init__(self) -> None:
        self.calls: list[_Asked] = []
        self.renderings: list[dict[str, Any]] = []
        self.names: list[str] = []
        self.templates = False
        self._recorders: dict[int, tuple[Backend, _Recorder]] = {}

    def recorder(self, backend: Backend) -> Backend:
        """What listens to the backend."""
        if id(backend) not in self._recorders:
            self._recorders[id(backend)] = (backend, _Recorder(backend, self))
        recorder: Any = self._recorders[id(backend)][1]
        return recorder  # type: ignore[no-any-return]

    def save(self, path: Path) -> None:
        told = {
            "version": _VERSION,
            "name": self.names[0] if self.names else "recorded",
            "has_template": self.templates,
            "renderings": self.renderings,
            "calls": [call.told() for call in list(self.calls)],
        }
        beside = path.with_name(path.name + ".part")
        try:
            beside.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
            beside.replace(path)
        except OSError as error:
            raise RequestError(f"record({str(path)!r}): {error}") from error


class _Recorder:
    """A backend whose sessions are listened to; all else is the backend's own."""

    keeps_tokens = False  # what is recorded is text

    def __init__(self, backend: Backend, log: _Log) -> None:
        self._backend = backend
        self._log = log
        template = backend.chat_template
        self.chat_template = None if template is None else _RecordedTemplate(template, log)
        log.templates = log.templates or template is not None
        log.names.append(backend.name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def open(self, *, seed: int | None = None, priority: int = 0) -> _RecordedSession:
        session = self._backend.open(seed=seed, priority=priority)
        return _RecordedSession(session, self._log, ())


class _RecordedTemplate:
    def __init__(self, template: ChatTemplate, log: _Log) -> None:
        self._template = template
        self._log = log

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = False
    ) -> tuple[Text, ...]:
        asked = {"key": _rendering_key(messages, add_generation_prompt)}
        try:
            parts = self._template.render(messages, add_generation_prompt=add_generation_prompt)
        except RequestError as error:
            self._log.renderings.append({**asked, "error": error.message})
            raise
        told = [[part.text, part.special] for part in parts]
        self._log.renderings.append({**asked, "parts": told})
        return parts


class _RecordedSession:
    """A session, and what it has been told so far."""

    def __init__(
        self, session: Session, log: _Log, before: tuple[str | Handle[GenerateResult], ...]
    ) -> None:
        self._session = session
        self._log = log
        self._before = before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def extend(self, *parts: Text) -> None:
        self._before += tuple(part.text for part in parts)
        self._session.extend(*parts)

    def generate(self, segment: Segment) -> tuple[Generation, ...]:
        handles = self._session.generate(segment)
        left = iter(handles)
        for item in segment:
            if isinstance(item, Text):
                self._before += (item.text,)
                continue
            handle = next(left)
            self._log.calls.append(_Asked(self._before, _generation(item), handle))
            self._before += (handle,)
        return handles

    def score(self, options: Sequence[str], **how: Any) -> Scoring:
        handle = self._session.score(options, **how)
        asked = _scoring(options, bool(how.get("unconditional")))
        self._log.calls.append(_Asked(self._before, asked, handle))
        return handle

    def fork(self, num: int) -> list[_RecordedSession]:
        children = self._session.fork(num)
        return [_RecordedSession(child, self._log, self._before) for child in children]


def _generation(item: Generate) -> dict[str, Any]:
    told = {"params": _params(item.params), "constraint": _named(item.constraint)}
    return {**told, "stop_regex": list(item.stop_regex)} if item.stop_regex else told


def _scoring(options: Sequence[str], unconditional: bool) -> dict[str, Any]:
    return {"options": list(options), "unconditional": unconditional}


def _params(params: SamplingParams) -> dict[str, Any]:
    """What is not the default, as JSON reads it back."""
    told = {
        f.name: getattr(params, f.name)
        for f in dataclasses.fields(params)
        if getattr(params, f.name) != getattr(SamplingParams(), f.name)
    }
    read: dict[str, Any] = json.loads(json.dumps(told, default=dict))
    return read


def _named(constraint: Constraint | None) -> str | None:
    return None if constraint is None else repr(constraint)


def _rendering_key(messages: Sequence[Message], add_generation_prompt: bool) -> list[Any]:
    return [[[m.role, m.content] for m in messages], add_generation_prompt]


# ---------------------------------------------------------------- replaying


class Replay:
    """A backend that gives recorded answers, each once; made by `replay`.

    As a context manager it is checked at the end that all of them were asked for.
    """

    keeps_tokens = False

    def __init__(self, told: Mapping[str, Any]) -> None:
        self._name = str(told["name"])
        self._calls = [dict(call) for call in told["calls"]]
        self._left = list(range(len(self._calls)))
        self._lock = threading.Lock()
        self._spellings = {
            event["token_ids"][0]: event["text"]
            for call in self._calls
            for event in call.get("events", ())
            if len(event["token_ids"]) == 1
        }
        renderings = {json.dumps(r["key"]): r for r in told["renderings"]}
        self._template = _ReplayedTemplate(renderings) if told["has_template"] else None

    @property
    def name(self) -> str:
        """Name of the recorded backend."""
        return self._name

    @property
    def chat_template(self) -> ChatTemplate | None:
        """The recorded backend's, as far as it was used."""
        return self._template

    def open(self, *, seed: int | None = None, priority: int = 0) -> _ReplayedSession:
        """A new session; seed and priority change nothing, since nothing is drawn."""
        return _ReplayedSession(self)

    def compile(self, constraint: Constraint) -> None:
        """Nothing to do: the recorded backend has compiled it."""

    def token_texts(self, token_ids: Sequence[int]) -> list[str]:
        """Tokens as they were recorded; others by number."""
        return [self._spellings.get(i, f"<{i}>") for i in token_ids]

    def stats(self) -> Mapping[str, float]:
        """How many answers were recorded, and how many are left."""
        return {"recorded": len(self._calls), "left": len(self._left)}

    def close(self) -> None:
        """Nothing to release."""

    def check(self) -> None:
        """All answers were asked for.

        Raises:
            BackendError: one was not; shows the first.
        """
        if self._left:
            call = self._calls[self._left[0]]
            raise BackendError(
                f"{len(self._left)} recorded answers were not asked for; the first follows"
                f" {call['prompt'][-_AROUND:]!r}"
            )

    def __enter__(self) -> Replay:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.check()

    def answer(self, prompt: str, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """The recorded answer.

        Raises:
            BackendError: there is none; shows what differs from the nearest that there is.
        """
        with self._lock:
            same = [i for i in self._left if self._calls[i]["prompt"] == prompt]
            for i in same:
                if all(self._calls[i].get(key) == value for key, value in asked.items()):
                    self._left.remove(i)
                    break
            else:
                raise BackendError(self._difference(prompt, asked, same))
        call = self._calls[i]
        if "error" in call:
            raise BackendError(f"recorded: {call['error']}")
        return call

    def _difference(self, prompt: str, asked: Mapping[str, Any], same: Sequence[int]) -> str:
        if same:
            recorded = self._calls[same[0]]
            lines = [
                f"{key}: recorded {recorded.get(key)!r:.200}, asked {value!r:.200}"
                for key, value in asked.items()
                if recorded.get(key) != value
            ]
            return f"the run differs from the recording after {prompt[-_AROUND:]!r}: " + "; ".join(
                lines
            )
        if not self._left:
            return f"the recording has no answer left for {prompt[-_AROUND:]!r}"
        left = [self._calls[i]["prompt"] for i in self._left]
        nearest = max(left, key=lambda text: _common(text, prompt))
        at = _common(nearest, prompt)
        begin = max(0, at - _AROUND)
        return (
            f"the text differs from the recording at character {at}:"
            f" recorded {nearest[begin : at + _AROUND]!r}, now {prompt[begin : at + _AROUND]!r}"
        )


def _common(a: str, b: str) -> int:
    """How many characters two texts have in common at their start."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


class _ReplayedTemplate:
    def __init__(self, renderings: Mapping[str, Mapping[str, Any]]) -> None:
        self._renderings = renderings

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = False
    ) -> tuple[Text, ...]:
        found = self._renderings.get(json.dumps(_rendering_key(messages, add_generation_prompt)))
        if found is None:
            roles = ", ".join(message.role for message in messages)
            raise RequestError(f"the recording has no conversation of the roles {roles}")
        if "error" in found:
            raise RequestError(found["error"])
        return tuple(Text(text, special) for text, special in found["parts"])


class _ReplayedSession:
    """A text; every question is answered at once."""

    def __init__(self, replay: Replay, text: str = "") -> None:
        self._replay = replay
        self._text = text
        self._usage = Usage()
        self._error: BaseException | None = None

    def extend(self, *parts: Text) -> None:
        self._text += "".join(part.text for part in parts)

    def extend_ids(self, token_ids: Sequence[int]) -> None:
        raise RequestError("a recording has no tokens to go on with, only text")

    def generate(self, segment: Segment) -> tuple[Generation, ...]:
        handles: list[Generation] = []
        for item in segment:
            if isinstance(item, Text):
                self.extend(item)
                continue
            handle: Generation = Handle()
            handles.append(handle)
            if (call := self._asked(_generation(item), handle)) is not None:
                for event in call["events"]:
                    handle.push(_event(event))
                result = _result(call["result"])
                self._text += result.text
                self._usage += result.usage
                handle.finish(result)
        return tuple(handles)

    def score(
        self,
        options: Sequence[str],
        *,
        unconditional: bool = False,
        deadline_s: float | None = None,
    ) -> Scoring:
        check_deadline(deadline_s)
        check_options(options)
        handle: Scoring = Handle()
        if (call := self._asked(_scoring(options, unconditional), handle)) is not None:
            scores = _scores(call["result"])
            self._usage += scores.usage
            handle.finish(scores)
        return handle

    def _asked(self, asked: Mapping[str, Any], handle: Handle[Any]) -> Mapping[str, Any] | None:
        try:
            if self._error is not None:
                raise self._error
            return self._replay.answer(self._text, asked)
        except SgrtError as error:
            self._error = error
            handle.fail(error)
            return None

    def fork(self, num: int) -> list[Session]:
        children = [_ReplayedSession(self._replay, self._text) for _ in range(num)]
        for child in children:
            child._error = self._error
        return list(children)

    def token_ids(self) -> list[int]:
        raise RequestError("a recording has no tokens, only text")

    def usage(self) -> Usage:
        return self._usage

    def sync(self, timeout: float | None = None) -> None:
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self._error = self._error or Cancelled("the session is closed")


def _result(told: Mapping[str, Any]) -> GenerateResult:
    logprobs = told["logprobs"]
    return GenerateResult(
        **{
            **told,
            "token_ids": tuple(told["token_ids"]),
            "usage": Usage(**told["usage"]),
            "logprobs": None if logprobs is None else tuple(map(_logprob, logprobs)),
        }
    )


def _event(told: Mapping[str, Any]) -> TokenEvent:
    return TokenEvent(
        tuple(told["token_ids"]),
        told["text"],
        told["forced"],
        tuple(map(_logprob, told["logprobs"])),
    )


def _logprob(told: Mapping[str, Any]) -> TokenLogprob:
    return TokenLogprob(
        told["token_id"], told["logprob"], tuple((i, value) for i, value in told["top"])
    )


def _scores(told: Mapping[str, Any]) -> ScoreResult:
    alone = told["unconditional_logprobs"]
    return ScoreResult(
        tuple(map(tuple, told["token_ids"])),
        tuple(map(tuple, told["token_logprobs"])),
        Usage(**told["usage"]),
        None if alone is None else tuple(map(tuple, alone)),
    )
