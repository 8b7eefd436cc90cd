"""`sgrt serve`: each flag sets its field, from the command line, a file or the environment."""

from __future__ import annotations

import argparse
import re
import socket
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from sgrt.cli import serve
from sgrt.cli.flags import Flag
from sgrt.cli.main import main
from sgrt.config import EngineConfig, ServerConfig
from sgrt.errors import RequestError

ROOT = Path(__file__).resolve().parents[2]
FIELDS = {f.name: f for kind in (EngineConfig, ServerConfig) for f in fields(kind)}
SETTING = {flag.field: flag for flag in serve.ALL if flag.field in FIELDS}
NAMES = [(flag, name) for flag in SETTING.values() for name in flag.names]


@pytest.fixture(autouse=True)
def no_keys_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SGRT_API_KEY", raising=False)
    monkeypatch.delenv("SGRT_ADMIN_API_KEY", raising=False)


def configs(*argv: str) -> tuple[EngineConfig, ServerConfig]:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    serve.add_arguments(parser)
    return serve.configs(parser.parse_args(argv))


def field(found: tuple[EngineConfig, ServerConfig], name: str) -> Any:
    return next(getattr(config, name) for config in found if hasattr(config, name))


def example(flag: Flag) -> tuple[list[str], Any, Any]:
    """What to write behind a flag; what to write in a file; what the field then is."""
    default = FIELDS[flag.field].default
    action = flag.options.get("action")
    if action in ("store_true", "store_false"):
        return [], True, action == "store_true"
    if "choices" in flag.options:
        value = next(c for c in flag.options["choices"] if c != default)
        return [value], value, value
    kind = flag.options.get("type", str)
    if kind is str:
        many = action == "append" or "nargs" in flag.options
        return ["some"], "some", ("some",) if many else "some"
    value = kind(default + 1 if default is not MISSING else 1)
    return [str(value)], value, value


def test_every_setting_has_a_flag_and_every_flag_a_setting() -> None:
    assert set(SETTING) | {"model"} == set(FIELDS)
    assert len(serve.ALL) < 60
    assert len(NAMES) == len({name for _, name in NAMES})


def test_every_setting_of_the_server_is_read_by_it() -> None:
    source = "".join(p.read_text() for p in (ROOT / "sgrt" / "server").glob("*.py"))
    unread = [f.name for f in fields(ServerConfig) if not re.search(rf"\.{f.name}\b", source)]
    assert unread == []


@pytest.mark.parametrize(("flag", "name"), NAMES, ids=[name for _, name in NAMES])
def test_a_flag_sets_its_field_on_the_command_line_and_in_a_file(
    flag: Flag, name: str, tmp_path: Path
) -> None:
    import yaml

    words, written, expected = example(flag)
    assert field(configs(), flag.field) != expected
    assert field(configs(name, *words), flag.field) == expected
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump({name.removeprefix("--"): written}))
    assert field(configs("--config", str(file)), flag.field) == expected


def test_flags_win_over_the_file_and_the_file_over_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("port: 1\nmax_n: 3\napi-key: [of-file]\n")
    monkeypatch.setenv("SGRT_API_KEY", "of-environment")
    assert configs()[1].api_keys == ("of-environment",)
    _, server = configs("--config", str(file), "--port", "2")
    assert (server.port, server.max_n, server.api_keys) == (2, 3, ("of-file",))


def test_keys_are_read_from_files_and_join_those_of_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, admin = tmp_path / "keys", tmp_path / "admin"
    keys.write_text("one\n\n two \n")
    admin.write_text("boss\n")
    argv = ["--api-key", "zero", "--api-key-file", str(keys), "--admin-api-key-file", str(admin)]
    _, server = configs(*argv)
    assert server.api_keys == ("zero", "one", "two")
    assert server.admin_api_key == "boss"
    monkeypatch.setenv("SGRT_ADMIN_API_KEY", "of-environment")
    assert configs()[1].admin_api_key == "of-environment"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prot: 1", "there is no setting 'prot'; did you mean 'port'"),
        ("port: 1\nport: 2", "port is given twice"),
        ("page-size: 4\npage_size: 8", "given twice"),
        ("context-length: 9\nmax-model-len: 9", "given twice"),
        ("port: '1'", "must be an integer"),
        ("port: true", "must be an integer"),
        ("request-timeout: soon", "must be a number"),
        ("api-key: [1]", "must be a text"),
        ("device: tpu", "must be one of auto, cpu, cuda"),
        ("disable-prefix-cache: 1", "must be true or false"),
        ("port: [1", "not YAML in line 1"),
        ("- port", "must hold keys and values"),
        ("port: 99999", "port=99999: must be from 0 to 65535"),
    ],
)
def test_a_file_that_means_nothing_is_refused_by_key(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(text)
    with pytest.raises(RequestError) as error:
        configs("--config", str(file))
    assert told in str(error.value)


@pytest.mark.parametrize(
    "argv",
    [
        ["--port", "99999"],
        ["--drain-timeout", "nan"],
        ["--max-n", "0"],
        ["--page-size", "0"],
        ["--host", "0.0.0.0"],
        ["--ssl-keyfile", "/no/such"],
        ["--ssl-keyfile", "/no/such", "--ssl-certfile", "/no/such"],
        ["--api-key", ""],
        ["--api-key", "k", "--admin-api-key", "k"],
        ["--api-key-file", "/no/such"],
        ["--admin-api-key-file", "/dev/null"],
        ["--config", "/no/such"],
        ["one", "--model", "two"],
    ],
)
def test_a_setting_that_means_nothing_ends_with_one_line(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *argv]) == 2
    told = capsys.readouterr().err
    assert told.startswith("sgrt: error: ") and told.count("\n") == 1


def test_a_port_in_use_is_told_before_the_model_is_loaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port), "--model", "/no/such"]) == 2
    told = capsys.readouterr().err
    assert f"cannot listen on 127.0.0.1:{port}" in told and told.count("\n") == 1


def test_a_flag_is_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--served-model", "x"])
    assert "--served-model" in capsys.readouterr().err
