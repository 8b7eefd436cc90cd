"""How GGUF files name the ways of cutting text before byte-pair merging.

A GGUF file carries the merges but only the *name* of the pre-tokenizer. Using another one gives
other tokens than the model was trained on, so a name that is not in the table is refused.

Sources: the patterns are those of the models' published tokenizer.json files; the names are the
ones that llama.cpp's converter writes (src/llama-vocab.cpp). "default" is llama.cpp's own.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Regex, normalizers, pre_tokenizers

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class PreTokenizer:
    """One way of cutting.

    Args:
        patterns: applied one after the other; what a pattern matches becomes a piece of its
            own, and so does what lies between matches.
        digits_apart: every digit is cut off first.
        gpt2: GPT-2's pattern comes last, in the library's own spelling of it.
        ignore_merges: a piece that is a token as a whole is that token, whatever merges say.
        nfc: text is brought to Unicode normal form C first.
        add_bos: whether sessions begin with BOS where the file does not say.
    """

    patterns: tuple[str, ...] = ()
    digits_apart: bool = False
    gpt2: bool = False
    ignore_merges: bool = False
    nfc: bool = False
    add_bos: bool = False

    def build(self) -> pre_tokenizers.PreTokenizer:
        # The library's steps and its regexes know different versions of Unicode, so each model
        # gets the steps of its published file, not merely an equal pattern.
        steps: list[pre_tokenizers.PreTokenizer] = []
        if self.digits_apart:
            steps.append(pre_tokenizers.Digits(individual_digits=True))
        steps += [pre_tokenizers.Split(Regex(p), "isolated") for p in self.patterns]
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.gpt2))
        return pre_tokenizers.Sequence(steps)

    def normalizer(self) -> normalizers.Normalizer | None:
        return normalizers.NFC() if self.nfc else None


_DIGITS_APART = PreTokenizer(digits_apart=True, gpt2=True)
_LLAMA3_WAY = PreTokenizer((_LLAMA3,), ignore_merges=True, add_bos=True)

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
    "gpt-2": PreTokenizer(gpt2=True),
    "smollm": _DIGITS_APART,
    "starcoder": _DIGITS_APART,
    "refact": _DIGITS_APART,
    "llama-bpe": _LLAMA3_WAY,
    "llama3": _LLAMA3_WAY,
    "llama-v3": _LLAMA3_WAY,
    "qwen2": PreTokenizer((_QWEN2,), nfc=True),
    "deepseek-r1-qwen": PreTokenizer((_QWEN2,), nfc=True),
    "tekken": PreTokenizer((_TEKKEN,), ignore_merges=True, add_bos=True),
}
"""By the value of ``tokenizer.ggml.pre``."""


def _byte_of_char() -> dict[str, int]:
    # GPT-2's alphabet: printable Latin-1 stands for itself, the other 68 bytes for U+0100 on.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + index): byte for index, byte in enumerate(others)
    }


BYTE_OF_CHAR = _byte_of_char()
"""The byte that each character of a byte-level vocabulary stands for."""


def byte_level_bytes(token: str) -> bytes:
    """The bytes a token of a byte-level vocabulary stands for; itself where it is not in that
    alphabet, as the `tokenizers` decoder has it."""
    try:
        return bytes([BYTE_OF_CHAR[char] for char in token])
    except KeyError:
        return token.encode()
