"""`RuntimeEndpoint`: any server that speaks SGLang's native protocol, `sgrt serve` among them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from sgrt.backends.remote import Push, RemoteBackend, RemoteSession, finished, malformed, refuse
from sgrt.backends.sglang_words import (
    OWN,
    Answer,
    constraint_fields,
    generate_fields,
    is_ids,
    logprob_fields,
    option_logprobs,
    usage_of,
)
from sgrt.backends.wire import LOOP, Client
from sgrt.core import (
    ChatTemplate,
    Constraint,
    Generate,
    GenerateResult,
    SamplingParams,
    ScoreResult,
    Text,
    Usage,
)
from sgrt.errors import BackendError, EngineClosed, MissingPackage, RequestError

_KIND = "an SGLang server"
_OPTIONS_AT_ONCE = 32
_REMEMBERED_CHARS = 1 << 20
_Tokenized = tuple[tuple[Text, ...], bool, int | Literal["text"] | None]


class RuntimeEndpoint(RemoteBackend):
    """A model behind a server with SGLang's ``/generate``.

    Where the server has ``/tokenize`` (SGLang since 0.5, `sgrt serve`), a session is a list of
    token ids and what was generated is sent back as the tokens that it was: `token_exact`.
    Servers without it are sent text, which they tokenize anew each time; there `select` is
    refused, since what would be scored is not certain. Other servers than `sgrt serve` take the
    spelling of a special token inside a user's text for that token.

    On `sgrt serve` a program is what it is on the embedded engine: every constraint, ``finish=
    "close"``, ``stop_regex``, and with a seed the same draws (`own_words`). Of other servers:

    Log-probabilities are the server's own, which may be taken after temperature and penalties.
    Of a JSON schema the client checks that the answer is JSON; keeping to the schema is the
    server's word (`gen(output=…)` validates the object). Seeds are refused unless the server says
    that it is deterministic.

    Args:
        base_url: ``http://host:port``.
        api_key: sent as a bearer token.
        verify: of TLS certificates, as httpx2 takes it.
        chat_template: Jinja text, a path to it, or a `core.ChatTemplate`. None asks the server
            (``/tokenizer_info``), then looks where its tokenizer came from, if that is a folder
            here.
        timeout_s: longest silence of the server before a request fails.
        retries: how often a request that the server has not begun is sent again.
        max_connections: requests on their way at once.

    Attributes:
        token_exact: None before the first use.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        verify: Any = True,
        chat_template: str | Path | ChatTemplate | None = None,
        *,
        chat_template_name: str | None = None,
        timeout_s: float = 600.0,
        retries: int = 3,
        max_connections: int = 1024,
    ) -> None:
        if chat_template_name is not None:
            raise refuse(
                "RuntimeEndpoint",
                f"chat_template_name={chat_template_name!r}",
                "templates are not known by name; give chat_template=, as Jinja text or a path",
            )
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        super().__init__(
            Client(
                base_url,
                headers=headers,
                timeout_s=timeout_s,
                retries=retries,
                max_connections=max_connections,
                verify=verify,
            )
        )
        self.token_exact: bool | None = None
        self._template = chat_template
        self._has_template = False
        self._info: dict[str, Any] | None = None
        self._server: dict[str, Any] | None = None
        self._tokenizer: dict[str, Any] | None = None
        self._tokenized: OrderedDict[_Tokenized, list[int]] = OrderedDict()
        self._tokenized_chars = 0
        self._spellings: dict[int, str] = {}
        self._aborting: set[asyncio.Task[None]] = set()

    @property
    def name(self) -> str:
        """The model's name, as the server gives it."""
        info = self.get_model_info()
        return str(info.get("served_model_name") or info.get("model_path") or self.client.url)

    @property
    def chat_template(self) -> ChatTemplate | None:
        """The template that was given or found; None where there is none."""
        if not self._has_template:
            self._template = self._find_template()
            self._has_template = True
        return self._template  # type: ignore[return-value]

    @property
    def keeps_tokens(self) -> bool:
        """Whether sessions take token ids."""
        return LOOP.wait(self.is_token_exact())

    def open(self, *, seed: int | None = None, priority: int = 0) -> SglangSession:
        """A new session. ``priority`` goes to the server with each request."""
        self.check_open()
        return SglangSession(self, seed, priority)

    def compile(self, constraint: Constraint) -> None:
        """Refuse what the server has no word for; it compiles at first use."""
        if "constraint" not in LOOP.wait(self.own_words()):
            constraint_fields(constraint)

    def token_texts(self, token_ids: Sequence[int]) -> list[str]:
        """Each token's own text, as the server gives it; asked for once."""
        unknown = [i for i in dict.fromkeys(token_ids) if i not in self._spellings]
        if unknown:
            asked = self.detokenize([[i] for i in unknown], skip_special_tokens=False)
            self._spellings.update(zip(unknown, LOOP.wait(asked), strict=True))
        return [self._spellings[i] for i in token_ids]

    def get_model_info(self) -> dict[str, Any]:
        """What the server says about its model."""
        if self._info is None:
            self._info = LOOP.wait(self._first_of("/model_info", "/get_model_info"))
        return self._info

    @property
    def model_info(self) -> dict[str, Any]:
        """`get_model_info`, by SGLang's name."""
        return self.get_model_info()

    def get_model_name(self) -> str:
        """Where the server has its model from."""
        return str(self.get_model_info().get("model_path") or self.name)

    def get_server_info(self) -> dict[str, Any]:
        """What the server says about itself: its settings, load and version."""
        return LOOP.wait(self._first_of("/server_info", "/get_server_info"))

    def flush_cache(self) -> None:
        """Let the server forget computed prefixes."""
        LOOP.wait(self.client.post("/flush_cache", {}))

    # what sessions ask

    async def is_token_exact(self) -> bool:
        """Whether the server tokenizes for us; asked once."""
        if self.token_exact is None:
            try:
                await self.tokenize(Text("a"))
                self.token_exact = True
            except BackendError as error:
                if error.status not in (400, 404, 405, 422, 501):
                    raise
                self.token_exact = False
        return self.token_exact

    async def tokenize(
        self, *parts: Text, special: bool = False, after: int | Literal["text"] | None = None
    ) -> list[int]:
        """Token ids of parts as one text.

        Args:
            special: with what the tokenizer puts around a text, such as BOS.
            after: the token that stands before, or some text; None where nothing does. Servers of
                ours alone make that difference.
        """
        info = await self.tokenizer_info() if parts else {}
        if info.get("tokenizes_after") is not True:
            after = None
        key = (parts, special, after)
        if key in self._tokenized:
            self._tokenized.move_to_end(key)
            return self._tokenized[key]
        whole = "".join(part.text for part in parts)
        body: dict[str, Any] = {"prompt": whole, "add_special_tokens": special}
        takes_parts = info.get("tokenizes_parts") is True
        if not special and any(not part.special for part in parts) and takes_parts:
            told = [[part.text, part.special] for part in parts]
            body = {"parts": told, "add_special_tokens": special}
        if after is not None:
            body["after"] = after
        answer = await self.client.post("/tokenize", body)
        ids = answer.get("tokens") if isinstance(answer, dict) else None
        if not is_ids(ids):
            raise malformed("/tokenize", answer)
        self._tokenized[key] = ids
        self._tokenized_chars += len(whole)
        while self._tokenized_chars > _REMEMBERED_CHARS:
            (old, *_), _ = self._tokenized.popitem(last=False)
            self._tokenized_chars -= sum(len(part.text) for part in old)
        return ids

    async def detokenize(
        self, lists: list[list[int]], *, skip_special_tokens: bool = True
    ) -> list[str]:
        """The text of each list of ids."""
        body = {"tokens": lists, "skip_special_tokens": skip_special_tokens}
        answer = await self.client.post("/detokenize", body)
        texts = answer.get("text") if isinstance(answer, dict) else None
        if not isinstance(texts, list) or len(texts) != len(lists):
            raise malformed("/detokenize", answer)
        return [str(text) for text in texts]

    async def first_id(self) -> int:
        """The token that stands before a text which nothing precedes.

        Raises:
            RequestError: the server tells of none.
        """
        bos = await self.tokenize(special=True)
        if bos:
            return bos[0]
        with contextlib.suppress(BackendError):
            eos = _spelling(await self.tokenizer_info(), "eos_token")
            ids = await self.tokenize(Text(eos, special=True))
            if len(ids) == 1:
                return ids[0]
        raise refuse("this server", "unconditional scores", "it tells of no token to begin with")

    async def tokenizer_info(self) -> dict[str, Any]:
        """What the server says about its tokenizer; {} where it says nothing."""
        if self._tokenizer is None:
            try:
                told = await self.client.get("/tokenizer_info")
            except BackendError as error:
                if error.status is None or error.status >= 500:
                    raise
                told = None
            self._tokenizer = told if isinstance(told, dict) else {}
        return self._tokenizer

    async def own_words(self) -> frozenset[str]:
        """Which of `OWN` the server takes; none where it is not `sgrt serve`."""
        told = await self.setting("sgrt")
        return OWN.intersection(told) if isinstance(told, list) else frozenset()

    async def setting(self, *names: str) -> Any:
        """A setting of the server, under the first of these names that it knows; else None."""
        if self._server is None:
            self._server = await self._first_of("/server_info", "/get_server_info")
        return next((self._server[name] for name in names if name in self._server), None)

    def abort(self, request_id: str) -> None:
        """Tell the server to stop a request; nobody waits for that."""
        task = LOOP.get().create_task(self._abort(request_id))
        self._aborting.add(task)
        task.add_done_callback(self._aborting.discard)

    async def _abort(self, request_id: str) -> None:
        with contextlib.suppress(BackendError, EngineClosed):  # it also sees the connection close
            await self.client.post("/abort_request", {"rid": request_id})

    # inside

    async def _first_of(self, *paths: str) -> dict[str, Any]:
        for path in paths:
            try:
                answer = await self.client.get(path)
            except BackendError as error:
                if error.status not in (404, 405) or path == paths[-1]:
                    raise
            else:
                if not isinstance(answer, dict):
                    raise malformed(path, answer)
                return answer
        raise AssertionError("the last path returns or raises")

    def _find_template(self) -> ChatTemplate | None:
        given = self._template
        if given is not None and not isinstance(given, (str, Path)):
            return given
        if given is not None:
            return _jinja(_source(given), {})
        told = LOOP.wait(self.tokenizer_info())
        if isinstance(told.get("chat_template"), str):
            return _jinja(told["chat_template"], told)
        folder = Path(str(self.get_model_info().get("tokenizer_path") or ""))
        if folder.is_absolute() and folder.is_dir():
            return _template_in(folder)
        return None


