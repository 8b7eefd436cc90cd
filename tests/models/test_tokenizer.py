"""Token ids equal the reference's, bytes are exact, and users cannot type special tokens."""

from __future__ import annotations

import itertools
import json
import random
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from gguf_builder import Gguf, Typed
from tokenizer_corpus import SPECIALS, lines

from sgrt.core import Text
from sgrt.errors import CorruptModel, ModelError, ModelNotFound, RequestError, SgrtError
from sgrt.models.gguf import GgufFile
from sgrt.models.pretokenizers import BYTE_OF_CHAR, PRE_TOKENIZERS
from sgrt.models.tokenizer import Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
CHAR_OF_BYTE = {byte: char for char, byte in BYTE_OF_CHAR.items()}


# ---------------------------------------------------------------- SmolLM2


@pytest.fixture(scope="module")
def smol(smollm2: Path) -> Tokenizer:
    return Tokenizer.open(smollm2)


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    return lines(10_000)


@pytest.fixture(scope="module")
def encoded(smol: Tokenizer, corpus: list[str]) -> list[tuple[str, list[int]]]:
    return [(line, smol.encode(line)) for line in corpus]


def published(file: GgufFile) -> tokenizers.Tokenizer:
    """The reference: SmolLM2's published tokenizer.json (its pipeline written out here, the
    vocabulary and merges from the file). transformers' own conversion of GGUF is no reference:
    it leaves out the Digits step and differs on a quarter of the corpus."""
    digits = {"type": "Digits", "individual_digits": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    level["use_regex"] = True
    tokens = file.metadata["tokenizer.ggml.tokens"]
    merges = file.metadata["tokenizer.ggml.merges"]
    steps = [digits, level]
    data = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": merges,
        },
    }
    return tokenizers.Tokenizer.from_str(json.dumps(data))


@pytest.mark.model
def test_encode_of_10000_lines_equals_the_published_tokenizer(
    encoded: list[tuple[str, list[int]]], smollm2: Path
) -> None:
    reference = published(GgufFile.open(smollm2))
    for line, ids in encoded:
        assert ids == reference.encode(line, add_special_tokens=False).ids, line


@pytest.mark.model
def test_token_bytes_of_10000_lines_join_to_the_text_without_missing_bytes(
    smol: Tokenizer, encoded: list[tuple[str, list[int]]]
) -> None:
    missing = bytes(smol.missing_bytes)
    assert set(b"\x04\x06\xf1") <= set(missing)
    assert not set(range(32, 127)) & set(missing)
    for line, ids in encoded:
        joined = b"".join([smol.token_bytes(i) for i in ids])
        assert joined == line.encode().translate(None, missing), line


@pytest.mark.model
def test_encode_of_10000_lines_never_gives_a_special_token(
    smol: Tokenizer, encoded: list[tuple[str, list[int]]]
) -> None:
    assert sum(special in line for line, _ in encoded for special in SPECIALS) > 1000
    for line, ids in encoded:
        assert not smol.special_ids & set(ids), line


@pytest.mark.model
def test_declared_tokens_of_the_embedded_model(smol: Tokenizer) -> None:
    assert (smol.vocab_size, smol.bos_id, smol.add_bos) == (49152, 1, False)
    assert smol.eos_ids == {smol.special_id("<|im_end|>")}
    assert smol.special_ids == set(range(17))
    assert not smol.adds_space
    assert all(smol.token_bytes(i) == b"" for i in smol.special_ids)
    assert all(smol.token_bytes(i) for i in range(17, smol.vocab_size))


# ---------------------------------------------------------------- byte-level, built here


