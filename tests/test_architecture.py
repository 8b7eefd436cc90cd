"""Who may import whom, read off the source: every import counts, those inside functions too."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {"sgrt": ROOT / "sgrt", "sgrt_kernels": ROOT / "kernels" / "sgrt_kernels"}

# Room → rooms it may import, beside itself. A module belongs to the longest name it begins with.
ROOMS: dict[str, set[str]] = {
    "sgrt": {"sgrt.lang", "sgrt.backends", "sgrt.backends.local", "sgrt.core", "sgrt.config"}
    | {"sgrt.backends.openai", "sgrt.backends.sglang", "sgrt.backends.spawned"}
    | {"sgrt.errors"},
    "sgrt.errors": set(),
    "sgrt.files": set(),
    "sgrt.constraints": {"sgrt.errors"},
    "sgrt.constraint_json": {"sgrt.constraints", "sgrt.errors"},
    "sgrt.handles": {"sgrt.errors"},
    "sgrt.json_events": {"sgrt.errors"},
    "sgrt.core": {"sgrt.constraints", "sgrt.handles", "sgrt.json_events", "sgrt.errors"},
    "sgrt.config": {"sgrt.errors"},
    "sgrt.schemas": {"sgrt.constraints", "sgrt.errors"},
    "sgrt.lang": {"sgrt.core", "sgrt.handles", "sgrt.schemas", "sgrt.files", "sgrt.errors"}
    | {"sgrt.constraint_json"},
    "sgrt.grammar": {"sgrt.core", "sgrt.errors"},
    "sgrt.ops": {"sgrt_kernels", "sgrt.config", "sgrt.errors"},
    # core for the chat template's protocol and its runs of text
    "sgrt.models": {"sgrt.ops", "sgrt.core", "sgrt.config", "sgrt.errors"},
    "sgrt.runtime": {"sgrt.models", "sgrt.ops", "sgrt.grammar", "sgrt.core", "sgrt.config"}
    | {"sgrt.errors"},
    "sgrt.backends": {"sgrt.core", "sgrt.constraint_json", "sgrt.errors"},
    "sgrt.backends.local": {"sgrt.backends", "sgrt.runtime", "sgrt.core", "sgrt.config"}
    | {"sgrt.errors"},
    "sgrt.backends.openai": {"sgrt.backends", "sgrt.core", "sgrt.config", "sgrt.errors"},
    # models for chat templates
    "sgrt.backends.sglang": {"sgrt.backends", "sgrt.models", "sgrt.core", "sgrt.errors"}
    | {"sgrt.constraint_json"},
    "sgrt.backends.spawned": {"sgrt.backends.sglang", "sgrt.errors"},
    "sgrt.server": {
        "sgrt.backends.local",
        "sgrt.runtime",
        "sgrt.grammar",
        "sgrt.models",
        "sgrt.core",
    }
    | {"sgrt.schemas", "sgrt.constraint_json", "sgrt.files", "sgrt.config", "sgrt.errors"},
    "sgrt.cli": {
        *("sgrt", "sgrt.lang", "sgrt.backends", "sgrt.backends.local", "sgrt.server"),
        *("sgrt.runtime", "sgrt.models", "sgrt.grammar", "sgrt.core", "sgrt.config", "sgrt.errors"),
    },
    "sgrt_kernels": set(),
}

# The one place where the language reaches for the engine: a default backend, made on first use.
EXCEPTIONS = {("sgrt.lang.defaults", "sgrt.backends.local")}

HEAVY = ("torch", "triton", "xgrammar", "transformers")
NO_HEAVY = ("sgrt.errors", "sgrt.core", "sgrt.config", "sgrt.lang", "sgrt.grammar", "sgrt.cli")
# Integers only: simulated and property-tested without a model.
PURE = tuple(
    f"sgrt.runtime.{name}"
    for name in ("scheduler", "kv_manager", "radix_tree", "page_pool", "sequence", "trie")
)

Import = tuple[str, bool]
"""(dotted name, whether it happens when the module is imported)"""


def _modules() -> dict[str, Path]:
    """Every module by its dotted name."""
    found = {}
    for package, folder in SOURCES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _imports(tree: ast.AST, package: str, at_import: bool = True) -> Iterator[Import]:
    """All imports below a node; ``package`` is what a leading dot means."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            yield from ((f"{base}.{alias.name}", at_import) for alias in node.names)
        else:
            yield from _imports(node, package, at_import and not _is_deferred(node))


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if node.level == 0:
        return node.module or ""
    parents = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*parents, node.module] if node.module else parents)