class SglangSession(RemoteSession):
    """Token ids, or text where the server does not tokenize for us."""

    def __init__(self, backend: RuntimeEndpoint, seed: int | None, priority: int) -> None:
        super().__init__(backend, seed)
        self._endpoint = backend
        self._priority = priority
        self._ids: list[int] = []
        self._after: int | Literal["text"] | None = None  # what stands before what is appended next
        self._text = ""  # in place of ids
        self._pending: list[Text] = []  # not tokenized yet

    def twin(self, seed: int | None) -> SglangSession:
        return SglangSession(self._endpoint, seed, self._priority)

    def take_state(self, parent: SglangSession) -> None:
        self._ids, self._text = list(parent._ids), parent._text
        self._after = parent._after
        self._pending = list(parent._pending)

    async def append(self, parts: Sequence[Text]) -> None:
        self._pending += [part for part in parts if part.text]

    async def append_ids(self, ids: Sequence[int]) -> None:
        if not await self._endpoint.is_token_exact():
            raise refuse(_KIND, "token ids", "it has no /tokenize, and is sent text")
        self._ids = [*(await self.ids()), *ids]
        self._after = ids[-1] if ids else self._after

    async def ids(self) -> list[int]:
        if not await self._endpoint.is_token_exact():
            raise refuse(_KIND, "token_ids()", "it has no /tokenize")
        if self._pending:
            ids = await self._endpoint.tokenize(*self._pending, after=self._after)
            self._ids = [*self._ids, *(await self._missing_bos(ids)), *ids]
            self._after = ids[-1] if ids else self._after
            self._pending = []
        return self._ids

    async def _missing_bos(self, ids: list[int]) -> list[int]:
        """With what a text begins that does not do so by itself."""
        bos = [] if self._ids else await self._endpoint.tokenize(special=True)
        return bos[:1] if ids[:1] != bos[:1] else []

    async def check(self, item: Generate) -> None:
        own = await self._endpoint.own_words()
        params, constraint = item.params, item.constraint
        if "stop_regex" not in own:
            await super().check(item)
        if params.finish == "close" and "finish" not in own:
            raise refuse(_KIND, "finish='close'")
        is_masked = params.logprobs_mode == "masked" or "logprobs_mode" in own
        if params.logprobs is not None and constraint is not None and not is_masked:
            raise refuse(_KIND, "logprobs_mode='unmasked'", "its mask comes first")
        if "constraint" not in own:
            constraint_fields(constraint)

    async def continue_text(self, item: Generate, push: Push) -> GenerateResult:
        params = item.params
        await self._check_seed(params)
        request_id = uuid.uuid4().hex
        told = await self._endpoint.setting("incremental_streaming_output", "stream_output")
        answer = Answer(with_logprobs=params.logprobs is not None, is_incremental=told)
        body = {
            **await self._prompt(),
            "sampling_params": generate_fields(item, await self._endpoint.own_words()),
            "stream": True,
            "rid": request_id,
            **({"priority": self._priority} if self._priority else {}),
            **logprob_fields(params),
        }
        try:
            stream = self._endpoint.client.stream("/generate", body)
            async with contextlib.aclosing(stream) as events:
                async for event in events:
                    for fresh in answer.take(event):
                        push(fresh)
        except asyncio.CancelledError:
            self._endpoint.abort(request_id)
            raise
        return await self._take(answer, params, item.constraint)

    async def _check_seed(self, params: SamplingParams) -> None:
        is_used = params.seed is not None and params.temperature > 0
        if is_used and not await self._endpoint.setting("enable_deterministic_inference"):
            raise refuse("this server", "seeds", "it runs without --enable-deterministic-inference")

    async def _prompt(self) -> dict[str, Any]:
        if await self._endpoint.is_token_exact():
            self._ids = await self.ids() or await self._missing_bos([])
            return {"input_ids": self._ids}
        self._text += "".join(part.text for part in self._pending)
        self._pending = []
        return {"text": self._text}

    async def _take(
        self, answer: Answer, params: SamplingParams, constraint: Constraint | None
    ) -> GenerateResult:
        """The answer joins the state."""
        reason, matched = answer.ending()
        text, ids = answer.text, list(answer.ids)
        if isinstance(matched, int) and ids[-1:] == [matched]:
            ids.pop()
        rest = ""
        if self._endpoint.token_exact and isinstance(matched, str):
            ids, rest = await self._before_stop(ids, text, matched)
        if self._endpoint.token_exact:
            self._ids = [*self._ids, *ids]
            self._after = "text"
            self._pending = [Text(rest)] if rest else []
            kept = [*ids, *(await self._endpoint.tokenize(Text(rest)) if rest else [])]
        else:
            self._text += text
            kept = ids
        asked_for = isinstance(matched, str) or matched in params.stop_token_ids
        result = finished(
            text,
            kept,
            reason,
            answer.usage(),
            constraint,
            stop_match=matched if asked_for else None,
            logprobs=tuple(answer.logprobs[: len(ids)]) if params.logprobs is not None else None,
        )
        is_complete = answer.told_by_ours("is_complete", bool)
        return result if is_complete is None else replace(result, is_complete=is_complete)

    async def _before_stop(self, ids: list[int], text: str, stop: str) -> tuple[list[int], str]:
        """Tokens that lie wholly before a stop string, and the text between."""
        first = max(0, len(ids) - 4 * len(stop.encode()) - 4)
        lists = [ids[:end] for end in range(first, len(ids) + 1)]
        texts = await self._endpoint.detokenize(lists)
        for known, spelled in zip(reversed(lists), reversed(texts), strict=True):
            if text.startswith(spelled):
                return known, text[len(spelled) :]
        return [], text

    async def score_options(self, options: tuple[str, ...], unconditional: bool) -> ScoreResult:
        if not await self._endpoint.is_token_exact():
            raise refuse(_KIND, "select", "it has no /tokenize, so what is scored is not certain")
        prompt = await self.ids()
        ids = [await self._endpoint.tokenize(Text(o), after=self._after) for o in options]
        logprobs, usage = await self._score(prompt, ids)
        alone = None
        if unconditional:
            alone, _ = await self._score([await self._endpoint.first_id()], ids)
        return ScoreResult(tuple(map(tuple, ids)), tuple(logprobs), usage, alone)

    async def _score(
        self, prompt: list[int], options: list[list[int]]
    ) -> tuple[tuple[tuple[float, ...], ...], Usage]:
        if not prompt:
            raise RequestError("options cannot be scored after no text at all")
        found: list[tuple[float, ...]] = []
        cached = 0
        for begin in range(0, len(options), _OPTIONS_AT_ONCE):
            for meta in await self._read(prompt, options[begin : begin + _OPTIONS_AT_ONCE]):
                found.append(option_logprobs(meta, options[len(found)]))
                cached = max(cached, min(len(prompt), usage_of(meta, 0).cached))
        return tuple(found), Usage(prompt=len(prompt), cached=cached)

    async def _read(self, prompt: list[int], options: list[list[int]]) -> list[Mapping[str, Any]]:
        """What the server says of each option's tokens."""
        body = {
            "input_ids": [[*prompt, *option] for option in options],
            "sampling_params": {"max_new_tokens": 0, "temperature": 0},
            "return_logprob": True,
            "logprob_start_len": len(prompt) - 1,
        }
        answers = await self._endpoint.client.post("/generate", body)
        if not isinstance(answers, list) or len(answers) != len(options):
            raise malformed("/generate", answers)
        return [_meta_of(answer) for answer in answers]