def byte_level_gguf(path: Path, **changes: Any) -> Path:
    """All bytes, a few merges, two control tokens and a user-defined one."""
    merges = ["Ġ t", "h e", "Ġt he", "i n", "1 2", "12 3", "Ċ Ċ", "< |", "< /", "s >", "</ s>"]
    tokens = ["<|end|>", "</s>x", "<|tool|>", *CHAR_OF_BYTE.values()]
    tokens += [merge.replace(" ", "") for merge in merges]
    types = [CONTROL, CONTROL, USER_DEFINED] + [NORMAL] * (len(tokens) - 3)
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [Typed("i32", kind) for kind in types],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 0,
    }
    metadata |= changes
    return Gguf({k: v for k, v in metadata.items() if v is not None}).write(path / "t.gguf")


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_encode_with_any_pre_tokenizer_keeps_every_byte(tmp_path: Path, pre: str) -> None:
    tokenizer = Tokenizer.open(byte_level_gguf(tmp_path, **{"tokenizer.ggml.pre": pre}))
    composed = PRE_TOKENIZERS[pre].nfc
    for line in lines(150, seed=1):
        ids = tokenizer.encode(line)
        joined = b"".join([tokenizer.token_bytes(i) for i in ids])
        expected = unicodedata.normalize("NFC", line) if composed else line
        assert joined == expected.encode()
        assert tokenizer.decode(ids) == expected


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("gpt-2", "it's  12345 x\n\ny", ["it", "'s", " ", " 12345", " x", "\n", "\n", "y"]),
        ("smollm", "a  12 ½", ["a", "  ", "1", "2", " ", "½"]),
        (
            "llama-bpe",
            "it'S 12345 x!\n\n\n y",
            ["it", "'S", " ", "123", "45", " x", "!\n\n\n", " y"],
        ),
        ("qwen2", "x 12\n\n  y", ["x", " ", "1", "2", "\n\n", " ", " y"]),
        ("tekken", "camelCase v2 a/b", ["camel", "Case", " v", "2", " a", "/b"]),
        ("default", "a+b 1234", ["a", "+", "b", " ", "123", "4"]),
    ],
)
def test_pre_tokenizer_cuts_text_as_its_models_do(pre: str, text: str, pieces: list[str]) -> None:
    cut = PRE_TOKENIZERS[pre].build().pre_tokenize_str(text)
    shown = [bytes(BYTE_OF_CHAR[char] for char in piece).decode() for piece, _ in cut]
    assert shown == pieces


def test_special_spelling_in_plain_text_is_plain_and_in_template_text_special(
    tmp_path: Path,
) -> None:
    tokenizer = Tokenizer.open(byte_level_gguf(tmp_path))
    plain = tokenizer.encode("a<|end|>b")
    assert 0 not in plain
    assert tokenizer.decode(plain) == "a<|end|>b"
    assert tokenizer.encode("a<|end|>b", special=True) == [
        *tokenizer.encode("a"),
        0,
        *tokenizer.encode("b"),
    ]


def test_user_defined_token_is_text_and_found_everywhere(tmp_path: Path) -> None:
    tokenizer = Tokenizer.open(byte_level_gguf(tmp_path))
    assert 2 in tokenizer.encode("x<|tool|>y")
    assert tokenizer.token_bytes(2) == b"<|tool|>"
    assert tokenizer.special_ids == {0, 1}


def test_longest_special_spelling_wins(tmp_path: Path) -> None:
    tokens = ["<a>", "<a><b>", *CHAR_OF_BYTE.values()]
    path = byte_level_gguf(
        tmp_path,
        **{
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [CONTROL, CONTROL] + [NORMAL] * 256,
            "tokenizer.ggml.merges": [],
        },
    )
    assert Tokenizer.open(path).encode("<a><b><a>", special=True) == [1, 0]


def test_parts_split_anywhere_give_the_ids_of_the_whole(tmp_path: Path) -> None:
    tokenizer, rng = Tokenizer.open(byte_level_gguf(tmp_path)), random.Random(2)
    for line in lines(300, seed=3):
        cuts = sorted(rng.choices(range(len(line) + 1), k=rng.randrange(4)))
        bounds = zip([0, *cuts], [*cuts, len(line)], strict=True)
        parts = [Text(line[a:b]) for a, b in bounds]
        assert tokenizer.encode_parts(parts) == tokenizer.encode(line)
        whole = [Text("<|end|>", True), *parts, Text("\n<|end|>", True)]
        if "<|end|>" not in line:
            joined = "<|end|>" + line + "\n<|end|>"
            assert tokenizer.encode_parts(whole) == tokenizer.encode(joined, special=True)


def test_special_spelling_across_a_seam_of_user_and_template_text_is_plain(tmp_path: Path) -> None:
    tokenizer = Tokenizer.open(byte_level_gguf(tmp_path))
    assert 0 not in tokenizer.encode_parts([Text("<|e"), Text("nd|>", True)])
    assert 0 in tokenizer.encode_parts([Text("<|e", True), Text("nd|>", True)])


