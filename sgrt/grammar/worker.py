"""A process that can be killed: risky constraints are built there first.

The child writes a constraint as the engine's grammar text, and proves that building it, and its
first masks, stay within the budget. The text comes back, or the refusal; the engine's own part,
which cannot be sent from one process to another, is then built from it by the parent.

Messages are JSON, one per line. The child is spawned at the first risky constraint, imports
nothing but the grammar layer, and ends with its parent.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector
from typing import IO, Any, NoReturn

import numpy as np

from sgrt import core, errors
from sgrt.core import Constraint
from sgrt.errors import ConstraintError, GrammarBudgetExceeded
from sgrt.grammar.engines.llguidance_ import LLGrammar
from sgrt.grammar.matcher import Grammar
from sgrt.grammar.sources import source_of
from sgrt.grammar.vocabulary import Vocabulary

_COMMAND = (sys.executable, "-c", "from sgrt.grammar.worker import main; main()")
_STARTUP_SECONDS = 30.0
_FIRST_MASKS = 4
_ABORTED_ON_MEMORY = b"memory allocation of"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What building one constraint may cost.

    Args:
        seconds: of wall time; and of CPU time, rounded up to whole seconds and one more.
        memory: bytes of address space beyond what the child has when it is ready, on systems
            that tell (Linux).
    """

    seconds: float = 5.0
    memory: int = 1 << 30


@dataclass(slots=True)
class _Child:
    process: subprocess.Popen[bytes]
    stderr: IO[bytes]

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.stderr):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


class CompileProcess:
    """The child, as its parent sees it. Threads take turns.

    Args:
        vocabulary: whose tokens the grammars are built over.
        command: what to run.
    """

    def __init__(
        self, vocabulary: Vocabulary, budget: Budget, *, command: tuple[str, ...] = _COMMAND
    ) -> None:
        self.budget = budget
        self._vocabulary = vocabulary
        self._command = command
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None

    @property
    def pid(self) -> int | None:
        """The child's process id, where there is one."""
        return None if self._child is None else self._child.process.pid

    def prove(self, constraint: Constraint) -> str:
        """Build a constraint in the child.

        Returns:
            The engine's grammar text of it.

        Raises:
            GrammarBudgetExceeded: it took too long, or too much memory.
            ConstraintError: what it is refused for; or it crashed the child, or there can be no
                child.

        Cost: that of building; the first time some 0.5 s more, for the child.
        """
        message = {"constraint": encode(constraint)}
        with self._lock:
            child = self._ready_child()
            answer = _exchange(child, message, self.budget.seconds)
            if answer is None:
                self._explain_silence(child)
        if "refused" in answer:
            raise decode_error(answer["refused"])
        if "source" not in answer:
            raise self._out_of_memory()
        return str(answer["source"])

    def close(self) -> None:
        """End the child, whatever it does. Another `prove` starts another. Idempotent."""
        child = self._child
        if child is not None:
            child.process.kill()
        with self._lock:
            self._end()

    def _ready_child(self) -> _Child:
        if self._child is not None and self._child.process.poll() is None:
            return self._child
        self._end()
        try:
            self._child = child = _spawn(self._command)
        except OSError as error:
            raise _no_child(str(error)) from error
        self._finalizer = weakref.finalize(self, child.end)
        answer = _exchange(child, self._setup(), _STARTUP_SECONDS)
        if answer is None:
            self._end()
            raise _no_child("it ended, or was not ready in time")
        return child

    def _setup(self) -> dict[str, Any]:
        return {
            "seconds": self.budget.seconds,
            "memory": self.budget.memory,
            "tokens": [token.decode("latin-1") for token in self._vocabulary.tokens],
            "special_ids": sorted(self._vocabulary.special_ids),
            "eos_id": self._vocabulary.eos_id,
        }

    def _end(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._child = self._finalizer = None

    def _explain_silence(self, child: _Child) -> NoReturn:
        """The child gave no answer in time, or died."""
        with suppress(subprocess.TimeoutExpired):  # its streams close shortly before it ends
            child.process.wait(0.2)
        status = child.process.poll()
        child.stderr.seek(0)
        said = child.stderr.read()
        self._end()
        if status is None or status == -signal.SIGXCPU:
            raise GrammarBudgetExceeded(
                "seconds to compile", self.budget.seconds, self.budget.seconds
            )
        if _ABORTED_ON_MEMORY in said:
            raise self._out_of_memory()
        raise ConstraintError(f"compiling this constraint ended a process with {_name(status)}")

    def _out_of_memory(self) -> GrammarBudgetExceeded:
        limit = self.budget.memory
        return GrammarBudgetExceeded("bytes of memory to compile", limit, limit)


def _no_child(reason: str) -> ConstraintError:
    return ConstraintError(
        f"the process that checks what this constraint costs cannot run: {reason}",
        hint="smaller constraints need no check",
    )


def _name(status: int) -> str:
    if status < 0:
        with suppress(ValueError):
            return signal.Signals(-status).name
    return f"status {status}"


def _spawn(command: tuple[str, ...]) -> _Child:
    paths = [str(Path(core.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    stderr = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the child)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            bufsize=0,
            start_new_session=True,  # a Ctrl-C is the parent's business
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, paths)),
                "PYTHONSAFEPATH": "1",
            },
        )
    except OSError:
        stderr.close()
        raise
    return _Child(process, stderr)


