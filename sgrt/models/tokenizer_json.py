"""A tokenizer from a model directory: tokenizer.json and the files beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from sgrt.errors import CorruptModel, ModelError
from sgrt.models.pretokenizers import byte_level_bytes
from sgrt.models.tokenizer_source import SPACE, AddedToken, Place, TokenizerSource


def from_directory(directory: Path) -> TokenizerSource:
    """The tokenizer in a model directory: tokenizer.json and the files beside it.

    Raises:
        CorruptModel: a file is missing, or is not what it should be.
        ModelError: a kind of tokenizer whose tokens have no exact bytes.
    """
    path = directory / "tokenizer.json"
    data = _read_json(path)
    if data is None:
        raise CorruptModel(path, "the file is missing")
    data["truncation"] = data["padding"] = None
    try:
        return _assemble(path, data, _SideFiles(directory))
    except (KeyError, TypeError, AttributeError) as error:
        # The library takes some shapes of JSON that mean nothing; here they do not fit.
        raise CorruptModel(path, f"unexpected structure: {error!r}") from error


def _assemble(path: Path, data: dict[str, Any], files: _SideFiles) -> TokenizerSource:
    encoder = _load(path, data)
    declared = _declared(files, encoder)
    added = _mark_special(data, encoder, declared.eos_ids)
    encoders = _by_place(path, data)
    _refuse_unknown_model(path, data["model"])
    texts, table, special_ids = _table(encoders["start"], added, _speller(path, data))
    return TokenizerSource(
        path=path,
        encoders=encoders,
        texts=texts,
        table=table,
        added=added,
        special_ids=special_ids,
        bos_id=declared.bos_id,
        eos_id=declared.eos_id,
        eos_ids=declared.eos_ids,
        add_bos=declared.add_bos,
        chat_template=files.chat_template(),
    )


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError, RecursionError) as error:
        raise CorruptModel(path, f"not readable as JSON: {error}") from error
    if not isinstance(data, dict):
        raise CorruptModel(path, f"holds a {type(data).__name__}, expected an object")
    return data


def _load(path: Path, data: dict[str, Any]) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(data))
    except Exception as error:  # the library raises bare Exception
        raise CorruptModel(path, f"not a tokenizer: {error}") from error


class _SideFiles:
    """The small JSON files of a model directory; absent ones are empty."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = _read_json(directory / "config.json") or {}
        self.generation = _read_json(directory / "generation_config.json") or {}
        self.tokenizer = _read_json(directory / "tokenizer_config.json") or {}

    def token_text(self, key: str) -> str | None:
        value = self.tokenizer.get(key)
        if isinstance(value, dict):
            value = value.get("content")
        if value is not None and not isinstance(value, str):
            raise CorruptModel(
                self.directory / "tokenizer_config.json", f"{key} is {value!r}, not a token"
            )
        return value

    def chat_template(self) -> str | None:
        file = self.directory / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8")
        found = self.tokenizer.get("chat_template")
        if found is None:
            found = (_read_json(self.directory / "chat_template.json") or {}).get("chat_template")
        if isinstance(found, list):
            named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
            found = named.get("default")
        if found is not None and not isinstance(found, str):
            raise CorruptModel(
                self.directory / "tokenizer_config.json", "chat_template is not a string"
            )
        return found


@dataclass(frozen=True)
class _Declared:
    bos_id: int | None
    eos_id: int | None
    eos_ids: frozenset[int]
    add_bos: bool


def _declared(files: _SideFiles, encoder: tokenizers.Tokenizer) -> _Declared:
    def by_text(key: str) -> list[int]:
        text = files.token_text(key)
        token_id = None if text is None else encoder.token_to_id(text)
        return [] if token_id is None else [token_id]

    eos = by_text("eos_token")
    for name, held in (("config.json", files.config), ("generation_config.json", files.generation)):
        eos += _ids(files.directory / name, held, "eos_token_id", encoder)
    bos = by_text("bos_token")
    bos += _ids(files.directory / "config.json", files.config, "bos_token_id", encoder)
    bos_id = bos[0] if bos else None
    add_bos = files.tokenizer.get("add_bos_token")
    if add_bos is None:
        add_bos = bos_id is not None and encoder.encode("").ids[:1] == [bos_id]
    return _Declared(
        bos_id,
        eos[0] if eos else None,
        frozenset(eos),
        bool(add_bos) and bos_id is not None,
    )


def _ids(path: Path, held: dict[str, Any], key: str, encoder: tokenizers.Tokenizer) -> list[int]:
    """The tokens that a file declares: one, several or none."""
    value = held.get(key)
    if value is None:
        return []
    ids = value if isinstance(value, list) else [value]
    for i in ids:
        is_id = isinstance(i, int) and not isinstance(i, bool) and 0 <= i < 1 << 32
        if not is_id or encoder.id_to_token(i) is None:
            raise CorruptModel(path, f"{key} {i!r:.80} is not a token of the tokenizer")
    return ids


