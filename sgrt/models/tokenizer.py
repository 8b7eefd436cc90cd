"""Text to token ids and back, exactly.

Two rules that peers leave open:

- **Users cannot type special tokens.** ``encode(text)`` never yields a special id, whatever the
  text spells; only ``special=True`` (template text) does.
- **The SentencePiece space.** Llama-2-like models put a space before a text that begins a
  sequence (most also after each special token), never inside running text. `encode` is told
  what stands before by ``after_id``. The space is part of the tokens: it shows in
  `token_bytes`, and `decode` removes it on request. Byte-level models have no such rule.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from sgrt.core import Text
from sgrt.errors import ModelError, RequestError
from sgrt.models.chat_template import JinjaChatTemplate, end_of_turn
from sgrt.models.gguf import GgufFile
from sgrt.models.tokenizer_gguf import from_gguf
from sgrt.models.tokenizer_json import from_directory
from sgrt.models.tokenizer_source import AddedToken, Place, TokenizerSource

# White space as Unicode has it. str.strip() would take U+001C..U+001F too.
_WHITE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)


class Tokenizer:
    """The tokenizer of one model; immutable, safe to share between threads.

    Attributes:
        vocab_size: number of ids, special ones included; ids are 0..vocab_size-1.
        bos_id: token that begins a text, or None.
        add_bos: whether a session begins with ``bos_id`` (`encode` never adds it).
        special_ids: ids that are not text (control, unknown, unused).
    """

    def __init__(self, source: TokenizerSource) -> None:
        self._source = source
        self.vocab_size = len(source.table)
        self.bos_id = source.bos_id
        self.add_bos = source.add_bos
        self.special_ids = source.special_ids
        self._by_text = {token.text: token for token in source.added if token.text}
        self._spellings = _any_of(self._by_text)
        self._check_plain_text_stays_plain()

    @classmethod
    def open(cls, path: str | Path | GgufFile) -> Tokenizer:
        """The tokenizer of a model directory (tokenizer.json) or a GGUF file.

        Raises:
            ModelNotFound: no such file.
            CorruptModel: files are missing, damaged, or contradict each other.
            ModelError: a kind of tokenizer that is not known; its name is in the message.

        Cost: about 0.3 s for 49,000 tokens.
        """
        if isinstance(path, GgufFile):
            return cls(from_gguf(path))
        path = Path(path)
        return cls(from_directory(path) if path.is_dir() else from_gguf(GgufFile.open(path)))

    def with_chat_template(self, source: str) -> Tokenizer:
        """The same tokenizer with another chat template (jinja).

        Raises:
            ModelError: the template does not parse.
        """
        changed = Tokenizer(replace(self._source, chat_template=source))
        _ = changed.chat_template  # read here, so that a wrong one is told here
        return changed

    # text -> ids

    def encode(self, text: str, *, special: bool = False, after_id: int | None = None) -> list[int]:
        """Token ids of a text; no BOS or EOS is added.

        Args:
            special: whether spellings of special tokens mean them.
            after_id: the token that stands before, None where the text begins a session (a BOS
                does not count). Matters only to models that put a space before texts.

        Raises:
            RequestError: the text has a lone surrogate, which no UTF-8 text can have.

        Cost: about 1 µs per token.
        """
        if special:
            return self.encode_parts((Text(text, special),), after_id=after_id)
        return self._encode_plain(text, self._place(after_id)) if text else []

    def encode_parts(self, parts: Sequence[Text], *, after_id: int | None = None) -> list[int]:
        """Token ids of parts as one text.

        Neighbours are tokenized together, so ids equal those of the whole text in one piece
        wherever no plain part spells a special token.

        Args and Raises: as `encode`.
        """
        place = self._place(after_id)
        ids: list[int] = []
        for piece in self._pieces(parts):
            if isinstance(piece, AddedToken):
                ids.append(piece.id)
                place = "special"
            elif piece:
                ids.extend(self._encode_plain(piece, place))
                place = "text"
        return ids

    def with_bos(self, ids: Sequence[int]) -> list[int]:
        """The ids with BOS before them where the model wants one and there is none (chat
        templates may spell it themselves)."""
        if not self.add_bos or self.bos_id is None or (ids and ids[0] == self.bos_id):
            return list(ids)
        return [self.bos_id, *ids]

    def _place(self, after_id: int | None) -> Place:
        if after_id is None:
            return "start"
        return "special" if after_id in self.special_ids else "text"

    def _encode_plain(self, text: str, place: Place) -> list[int]:
        try:
            ids: list[int] = self._source.encoders[place].encode(text, add_special_tokens=False).ids
        except (TypeError, UnicodeEncodeError) as error:
            raise RequestError(f"text {_around_surrogate(text)} is not valid Unicode") from error
        return ids

    def _pieces(self, parts: Sequence[Text]) -> list[str | AddedToken]:
        """Special tokens and the plain stretches between them."""
        pieces: list[str | AddedToken] = [""]
        for piece in self._split(parts):
            last = pieces[-1]
            if isinstance(piece, str) and isinstance(last, str):
                pieces[-1] = last + piece
            else:
                pieces.append(piece)
        for index, piece in enumerate(pieces):
            if isinstance(piece, AddedToken):
                _strip_neighbours(pieces, index)
        return pieces

    def _split(self, parts: Sequence[Text]) -> Iterator[str | AddedToken]:
        whole = "".join(part.text for part in parts)
        begin = 0
        for text, special in _merge_runs(parts):
            end = begin + len(text)
            if special:
                yield from self._split_special(whole, begin, end)
            else:
                yield text
            begin = end

    def _split_special(self, whole: str, begin: int, end: int) -> Iterator[str | AddedToken]:
        for match in self._spellings.finditer(whole, begin, end):
            token = self._by_text[match[0]]
            if not token.special or (token.single_word and _touches_word(whole, match)):
                continue
            yield whole[begin : match.start()]
            yield token
            begin = match.end()
        yield whole[begin:end]

    def _check_plain_text_stays_plain(self) -> None:
        for text, token in self._by_text.items():
            if token.special and token.id in self._encode_plain(text, "text"):
                unknown = self._encode_plain("\U0010fffd", "text") == [token.id]
                if not unknown:
                    raise ModelError(
                        f"{self._source.path}: plain text can become special token {text!r}"
                    )

    # ids -> text

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes that a token adds to a text; b"" for special tokens.

        Raises:
            RequestError: no such id.
        """
        return self._source.table[self._checked(token_id)]

    def token_table(self) -> list[bytes]:
        """`token_bytes` of every id: a list that must not be changed."""
        return self._source.table

    def decode(self, ids: Sequence[int], *, at_start: bool = False) -> str:
        """The text of tokens: special ones skipped, bytes that are not UTF-8 as U+FFFD.

        Args:
            at_start: remove the space that `encode` put before a text that begins a session.

        Raises:
            RequestError: an id outside the vocabulary.
        """
        data = b"".join([self.token_bytes(token_id) for token_id in ids])
        if at_start and self.adds_space:
            data = data.removeprefix(b" ")
        return data.decode(errors="replace")

    def piece(self, token_id: int) -> str:
        """A token for display: special tokens as they are spelled, stray bytes as \\xHH.

        Raises:
            RequestError: no such id.
        """
        if self._checked(token_id) in self.special_ids:
            return self._source.texts[token_id]
        return self.token_bytes(token_id).decode(errors="backslashreplace")

    def special_id(self, text: str) -> int | None:
        """The special token spelled so, or None."""
        token = self._by_text.get(text)
        return token.id if token is not None and token.special else None

    def special_spellings(self) -> list[str]:
        """How the special tokens are spelled."""
        return [text for text, token in self._by_text.items() if token.special]

    @cached_property
    def missing_bytes(self) -> frozenset[int]:
        """Bytes that no token of the vocabulary carries.

        Trained vocabularies leave out bytes that their corpus did not have (SmolLM2: 21, among
        them some control characters). `encode` drops them silently, as the reference does, and
        no constraint can produce them.
        """
        return frozenset(range(256)) - frozenset(b"".join(self._source.table))

    @cached_property
    def adds_space(self) -> bool:
        """Whether a text that begins a session gets a space before it."""
        return self._source.encoders["start"] is not self._source.encoders["text"]

    def _checked(self, token_id: int) -> int:
        if not 0 <= token_id < self.vocab_size:
            raise RequestError(f"token {token_id} is outside the vocabulary of {self.vocab_size}")
        return token_id

    # the model's own

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end a text: those that the model's files declare, and the one that its
        chat template puts after an assistant's message."""
        try:
            end = end_of_turn(self.chat_template) if self.chat_template else None
        except ModelError:  # a template that does not parse is reported where it is used
            end = None
        turn_id = self.special_id(end) if end else None
        return self._source.eos_ids | ({turn_id} if turn_id is not None else set())

    @cached_property
    def chat_template(self) -> JinjaChatTemplate | None:
        """The model's chat template, or None where it has none.

        Raises:
            ModelError: it does not parse.
        """
        if self._source.chat_template is None:
            return None
        texts = self._source.texts
        return JinjaChatTemplate(
            self._source.chat_template,
            bos="" if self.bos_id is None else texts[self.bos_id],
            eos="" if self._source.eos_id is None else texts[self._source.eos_id],
            special_tokens=self.special_spellings(),
        )

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) over all that decides what tokens mean: equal prints, equal ids.

        Cost: about 1 µs per token, once.
        """
        digest = hashlib.sha256()
        for encoder in dict.fromkeys(self._source.encoders.values()):
            digest.update(encoder.to_str().encode())
        for token_id, data in enumerate(self._source.table):
            digest.update(b"%d %d " % (token_id in self.special_ids, len(data)) + data)
        digest.update(repr((sorted(self.eos_ids), self.bos_id, self._source.added)).encode())
        return digest.hexdigest()


def _any_of(texts: dict[str, AddedToken]) -> re.Pattern[str]:
    # Longest first: at one place the longest spelling wins. "(?!)" matches nothing.
    ordered = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered)) or "(?!)")


def _merge_runs(parts: Sequence[Text]) -> list[tuple[str, bool]]:
    runs: list[tuple[str, bool]] = []
    for part in parts:
        if runs and runs[-1][1] == part.special:
            runs[-1] = (runs[-1][0] + part.text, part.special)
        else:
            runs.append((part.text, part.special))
    return runs


def _touches_word(whole: str, match: re.Match[str]) -> bool:
    around = whole[max(0, match.start() - 1) : match.start()] + whole[match.end() : match.end() + 1]
    return any(map(_is_word, around))


def _is_word(char: str) -> bool:
    """As UTS #18 has it; Python's own ``\\w`` leaves out combining marks."""
    category = unicodedata.category(char)
    return category[0] in "LM" or category in ("Nd", "Nl", "Pc") or char in "\u200c\u200d"


def _strip_neighbours(pieces: list[str | AddedToken], index: int) -> None:
    token = pieces[index]
    assert isinstance(token, AddedToken)
    before = pieces[index - 1] if index else None
    if token.lstrip and isinstance(before, str):
        pieces[index - 1] = before.rstrip(_WHITE)
    after = pieces[index + 1] if index + 1 < len(pieces) else None
    if token.rstrip and isinstance(after, str):
        pieces[index + 1] = after.lstrip(_WHITE)


def _around_surrogate(text: str) -> str:
    at = next((i for i, char in enumerate(text) if 0xD800 <= ord(char) < 0xE000), 0)
    return repr(text[max(0, at - 10) : at + 10])
