"""``/v1/decisions``: questions about a text, answered with probabilities.

Every question is one pass over a trie of its answers, spelled as JSON literals: the closing
quote ends each, so that no answer is the beginning of another and their probabilities are exact
up to normalising. Works with any model; the text that all questions share is computed once.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from sgrt.core import Message, ScoreResult, Usage
from sgrt.server.body import decode
from sgrt.server.failures import bad_request
from sgrt.server.http import Answer, Call
from sgrt.server.messages import chat_prompt, read_messages
from sgrt.server.responses_input import input_items, read_input
from sgrt.server.service import CALLER, Service, refusing
from sgrt.server.tools import ToolUse
from sgrt.server.wire import check_caching

MAX_QUESTIONS, MAX_CHOICES, MAX_LEVELS = 400, 255, 10


class DecisionRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body.

    Args:
        prompt_cache_key: parts cached prefixes, as OpenAI says it does here.
    """

    input: str | list[Any]
    questions: list[Any]
    model: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    safety_identifier: str | None = None


@dataclass(frozen=True)
class Question:
    """One question.

    Args:
        options: the values that may be answered, in order.
        descriptions: of the options; "" for none.
    """

    kind: str
    name: str | None
    instructions: str
    options: tuple[str | bool, ...]
    descriptions: tuple[str, ...]

    @property
    def spelled(self) -> list[str]:
        """The answers as the model writes them."""
        return [json.dumps(option, ensure_ascii=False) for option in self.options]

    def text(self) -> str:
        """The question as the model reads it."""
        if self.kind == "predicate":
            return (
                f"Statement about the text above: {self.instructions}\n"
                "Is the statement true? Answer with exactly one of: true, false"
            )
        lines = [
            f"- {spelled}: {about}" if about else f"- {spelled}"
            for spelled, about in zip(self.spelled, self.descriptions, strict=True)
        ]
        return f"{self.instructions}\nAnswer with exactly one of:\n" + "\n".join(lines)

    def answer(self, probabilities: Sequence[float]) -> dict[str, Any]:
        """The answer as the interface gives it."""
        head = {"type": self.kind, "name": self.name}
        if self.kind == "predicate":
            return {**head, "probability": probabilities[0]}
        best = max(range(len(self.options)), key=lambda i: probabilities[i])
        if self.kind == "choice":
            listed: list[dict[str, Any]] = [
                {"value": value, "probability": p}
                for value, p in zip(self.options, probabilities, strict=True)
            ]
            return {
                **head,
                "choice": self.options[best],
                "confidence": probabilities[best],
                "probabilities": listed,
            }
        return {
            **head,
            "score": sum(i * p for i, p in enumerate(probabilities)),
            "confidence": probabilities[best],
            "probabilities": [
                {"label": label, "value": i, "probability": p}
                for i, (label, p) in enumerate(zip(self.options, probabilities, strict=True))
            ],
        }


async def decisions(call: Call) -> Answer:
    """``POST /v1/decisions``."""
    wire = decode(call.json(), DecisionRequest)
    check_caching(None, wire.prompt_cache_options)
    namespace = call.namespace + (wire.prompt_cache_key or "")
    model = call.service.model_named(wire.model)
    if not 1 <= len(wire.questions) <= MAX_QUESTIONS:
        raise bad_request(
            f"questions: 1 to {MAX_QUESTIONS}, not {len(wire.questions)}", "questions"
        )
    questions = [_question(q, f"questions[{i}]") for i, q in enumerate(wire.questions)]
    messages = _messages(wire.input, call.service)
    async with call.service.admitted():
        # the first alone: it computes what the others share
        first = await _ask(call, namespace, messages, questions[0])
        rest = await asyncio.gather(*(_ask(call, namespace, messages, q) for q in questions[1:]))
    scored = [first, *rest]
    answers = [
        q.answer(_probabilities(result)) for q, result in zip(questions, scored, strict=True)
    ]
    return Answer({"model": model, "answers": answers, "usage": _usage([r.usage for r in scored])})


def _messages(value: str | list[Any], service: Service) -> list[Message]:
    if value == "":
        raise bad_request("input is empty", "input")
    owner = CALLER.get().name
    messages, places = read_input(
        input_items(value, "input", lambda name, at: service.stored.item(owner, name, at))
    )
    return read_messages(messages, "input", places)