def test_decode_skips_special_tokens_and_replaces_broken_utf8(tmp_path: Path) -> None:
    tokenizer = Tokenizer.open(byte_level_gguf(tmp_path))
    half = tokenizer.encode("é")[:1]
    assert tokenizer.decode([0, *half, *tokenizer.encode("x"), 1]) == "\ufffdx"
    assert tokenizer.piece(0) == "<|end|>"
    assert tokenizer.piece(half[0]) == "\\xc3"


@pytest.mark.parametrize("bad", [-1, 10**6])
def test_ids_outside_the_vocabulary_are_refused(tmp_path: Path, bad: int) -> None:
    tokenizer = Tokenizer.open(byte_level_gguf(tmp_path))
    for call in (tokenizer.token_bytes, tokenizer.piece, lambda i: tokenizer.decode([i])):
        with pytest.raises(RequestError, match=f"token {bad} is outside"):
            call(bad)


def test_encode_of_a_lone_surrogate_is_refused_with_its_place(tmp_path: Path) -> None:
    tokenizer = Tokenizer.open(byte_level_gguf(tmp_path))
    with pytest.raises(RequestError, match=r"ok \\ud800 x"):
        tokenizer.encode("ok \ud800 x")


def test_with_bos_adds_it_once_where_the_model_wants_it(tmp_path: Path) -> None:
    bare = Tokenizer.open(byte_level_gguf(tmp_path))
    assert bare.with_bos([5]) == [5]
    wants = Tokenizer.open(byte_level_gguf(tmp_path, **{"tokenizer.ggml.add_bos_token": True}))
    assert wants.with_bos([5]) == wants.with_bos([1, 5]) == [1, 5]
    assert wants.with_bos([]) == [1]


def test_eos_ids_hold_declared_tokens_and_the_end_of_the_template(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.role + ': ' + m.content + '</s>x' }}{% endfor %}"
    path = byte_level_gguf(
        tmp_path,
        **{
            "tokenizer.ggml.bos_token_id": None,
            "tokenizer.ggml.eot_token_id": 2,
            "tokenizer.chat_template": template,
        },
    )
    tokenizer = Tokenizer.open(path)
    assert tokenizer.eos_ids == {0, 1, 2}
    assert 2 in tokenizer.special_ids  # what ends a text is special whatever its type says