def _is_deferred(node: ast.AST) -> bool:
    """Function bodies, and blocks that only type checkers read."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
        return True
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


MODULES = _modules()


@cache
def _imports_of(module: str) -> set[Import]:
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {(_known(name), at_import) for name, at_import in _imports(tree, package)}


def _known(name: str) -> str:
    """The module that a dotted name lies in, where it is one of ours; else the name itself."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        if (candidate := ".".join(parts[:end])) in MODULES:
            return candidate
    return name


def _within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def _room(module: str) -> str:
    return max((room for room in ROOMS if _within(module, (room,))), key=len)


def _is_ours(name: str) -> bool:
    return _within(name, tuple(SOURCES))


def test_imports_of_every_kind_are_seen() -> None:
    source = (
        "import a\nfrom .b import c\nfrom .. import d\n"
        "def f():\n    import e.f\n    class G:\n        from h import i\n"
        "if TYPE_CHECKING:\n    import j\ntry:\n    import k\nexcept ImportError:\n    pass\n"
    )
    assert set(_imports(ast.parse(source), "p.q")) == {
        *(("a", True), ("p.q.b.c", True), ("p.d", True), ("k", True)),
        *(("e.f", False), ("h.i", False), ("j", False)),
    }


def test_modules_are_found_and_each_has_a_room() -> None:
    assert {"sgrt", "sgrt.core", "sgrt.runtime.engine", "sgrt_kernels.quant"} <= set(MODULES)
    assert all(_room(module) for module in MODULES)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_module_imports_only_rooms_it_may(module: str) -> None:
    room = _room(module)
    wrong = {
        name
        for name, _ in _imports_of(module)
        if _is_ours(name)
        and _room(name) not in {room, *ROOMS[room]}
        and (module, name) not in EXCEPTIONS
    }
    assert not wrong, f"{module} (room {room}) may not import {sorted(wrong)}"


def test_exceptions_are_still_needed() -> None:
    used = {(module, name) for module, _ in EXCEPTIONS for name, _ in _imports_of(module)}
    assert used >= EXCEPTIONS


def test_rooms_have_no_cycles() -> None:
    list(graphlib.TopologicalSorter(ROOMS).static_order())


def test_modules_have_no_import_time_cycles() -> None:
    graph = {
        module: {
            name
            for name, at_import in _imports_of(module)
            if at_import and name in MODULES and name != module
        }
        for module in MODULES
    }
    list(graphlib.TopologicalSorter(graph).static_order())


def test_kernels_are_imported_by_ops_alone() -> None:
    importers = {
        module
        for module in MODULES
        if module.startswith("sgrt.") or module == "sgrt"
        for name, _ in _imports_of(module)
        if _within(name, ("sgrt_kernels",))
    }
    assert importers == {"sgrt.ops"}


def test_light_rooms_import_nothing_heavy() -> None:
    wrong = {
        (module, name)
        for module in MODULES
        if _within(module, NO_HEAVY)
        for name, _ in _imports_of(module)
        if _within(name, HEAVY)
    }
    assert not wrong


@pytest.mark.parametrize("module", PURE)
def test_integer_module_imports_only_the_standard_library(module: str) -> None:
    wrong = {
        name
        for name, _ in _imports_of(module)
        if not _is_ours(name) and name.split(".")[0] not in sys.stdlib_module_names
    }
    assert not wrong


def test_test_files_have_names_of_their_own() -> None:
    """Two of one name are one module to pytest, which then runs neither."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_package_named_kernels_does_not_exist() -> None:
    # transformers imports a public package of that name; ours must not stand in its way.
    assert not (ROOT / "kernels" / "__init__.py").exists()


@pytest.mark.parametrize("use", ["sgrt", "sgrt.function; sgrt.gen; sgrt.ScriptedBackend"])
def test_import_sgrt_loads_nothing_heavy(use: str) -> None:
    code = f"import sys, sgrt; {use}; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    heavy = {"torch", "numpy", "llguidance", "triton", "xgrammar", "transformers", "tokenizers"}
    assert "sgrt" in loaded
    assert not heavy & set(loaded)
