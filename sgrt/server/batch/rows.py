"""The rows of a batch: OpenAI's form, read and checked as a whole before any work begins."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sgrt.errors import RequestError
from sgrt.server.body import parse
from sgrt.server.failures import ApiError

MAX_ROWS = 50_000
MAX_BYTES = 200_000_000
URLS = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
_FIELDS = ("custom_id", "method", "url", "body")
_SHOWN = 10


@dataclass(frozen=True)
class Row:
    """One request.

    Args:
        line: where it stands, from 1.
        body: JSON, as compact as can be; the order of keys is kept, for it may matter.
    """

    line: int
    custom_id: str
    url: str
    body: bytes

    @cached_property
    def id(self) -> str:
        """Another row, another place or another body: another id."""
        told = f"{self.line}\0{self.custom_id}\0{self.url}\0".encode() + self.body
        return "batch_req_" + hashlib.sha256(told).hexdigest()[:32]

    def body_with_seed(self, job_seed: int) -> bytes:
        """The body; where it gives no seed, one that depends on the job's and the line alone."""
        body = json.loads(self.body)
        if body.get("seed") is None:
            digest = hashlib.sha256(f"{job_seed} {self.line}".encode()).digest()
            body["seed"] = int.from_bytes(digest[:6], "big")
        return json.dumps(body).encode()


@dataclass(frozen=True)
class Rows:
    """A batch's input.

    Args:
        sha256: of the file.
    """

    rows: tuple[Row, ...]
    sha256: str


def read_rows(path: Path, names: Collection[str], *, limit: bool = True) -> Rows:
    """Read and check a whole file.

    Args:
        names: what the model may be called.
        limit: refuse more than `MAX_ROWS` rows or `MAX_BYTES` bytes.

    Raises:
        RequestError: lists the lines that are no rows of a batch, the first ones by what is
            wrong with them.
    """
    try:
        if limit and path.stat().st_size > MAX_BYTES:
            raise _too_much(path, f"{path.stat().st_size} bytes", f"{MAX_BYTES} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror or error}") from error
    lines = [(n, line) for n, line in enumerate(data.split(b"\n"), 1) if line.strip()]
    if limit and len(lines) > MAX_ROWS:
        raise _too_much(path, f"{len(lines)} rows", f"{MAX_ROWS} rows")
    rows: list[Row] = []
    faults: list[str] = []
    seen: dict[str, int] = {}
    for number, line in lines:
        try:
            row = _row(number, line, names)
            if row.custom_id in seen:
                raise _Fault(
                    f"custom_id {row.custom_id!r:.80} is that of line {seen[row.custom_id]}"
                )
        except _Fault as fault:
            faults.append(f"line {number}: {fault}")
            continue
        seen[row.custom_id] = number
        rows.append(row)
    if faults:
        raise RequestError(f"{path}: {_listed(faults)}")
    if not rows:
        raise RequestError(f"{path} holds no rows")
    return Rows(tuple(rows), hashlib.sha256(data).hexdigest())


class _Fault(Exception):
    """What is wrong with one line."""


def _row(number: int, line: bytes, names: Collection[str]) -> Row:
    try:
        value = parse(line)
    except ApiError as error:
        raise _Fault(error.message.replace("the body", "the row")) from None
    for problem in _problems(value, names):
        raise _Fault(problem)
    body = json.dumps(value["body"], separators=(",", ":")).encode()
    return Row(number, value["custom_id"], value["url"], body)


def _problems(value: dict[str, Any], names: Collection[str]) -> Iterator[str]:
    for key in value:
        if key not in _FIELDS:
            yield f"unknown field {key!r:.80}"
    for key in _FIELDS:
        if value.get(key) is None:
            yield f"the field {key!r} is required"
    if not isinstance(value["custom_id"], str) or not 0 < len(value["custom_id"]) <= 512:
        yield "custom_id must be a text of 1 to 512 characters"
    if value["method"] != "POST":
        yield f"method={value['method']!r:.80}: must be 'POST'"
    if value["url"] not in URLS:
        yield f"url={value['url']!r:.80}: must be one of {', '.join(URLS)}"
    body = value["body"]
    if not isinstance(body, dict):
        yield "body must be an object"
    if body.get("stream"):
        yield "body.stream: a batch has no streams"
    if body.get("model") not in (None, "", *names):
        yield f"body.model={body['model']!r:.80}: the model is {' or '.join(names)}"


def _listed(faults: list[str]) -> str:
    more = len(faults) - _SHOWN
    rest = [] if more <= 0 else [f"{more} more lines: {_numbers(faults[_SHOWN:])}"]
    return "; ".join(faults[:_SHOWN] + rest)


def _numbers(faults: list[str]) -> str:
    shown = [fault.partition(":")[0].removeprefix("line ") for fault in faults[:100]]
    return ", ".join(shown) + (", …" if len(faults) > 100 else "")


def _too_much(path: Path, have: str, limit: str) -> RequestError:
    return RequestError(
        f"{path} has {have}, the limit is {limit}", hint="--no-limit takes any number"
    )