def test_fingerprint_differs_where_tokens_mean_something_else(tmp_path: Path) -> None:
    same = {Tokenizer.open(byte_level_gguf(tmp_path)).fingerprint for _ in range(2)}
    assert len(same) == 1
    variants: list[dict[str, Any]] = [
        {"tokenizer.ggml.pre": "qwen2"},
        {"tokenizer.ggml.merges": ["h e"]},
        {"tokenizer.ggml.eos_token_id": 1},
    ]
    prints = {Tokenizer.open(byte_level_gguf(tmp_path, **v)).fingerprint for v in variants}
    assert len(prints | same) == len(variants) + 1


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"tokenizer.ggml.pre": "mystery"}, ModelError, "pre-tokenizer 'mystery'"),
        ({"tokenizer.ggml.pre": None}, CorruptModel, "no 'tokenizer.ggml.pre'"),
        ({"tokenizer.ggml.model": "bert"}, ModelError, "'bert'"),
        ({"tokenizer.ggml.tokens": ["a", "a"]}, CorruptModel, "duplicates"),
        ({"tokenizer.ggml.token_type": [1]}, CorruptModel, "1 token types for"),
        ({"tokenizer.ggml.merges": ["h zz"]}, CorruptModel, "merges do not fit"),
        ({"tokenizer.ggml.merges": ["h"]}, CorruptModel, "merges do not fit"),
        ({"tokenizer.ggml.eos_token_id": 99999}, CorruptModel, "eos token 99999 of"),
        ({"tokenizer.ggml.tokens": 3}, CorruptModel, "is int, expected list"),
    ],
)
def test_open_with_bad_metadata_names_the_field(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        Tokenizer.open(byte_level_gguf(tmp_path, **changes))


def test_special_token_that_plain_text_can_become_is_refused(tmp_path: Path) -> None:
    # With ignore_merges a whole piece that is in the vocabulary is that token.
    path = byte_level_gguf(
        tmp_path,
        **{
            "tokenizer.ggml.pre": "llama-bpe",
            "tokenizer.ggml.tokens": ["PAD", *CHAR_OF_BYTE.values()],
            "tokenizer.ggml.token_type": [CONTROL] + [NORMAL] * 256,
            "tokenizer.ggml.merges": [],
        },
    )
    with pytest.raises(ModelError, match="special token 'PAD'"):
        Tokenizer.open(path)


# ---------------------------------------------------------------- SentencePiece


def sentencepiece_gguf(
    path: Path, first_type: int = UNKNOWN, **changes: Any
) -> tuple[Path, dict[str, float]]:
    """A trained vocabulary with byte tokens; also the scores of ordinary pieces."""
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=600, show_progress=False)
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    # Some characters stay outside, so that byte tokens are needed.
    trained.train_from_iterator([line for line in lines(300, seed=5) if line.isascii()], trainer)
    special = ["<unk>", "<s>", "</s>"]
    hexes = [f"<0x{byte:02X}>" for byte in range(256)]
    by_rank = sorted(trained.get_vocab().items(), key=lambda item: item[1])
    pieces = [token for token, _ in by_rank if token not in (*special, *hexes)]
    scores = {piece: -float(rank) for rank, piece in enumerate(pieces)}
    tokens = [*special, *hexes, *pieces]
    types = [first_type, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * len(pieces)
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 259 + list(scores.values()),
        "tokenizer.ggml.token_type": [Typed("i32", kind) for kind in types],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    return Gguf(metadata | changes).write(path / "sp.gguf"), scores


def merged(text: str, scores: dict[str, float]) -> list[str]:
    """The reference: SentencePiece's BPE as it is defined. Of all neighbours whose union is a
    piece, the union with the best score is made, the leftmost first; characters that are left
    over become their bytes."""
    symbols = list(text.replace(" ", "\u2581"))
    while True:
        pairs = [(scores.get(a + b), i) for i, (a, b) in enumerate(itertools.pairwise(symbols))]
        found = [(score, -i) for score, i in pairs if score is not None]
        if not found:
            break
        at = -max(found)[1]
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    out: list[str] = []
    for symbol in symbols:
        out += [symbol] if symbol in scores else [f"<0x{b:02X}>" for b in symbol.encode()]
    return out


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, dict[str, float]]:
    path, scores = sentencepiece_gguf(tmp_path_factory.mktemp("sp"))
    return Tokenizer.open(path), scores


def spelled(tokenizer: Tokenizer, ids: Sequence[int]) -> list[bytes]:
    return [tokenizer.token_bytes(i) for i in ids]


def test_sentencepiece_ids_equal_the_definition(
    sentencepiece: tuple[Tokenizer, dict[str, float]],
) -> None:
    tokenizer, scores = sentencepiece
    byte_of = {f"<0x{b:02X}>": bytes([b]) for b in range(256)}
    for line in lines(300, seed=6):
        expected = [
            byte_of.get(piece) or piece.replace("\u2581", " ").encode()
            for piece in merged(" " + line, scores)
        ]
        assert spelled(tokenizer, tokenizer.encode(line)) == expected, line


def test_sentencepiece_space_comes_at_the_start_and_after_special_tokens_only(
    sentencepiece: tuple[Tokenizer, dict[str, float]],
) -> None:
    tokenizer, _ = sentencepiece
    inside = tokenizer.encode("x")[-1]

    def text(ids: list[int]) -> bytes:
        return b"".join(spelled(tokenizer, ids))

    assert tokenizer.adds_space
    assert text(tokenizer.encode("the")) == b" the"
    assert text(tokenizer.encode("the", after_id=1)) == b" the"
    assert text(tokenizer.encode("the", after_id=inside)) == b"the"
    seam = tokenizer.encode_parts([Text("<s>", True), Text("a b"), Text("</s>c", True)])
    assert text(seam) == b" a b c"
    assert tokenizer.decode(tokenizer.encode("the"), at_start=True) == "the"
    assert tokenizer.decode(tokenizer.encode("the")) == " the"


