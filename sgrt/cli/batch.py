"""``sgrt batch in.jsonl -o out.jsonl``: a file of requests answered, whatever interrupts it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgrt.cli import flags
from sgrt.cli.flags import Flag
from sgrt.config import EngineConfig, ServerConfig
from sgrt.errors import MissingPackage, RequestError

if TYPE_CHECKING:
    from sgrt.server.batch.ledger import Ledger

DISK_FULL = 75
_WEEK = 7 * 86_400.0
_SAMPLE = 1 << 20
_SERVER = (
    Flag("--default-max-tokens", "default_max_tokens", "of chats that give none", type=int),
    Flag("--served-model-name", "served_model_names", "names that rows may use", nargs="+"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Files, what to do with what is there, and the engine's flags."""
    parser.epilog = (
        "A row has OpenAI's form: {custom_id, method, url, body}. Interrupted by anything, the "
        "same command goes on; each row is answered exactly once."
    )
    parser.add_argument("input", help="file of rows")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="answers")
    parser.add_argument(
        "--errors", metavar="FILE", help="rows that failed (default: OUTPUT with .errors in it)"
    )
    parser.add_argument(
        "--concurrency", type=int, metavar="N", help="rows under way at a time (default: 128)"
    )
    parser.add_argument("--force", action="store_true", help="begin anew, whatever is there")
    parser.add_argument(
        "--retry-errors", action="store_true", help="try failures that were not the rows' own again"
    )
    parser.add_argument("--no-limit", action="store_true", help="more than 50,000 rows or 200 MB")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    flags.add_model(parser, positional=False)
    flags.add_flags(parser, "server", ServerConfig, _SERVER)
    flags.add_flags(parser, "engine", EngineConfig, flags.ENGINE)


def run(args: argparse.Namespace) -> int:
    """Answer what is left to answer.

    Returns:
        0 all rows answered, 1 some failed, 75 the disk is full, 130 or 143 interrupted.
    """
    try:
        from sgrt.server.batch.job import JournalBroken
    except ModuleNotFoundError as error:
        raise MissingPackage(error, extra="serve") from error
    given = flags.given(args, (*flags.ENGINE, *_SERVER))
    names = tuple(given.pop("served_model_names", ()))
    max_tokens = given.pop("default_max_tokens", 0)
    concurrency = 128 if args.concurrency is None else args.concurrency
    if not 1 <= concurrency <= 100_000:
        raise RequestError(f"--concurrency={concurrency}: must be from 1 to 100000")
    server = ServerConfig(
        served_model_names=names,
        default_max_tokens=max_tokens,
        max_queued_requests=concurrency,
        request_timeout_s=_WEEK,
    )
    output = Path(args.output)
    try:
        return _run(args, flags.engine_config(given), server, concurrency)
    except JournalBroken as error:
        print(f"sgrt: error: {error.message} ({error.hint})", file=sys.stderr)
        return DISK_FULL
    except OSError as error:
        raise RequestError(f"{error.filename or output}: {error.strerror or error}") from error


def _run(
    args: argparse.Namespace, config: EngineConfig, server: ServerConfig, concurrency: int
) -> int:
    from sgrt.models import hub
    from sgrt.server.batch.ledger import Ledger
    from sgrt.server.batch.rows import read_rows

    source, output = Path(args.input), Path(args.output)
    errors = Path(args.errors) if args.errors else output.with_suffix(f".errors{output.suffix}")
    _refuse_same(source, output, errors)
    files = hub.resolve(config.model)
    rows = read_rows(source, server.served_model_names or (files.name,), limit=not args.no_limit)
    manifest = {
        "input": rows.sha256,
        "rows": len(rows.rows),
        **_what_decides(config, files.path),
        "default_max_tokens": server.default_max_tokens,
        "served_model_names": list(server.served_model_names),
    }
    ids = [row.id for row in rows.rows]
    ledger = Ledger(output, errors, manifest, ids, force=args.force, retry=args.retry_errors)
    with contextlib.closing(ledger):
        status = 0
        if len(ledger.done) < len(ids):
            with _progress(len(ids), ledger, quiet=args.quiet) as progress:
                status = _work(config, server, rows.rows, ledger, concurrency, progress)
        elif not ledger.is_finished:
            ledger.finish()
        _tell(len(ids), ledger, output, errors)
        return status or int(bool(ledger.failed.ids))


