"""Responses that are kept, in memory and up to a number of bytes, for those who refer to them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import msgspec

from sgrt.server.failures import ApiError, bad_request


@dataclass(frozen=True)
class Kept:
    """One response, as JSON: ``answer`` is the object, ``items`` its input and output together."""

    answer: bytes
    items: bytes

    @property
    def size(self) -> int:
        return len(self.answer) + len(self.items)


class ResponseStore:
    """What each caller may refer to; the least recently used of whoever holds most goes first.

    Args:
        max_bytes: of all that is kept; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._lock = threading.Lock()  # requests are also read in helper threads
        self._kept: dict[str, OrderedDict[str, Kept]] = {}
        self._sizes: dict[str, int] = {}

    def keep(self, owner: str, response: dict[str, Any], items: list[Any]) -> None:
        """Keep a response, and give up others for it."""
        kept = Kept(
            msgspec.json.encode(response), msgspec.json.encode([*items, *response["output"]])
        )
        with self._lock:
            self._drop(owner, response["id"])
            self._kept.setdefault(owner, OrderedDict())[response["id"]] = kept
            self._sizes[owner] = self._sizes.get(owner, 0) + kept.size
            while sum(self._sizes.values()) > self.max_bytes:
                largest = max(self._sizes, key=self._sizes.__getitem__)
                self._drop(largest, next(iter(self._kept[largest])))

    def answer(self, owner: str, response_id: str) -> bytes:
        """The response object.

        Raises:
            ApiError: 404 where it is not kept.
        """
        return self._get(owner, response_id).answer

    def conversation(self, owner: str, response_id: str) -> list[Any]:
        """The items that a response continued, and its own.

        Raises:
            ApiError: 400 where it is not kept.
        """
        try:
            items = self._get(owner, response_id).items
        except ApiError as error:
            at = "previous_response_id"
            raise bad_request(error.message, at, "previous_response_not_found") from None
        return list(msgspec.json.decode(items))

    def item(self, owner: str, item_id: object, at: str) -> dict[str, Any]:
        """An item of a response's output, whose id tells which response that is.

        Raises:
            ApiError: 404 where it is not kept.
        """
        name = str(item_id).partition("_")[2].rpartition("_")[0]
        try:
            output = msgspec.json.decode(self._get(owner, f"resp_{name}").answer)["output"]
            return dict(next(item for item in output if item["id"] == item_id))
        except (ApiError, StopIteration):
            message = f"{at}={item_id!r:.200}: no item of this id is kept here"
            raise ApiError(404, message, at, "item_not_found") from None

    def delete(self, owner: str, response_id: str) -> None:
        """Forget a response.

        Raises:
            ApiError: 404 where it is not kept.
        """
        with self._lock:
            if not self._drop(owner, response_id):
                raise _not_kept(response_id)

    def _get(self, owner: str, response_id: str) -> Kept:
        with self._lock:
            mine = self._kept.get(owner, OrderedDict())
            if response_id not in mine:
                raise _not_kept(response_id)
            mine.move_to_end(response_id)
            return mine[response_id]

    def _drop(self, owner: str, response_id: str) -> bool:
        mine = self._kept.get(owner, OrderedDict())
        if response_id not in mine:
            return False
        self._sizes[owner] -= mine.pop(response_id).size
        if not mine:
            del self._kept[owner], self._sizes[owner]
        return True


def _not_kept(response_id: str) -> ApiError:
    message = f"the response {response_id!r:.200} is not, or no longer, kept here"
    return ApiError(404, message, "response_id", "response_not_found")
