"""A seeded corpus of awkward lines, for tokenizer tests."""

from __future__ import annotations

import random
from collections.abc import Callable

_WORDS = (
    "the quick brown fox doesn't jump; we're sure they'd've seen it Invoice INVOICE naïve "
    "Straße façade Ελλάδα Москва שלום مرحبا नमस्ते 東京 北京大学 こんにちは 안녕하세요 ไทย coöperate "
    "won't I'll 'S 'LL it's l'été ALLCAPS camelCase snake_case kebab-case e.g. U.S.A. €99.99"
)
WORDS = _WORDS.split()
CODE = (
    "def f(x):",
    "    return x**2  # comment",
    "\tif (a && b || !c) { d[i++] = e->f; }",
    "SELECT * FROM t WHERE id = 42;",
    '{"key": [1, 2.5e-3, null, true], "s": "a\\nb"}',
    "<div class='x'>&nbsp;</div>",
    "https://example.org/a/b?c=d&e=%20f#g",
    "x = lambda *a, **k: (yield)",
)
EMOJI = (
    "😀",
    "👩‍👩‍👧‍👦",
    "🏳️‍🌈",
    "👍🏽",
    "🇫🇷🇩🇪",
    "1️⃣",
    "❤️",
    "🤷🏿‍♀️",
)
MARKS = ("é", "ñ", "Z͑ͫ̓ͪ̂ͫ", "กำ", "क्षि", "가", "ﬁ", "Å", "\u200b", "\u00ad", "\ufeff", "\u2028")
SPACES = (" ", "  ", "   ", "\t", "\n", "\r\n", " \n", "\n\n\n", "\u00a0", "\u3000", "\x0b\x0c")
NUMBERS = ("0", "7", "42", "123", "1234567890", "3.14", "-1e10", "½", "²", "Ⅷ", "٣٤٥", "१२३", "㉕")
SPECIALS = ("<|im_end|>", "<|im_start|>system", "<|endoftext|>", "</s>", "<s>", "<0x0A>", "<unk>")


def lines(num: int, seed: int = 0) -> list[str]:
    """``num`` lines that mix words, code, digits, spaces, scripts, emoji, marks and bytes."""
    rng = random.Random(seed)
    kinds: list[Callable[[], str]] = [
        lambda: rng.choice(WORDS),
        lambda: rng.choice(WORDS).upper(),
        lambda: rng.choice(CODE),
        lambda: rng.choice(EMOJI),
        lambda: rng.choice(MARKS),
        lambda: rng.choice(SPACES),
        lambda: " " * rng.randrange(1, 20),
        lambda: rng.choice(NUMBERS),
        lambda: str(rng.randrange(10**9)),
        lambda: rng.choice(SPECIALS),
        lambda: rng.randbytes(rng.randrange(1, 9)).decode("latin-1"),
        lambda: chr(rng.choice((rng.randrange(0x20), rng.randrange(0x3000, 0xA000)))),
        lambda: chr(rng.randrange(0x10000, 0x30000)),
        lambda: "".join(rng.choices("'\"`~!@#$%^&*()-_=+[]{}|;:,.<>/?", k=rng.randrange(1, 6))),
    ]
    return [_line(rng, kinds) for _ in range(num)]


def _line(rng: random.Random, kinds: list[Callable[[], str]]) -> str:
    separator = rng.choice(("", " ", " ", "  ", "\n"))
    return separator.join(rng.choice(kinds)() for _ in range(rng.randrange(1, 16)))
