"""A directory of compiled grammars is one's own, or refused before anything is loaded from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sgrt.errors import RequestError
from sgrt.runtime.assemble import own_directory


def test_directory_that_is_missing_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    made = own_directory(tmp_path / "a" / "b")
    assert made.is_dir()
    assert made.stat().st_mode & 0o077 == 0
    assert own_directory(made) == made


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_directory_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(RequestError, match="others may write there"):
        own_directory(tmp_path)


def test_place_that_can_be_no_directory_is_refused_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for path in (file, file / "below"):
        with pytest.raises(RequestError, match="grammar_cache="):
            own_directory(path)
