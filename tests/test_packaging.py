"""What an installed sgrt consists of, read from a wheel built here.

The default run builds with a stand-in compiler that makes empty libraries: what is packed is
tested without a minute of compiling. The slow test compiles, and loads the result.
"""

from __future__ import annotations

import email.message
import email.parser
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKED = ("sgrt", "kernels", "grammars", "setup.py", "pyproject.toml", "README.md", "LICENSE")
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")

EMPTY_LIBRARIES = """#!/bin/sh
for word in "$@"; do
  case "$before" in -o) out="$word" ;; esac
  case "$word" in -c) mode=-c ;; esac
  before="$word"
done
exec {compiler} ${{mode:--shared}} -x c /dev/null -o "$out"
"""


def _copy_sources(target: Path) -> None:
    """What a wheel is built from, without anything compiled."""
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so", "build")
    for name in PACKED:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, target / name, ignore=ignore)
        else:
            shutil.copy2(path, target / name)


def _build(source: Path, environment: dict[str, str]) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", str(source), "-q", "--no-deps"]
    if int(version("setuptools").split(".")[0]) >= 77:  # what [build-system] asks for
        command.append("--no-build-isolation")
    done = subprocess.run(
        [*command, "-w", str(source / "dist")],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    (path,) = (source / "dist").glob("sgrt-*.whl")
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")
    _copy_sources(source)
    compiler = source / "empty-cc"
    compiler.write_text(EMPTY_LIBRARIES.format(compiler=COMPILER or "false"))
    compiler.chmod(0o755)
    shared = f"{compiler} -shared"
    return _build(
        source,
        {"CC": str(compiler), "CXX": str(compiler), "LDSHARED": shared, "LDCXXSHARED": shared},
    )


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="module")
def metadata(wheel: Path, names: set[str]) -> email.message.Message:
    (name,) = [n for n in names if n.endswith(".dist-info/METADATA")]
    return email.parser.Parser().parsestr(zipfile.ZipFile(wheel).read(name).decode())


def _python_files(folder: Path, package: str) -> set[str]:
    return {f"{package}/{path.relative_to(folder).as_posix()}" for path in folder.rglob("*.py")}


def test_wheel_carries_every_module_and_grammar(names: set[str]) -> None:
    expected = _python_files(ROOT / "sgrt", "sgrt")
    expected |= _python_files(ROOT / "kernels" / "sgrt_kernels", "sgrt_kernels")
    expected |= _python_files(ROOT / "grammars", "sgrt_grammars")
    expected |= {f"sgrt_grammars/{path.name}" for path in (ROOT / "grammars").glob("*.lark")}
    assert len(expected) > 50
    assert expected <= names


def test_wheel_carries_nothing_else(names: set[str]) -> None:
    ours = ("sgrt/", "sgrt_kernels/", "sgrt_grammars/", "sgrt-")
    assert not [name for name in names if not name.startswith(ours)]
    assert not [name for name in names if "test" in name or "__pycache__" in name]


@pytest.mark.skipif(COMPILER is None, reason="no C compiler on this machine")
def test_wheel_carries_native_libraries(names: set[str]) -> None:
    libraries = {name for name in names if name.endswith(".so")}
    assert "sgrt_kernels/native/libsgrt_generic.so" in libraries
    assert all(name.startswith("sgrt_kernels/native/libsgrt_") for name in libraries)


def test_wheel_installs_on_any_python(wheel: Path) -> None:
    assert "-py3-none-" in wheel.name


def test_base_install_is_light(metadata: email.message.Message) -> None:
    base = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    names = {line.split(">")[0].split("=")[0].strip() for line in base}
    assert names == {"greenlet", "pydantic", "rich"}


def test_engine_extra_brings_torch(metadata: email.message.Message) -> None:
    engine = [r for r in metadata.get_all("Requires-Dist", []) if 'extra == "engine"' in r]
    assert any(line.startswith("torch") for line in engine)


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="no C compiler on this machine")
def test_wheel_compiled_for_real_loads_its_library(tmp_path: Path) -> None:
    _copy_sources(tmp_path)
    site = tmp_path / "site"
    zipfile.ZipFile(_build(tmp_path, {})).extractall(site)
    code = "from sgrt_kernels import native; print(native.__file__, native.load(None))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(site)},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(site))
    assert not done.stdout.rstrip().endswith("None")