def _mark_special(
    data: dict[str, Any], encoder: tokenizers.Tokenizer, eos_ids: frozenset[int]
) -> tuple[AddedToken, ...]:
    """The added tokens; those that end a text become special in ``data``, whatever it said."""
    entries: dict[int, dict[str, Any]] = {t["id"]: t for t in data.get("added_tokens") or []}
    for token_id in eos_ids:
        entry = entries.setdefault(
            token_id,
            {
                "id": token_id,
                "content": encoder.id_to_token(token_id),
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
            },
        )
        entry["special"] = True
    data["added_tokens"] = [entries[i] for i in sorted(entries)]
    return tuple(
        AddedToken(t["id"], t["content"], t["special"], t["lstrip"], t["rstrip"], t["single_word"])
        for t in data["added_tokens"]
    )


def _by_place(path: Path, data: dict[str, Any]) -> dict[Place, tokenizers.Tokenizer]:
    def build(variant: dict[str, Any]) -> tokenizers.Tokenizer:
        encoder = _load(path, variant)
        encoder.encode_special_tokens = True
        return encoder

    start = build(data)
    bare = {**data, **{key: _no_prefix(data.get(key)) for key in ("normalizer", "pre_tokenizer")}}
    if bare == data:
        return {"start": start, "special": start, "text": start}
    text = build(bare)
    only_first = _steps(data.get("pre_tokenizer"), "Metaspace", prepend_scheme="first")
    return {"start": start, "special": text if only_first else start, "text": text}


def _children(step: dict[str, Any]) -> list[dict[str, Any]]:
    for key in ("normalizers", "pretokenizers", "decoders"):
        if step["type"] == "Sequence" and key in step:
            return list(step[key])
    return [step]


def _steps(step: dict[str, Any] | None, kind: str, **values: Any) -> list[dict[str, Any]]:
    """The parts of a pipeline of one type that have these values."""
    found = [] if step is None else [s for s in _children(step) if s["type"] == kind]
    return [s for s in found if all(s.get(key) == value for key, value in values.items())]


def _no_prefix(step: dict[str, Any] | None) -> dict[str, Any] | None:
    """A pipeline without what puts a space before a text."""
    if step is None or step["type"] == "Prepend":
        return None
    if step["type"] == "Sequence":
        key = "normalizers" if "normalizers" in step else "pretokenizers"
        kept = [_no_prefix(child) for child in step[key]]
        return {**step, key: [child for child in kept if child is not None]}
    if step["type"] == "ByteLevel":
        return {**step, "add_prefix_space": False}
    if step["type"] == "Metaspace":
        without = {key: value for key, value in step.items() if key != "add_prefix_space"}
        return {**without, "prepend_scheme": "never"}
    return step


def _refuse_unknown_model(path: Path, model: dict[str, Any]) -> None:
    if model.get("type", "BPE") not in ("BPE", "Unigram"):
        raise ModelError(f"{path}: tokenizer model {model['type']!r} is not known")
    for option in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            raise ModelError(f"{path}: {option}={model[option]!r} is not supported")


def _speller(path: Path, data: dict[str, Any]) -> Callable[[str], bytes]:
    """How the decoder turns one token into bytes."""
    decoder = data.get("decoder")
    if _steps(decoder, "ByteLevel"):
        return byte_level_bytes
    replaces = _steps(decoder, "Replace", pattern={"String": SPACE}, content=" ")
    if not replaces and not _steps(decoder, "Metaspace", replacement=SPACE):
        kinds = [s["type"] for s in _children(decoder)] if decoder else None
        raise ModelError(f"{path}: tokenizer decoder {kinds} is not known")
    has_bytes = bool(_steps(decoder, "ByteFallback"))

    def spell(token: str) -> bytes:
        match = re.fullmatch("<0x([0-9A-Fa-f]{2})>", token) if has_bytes else None
        return bytes.fromhex(match[1]) if match else token.replace(SPACE, " ").encode()

    return spell


def _table(
    encoder: tokenizers.Tokenizer, added: tuple[AddedToken, ...], spell: Callable[[str], bytes]
) -> tuple[list[str], list[bytes], frozenset[int]]:
    vocab = encoder.get_vocab(with_added_tokens=True)
    texts = [""] * (max(vocab.values(), default=-1) + 1)
    for text, token_id in vocab.items():
        texts[token_id] = text
    literal = {token.id: token.text.encode() for token in added}
    special_ids = {token.id for token in added if token.special}
    special_ids |= {i for i, text in enumerate(texts) if not text}
    table = [
        b"" if i in special_ids else literal.get(i) or spell(text) for i, text in enumerate(texts)
    ]
    return texts, table, frozenset(special_ids)
