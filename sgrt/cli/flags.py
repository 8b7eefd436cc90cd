"""Flags that set configuration: declared once, read from the command line or a YAML file."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from sgrt.config import EngineConfig
from sgrt.errors import MissingPackage, RequestError


class Flag:
    """One setting: its names on the command line, the field it sets, and its help."""

    def __init__(self, names: str, field: str, text: str, **options: Any) -> None:
        self.names = names.split()
        self.field = field
        self.text = text
        self.options = options


ENGINE = (
    Flag("--context-length --max-model-len", "context_len", "most tokens of a request", type=int),
    Flag(
        "--max-running-requests --max-num-seqs", "max_running", "most sequences in a step", type=int
    ),
    Flag(
        "--max-step-tokens --chunked-prefill-size",
        "max_step_tokens",
        "most tokens in a step",
        type=int,
    ),
    Flag("--max-total-tokens --kv-tokens", "kv_tokens", "tokens that the KV pool holds", type=int),
    Flag("--page-size", "page_size", "tokens in a KV page", type=int),
    Flag("--schedule-policy", "policy", "order of waiting requests", choices=("lpm", "fcfs")),
    Flag("--device", "device", "where to run", choices=("auto", "cpu", "cuda")),
    Flag(
        "--precision --dtype",
        "precision",
        "of weights and arithmetic",
        choices=("auto", "quantized", "float32", "bfloat16", "float16"),
    ),
    Flag("--num-threads", "num_threads", "CPU threads of the model", type=int),
    Flag("--random-seed", "seed", "seeds requests that give none", type=int),
    Flag("--chat-template", "chat_template", "jinja file that replaces the model's template"),
    Flag("--grammar-cache", "grammar_cache", "directory that keeps costly constraints compiled"),
    Flag(
        "--disable-prefix-cache --disable-radix-cache",
        "prefix_cache",
        "compute every prompt anew",
        action="store_false",
    ),
    Flag(
        "--disable-forced-runs",
        "forced_runs",
        "sample text that a constraint leaves no choice about",
        action="store_false",
    ),
)
"""Fields of `EngineConfig`."""


def add_model(parser: argparse.ArgumentParser, *, positional: bool = True) -> None:
    """The model, by place or by flag."""
    if positional:
        text = "name, directory or GGUF file (default: embedded)"
        parser.add_argument("model", nargs="?", help=text)
    parser.add_argument(
        "--model",
        "--model-path",
        dest="model_flag",
        metavar="MODEL",
        help="name, directory or GGUF file",
    )


def add_flags(
    parser: argparse.ArgumentParser, title: str, kind: type[Any], flags: Sequence[Flag]
) -> None:
    """One argument per flag; what is not given stays out of the namespace."""
    group = parser.add_argument_group(title)
    defaults = {f.name: f.default for f in fields(kind)}
    for flag in flags:
        default = defaults[flag.field]
        shown = "" if default in (None, (), True, False) else f" (default: {default})"
        group.add_argument(
            *flag.names,
            dest=flag.field,
            default=argparse.SUPPRESS,
            help=flag.text + shown,
            **_metavar(flag),
            **flag.options,
        )


def _metavar(flag: Flag) -> dict[str, Any]:
    """What stands for the value in the help; nothing where there is none, or a choice."""
    action = flag.options.get("action")
    if action in ("store_true", "store_false") or "choices" in flag.options:
        return {}
    kind = flag.options.get("type", str)
    known = {int: "N", float: "SECONDS"}.get(kind)
    return {"metavar": known or flag.names[0].rpartition("-")[2].upper()}


def given(args: argparse.Namespace, flags: Sequence[Flag]) -> dict[str, Any]:
    """Fields that the command line sets, ``model`` among them.

    Raises:
        RequestError: two models.
    """
    known = {flag.field for flag in flags}
    values = {key: value for key, value in vars(args).items() if key in known}
    models = [m for m in (getattr(args, "model", None), args.model_flag) if m is not None]
    if len(models) > 1:
        raise RequestError(f"two models: {models[0]!r} and {models[1]!r}")
    return values | ({"model": models[0]} if models else {})


def engine_config(values: Mapping[str, Any]) -> EngineConfig:
    """The engine's part of some settings."""
    return EngineConfig(
        **{f.name: values[f.name] for f in fields(EngineConfig) if f.name in values}
    )


def from_file(name: str, flags: Sequence[Flag]) -> dict[str, Any]:
    """Settings of a YAML file; keys are the long flags without dashes, ``model`` is one too.

    Raises:
        RequestError: a file that cannot be read, a key that is unknown or given twice, a value
            that its flag would not take.
    """
    known = {n.removeprefix("--"): flag for flag in flags for n in flag.names}
    values: dict[str, Any] = {}
    for key, setting in _yaml(name).items():
        spelled = str(key).replace("_", "-")
        if spelled not in known and spelled not in ("model", "model-path"):
            raise RequestError(f"{name}: there is no setting {key!r}{_close(spelled, known)}")
        flag = known.get(spelled)
        field = "model" if flag is None else flag.field
        if field in values:
            raise RequestError(f"{name}: {key} is given twice, once under another name")
        values[field] = (
            _text(name, key, setting) if flag is None else _value(name, key, flag, setting)
        )
    return values


def _yaml(name: str) -> Mapping[Any, Any]:
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise MissingPackage(error, extra="serve") from error
    try:
        text = Path(name).read_text(encoding="utf-8")
        _refuse_twice(name, yaml.compose(text, yaml.SafeLoader))
        value = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f" in line {error.problem_mark.line + 1}"
        raise RequestError(f"{name}: not YAML{line}: {error.problem}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise RequestError(f"cannot read {name}: {' '.join(str(error).split())}") from error
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise RequestError(f"{name}: must hold keys and values")
    return value


def _refuse_twice(name: str, node: Any) -> None:
    """YAML's reader takes the last of two equal keys, without a word."""
    seen: set[str] = set()
    for key, _ in node.value if hasattr(node, "flow_style") and node.id == "mapping" else ():
        if key.value in seen:
            raise RequestError(f"{name}: {key.value} is given twice")
        seen.add(str(key.value))


def _close(name: str, known: Mapping[str, Flag]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _value(name: str, key: object, flag: Flag, value: Any) -> Any:
    """The value of a key, of the type that the flag would give it."""
    action = flag.options.get("action")
    if action in ("store_true", "store_false"):
        if not isinstance(value, bool):
            raise RequestError(f"{name}: {key} must be true or false")
        return value if action == "store_true" else not value
    if action == "append" or "nargs" in flag.options:
        return [_text(name, key, item) for item in (value if isinstance(value, list) else [value])]
    kind = flag.options.get("type", str)
    if kind is str:
        value = _text(name, key, value)
    choices = flag.options.get("choices")
    if choices is not None and value not in choices:
        raise RequestError(f"{name}: {key}={value!r} must be one of {', '.join(choices)}")
    if kind is int and type(value) is not int:
        raise RequestError(f"{name}: {key}={value!r} must be an integer")
    if kind is float and type(value) not in (int, float):
        raise RequestError(f"{name}: {key}={value!r} must be a number")
    return kind(value)


def _text(name: str, key: object, value: Any) -> str:
    if not isinstance(value, str):
        raise RequestError(f"{name}: {key}={value!r} must be a text; put it in quotes")
    return value
