"""Kept grammars: found again by content, never stale, never half, within their bytes."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from grammar_support import byte_vocabulary

from sgrt.core import Constraint, JsonSchema, Lark
from sgrt.grammar import store as store_module
from sgrt.grammar.compiler import GrammarCompiler
from sgrt.grammar.store import Store

RISKY = JsonSchema('{"type":"integer","multipleOf":20011}')
SAME_TEXT: list[Constraint] = [JsonSchema("x"), Lark("x"), JsonSchema("x", separators="fixed")]


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_store_gives_back_what_was_put_by_content(tmp_path: Path) -> None:
    store = Store(tmp_path / "new" / "one", "v")
    for i, constraint in enumerate(SAME_TEXT):
        assert store.get(constraint) is None
        store.put(constraint, f"{i}\n\u00e9\ud800")
    for i, constraint in enumerate(SAME_TEXT):
        assert Store(tmp_path / "new" / "one", "v").get(constraint) == f"{i}\n\u00e9\ud800"
        assert Store(tmp_path / "new" / "one", "other").get(constraint) is None


def test_store_of_other_code_finds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(tmp_path, "v").put(RISKY, "text")
    monkeypatch.setattr(store_module, "_code_version", lambda: "changed")
    assert Store(tmp_path, "v").get(RISKY) is None


@pytest.mark.parametrize("damage", [b"", b"text", b"\xff" * 90, None])
def test_store_damaged_file_is_a_miss_and_is_written_anew(
    tmp_path: Path, damage: bytes | None
) -> None:
    store = Store(tmp_path, "v")
    store.put(RISKY, "text")
    path = only_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)
    assert store.get(RISKY) is None
    store.put(RISKY, "text")
    assert store.get(RISKY) == "text" and only_file(tmp_path) == path


def test_store_keeps_within_its_bytes_the_newest(tmp_path: Path) -> None:
    store = Store(tmp_path, "v", max_bytes=1_000)
    constraints = [JsonSchema(str(i)) for i in range(6)]
    for constraint in constraints:
        store.put(constraint, "t" * 235)  # 300 bytes with its checksum
    assert [store.get(c) is not None for c in constraints] == [False] * 3 + [True] * 3


def test_store_without_a_directory_to_write_to_keeps_nothing(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    store = Store(blocked / "below", "v")
    store.put(RISKY, "text")
    assert store.get(RISKY) is None


def test_store_written_and_read_at_once_gives_all_or_nothing(tmp_path: Path) -> None:
    texts = ["a" * 100_000, "b" * 100_000]

    def work(i: int) -> str | None:
        Store(tmp_path, "v").put(RISKY, texts[i % 2])
        return Store(tmp_path, "v").get(RISKY)

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(work, range(40))) <= {*texts, None}
    assert stat.S_IMODE(only_file(tmp_path).stat().st_mode) & 0o077 == 0


def test_compiler_with_a_directory_asks_no_process_twice(tmp_path: Path) -> None:
    for num_proved in (1, 0):
        compiler = GrammarCompiler(byte_vocabulary(), directory=tmp_path)
        try:
            assert compiler.compile(RISKY).matcher().completes(list(b"40022"))
        finally:
            compiler.close()
        assert (compiler.stats.num_proved, compiler.stats.num_stored) == (
            num_proved,
            1 - num_proved,
        )
    assert compiler.process.pid is None
