"""`OpenAI`: any server that speaks OpenAI's protocol, chat or completions."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from sgrt.backends.chatml import ChatML
from sgrt.backends.openai.answers import Answer, ChatAnswer, CompletionAnswer, TokenUsage, usage_of
from sgrt.backends.remote import Push, RemoteBackend, RemoteSession, finished, malformed, refuse
from sgrt.backends.sglang_words import constraint_fields
from sgrt.backends.wire import Client
from sgrt.config import env
from sgrt.core import (
    ChatTemplate,
    Choices,
    Constraint,
    Ebnf,
    Generate,
    GenerateResult,
    JsonSchema,
    Regex,
    SamplingParams,
    ScoreResult,
    StructuralTag,
    Text,
    Usage,
)
from sgrt.errors import ConstraintError, RequestError

Server = Literal["openai", "vllm", "sglang", "llama.cpp"]
_OPENAI_URL = "https://api.openai.com/v1"
_COMPLETION_MODELS = ("gpt-3.5-turbo-instruct", "babbage-002", "davinci-002")
_MARK = re.compile(r"<\|im_start\|>(\w+)\n|<\|im_end\|>\n")

# Parameters that are not OpenAI's: by what name each kind of server knows them.
_EXTRAS: dict[str, dict[Server, str]] = {
    "top_k": {"vllm": "top_k", "sglang": "top_k", "llama.cpp": "top_k"},
    "min_p": {"vllm": "min_p", "sglang": "min_p", "llama.cpp": "min_p"},
    "repetition_penalty": {"vllm": "repetition_penalty", "sglang": "repetition_penalty"},
    "min_tokens": {"vllm": "min_tokens", "sglang": "min_tokens"},
    "stop_token_ids": {"vllm": "stop_token_ids", "sglang": "stop_token_ids"},
    "ignore_eos": {"vllm": "ignore_eos", "sglang": "ignore_eos", "llama.cpp": "ignore_eos"},
}


class OpenAI(RemoteBackend):
    """A model behind a server with ``/chat/completions`` or ``/completions``.

    The server is sent text or messages, and tokenizes them itself: token ids are not known, and
    what was generated is tokenized anew. On a chat model a program consists of messages, and a
    generation begins its assistant's message (`continue_final_message` lifts that); ``select``
    needs a completion model whose server echoes log-probabilities. What a server has no word for
    is refused. Answers are checked against choices and patterns; of a JSON schema, that they are
    JSON.

    Args:
        model_name: as the server knows it.
        is_chat_model: None takes completions for OpenAI's own completion models only.
        chat_template: how to write roles for a completion model; None refuses roles there.
        base_url: up to and with ``/v1``.
        api_key: None takes OPENAI_API_KEY; "" sends none.
        server: whose additions to the protocol it understands: "openai" none, so that only JSON
            schemas can be asked for, on chat models, and no top_k and such.
        continue_final_message: the server goes on with an assistant's message that has begun
            (vLLM, SGLang).
        timeout_s, retries, max_connections: as for `RuntimeEndpoint`.

    Attributes:
        token_usage: tokens since its ``reset()``.
        keeps_tokens: sessions take no token ids.
    """

    keeps_tokens = False

    def __init__(
        self,
        model_name: str,
        is_chat_model: bool | None = None,
        chat_template: ChatTemplate | None = None,
        is_azure: bool = False,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        server: Server = "openai",
        continue_final_message: bool = False,
        timeout_s: float = 600.0,
        retries: int = 3,
        max_connections: int = 1024,
    ) -> None:
        if is_azure:
            raise refuse(
                "OpenAI", "is_azure=True", "give base_url='https://NAME.openai.azure.com/openai/v1'"
            )
        if server not in get_args(Server):
            raise RequestError(f"server={server!r}: must be one of {', '.join(get_args(Server))}")
        if chat_template is not None and not callable(getattr(chat_template, "render", None)):
            raise refuse("OpenAI", f"chat_template={chat_template!r:.80}", "give a ChatTemplate")
        url = _OPENAI_URL if base_url is None else base_url
        key = env("OPENAI_API_KEY") if api_key is None else api_key
        super().__init__(
            Client(
                url,
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout_s=timeout_s,
                retries=retries,
                max_connections=max_connections,
            )
        )
        is_chat = model_name not in _COMPLETION_MODELS if is_chat_model is None else is_chat_model
        self.is_chat_model = is_chat
        self.server: Server = server
        self.continue_final_message = continue_final_message
        self.max_tokens_field = (
            "max_completion_tokens" if is_chat and url == _OPENAI_URL else "max_tokens"
        )
        self.token_usage = TokenUsage()
        self._model = model_name
        self._template = ChatML() if is_chat else chat_template
        self._numbers: dict[str, int] = {}
        self._spellings: list[str] = []

    @property
    def name(self) -> str:
        """The model's name."""
        return self._model

    @property
    def chat_template(self) -> ChatTemplate | None:
        """For a chat model, only what `ProgramState.text` shows: the server writes its own."""
        return self._template

    def open(self, *, seed: int | None = None, priority: int = 0) -> RemoteSession:
        """A new session. Raises RequestError for a priority: the protocol has none."""
        self.check_open()
        if priority:
            raise refuse("OpenAI", f"priority={priority}")
        return ChatSession(self, seed) if self.is_chat_model else CompletionSession(self, seed)

    def open_ahead(self, num_tokens: int, *, seed: int | None = None) -> RemoteSession:
        """A new session that guesses ahead; see `core.GuessesAhead` and `openai.ahead`. A chat
        server that goes on with messages that have begun needs no guess."""
        from sgrt.backends.openai.ahead import ChatAhead, CompletionAhead

        self.check_open()
        if self.is_chat_model and self.continue_final_message:
            return self.open(seed=seed)
        if self.is_chat_model:
            return ChatAhead(self, seed, num_tokens)
        return CompletionAhead(self, seed, num_tokens)

    def compile(self, constraint: Constraint) -> None:
        """Refuse what this kind of server has no word for; it compiles at first use."""
        self.constraint_fields(constraint)

    def token_texts(self, token_ids: Sequence[int]) -> list[str]:
        """The spelling of tokens that log-probabilities name, by the numbers given here."""
        return [self._spellings[i] for i in token_ids]

    # what sessions ask

    def number(self, spelling: str) -> int:
        """A number for a token, whose own id is not known."""
        if spelling not in self._numbers:
            self._numbers[spelling] = len(self._spellings)
            self._spellings.append(spelling)
        return self._numbers[spelling]

    def fields(self, params: SamplingParams, constraint: Constraint | None) -> dict[str, Any]:
        """Model, parameters and constraint in the server's words."""
        fields: dict[str, Any] = {
            "model": self._model,
            self.max_tokens_field: params.max_tokens,
            "temperature": params.temperature,
            "top_p": params.top_p,
        }
        for name in ("presence_penalty", "frequency_penalty"):
            if getattr(params, name):
                fields[name] = getattr(params, name)
        if params.seed is not None:
            fields["seed"] = params.seed & (1 << 63) - 1
        if params.stop:
            fields["stop"] = list(params.stop)
        if params.logit_bias:
            fields["logit_bias"] = {str(i): bias for i, bias in params.logit_bias.items()}
        return {**fields, **self._extras(params), **self.constraint_fields(constraint)}

    def _extras(self, params: SamplingParams) -> dict[str, Any]:
        default = SamplingParams()
        extras = {}
        for field, names in _EXTRAS.items():
            value = getattr(params, field)
            if value == getattr(default, field) or (field == "top_k" and value == -1):
                continue
            if self.server not in names:
                raise refuse(
                    f"an OpenAI server of the kind {self.server!r}",
                    f"{field}={value!r:.80}",
                    "say server='vllm' (or 'sglang', 'llama.cpp') if it is one",
                )
            extras[names[self.server]] = list(value) if isinstance(value, tuple) else value
        if params.finish == "close":
            raise refuse("an OpenAI server", "finish='close'")
        return extras

    def constraint_fields(self, constraint: Constraint | None) -> dict[str, Any]:
        """The constraint in the server's words.

        Raises:
            ConstraintError: it has none.
        """
        if constraint is None:
            return {}
        match self.server, constraint:
            case "vllm", JsonSchema(schema):
                return {"structured_outputs": {"json": json.loads(schema)}}
            case "vllm", Regex(pattern):
                return {"structured_outputs": {"regex": pattern}}
            case "vllm", Choices(options):
                return {"structured_outputs": {"choice": list(options)}}
            case "vllm", Ebnf(grammar):
                return {"structured_outputs": {"grammar": grammar}}
            case "vllm" | "sglang", StructuralTag() if self.is_chat_model:
                tag = constraint_fields(constraint)["structural_tag"]
                return {"response_format": json.loads(tag)}
            case "sglang", JsonSchema(schema) if not self.is_chat_model:
                return {"json_schema": schema}
            case "sglang", Regex() | Choices() | Ebnf():
                return constraint_fields(constraint)
            case "llama.cpp", JsonSchema(schema) if not self.is_chat_model:
                return {"json_schema": json.loads(schema)}
            case "llama.cpp", Ebnf(grammar):
                return {"grammar": grammar}
            case "llama.cpp", Choices(options):
                return {"grammar": "root ::= " + " | ".join(json.dumps(o) for o in options)}
            case _, JsonSchema(schema) if self.is_chat_model:
                return {"response_format": _response_format(schema)}
        kind = "chat" if self.is_chat_model else "completion"
        raise ConstraintError(
            f"{kind} models on a server of the kind {self.server!r} have no word for"
            f" {type(constraint).__name__}",
            hint="say server='vllm' (or 'sglang', 'llama.cpp') if it is one",
        )