def test_sentencepiece_without_prefix_keeps_the_text(tmp_path: Path) -> None:
    path, _ = sentencepiece_gguf(tmp_path, **{"tokenizer.ggml.add_space_prefix": False})
    tokenizer = Tokenizer.open(path)
    assert not tokenizer.adds_space
    for line in lines(200, seed=7):
        assert b"".join(spelled(tokenizer, tokenizer.encode(line))) == line.encode()
        assert not tokenizer.special_ids & set(tokenizer.encode(line))


def test_sentencepiece_bytes_join_to_the_text_with_its_space(
    sentencepiece: tuple[Tokenizer, dict[str, float]],
) -> None:
    tokenizer, _ = sentencepiece
    for line in lines(300, seed=8):
        assert b"".join(spelled(tokenizer, tokenizer.encode(line))) == b" " + line.encode()
    assert tokenizer.add_bos and tokenizer.bos_id == 1 and tokenizer.eos_ids == {2}


def test_sentencepiece_with_bad_metadata_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match="1 scores for"):
        Tokenizer.open(sentencepiece_gguf(tmp_path, **{"tokenizer.ggml.scores": [0.0]})[0])
    with pytest.raises(CorruptModel, match="byte token 0 is spelled '<unk>'"):
        Tokenizer.open(sentencepiece_gguf(tmp_path, BYTE)[0])


# ---------------------------------------------------------------- tokenizer.json


def added(token_id: int, content: str, **flags: bool) -> dict[str, Any]:
    options = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": content, "special": True, **options, **flags}


BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
META_DECODER = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ],
}
TO_SPACE = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}


def metaspace(scheme: str) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": False}


def pipeline(kind: str) -> dict[str, Any]:
    """normalizer, pre_tokenizer and decoder of real kinds of tokenizer.json."""
    prepend = {"type": "Prepend", "prepend": "\u2581"}
    steps: dict[str, tuple[Any, Any, Any]] = {
        "bytes": (None, BYTE_LEVEL, BYTE_LEVEL),
        "bytes-space": (None, {**BYTE_LEVEL, "add_prefix_space": True}, BYTE_LEVEL),
        "first": (None, metaspace("first"), META_DECODER),
        "always": (None, metaspace("always"), META_DECODER),
        "never": (None, metaspace("never"), META_DECODER),
        "legacy": (
            {"type": "Sequence", "normalizers": [prepend, TO_SPACE]},
            None,
            META_DECODER,
        ),
    }
    return dict(zip(("normalizer", "pre_tokenizer", "decoder"), steps[kind], strict=True))


SPECIAL = [
    added(0, "<unk>"),
    added(1, "<s>"),
    added(2, "</s>"),
    added(3, "<|im_end|>", rstrip=True),
    added(4, "<|im_start|>", lstrip=True),
    added(5, "<tool>", special=False),
    added(6, "word", single_word=True),
]


def directory(path: Path, kind: str = "bytes", **files: Any) -> Path:
    """A model directory's tokenizer files."""
    spelling = list(CHAR_OF_BYTE.values())
    if not kind.startswith("bytes"):
        spelling = [f"<0x{b:02X}>" for b in range(256)] + ["\u2581", *map(chr, range(33, 127))]
    texts = [t["content"] for t in SPECIAL] + spelling
    space = "Ġ" if kind.startswith("bytes") else "\u2581"
    merges = [[space, "t"], ["h", "e"], [space + "t", "he"], [space, space], ["i", "n"]]
    texts += [a + b for a, b in merges]
    data = {
        "version": "1.0",
        "added_tokens": SPECIAL,
        "post_processor": None,
        **pipeline(kind),
        "model": {
            "type": "BPE",
            "vocab": {text: i for i, text in enumerate(texts)},
            "merges": merges,
            "unk_token": "<unk>",
            "byte_fallback": not kind.startswith("bytes"),
        },
    }
    written = {"tokenizer.json": data, "tokenizer_config.json": {"eos_token": "</s>"}, **files}
    for name, content in written.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (path / name).write_text(text, encoding="utf-8")
    return path


KINDS = ("bytes", "bytes-space", "first", "always", "never", "legacy")