def _refuse_same(source: Path, output: Path, errors: Path) -> None:
    paths = [source.resolve(), output.resolve(), errors.resolve()]
    if len(set(paths)) < 3 or (output.exists() and source.exists() and output.samefile(source)):
        raise RequestError("input, output and errors must be three files")
    for path in (output, errors):
        if path.is_dir():
            raise RequestError(f"cannot write {path}: it is a directory")
        if not path.parent.is_dir():
            raise RequestError(f"cannot write {path}: there is no directory {path.parent}")


def _what_decides(config: EngineConfig, model: Path) -> dict[str, Any]:
    """All that the answers depend on, besides the input."""
    from sgrt.server.meta import version

    template = config.chat_template
    return {
        "sgrt": version(),
        "model": _fingerprint(model),
        "chat_template": None if template is None else _digest(Path(template).expanduser()),
        "seed": config.seed,
        "device": config.device,
        "precision": config.precision,
        "context_len": config.context_len,
    }


def _fingerprint(model: Path) -> str:
    """Of a model's files: their sizes, beginnings and ends."""
    if model.is_file():
        return _digest(model)
    names = sorted(p for p in model.iterdir() if p.suffix in (".safetensors", ".json", ".gguf"))
    together = "".join(f"{p.name} {_digest(p)}\n" for p in names)
    return hashlib.sha256(together.encode()).hexdigest()


def _digest(path: Path) -> str:
    try:
        size = path.stat().st_size
        digest = hashlib.sha256(b"%d " % size)
        with path.open("rb") as file:
            digest.update(file.read(_SAMPLE))
            file.seek(max(0, size - _SAMPLE))
            digest.update(file.read(_SAMPLE))
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()


def _work(
    config: EngineConfig,
    server: ServerConfig,
    rows: Any,
    ledger: Ledger,
    concurrency: int,
    progress: Callable[[int, int], None],
) -> int:
    from sgrt.backends.local import Engine
    from sgrt.runtime.assemble import load_parts
    from sgrt.server.batch.job import Batch
    from sgrt.server.service import Service

    service = Service(server)
    service.attach(Engine.from_parts(load_parts(config)))
    batch = Batch(
        service, rows, ledger, seed=config.seed, concurrency=concurrency, progress=progress
    )
    try:
        return asyncio.run(_until_signal(batch))
    finally:
        service.close()


async def _until_signal(batch: Any) -> int:
    """Run to the end, or to a signal: what is answered by then is kept. A second one is at once."""
    loop, stop, seen = asyncio.get_running_loop(), asyncio.Event(), []

    def on_signal(number: int) -> None:
        seen.append(number)
        stop.set()
        loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    whole = await batch.run(stop)
    return 0 if whole else 128 + seen[0]


def _tell(num_rows: int, ledger: Ledger, output: Path, errors: Path) -> None:
    answered, failed = len(ledger.answered.ids), len(ledger.failed.ids)
    if answered + failed < num_rows:
        left = num_rows - answered - failed
        told = f"{left} of {num_rows} rows left; the same command goes on"
    elif failed:
        told = f"{output}: {answered} rows answered; {errors}: {failed} failed"
    else:
        told = f"{output}: all {answered} rows answered"
    print(f"sgrt: {told}", file=sys.stderr)


@contextlib.contextmanager
def _progress(
    num_rows: int, ledger: Ledger, *, quiet: bool
) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing elsewhere; it shows what is safe on disk."""
    if quiet or not sys.stderr.isatty():
        yield lambda answered, failed: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        task = bars.add_task("rows", total=num_rows, completed=len(ledger.done))

        def update(answered: int, failed: int) -> None:
            text = f"rows ({failed} failed)" if failed else "rows"
            bars.update(task, completed=answered + failed, description=text)

        yield update