class OpenAISession(RemoteSession):
    """What both kinds share."""

    def __init__(self, backend: OpenAI, seed: int | None) -> None:
        super().__init__(backend, seed)
        self._openai = backend

    async def append_ids(self, ids: Sequence[int]) -> None:
        raise refuse("an OpenAI server", "token ids", "it is sent text")

    async def ids(self) -> list[int]:
        raise refuse("an OpenAI server", "token_ids()", "it does not tell them")

    async def check(self, item: Generate) -> None:
        await super().check(item)
        params, constraint = item.params, item.constraint
        self._openai.fields(params, constraint)
        if params.logprobs_mode == "unmasked" and params.logprobs is not None and constraint:
            raise refuse("an OpenAI server", "logprobs_mode='unmasked'", "its mask comes first")

    async def _stream(
        self,
        path: str,
        body: dict[str, Any],
        answer: Answer,
        push: Push,
    ) -> None:
        asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
        async with contextlib.aclosing(self._openai.client.stream(path, asked)) as events:
            async for event in events:
                fresh = answer.take(event)
                if fresh is not None:
                    push(fresh)

    def _result(
        self, answer: Answer, params: SamplingParams, constraint: Constraint | None
    ) -> GenerateResult:
        reason = answer.ending()
        usage = answer.usage()
        self._openai.token_usage.add(usage)
        return finished(
            answer.text,
            (),
            reason,
            usage,
            constraint,
            stop_match=answer.stop_match(params, constraint),
            logprobs=tuple(answer.logprobs) if params.logprobs is not None else None,
        )