def _exchange(child: _Child, message: dict[str, Any], seconds: float) -> dict[str, Any] | None:
    """Send a line and read the answering one; None where none came."""
    rest, answer = memoryview(json.dumps(message).encode() + b"\n"), bytearray()
    stdin, stdout = child.process.stdin, child.process.stdout
    assert stdin is not None and stdout is not None
    os.set_blocking(stdin.fileno(), False)
    end = time.monotonic() + seconds
    with DefaultSelector() as selector:
        selector.register(stdin, EVENT_WRITE)
        selector.register(stdout, EVENT_READ)
        while not answer.endswith(b"\n"):
            events = selector.select(max(0.0, end - time.monotonic()))
            if not events:
                return None
            for key, _ in events:
                if key.fileobj is stdout:
                    part = os.read(stdout.fileno(), 1 << 16)
                    if not part:
                        return None
                    answer += part
                    continue
                try:
                    rest = rest[os.write(stdin.fileno(), rest) :]
                except BrokenPipeError:
                    return None
                if not rest:
                    selector.unregister(stdin)
    parsed: dict[str, Any] = json.loads(answer)
    return parsed


# ---------------------------------------------------------------- constraints as JSON


def encode(value: Any) -> Any:
    """A constraint as JSON values; equal ones alike.

    Raises:
        ConstraintError: it holds something else than constraints, tuples and JSON values.
    """
    if is_dataclass(value) and not isinstance(value, type):
        name = type(value).__name__
        if getattr(core, name, None) is type(value):
            return {name: {f.name: encode(getattr(value, f.name)) for f in fields(value)}}
    elif isinstance(value, tuple):
        return [encode(item) for item in value]
    elif value is None or isinstance(value, (str, int, float)):
        return value
    raise ConstraintError(f"{type(value).__name__} is not a constraint")


def decode(value: Any) -> Any:
    """What `encode` was given."""
    if isinstance(value, dict):
        ((name, given),) = value.items()
        return getattr(core, name)(**{key: decode(item) for key, item in given.items()})
    if isinstance(value, list):
        return tuple(decode(item) for item in value)
    return value


def encode_error(error: ConstraintError) -> Any:
    """A refusal as JSON values: the public class it is of, and what it was made of."""
    made_of = {k: v for k, v in vars(error).items() if k != "message"}
    kind = next(c for c in type(error).__mro__ if getattr(errors, c.__name__, None) is c)
    return {"class": kind.__name__, "message": error.message, "made_of": made_of}


def decode_error(value: Any) -> ConstraintError:
    """What `encode_error` was given."""
    kind = getattr(errors, value["class"])
    if kind is ConstraintError:
        return ConstraintError(value["message"], **value["made_of"])
    found: ConstraintError = kind(**value["made_of"])
    return found


# ---------------------------------------------------------------- in the child


def main() -> None:
    """Build what comes on stdin, one constraint per line, and answer each with a line."""
    setup = json.loads(sys.stdin.readline() or "null")
    if setup is None:
        return
    if hasattr(os, "nice"):
        os.nice(10)  # who waits for a costly constraint waits; the model's steps do not
    vocabulary = _vocabulary(setup)
    assert vocabulary.engine is not None  # made now, so that no constraint pays for it
    _limit_memory(setup["memory"])
    _answer({"ready": True})
    for line in sys.stdin:
        _limit_cpu(setup["seconds"])
        _answer(_prove(decode(json.loads(line)["constraint"]), vocabulary))


def _answer(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def _prove(constraint: Constraint, vocabulary: Vocabulary) -> dict[str, Any]:
    try:
        source = source_of(constraint)
        _first_masks(LLGrammar(vocabulary, source), vocabulary)
    except MemoryError:
        return {"out_of_memory": True}
    except ConstraintError as error:
        return {"refused": encode_error(error)}
    except Exception as error:
        reason = f"compiling this constraint failed with {type(error).__name__}: {error!s:.200}"
        return {"refused": encode_error(ConstraintError(reason))}
    return {"source": source}


def _first_masks(grammar: Grammar, vocabulary: Vocabulary) -> None:
    matcher, row = grammar.matcher(), np.zeros(vocabulary.num_words, np.uint32)
    for _ in range(_FIRST_MASKS):
        matcher.fill(row)
        words = row.nonzero()[0]
        if not len(words):
            return
        word = int(row[words[0]])
        matcher.accept([int(words[0]) * 32 + (word & -word).bit_length() - 1])


def _vocabulary(setup: dict[str, Any]) -> Vocabulary:
    tokens = [token.encode("latin-1") for token in setup["tokens"]]
    ids = {token: i for i, token in enumerate(tokens)}

    def encode_greedily(text: str) -> list[int]:
        """Tokens that spell a text; here nobody cares which."""
        data = text.encode()
        found: list[int] = []
        while data:
            size = next((n for n in range(len(data), 0, -1) if data[:n] in ids), 0)
            if not size:
                return found
            found.append(ids[data[:size]])
            data = data[size:]
        return found

    return Vocabulary(tokens, setup["special_ids"], setup["eos_id"], encode_greedily, "child")


def _limit_memory(extra: int) -> None:
    import resource

    with suppress(OSError, ValueError):  # not every system tells, not every one limits
        now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (now + extra, now + extra))


def _limit_cpu(seconds: float) -> None:
    import resource

    limit = math.ceil(time.process_time() + seconds) + 1
    with suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))