@pytest.mark.parametrize("kind", KINDS)
def test_special_encode_of_a_directory_equals_the_library_on_the_whole_text(
    tmp_path: Path, kind: str
) -> None:
    tokenizer = Tokenizer.open(directory(tmp_path, kind))
    reference = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    rng = random.Random(9)
    spellings = [
        "<s>",
        "</s>",
        "<|im_end|>",
        "<|im_start|>",
        "<tool>",
        "word",
        "the",
        " ",
        "\n",
        "x",
    ]
    for line in lines(150, seed=10):
        mixed = line + "".join(rng.choices(spellings, k=rng.randrange(8))) + line[:5]
        expected = reference.encode(mixed, add_special_tokens=False).ids
        assert tokenizer.encode(mixed, special=True) == expected, mixed
        assert not tokenizer.special_ids - {0} & set(tokenizer.encode(mixed))


@pytest.mark.parametrize("kind", KINDS)
def test_running_text_gets_no_space_and_keeps_its_bytes(tmp_path: Path, kind: str) -> None:
    tokenizer = Tokenizer.open(directory(tmp_path, kind))
    inside = tokenizer.encode("x")[-1]
    for line in lines(150, seed=11):
        ids = tokenizer.encode(line, after_id=inside)
        assert b"".join(spelled(tokenizer, ids)) == line.encode(), line
    assert tokenizer.adds_space == (kind not in ("bytes", "never"))


def test_eos_of_a_directory_unites_config_generation_config_and_tokenizer(tmp_path: Path) -> None:
    tokenizer = Tokenizer.open(
        directory(
            tmp_path,
            **{
                "config.json": {"eos_token_id": 2, "bos_token_id": 1},
                "generation_config.json": {"eos_token_id": [2, 3]},
                "tokenizer_config.json": {
                    "eos_token": {"content": "<|im_start|>"},
                    "add_bos_token": True,
                },
            },
        )
    )
    assert tokenizer.eos_ids == {2, 3, 4}
    assert tokenizer.bos_id == 1 and tokenizer.add_bos


def test_bos_of_a_directory_follows_its_post_processor(tmp_path: Path) -> None:
    template = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    directory(tmp_path)
    data = json.loads((tmp_path / "tokenizer.json").read_text()) | {"post_processor": template}
    files = {"tokenizer.json": data, "tokenizer_config.json": {"bos_token": "<s>"}}
    tokenizer = Tokenizer.open(directory(tmp_path, **files))
    assert tokenizer.add_bos and tokenizer.bos_id == 1
    assert tokenizer.encode("the") == Tokenizer.open(tmp_path).encode("the")
    assert tokenizer.encode("the")[0] != 1  # encode itself adds nothing


@pytest.mark.parametrize("place", ["jinja", "string", "list", "json"])
def test_chat_template_of_a_directory_is_found_wherever_it_lies(tmp_path: Path, place: str) -> None:
    text = "{{ messages[0].content }}</s>"
    files: dict[str, dict[str, Any]] = {
        "jinja": {"chat_template.jinja": text},
        "string": {"tokenizer_config.json": {"chat_template": text}},
        "list": {
            "tokenizer_config.json": {"chat_template": [{"name": "default", "template": text}]}
        },
        "json": {"chat_template.json": {"chat_template": text}},
    }
    tokenizer = Tokenizer.open(directory(tmp_path, **files[place]))
    assert tokenizer.chat_template is not None
    assert tokenizer.chat_template.source == text


