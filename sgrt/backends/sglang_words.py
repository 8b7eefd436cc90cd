"""SGLang's native protocol in words: fields of ``/generate``, and what its events tell."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, TypeGuard, TypeVar

from sgrt import constraint_json
from sgrt.backends.remote import malformed
from sgrt.core import (
    Choices,
    Constraint,
    Ebnf,
    FinishReason,
    Generate,
    JsonSchema,
    Regex,
    SamplingParams,
    StructuralTag,
    TokenEvent,
    TokenLogprob,
    Usage,
)
from sgrt.errors import BackendError, ConstraintError

_KIND = "an SGLang server"
T = TypeVar("T")
_META = frozenset(r"\.^$*+?{}[]|()/-")


class Answer:
    """What a stream has told so far.

    Args:
        is_incremental: whether events tell only what is new; None where that is not known.
    """

    def __init__(self, *, with_logprobs: bool, is_incremental: bool | None = None) -> None:
        self.text = ""
        self.ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self._with_logprobs = with_logprobs
        self._is_incremental = is_incremental
        self._told = 0  # characters in events so far
        self._meta: Mapping[str, Any] = {}

    def take(self, event: Any) -> list[TokenEvent]:
        """What an event adds."""
        meta = event.get("meta_info") if isinstance(event, dict) else None
        if not isinstance(meta, dict) or not isinstance(event.get("text"), str):
            raise malformed("/generate", event)
        self._meta = meta
        finish = meta.get("finish_reason")
        if isinstance(finish, dict) and finish.get("type") == "abort":
            raise BackendError(
                f"the server gave up: {finish.get('message') or 'aborted'}",
                status=finish.get("status_code"),
                retryable=True,
            )
        text, ids = event["text"], event.get("output_ids") or []
        if not is_ids(ids):
            raise malformed("/generate", event)
        is_whole = self._is_whole(ids, meta)
        self.text = text if is_whole else self.text + text
        # A character that is not whole yet may be shown as U+FFFD, and becomes another.
        told = self.text if finish else self.text.rstrip("\ufffd")
        fresh_text = told[self._told :]
        self._told += len(fresh_text)
        fresh_ids = ids[len(self.ids) :] if is_whole else ids
        logprobs = _logprobs(meta) if self._with_logprobs else []
        fresh_logprobs = logprobs[len(self.logprobs) :] if is_whole else logprobs
        self.ids += fresh_ids
        self.logprobs += fresh_logprobs
        if not fresh_text and not fresh_ids:
            return []
        return [TokenEvent(tuple(fresh_ids), fresh_text, logprobs=tuple(fresh_logprobs))]

    def _is_whole(self, ids: list[int], meta: Mapping[str, Any]) -> bool:
        """Whether an event repeats what earlier ones told (the server's default).

        Where the server does not say, its count of tokens does: it is short of old and new
        together. Tokens of a stop string or the end are counted, but may not be told; so where it
        is not short, a repetition is what repeats the one token that was told.
        """
        if self._is_incremental is not None or not self.ids:
            return not self._is_incremental
        num_tokens = meta.get("completion_tokens")
        if not isinstance(num_tokens, int) or ids == self.ids:
            return True
        is_short = len(self.ids) + len(ids) > num_tokens
        return is_short or (len(ids) > 1 == len(self.ids) and ids[:1] == self.ids)

    def ending(self) -> tuple[FinishReason, str | int | None]:
        """Why it ended, and what matched."""
        finish = self._meta.get("finish_reason")
        kind = finish.get("type") if isinstance(finish, dict) else None
        if kind not in ("stop", "length"):
            raise malformed("/generate", self._meta)
        assert isinstance(finish, dict)
        return ("length", None) if kind == "length" else ("stop", finish.get("matched"))

    def usage(self) -> Usage:
        told = usage_of(self._meta, self._meta.get("completion_tokens") or len(self.ids))
        forced = self.told_by_ours("forced_tokens", int) or 0
        return replace(told, forced=forced, sampled=told.sampled - forced)

    def told_by_ours(self, name: str, kind: type[T]) -> T | None:
        """What `sgrt serve` alone tells of a text that has ended; None from other servers."""
        own = self._meta.get("sgrt")
        value = own.get(name) if isinstance(own, dict) else None
        return value if type(value) is kind else None


OWN = frozenset(("constraint", "finish", "logprobs_mode", "seed", "stop_regex"))
"""What `sgrt serve` takes beside SGLang's words; its ``/server_info`` lists them under ``sgrt``."""


def generate_fields(item: Generate, own: Collection[str]) -> dict[str, Any]:
    """The ``sampling_params`` of a generation.

    Args:
        own: which of `OWN` the server takes.

    Raises:
        ConstraintError: the server has no word for its constraint.
    """
    params = item.params
    fields = _sampling_fields(params)
    if params.seed is not None and params.temperature > 0:
        fields["sampling_seed"] = params.seed if "seed" in own else params.seed & (1 << 63) - 1
    if item.stop_regex:
        fields["stop_regex"] = list(item.stop_regex)
    if not own:
        return {**fields, **constraint_fields(item.constraint)}
    told: dict[str, Any] = {"finish": params.finish, "logprobs_mode": params.logprobs_mode}
    if item.constraint is not None and "constraint" in own:
        told["constraint"] = constraint_json.write(item.constraint)
    elif item.constraint is not None:
        fields |= constraint_fields(item.constraint)
    fields["sgrt"] = {name: value for name, value in told.items() if name in own}
    return fields


def _sampling_fields(params: SamplingParams) -> dict[str, Any]:
    """The parameters in SGLang's words, but for the seed."""
    fields: dict[str, Any] = {
        "max_new_tokens": params.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k or -1,
        "min_p": params.min_p,
        "repetition_penalty": params.repetition_penalty,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "ignore_eos": params.ignore_eos,
    }
    if params.min_tokens:
        fields["min_new_tokens"] = params.min_tokens
    if params.stop:
        fields["stop"] = list(params.stop)
    if params.stop_token_ids:
        fields["stop_token_ids"] = list(params.stop_token_ids)
    if params.logit_bias:
        fields["logit_bias"] = {str(i): bias for i, bias in params.logit_bias.items()}
    return fields


def constraint_fields(constraint: Constraint | None) -> dict[str, Any]:
    """The constraint in SGLang's words.

    Raises:
        ConstraintError: it has none.
    """
    match constraint:
        case None:
            return {}
        case JsonSchema(schema, "compact", _):
            return {"json_schema": schema}
        case JsonSchema(_, separators, _):
            raise ConstraintError(
                f"{_KIND} has no word for separators={separators!r}",
                hint="leave them out, or use the embedded engine or `sgrt serve`",
            )
        case Regex(pattern):
            return {"regex": pattern}
        case Choices(options):
            return {"regex": "|".join(f"(?:{_literal(option)})" for option in options)}
        case Ebnf(grammar):
            return {"ebnf": grammar}
        case StructuralTag():
            return {"structural_tag": _structural_tag(constraint)}
    raise ConstraintError(
        f"{_KIND} has no word for {type(constraint).__name__}",
        hint="use regex=, json_schema=, choices=, ebnf= or structural_tag=, or the embedded engine"
        " or `sgrt serve`",
    )


def is_ids(value: object) -> TypeGuard[list[int]]:
    """Whether this is a list of token ids."""
    return isinstance(value, list) and all(type(i) is int and i >= 0 for i in value)


def _literal(text: str) -> str:
    return "".join("\\" + c if c in _META else _ESCAPED.get(c, c) for c in text)


_ESCAPED = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def _structural_tag(tag: StructuralTag) -> str:
    structures = [
        {"begin": s.begin, "schema": json.loads(s.schema.schema), "end": s.end}
        for s in tag.structures
    ]
    return json.dumps(
        {"type": "structural_tag", "structures": structures, "triggers": list(tag.triggers)},
        ensure_ascii=False,
    )


def logprob_fields(params: SamplingParams) -> dict[str, Any]:
    """What to report beside the tokens, in SGLang's words."""
    if params.logprobs is None:
        return {}
    return {"return_logprob": True, "top_logprobs_num": params.logprobs}


def _logprobs(meta: Mapping[str, Any]) -> list[TokenLogprob]:
    """Of the tokens that an event tells of."""
    own = meta.get("output_token_logprobs") or []
    tops = meta.get("output_top_logprobs") or [None] * len(own)
    try:
        return [
            TokenLogprob(int(i), float(p), tuple((int(t[1]), float(t[0])) for t in top or ()))
            for (p, i, *_), top in zip(own, tops, strict=True)
        ]
    except (TypeError, ValueError, IndexError) as error:
        raise malformed("/generate", own) from error


def option_logprobs(meta: Mapping[str, Any], option: list[int]) -> tuple[float, ...]:
    """Of an option's tokens, which are the last of a scored text."""
    told = meta.get("input_token_logprobs") or []
    try:
        last = told[-len(option) :]
        if [int(entry[1]) for entry in last] != option:
            raise ValueError
        return tuple(float(entry[0]) for entry in last)
    except (TypeError, ValueError, IndexError) as error:
        raise malformed("/generate", told[-len(option) - 1 :]) from error


def usage_of(meta: Mapping[str, Any], sampled: int) -> Usage:
    """Tokens of a request, as the server counted them."""

    def number(key: str) -> int:
        value = meta.get(key)
        return value if type(value) is int else 0

    return Usage(number("prompt_tokens"), number("cached_tokens"), 0, sampled)