async def _ask(
    call: Call, namespace: str, messages: list[Message], question: Question
) -> ScoreResult:
    """Score the answers to one question, behind what all questions share."""
    service = call.service
    asked = question.text()
    last = messages[-1]
    if last.role == "user":
        messages = [*messages[:-1], Message("user", f"{last.content}\n\n{asked}", last.extra)]
    else:
        messages = [*messages, Message("user", asked)]
    prompt = chat_prompt(service.engine.chat_template, messages, ToolUse(), at="input")  # type: ignore[arg-type]
    session = service.engine.open(namespace=namespace)
    with refusing("input"):
        session.extend(*prompt)
        handle = session.score(question.spelled, deadline_s=service.config.request_timeout_s)
        return await service.wait(handle)


def _probabilities(result: ScoreResult) -> list[float]:
    """Of the options, given that one of them is answered."""
    sums = [math.fsum(logprobs) for logprobs in result.token_logprobs]
    best = max(sums)
    weights = [math.exp(value - best) for value in sums]
    return [weight / math.fsum(weights) for weight in weights]


def _usage(usages: Sequence[Usage]) -> dict[str, Any]:
    tokens = sum(usage.prompt for usage in usages)
    return {
        "input_tokens": tokens,
        "input_tokens_details": {
            "cached_tokens": sum(usage.cached for usage in usages),
            "cache_write_tokens": 0,
        },
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": tokens,
    }


# ---------------------------------------------------------------- reading questions


def _question(value: Any, at: str) -> Question:
    if not isinstance(value, Mapping):
        raise bad_request(f"{at} must be an object", at)
    kind = value.get("type")
    fields = {"predicate": (), "choice": ("choices",), "score": ("levels",)}
    if not isinstance(kind, str) or kind not in fields:
        raise bad_request(f"{at}.type={kind!r:.80} is not one of {', '.join(fields)}", f"{at}.type")
    _only(value, at, ("type", "name", "instructions", *fields[kind]))
    name = value.get("name")
    if name is not None and not isinstance(name, str):
        raise bad_request(f"{at}.name must be a string", f"{at}.name")
    instructions = _instructions(value.get("instructions"), f"{at}.instructions")
    if kind == "predicate":
        return Question(kind, name, instructions, (True, False), ("", ""))
    field, key, most = (
        ("choices", "value", MAX_CHOICES) if kind == "choice" else ("levels", "label", MAX_LEVELS)
    )
    options, descriptions = _options(value.get(field), f"{at}.{field}", key, most)
    return Question(kind, name, instructions, options, descriptions)


def _instructions(value: Any, at: str) -> str:
    if isinstance(value, list):
        value = read_messages([{"role": "user", "content": value}], at)[0].content
    if not isinstance(value, str) or not value:
        raise bad_request(f"{at} must be a text", at)
    return value


def _options(
    items: Any, at: str, key: str, most: int
) -> tuple[tuple[str | bool, ...], tuple[str, ...]]:
    if not isinstance(items, list) or not 2 <= len(items) <= most:
        raise bad_request(f"{at} must be a list of 2 to {most}", at)
    options: list[str | bool] = []
    descriptions = []
    for i, item in enumerate(items):
        place = f"{at}[{i}]"
        if not isinstance(item, Mapping):
            raise bad_request(f"{place} must be an object", place)
        _only(item, place, (key, "description"))
        value = item.get(key)
        is_option = (isinstance(value, str) and value != "") or (
            isinstance(value, bool) and key == "value"
        )
        if not is_option:
            raise bad_request(
                f"{place}.{key} must be a text{' or a boolean' if key == 'value' else ''}",
                f"{place}.{key}",
            )
        if any(value == seen and type(value) is type(seen) for seen in options):
            raise bad_request(f"{place}.{key}={value!r:.80} is given twice", f"{place}.{key}")
        about = item.get("description")
        if about is not None and not isinstance(about, str):
            raise bad_request(f"{place}.description must be a string", f"{place}.description")
        options.append(value)  # type: ignore[arg-type]
        descriptions.append(about or "")
    return tuple(options), tuple(descriptions)


def _only(value: Mapping[str, Any], at: str, known: Sequence[str]) -> None:
    for key in value:
        if key not in known and value[key] is not None:
            raise bad_request(f"unknown field '{at}.{key:.80}'", f"{at}.{key}", "unknown_field")
