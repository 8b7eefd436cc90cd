"""A chat template for backends that bring none."""

from __future__ import annotations

from collections.abc import Sequence

from sgrt.core import Message, Text


class ChatML:
    """A plain chat template: ``<|im_start|>role\\ncontent<|im_end|>\\n``.

    Args:
        default_system: system message of conversations that begin without one.
    """

    numbers: frozenset[int] = frozenset()  # it counts nothing

    def __init__(self, default_system: str | None = None) -> None:
        self.default_system = default_system

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = False
    ) -> tuple[Text, ...]:
        """The conversation, as `core.ChatTemplate` wants it."""
        parts: list[Text] = []
        if self.default_system is not None and messages and messages[0].role != "system":
            parts.append(Text(f"<|im_start|>system\n{self.default_system}<|im_end|>\n", True))
        for message in messages:
            parts.append(Text(f"<|im_start|>{message.role}\n", True))
            parts.append(Text(message.content))
            parts.append(Text("<|im_end|>\n", True))
        if add_generation_prompt:
            parts.append(Text("<|im_start|>assistant\n", True))
        return tuple(parts)
