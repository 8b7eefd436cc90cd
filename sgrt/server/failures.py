"""How a failure looks on the wire: one nested form on every route, ``param`` says where."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sgrt.errors import (
    Cancelled,
    ConstraintError,
    DeadlineExceeded,
    EngineClosed,
    GrammarBudgetExceeded,
    GrammarSyntaxError,
    InvalidSamplingParams,
    OutOfPages,
    PromptTooLong,
    RequestError,
    SgrtError,
    UnsupportedSchema,
)

NO_RETRY = {"x-should-retry": "false"}


@dataclass
class ApiError(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP status.
        message: what is wrong, and what to do about it.
        param: where in the body, as ``messages[0].content``; None where it is not the body.
        code: short name for programs.
        headers: to add to the answer.
    """

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message

    @property
    def kind(self) -> str:
        """OpenAI's name for this class of errors."""
        named = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
        if self.status in named:
            return named[self.status]
        if self.status == 429:
            return "rate_limit_error"
        return "invalid_request_error" if self.status < 500 else "server_error"

    def as_dict(self) -> dict[str, Any]:
        """The body of the answer, or the event in a stream."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }

    def as_json(self) -> bytes:
        """`as_dict` in ASCII: the message may quote text that is not valid Unicode."""
        return json.dumps(self.as_dict()).encode("ascii")


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """The request itself is wrong."""
    return ApiError(400, message, param, code)


def overloaded(message: str, retry_after_s: int = 1) -> ApiError:
    """Too much is waiting already."""
    return ApiError(429, message, code="queue_full", headers={"retry-after": str(retry_after_s)})


# Fields of `SamplingParams` as each interface spells them, where it differs.
Spelling = Mapping[str, str]


def from_error(
    error: BaseException, *, param: str | None = None, spelling: Spelling | None = None
) -> ApiError:
    """The answer to an error of sgrt.

    Args:
        param: the part of the body that the failing work came from.
        spelling: what this interface calls the sampling parameters.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, InvalidSamplingParams):
        name = (spelling or {}).get(error.field, error.field)
        return bad_request(f"{name}={error.value!r:.200}: {error.rule}", name, "invalid_value")
    if isinstance(error, ConstraintError):
        return _from_constraint(error, param)
    if isinstance(error, PromptTooLong):
        return bad_request(str(error), param, "context_length_exceeded")
    if isinstance(error, RequestError):
        return bad_request(str(error), param)
    if isinstance(error, DeadlineExceeded):
        return ApiError(504, str(error), code="deadline_exceeded", headers=NO_RETRY)
    if isinstance(error, OutOfPages):
        return ApiError(503, str(error), code="out_of_pages", headers={"retry-after": "1"})
    if isinstance(error, EngineClosed):
        return ApiError(
            503, "the server is shutting down", code="shutting_down", headers={"retry-after": "5"}
        )
    if isinstance(error, Cancelled):
        return ApiError(503, str(error), code="cancelled", headers=NO_RETRY)
    message = error.message if isinstance(error, SgrtError) else "internal error"
    return ApiError(500, message, code="internal_error", headers=NO_RETRY)


def _from_constraint(error: ConstraintError, param: str | None) -> ApiError:
    if isinstance(error, UnsupportedSchema):
        return bad_request(str(error), below(param, error.pointer), "unsupported_schema")
    if isinstance(error, GrammarBudgetExceeded):
        return bad_request(str(error), param, "grammar_budget_exceeded")
    if isinstance(error, GrammarSyntaxError):
        return bad_request(str(error), param, "invalid_grammar")
    return bad_request(str(error), param, "invalid_constraint")


def below(param: str | None, pointer: str) -> str | None:
    """A JSON pointer inside of a part of the body, as a ``param``."""
    if param is None:
        return None
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    return param + "".join(f"[{p}]" if p.isdecimal() else f".{p}" for p in parts)
