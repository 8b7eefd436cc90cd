"""``sgrt chat [MODEL]``: a conversation in the terminal."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgrt.cli import flags
from sgrt.config import EngineConfig
from sgrt.core import Constraint, JsonSchema, Message
from sgrt.errors import MissingPackage, RequestError, SgrtError

if TYPE_CHECKING:
    from sgrt.backends.local import Engine

_HELP = """\
/system TEXT  begin again, with this instruction (none without TEXT)
/reset        begin again
/help         this
/exit         end (as does Ctrl-D); Ctrl-C stops an answer"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How to answer, and the engine's flags."""
    flags.add_model(parser)
    parser.add_argument(
        "--system", metavar="TEXT", help="instruction that the conversation begins with"
    )
    parser.add_argument("--schema", metavar="FILE", help="JSON Schema that each answer satisfies")
    parser.add_argument(
        "--max-tokens", type=int, default=512, metavar="N", help="of an answer (default: 512)"
    )
    parser.add_argument(
        "--temperature", type=float, metavar="X", help="0 always takes the likeliest token"
    )
    parser.add_argument(
        "--seed",
        type=int,
        dest="answer_seed",
        metavar="N",
        help="the same answers to the same questions",
    )
    flags.add_flags(parser, "engine", EngineConfig, flags.ENGINE)


def run(args: argparse.Namespace) -> int:
    """Talk until the input ends; piped input is one question."""
    schema = None if args.schema is None else _schema(args.schema)
    sampling = {
        "max_tokens": args.max_tokens,
        "temperature": args.temperature,
        "seed": args.answer_seed,
    }
    sampling = {key: value for key, value in sampling.items() if value is not None}
    try:
        from sgrt.backends.local import Engine
        from sgrt.runtime.assemble import load_parts
    except ModuleNotFoundError as error:
        raise MissingPackage(error, extra="engine") from error
    config = flags.engine_config(flags.given(args, flags.ENGINE))
    with Engine.from_parts(load_parts(config)) as engine:
        if engine.chat_template is None:
            raise RequestError(
                f"{engine.name} has no chat template", hint="give one by --chat-template FILE"
            )
        chat = Chat(engine, sampling, schema, args.system)
        if not sys.stdin.isatty():
            return _answer_input(chat)
        print(f"{engine.name}; /help tells the commands", file=sys.stderr)
        return _converse(chat)


def _schema(name: str) -> Constraint:
    try:
        return JsonSchema(Path(name).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot read {name}: {error}") from error


class Chat:
    """A conversation so far."""

    def __init__(
        self,
        engine: Engine,
        sampling: dict[str, Any],
        constraint: Constraint | None,
        system: str | None,
    ) -> None:
        self._engine = engine
        self._sampling = sampling
        self._constraint = constraint
        if constraint is not None:
            engine.compile(constraint)  # what is wrong with it is told before the first question
        self.begin(system)

    def begin(self, system: str | None = None) -> None:
        """Forget what was said."""
        self._system = system
        self._messages = [Message("system", system)] if system else []

    def reset(self) -> None:
        """Forget all but the instruction."""
        self.begin(self._system)

    def ask(self, question: str) -> None:
        """Print the answer as it comes. Ctrl-C stops it; what is there then is the answer.

        Raises:
            SgrtError: it failed; the question is forgotten.
        """
        asked = [*self._messages, Message("user", question)]
        events = self._engine.stream(asked, constraint=self._constraint, **self._sampling)
        pieces: list[str] = []
        try:
            for event in events:
                pieces.append(event.text)
                print(event.text, end="", flush=True)
        except KeyboardInterrupt:
            print(" (stopped)", end="", file=sys.stderr, flush=True)
        finally:
            events.close()  # type: ignore[attr-defined]
            print(flush=True)
        self._messages = [*asked, Message("assistant", "".join(pieces))]


def _answer_input(chat: Chat) -> int:
    try:
        question = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"the input is not UTF-8: {error}") from error
    if not question.strip():
        raise RequestError("the input is empty", hint="pipe a question, or talk in a terminal")
    chat.ask(question.removesuffix("\n"))
    return 0


def _converse(chat: Chat) -> int:
    while True:
        try:
            line = input("> ")
        except EOFError:
            print()
            return 0
        except KeyboardInterrupt:
            print("  (Ctrl-D ends)")
            continue
        if not line.strip():
            continue
        if line.startswith("/"):
            if _command(chat, line):
                return 0
            continue
        try:
            chat.ask(line)
        except SgrtError as error:
            hint = f" ({error.hint})" if error.hint else ""
            print(f"sgrt: {error.message}{hint}; /reset begins again", file=sys.stderr)


def _command(chat: Chat, line: str) -> bool:
    """Obey; returns whether to end."""
    word, _, rest = line.partition(" ")
    if word in ("/exit", "/quit"):
        return True
    if word == "/reset":
        chat.reset()
    elif word == "/system":
        chat.begin(rest.strip() or None)
    elif word == "/help":
        print(_HELP)
    else:
        print(f"there is no {word}\n{_HELP}")
    return False
