"""What a program is written with: `gen`, `select`, `regex` and the roles."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, ParamSpec, TypeVar

from sgrt.core import Constraint, SamplingParams, Separators
from sgrt.errors import InvalidSamplingParams
from sgrt.lang import types
from sgrt.lang.ir import Gen, Normalize, Role, RoleBegin, RoleEnd, Select, as_node

P = ParamSpec("P")
R = TypeVar("R")


def _hinted(func: Callable[P, R]) -> Callable[P, R]:
    """Say which keyword may have been meant by one that does not exist."""
    known = list(inspect.signature(func).parameters)

    @functools.wraps(func)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return func(*args, **kwargs)
        except TypeError:
            for name in kwargs:
                if name not in known:
                    raise TypeError(
                        f"{func.__name__}() takes no argument {name!r}{did_you_mean(name, known)}"
                    ) from None
            raise

    return call


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """The end of a message about an unknown name; "" where none is close."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


@_hinted
def gen(
    name: str | None = None,
    *,
    max_tokens: int | None = None,
    min_tokens: int | None = None,
    stop: str | Sequence[str] | None = None,
    stop_token_ids: Sequence[int] | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    frequency_penalty: float | None = None,
    presence_penalty: float | None = None,
    repetition_penalty: float | None = None,
    logit_bias: Mapping[int, float] | None = None,
    seed: int | None = None,
    ignore_eos: bool | None = None,
    logprobs: int | None = None,
    logprobs_mode: Literal["masked", "unmasked"] | None = None,
    finish: Literal["cut", "close"] | None = None,
    regex: str | None = None,
    json_schema: Mapping[str, Any] | str | type[Any] | None = None,
    choices: Sequence[str] | None = None,
    grammar: str | Constraint | None = None,
    ebnf: str | None = None,
    substring_of: str | None = None,
    structural_tag: Mapping[str, Any] | None = None,
    output: type[Any] | None = None,
    separators: Separators | None = None,
    n: int = 1,
) -> Gen:
    """Let the model continue, and keep what it writes under a name.

    The sampling arguments are those of `core.SamplingParams`; what is not given here comes from
    the run, then from the defaults there.

    Args:
        name: ``s[name]`` reads the value.
        regex: the whole text matches this pattern.
        json_schema: the text is JSON of this schema (dict, JSON text, or pydantic model);
            the value stays text.
        choices: the text is one of these, drawn token by token (`select` compares whole options).
        grammar: the text is written by this grammar: Lark text, the name of a grammar shipped with
            sgrt ("sql_select", "iso_date", ...), or any constraint of `sgrt.core`.
        ebnf: the text is written by this grammar in llama.cpp's GBNF.
        substring_of: the text is a part of this one, at least a character: a quotation.
        structural_tag: free text in which triggers begin structures with a JSON body, as servers
            take it (`core.StructuralTag.from_dict`).
        output: pydantic model; the value is a validated object. Undeclared keys are not
            written unless the model allows them.
        separators: how the JSON of json_schema or output is laid out: "compact" (no white space;
            the default), "fixed" (``", "`` and ``": "``, as `json.dumps` writes) or "flexible"
            (the model may break lines and indent; see `core.JsonSchema`).
        n: draw this many; the value is a list, and the text goes on with the first.

    Raises:
        RequestError: more than one of regex, json_schema, choices, grammar, ebnf, substring_of,
            structural_tag, output; separators without JSON.
        ConstraintError: choices or schema that nothing satisfies or that cannot be read.
        InvalidSamplingParams: n below 1. Other values are checked where the gen is appended.
    """
    given: dict[str, Any] = {
        "max_tokens": max_tokens,
        "min_tokens": min_tokens,
        "stop": sequence_of(stop),
        "stop_token_ids": sequence_of(stop_token_ids),
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "frequency_penalty": frequency_penalty,
        "presence_penalty": presence_penalty,
        "repetition_penalty": repetition_penalty,
        "logit_bias": logit_bias,
        "seed": seed,
        "ignore_eos": ignore_eos,
        "logprobs": logprobs,
        "logprobs_mode": logprobs_mode,
        "finish": finish,
    }
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise InvalidSamplingParams("n", n, "must be an integer >= 1")
    return Gen(
        name=variable_name(name),
        sampling={key: value for key, value in given.items() if value is not None},
        constraint=types.constraint_of(
            regex=regex,
            json_schema_=json_schema,
            choices_=choices,
            grammar=grammar,
            ebnf=ebnf,
            substring_of=substring_of,
            structural_tag=structural_tag,
            output=output,
            separators=separators,
        ),
        output=output,
        n=n,
    )


def regex(name: str | None, pattern: str, **sampling: Any) -> Gen:
    """`gen` of text that matches a pattern; takes `gen`'s other arguments."""
    return gen(name, regex=pattern, **sampling)


@_hinted
def select(
    name: str | None,
    choices: Sequence[str],
    *,
    normalize: Normalize = "none",
    temperature: float = 0.0,
    seed: int | None = None,
) -> Select:
    """Let the model pick an option by the probability of its whole text.

    The default score is the log-probability of the option's full text, so that
    `ProgramState.probabilities` is the model's own distribution, conditioned on the options.
    Where one option begins with another, the shorter one can never score lower; "tokens"
    (mean per token) takes that advantage away and favours long, predictable options instead.

    Args:
        normalize: "none" adds the log-probabilities of an option's tokens; "tokens" averages.
        temperature: 0 takes the best option (ties: the first); above, an option is drawn from
            the softmax of score / temperature. The run's temperature does not apply.
        seed: for drawing; None takes the run's.

    Raises:
        ConstraintError: no options, an empty one, or one given twice.
        InvalidSamplingParams: a value outside its range.
    """
    if normalize not in ("none", "tokens"):
        raise InvalidSamplingParams("normalize", normalize, "must be 'none' or 'tokens'")
    SamplingParams(temperature=temperature, seed=seed)  # the same rules as everywhere
    return Select(
        name=variable_name(name),
        options=types.choices(choices).options,
        normalize=normalize,
        temperature=temperature,
        seed=seed,
    )


def system(expr: object) -> Role:
    """A system message."""
    return Role("system", as_node(expr))


def user(expr: object) -> Role:
    """A user message."""
    return Role("user", as_node(expr))


def assistant(expr: object) -> Role:
    """An assistant message."""
    return Role("assistant", as_node(expr))


def system_begin() -> RoleBegin:
    """What follows is a system message, up to `system_end`."""
    return RoleBegin("system")


def system_end() -> RoleEnd:
    """Ends the system message."""
    return RoleEnd("system")


def user_begin() -> RoleBegin:
    """What follows is a user message, up to `user_end`."""
    return RoleBegin("user")


def user_end() -> RoleEnd:
    """Ends the user message."""
    return RoleEnd("user")


def assistant_begin() -> RoleBegin:
    """What follows is an assistant message, up to `assistant_end`."""
    return RoleBegin("assistant")


def assistant_end() -> RoleEnd:
    """Ends the assistant message."""
    return RoleEnd("assistant")


def sequence_of(value: Any) -> Any:
    """Lists as tuples, as `SamplingParams` wants them; all else is left for its checks."""
    return tuple(value) if isinstance(value, list) else value


def variable_name(name: object) -> str | None:
    """A usable variable name.

    Raises:
        TypeError: neither a string nor None.
        ValueError: an empty string.
    """
    if name is not None and not isinstance(name, str):
        raise TypeError(f"a variable's name must be a string, not {name!r:.80}")
    if name == "":
        raise ValueError("a variable's name must not be empty")
    return name