class ChatSession(OpenAISession):
    """Messages. The template's text, in ChatML, says where each begins and ends."""

    def __init__(self, backend: OpenAI, seed: int | None) -> None:
        super().__init__(backend, seed)
        self._messages: tuple[tuple[str, str], ...] = ()
        self._open = False

    def twin(self, seed: int | None) -> ChatSession:
        return ChatSession(self._openai, seed)

    def take_state(self, parent: ChatSession) -> None:
        self._messages, self._open = parent._messages, parent._open

    async def append(self, parts: Sequence[Text]) -> None:
        for part in parts:
            if part.special:
                self._read_marks(part.text)
            elif part.text:
                self._write(part.text)

    def _read_marks(self, text: str) -> None:
        at = 0
        for mark in _MARK.finditer(text):
            self._write(text[at : mark.start()])
            at = mark.end()
            self._open = mark[1] is not None
            if self._open:
                self._messages = (*self._messages, (mark[1], ""))
        self._write(text[at:])

    def _write(self, text: str) -> None:
        if not text:
            return
        if not self._open:
            raise RequestError(
                f"{self._openai.name!r} is a chat model: {text[:60]!r} stands in no message",
                hint="write sgrt.user(…) and sgrt.assistant(…), or give is_chat_model=False",
            )
        role, content = self._messages[-1]
        self._messages = (*self._messages[:-1], (role, content + text))

    async def continue_text(self, item: Generate, push: Push) -> GenerateResult:
        result = await self.request(item.params, item.constraint, push, self._conversation())
        self._write(result.text)
        return result

    async def request(
        self,
        params: SamplingParams,
        constraint: Constraint | None,
        push: Push,
        conversation: Mapping[str, Any],
    ) -> GenerateResult:
        """One request; the state stays as it is."""
        body = {**self._openai.fields(params, constraint), **conversation}
        if params.logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": params.logprobs}
        answer = ChatAnswer(self._openai, self._openai.client.url)
        await self._stream("/chat/completions", body, answer, push)
        return self._result(answer, params, constraint)

    def before(self) -> dict[str, Any]:
        """The conversation before the assistant's message that has begun."""
        messages = self._messages[:-1]
        return {"messages": [{"role": role, "content": content} for role, content in messages]}

    def _conversation(self) -> dict[str, Any]:
        if not self._open or self._messages[-1][0] != "assistant":
            raise RequestError(
                f"{self._openai.name!r} is a chat model: it can only continue an assistant message",
                hint="write s += sgrt.assistant(sgrt.gen(…))",
            )
        begun = self._messages[-1][1]
        told = self.before()
        if not begun:
            return told
        if not self._openai.continue_final_message:
            raise RequestError(
                f"{self._openai.name!r} is a chat model: a generation must begin its message, and"
                f" {begun[-60:]!r} stands before it",
                hint="@sgrt.function(num_api_spec_tokens=…) has the whole message written in one go;"
                " or OpenAI(continue_final_message=True), if the server can",
            )
        told["messages"] += [{"role": "assistant", "content": begun}]
        return {**told, "continue_final_message": True, "add_generation_prompt": False}

    async def score_options(self, options: tuple[str, ...], unconditional: bool) -> ScoreResult:
        raise refuse(
            "chat completions",
            "select",
            "they give no log-probabilities of given text; use gen(output=Literal[…])",
        )


