"""Ending in time: a text that always has a completion which fits into the tokens left."""

from __future__ import annotations

from collections.abc import Sequence

from sgrt.errors import RequestError
from sgrt.grammar.matcher import Matcher

_MAX_SHORTENED = 8


class Closing:
    """Follows a matcher and keeps tokens at hand that complete its text.

    The completion of one place mostly serves the next one too: what is left of it, all of it, or
    its last tokens. That is tried first; only where the text left it for good (a new object was
    opened) is another one searched for.

    Invariant: `completion` completes the matcher's text.

    Args:
        matcher: at a place whose completion can be found.

    Raises:
        RequestError: no completion is found.

    Cost: a search.
    """

    def __init__(self, matcher: Matcher) -> None:
        self._matcher = matcher
        found = matcher.shortest_completion()
        if found is None:
            raise RequestError(
                "finish='close': no short text that satisfies the constraint was found",
                hint="finish='cut' does without",
            )
        self.completion = found

    def check_room(self, room: int) -> None:
        """Refuse to start where even the shortest text does not fit.

        Raises:
            RequestError: the completion has more tokens than ``room``.
        """
        if len(self.completion) > room:
            raise RequestError(
                f"finish='close': the shortest text found that satisfies the constraint "
                f"has {len(self.completion)} tokens, and there is room for {room}",
                hint="raise max_tokens, or use finish='cut'",
            )

    def try_follow(self, token_ids: Sequence[int], room: int) -> bool:
        """Take what is left of the completion after tokens that the matcher has just accepted.

        Args:
            room: tokens that may still follow.

        Returns:
            False where the last completion does not serve, or does not fit: `search` then says.

        Cost: microseconds.
        """
        found = self._what_is_left(token_ids)
        if found is None or len(found) > room:
            return False
        self.completion = found
        return True

    def search(self, room: int) -> bool:
        """Find another completion for where the matcher stands.

        Args:
            room: tokens that may still follow.

        Returns:
            False where none fits; `completion` then still is that of the text before the last
            tokens, which the caller takes back.

        Cost: a quick search, and a thorough one where that finds nothing that fits: as of
            `Matcher.shortest_completion`.
        """
        for thorough in (False, True):
            found = self._matcher.shortest_completion(thorough=thorough)
            if found is not None and len(found) <= room:
                self.completion = found
                return True
        return False

    def _what_is_left(self, token_ids: Sequence[int]) -> list[int] | None:
        """The last completion, cut so that it completes the text again."""
        known = self.completion
        if known[: len(token_ids)] == list(token_ids):
            return known[len(token_ids) :]
        cuts = range(min(len(known), _MAX_SHORTENED) + 1)
        return next((known[i:] for i in cuts if self._matcher.completes(known[i:])), None)
