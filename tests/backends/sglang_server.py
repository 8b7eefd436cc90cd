"""What an SGLang server answers, with bytes for tokens and a function for a model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from tests.backends.http_server import Asked, Reply, reply

BOS, EOS = 256, 257
CHATML = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


class Sglang:
    """Handler of an `HttpServer`.

    Args:
        model: from the text so far to what follows.
        incremental: each event tells only what is new.
        tokenizes: has ``/tokenize``.
        says: whether it is incremental.
        pause_s: before each event.
    """

    def __init__(
        self,
        model: Callable[[str], str] = lambda text: "yes",
        *,
        incremental: bool = False,
        tokenizes: bool = True,
        deterministic: bool = False,
        says: bool = False,
        pause_s: float = 0.0,
    ) -> None:
        self.model = model
        self.incremental = incremental
        self.tokenizes = tokenizes
        self.deterministic = deterministic
        self.says = says
        self.pause_s = pause_s
        self.aborted: list[str] = []

    def __call__(self, asked: Asked) -> Reply:
        match asked.path:
            case "/model_info":
                return reply({"model_path": "org/model", "tokenizer_path": "org/model"})
            case "/server_info":
                told = {"incremental_streaming_output": self.incremental} if self.says else {}
                return reply({"enable_deterministic_inference": self.deterministic, **told})
            case "/tokenizer_info":
                return reply({"chat_template": CHATML, "bos_token": "<s>", "eos_token": "</s>"})
            case "/tokenize" if self.tokenizes:
                ids = encode(asked.body["prompt"])
                return reply({"tokens": [BOS, *ids] if asked.body["add_special_tokens"] else ids})
            case "/detokenize":
                return reply({"text": [decode(ids) for ids in asked.body["tokens"]]})
            case "/flush_cache":
                return reply(None)
            case "/abort_request":
                self.aborted.append(asked.body["rid"])
                return reply(None)
            case "/generate" if asked.body.get("stream"):
                kind = {"content-type": "text/event-stream"}
                return Reply(200, kind, self._stream(asked.body))
            case "/generate":
                return reply([self._score(ids, asked.body) for ids in asked.body["input_ids"]])
        return reply({"detail": "Not Found"}, 404)

    def _text(self, body: dict[str, Any]) -> str:
        return decode(body["input_ids"]) if "input_ids" in body else body["text"]

    async def _stream(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        params = body["sampling_params"]
        text, ids, finish = cut(self.model(self._text(body)), params)
        shown = seen = 0
        for end in [*range(1, len(ids)), len(ids)]:
            await asyncio.sleep(self.pause_s)
            so_far = decode(ids[:end])[: len(text)] if end < len(ids) else text
            if self.incremental and end < len(ids):
                so_far = so_far.rstrip("\ufffd")
            begin_text, begin = (shown, seen) if self.incremental else (0, 0)
            meta: dict[str, Any] = {
                "id": body["rid"],
                "prompt_tokens": len(encode(self._text(body))),
                "cached_tokens": 1,
                "completion_tokens": end,
                "finish_reason": finish if end == len(ids) else None,
            }
            if body.get("return_logprob"):
                meta["output_token_logprobs"] = [[-0.5, i, None] for i in ids[begin:end]]
                tops = [[[-0.5, i, None], [-1.0, 65, None]] for i in ids[begin:end]]
                meta["output_top_logprobs"] = tops
            event: dict[str, Any] = {"text": so_far[begin_text:], "meta_info": meta}
            event["output_ids"] = ids[begin:end]
            shown, seen = len(so_far), end
            yield f"data: {json.dumps(event)}\n\n".encode()
        yield b"data: [DONE]\n\n"

    def _score(self, ids: list[int], body: dict[str, Any]) -> dict[str, Any]:
        """Log-probability of a byte: minus its value / 100."""
        first = body["logprob_start_len"]
        told = [[None if k == 0 else -i / 100, i, None] for k, i in enumerate(ids[first:])]
        return {"text": "", "meta_info": {"input_token_logprobs": told, "cached_tokens": first}}


def cut(answer: str, params: dict[str, Any]) -> tuple[str, list[int], dict[str, Any]]:
    """Text, tokens and finish reason, as SGLang tells them: tokens go on to the stop's end."""
    limit = params["max_new_tokens"]
    for stop in params.get("stop", ()):
        if stop in answer and len(encode(answer.partition(stop)[0] + stop)) <= limit:
            text = answer.partition(stop)[0]
            return text, encode(text + stop), {"type": "stop", "matched": stop}
    ids = encode(answer)
    if len(ids) >= limit:
        return decode(ids[:limit]), ids[:limit], {"type": "length", "length": limit}
    return answer, [*ids, EOS], {"type": "stop", "matched": EOS}


def encode(text: str) -> list[int]:
    return list(text.encode())


def decode(ids: list[int]) -> str:
    return bytes(i for i in ids if i < 256).decode("utf-8", "replace")
