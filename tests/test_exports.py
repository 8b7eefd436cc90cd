"""The public names, and what importing them costs."""

import subprocess
import sys

import pytest

import sgrt

HEAVY = ("torch", "numpy", "transformers", "tokenizers", "jinja2", "llguidance", "xgrammar")


def loaded_after(code):
    check = f"import sys; {code}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_importing_sgrt_loads_no_heavy_package():
    assert loaded_after("import sgrt") == []


def test_writing_and_running_programs_loads_no_heavy_package():
    program = (
        "import sgrt; f = sgrt.function(lambda s: s.__iadd__(sgrt.gen('x')));"
        "assert f.run(backend=sgrt.ScriptedBackend(['1']))['x'] == '1'"
    )
    assert loaded_after(program) == []


@pytest.mark.parametrize("name", sorted(set(sgrt.__all__) - {"Engine"}))
def test_every_public_name_resolves_and_is_listed(name):
    assert getattr(sgrt, name) is getattr(sgrt, name)
    assert name in dir(sgrt)


def test_engine_is_the_embedded_backend():
    pytest.importorskip("torch")
    assert sgrt.Engine.__module__ == "sgrt.backends.local"


def test_public_objects_are_documented():
    missing = [n for n in sgrt.__all__ if n != "Engine" and not getattr(sgrt, n).__doc__]
    assert missing == []


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'genn'"):
        _ = sgrt.genn


def test_engine_without_its_packages_says_what_to_install():
    script = (
        "import sys; sys.modules['numpy'] = None\n"
        "import sgrt\n"
        "try: sgrt.Engine\n"
        "except sgrt.SgrtError as error: print(type(error).__name__, error)\n"
        "try: sgrt.function(lambda s: s.text()).run()\n"
        "except sgrt.SgrtError as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.count("MissingPackage the package 'numpy' is not installed") == 2, (
        done.stderr
    )
    assert "sgrt[engine]" in done.stdout