_Scored = tuple[tuple[int, ...], tuple[float, ...]]


class CompletionSession(OpenAISession):
    """Text."""

    def __init__(self, backend: OpenAI, seed: int | None) -> None:
        super().__init__(backend, seed)
        self._text = ""

    def twin(self, seed: int | None) -> CompletionSession:
        return CompletionSession(self._openai, seed)

    def take_state(self, parent: CompletionSession) -> None:
        self._text = parent._text

    async def append(self, parts: Sequence[Text]) -> None:
        self._text += "".join(part.text for part in parts)

    async def continue_text(self, item: Generate, push: Push) -> GenerateResult:
        result = await self.request(item.params, item.constraint, push)
        self._text += result.text
        return result

    async def request(
        self, params: SamplingParams, constraint: Constraint | None, push: Push
    ) -> GenerateResult:
        """One request; the state stays as it is."""
        body = {**self._openai.fields(params, constraint), "prompt": self._text}
        if params.logprobs is not None:
            body["logprobs"] = params.logprobs
        answer = CompletionAnswer(self._openai, self._openai.client.url)
        await self._stream("/completions", body, answer, push)
        return self._result(answer, params, constraint)

    async def score_options(self, options: tuple[str, ...], unconditional: bool) -> ScoreResult:
        """Echoed log-probabilities. A token across the seam counts to the option."""
        found, usage = await self._echo(self._text, options)
        alone = (await self._echo("", options))[0] if unconditional else None
        ids, logprobs = zip(*found, strict=True)
        first = None if alone is None else tuple(values for _, values in alone)
        return ScoreResult(ids, logprobs, usage, first)

    async def _echo(self, prompt: str, options: tuple[str, ...]) -> tuple[list[_Scored], Usage]:
        body = {
            **self._openai.fields(SamplingParams(max_tokens=1, temperature=0), None),
            "prompt": [prompt + option for option in options],
            "echo": True,
            "logprobs": 1,
        }
        answer = await self._openai.client.post("/completions", body)
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or len(choices) != len(options):
            raise malformed("/completions", answer)
        ordered = sorted(choices, key=lambda choice: choice.get("index", 0))
        usage = usage_of(answer.get("usage"), 0)
        self._openai.token_usage.add(usage)
        return [
            self._echoed(choice, len(prompt), len(prompt + option))
            for choice, option in zip(ordered, options, strict=True)
        ], usage

    def _echoed(self, choice: Mapping[str, Any], begin: int, end: int) -> _Scored:
        told = choice.get("logprobs")
        try:
            rows = zip(told["tokens"], told["token_logprobs"], told["text_offset"], strict=True)  # type: ignore[index]
            kept = [
                (self._openai.number(token), 0.0 if value is None and at == 0 else float(value))
                for token, value, at in rows
                if at < end and at + len(token) > begin
            ]
        except (TypeError, KeyError, ValueError) as error:
            raise malformed("/completions", told) from error
        if not kept:
            raise malformed("/completions", told)
        return tuple(i for i, _ in kept), tuple(value for _, value in kept)


def _response_format(schema: str) -> dict[str, Any]:
    told = {"name": "output", "strict": True, "schema": json.loads(schema)}
    return {"type": "json_schema", "json_schema": told}