def _meta_of(answer: object) -> Mapping[str, Any]:
    meta = answer.get("meta_info") if isinstance(answer, dict) else None
    if not isinstance(meta, dict):
        raise malformed("/generate", answer)
    return meta


def _source(given: str | Path) -> str:
    """Jinja text: itself, or what a file holds."""
    if isinstance(given, str) and ("{%" in given or "{{" in given):
        return given
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise RequestError(f"chat_template={str(given)!r:.200}: {error}") from error


def _template_in(folder: Path) -> ChatTemplate | None:
    """The template among a tokenizer's files."""
    config: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    path = folder / "chat_template.jinja"
    source = path.read_text(encoding="utf-8") if path.is_file() else config.get("chat_template")
    return _jinja(source, config) if isinstance(source, str) else None


def _jinja(source: str, told: Mapping[str, Any]) -> ChatTemplate:
    try:
        from sgrt.models.chat_template import JinjaChatTemplate
    except ModuleNotFoundError as error:
        raise MissingPackage(error, extra="http") from error

    added = told.get("added_tokens_decoder")
    listed = told.get("additional_special_tokens") or []
    special = [
        _spelling(told, "bos_token"),
        _spelling(told, "eos_token"),
        *(t for t in listed if isinstance(t, str)),
    ]
    if isinstance(added, dict):
        special += [
            t["content"] for t in added.values() if isinstance(t, dict) and t.get("special")
        ]
    return JinjaChatTemplate(
        source,
        bos=_spelling(told, "bos_token"),
        eos=_spelling(told, "eos_token"),
        special_tokens=special,
    )


def _spelling(told: Mapping[str, Any], key: str) -> str:
    """A special token as a tokenizer's configuration spells it; "" where there is none."""
    value = told.get(key) if isinstance(told, Mapping) else None
    return str(value.get("content", "")) if isinstance(value, dict) else str(value or "")