def broken(tmp_path: Path, **changes: Any) -> Path:
    data = json.loads((directory(tmp_path) / "tokenizer.json").read_text())
    return directory(tmp_path, **{"tokenizer.json": {**data, **changes}})


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        (
            {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}},
            ModelError,
            "WordLevel",
        ),
        ({"model": {"type": "Nonsense"}}, CorruptModel, "not a tokenizer"),
        ({"decoder": None}, ModelError, "decoder None"),
        (
            {"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}},
            ModelError,
            "WordPiece",
        ),
        ({"added_tokens": 3}, CorruptModel, "not a tokenizer"),
    ],
)
def test_open_a_directory_of_unknown_kind_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        Tokenizer.open(broken(tmp_path, **changes))


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"tokenizer.json": "{"}, "tokenizer.json: not readable as JSON"),
        ({"tokenizer.json": "[1]"}, "tokenizer.json: holds a list"),
        ({"generation_config.json": "nope"}, "generation_config.json: not readable"),
        ({"tokenizer_config.json": {"eos_token": 7}}, "eos_token is 7"),
        ({"config.json": {"eos_token_id": 99999}}, "/config.json: eos_token_id 99999 is not a"),
        ({"config.json": {"eos_token_id": True}}, "/config.json: eos_token_id True is not a"),
        ({"config.json": {"bos_token_id": -1}}, "/config.json: bos_token_id -1 is not a token"),
        ({"generation_config.json": {"eos_token_id": [2, "x"]}}, "eos_token_id 'x' is not a"),
        ({"tokenizer_config.json": {"chat_template": 7}}, "chat_template is not a string"),
    ],
)
def test_open_a_directory_with_a_damaged_file_names_it(
    tmp_path: Path, files: dict[str, Any], told: str
) -> None:
    with pytest.raises(CorruptModel, match=told):
        Tokenizer.open(directory(tmp_path, **files))


def test_open_without_tokenizer_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match=r"tokenizer\.json: the file is missing"):
        Tokenizer.open(tmp_path)
    with pytest.raises(ModelNotFound):
        Tokenizer.open(tmp_path / "no.gguf")


# ---------------------------------------------------------------- anything

JUNK: list[Any] = [None, True, -1, 3, 2**40, 2.5, "", "x", "\u2581", [], [1], ["a"], {}]
JUNK += [{"type": "Sequence"}, {"type": "ByteLevel"}]


def used(path: Path) -> None:
    """Everything a program may do with a tokenizer that opened."""
    tokenizer = Tokenizer.open(path)
    ids = tokenizer.with_bos(tokenizer.encode("a <s> the", special=True))
    tokenizer.decode([*ids, *tokenizer.eos_ids])
    assert len(tokenizer.fingerprint) == 64


def outcomes(run: Callable[[], None], counts: Counter[str]) -> None:
    try:
        run()
        counts["fine"] += 1
    except SgrtError:
        counts["refused"] += 1


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something can be changed in JSON; not inside the vocabulary, which is long."""
    children = value.items() if isinstance(value, dict) else enumerate(value[:8])
    for key, child in children:
        yield (*at, key)
        if isinstance(child, (dict, list)) and key != "vocab":
            yield from places(child, (*at, key))


def test_directory_with_any_value_replaced_opens_or_is_refused(tmp_path: Path) -> None:
    rng, counts = random.Random(0), Counter[str]()
    files: dict[str, Any] = {
        "config.json": {"eos_token_id": 2, "bos_token_id": 1},
        "generation_config.json": {"eos_token_id": [2, 3]},
        "tokenizer_config.json": {"eos_token": {"content": "</s>"}, "bos_token": "<s>"},
    }
    for _ in range(100):
        directory(tmp_path, rng.choice(KINDS), **files)
        file = tmp_path / rng.choice(["tokenizer.json"] * 5 + list(files))
        data = json.loads(file.read_text(encoding="utf-8"))
        *way, last = rng.choice(list(places(data)))
        target = data
        for key in way:
            target = target[key]
        target[last] = rng.choice(JUNK)
        file.write_text(json.dumps(data), encoding="utf-8")
        outcomes(lambda: used(tmp_path), counts)
    assert min(counts["fine"], counts["refused"]) > 10


def test_gguf_with_any_value_replaced_opens_or_is_refused(tmp_path: Path) -> None:
    rng, counts = random.Random(0), Counter[str]()
    keys = "model pre tokens token_type merges scores bos_token_id eos_token_id add_bos_token"
    values: list[Any] = ["", "llama", "gpt2", 3, True, -1.5, [], ["a"], ["a b"], [1, 2], [True]]
    values += [[[1]], Typed("u64", 2**63), Typed("i32", -1), [Typed("f32", float("nan"))] * 270]
    for index in range(100):
        changes = {f"tokenizer.ggml.{rng.choice(keys.split())}": rng.choice(values)}
        build = byte_level_gguf if index % 2 else lambda *a, **k: sentencepiece_gguf(*a, **k)[0]
        path = build(tmp_path, **changes)
        outcomes(lambda path=path: used(path), counts)
    assert min(counts["fine"], counts["refused"]) > 10
