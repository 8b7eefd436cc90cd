"""What a program is written with: `gen`, `select`, `regex` and the roles."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NoReturn, ParamSpec, TypeVar

from sgrt.core import Constraint, Regex, SamplingParams, Separators
from sgrt.errors import InvalidSamplingParams, RequestError
from sgrt.lang import peer, types
from sgrt.lang.choices import METHODS, ChoicesMethod, sequence_probability
from sgrt.lang.ir import Gen, Reasoning, Role, RoleBegin, RoleEnd, Select, as_node
from sgrt.lang.plain import PLAIN

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


def _remembered(func: Callable[P, R]) -> Callable[P, R]:
    """Make the same node once: a program's line is run again and again, and nodes never change."""

    @functools.lru_cache(1024, typed=True)  # because True == 1
    def known(*args: P.args, **kwargs: P.kwargs) -> R:
        values = (*args, *kwargs.values())
        if tuple in map(type, values):  # types inside would have to be looked for
            raise _NotKept
        return func(*args, **kwargs)

    @functools.wraps(func)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return known(*args, **kwargs)  # type: ignore[arg-type]
        except (TypeError, _NotKept):  # a list or mapping, say
            pass
        return func(*args, **kwargs)

    return call


class _NotKept(Exception):
    """These arguments are no key."""


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """The end of a message about an unknown name; "" where none is close."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


@_remembered
@_hinted
def gen(
    name: str | None = None,
    max_tokens: int | None = None,
    min_tokens: int | None = None,
    n: int | None = None,
    stop: str | Sequence[str] | None = None,
    stop_token_ids: Sequence[int] | None = None,
    stop_regex: str | Sequence[str] | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    frequency_penalty: float | None = None,
    presence_penalty: float | None = None,
    ignore_eos: bool | None = None,
    return_logprob: bool | None = None,
    logprob_start_len: int | None = None,
    top_logprobs_num: int | None = None,
    return_text_in_logprobs: bool | None = None,
    dtype: Any = None,
    choices: Sequence[str] | None = None,
    choices_method: str | ChoicesMethod | None = None,
    regex: str | None = None,
    json_schema: Mapping[str, Any] | str | type[Any] | None = None,
    *,
    repetition_penalty: float | None = None,
    logit_bias: Mapping[int, float] | None = None,
    seed: int | None = None,
    logprobs: int | None = None,
    logprobs_mode: Literal["masked", "unmasked"] | None = None,
    finish: Literal["cut", "close"] | None = None,
    grammar: str | Constraint | None = None,
    ebnf: str | None = None,
    substring_of: str | None = None,
    structural_tag: Mapping[str, Any] | None = None,
    output: Any = None,
    separators: Separators | None = None,
) -> Gen | Select:
    """Let the model continue, and keep what it writes under a name.

    The sampling arguments are those of `core.SamplingParams`; what is not given here comes from
    the run, then from the defaults there.

    Args:
        name: ``s[name]`` reads the value.
        max_tokens: 0 writes nothing; with ``logprobs`` it tells how likely each token would come
            next.
        n: draw this many; the value is a list, and the text goes on with the first. None is 1.
        stop_regex: pattern or patterns; the text ends before the first match, wherever that begins
            (`core.Generate`). On backends that cannot, the generation fails and says so.
        return_logprob, top_logprobs_num: SGLang's way to say ``logprobs``.
        logprob_start_len: refused but for -1: the prompt's tokens are not scored.
        return_text_in_logprobs: `ProgramState.get_meta_info` always spells tokens out.
        dtype: the value's type, or its name: int, float or bool as they are written in running
            text (the model may go on with the sentence, the value ends before that), str as a
            quoted string (where max_tokens cuts it, what there is of it); all other types as
            ``output``.
        choices: makes it a `select` of these; to draw one token by token instead, give
            ``grammar=Choices((...))`` or ``output=Literal[...]``.
        choices_method: how that `select` compares them.
        regex: the whole text matches this pattern.
        json_schema: the text is JSON of this schema (dict, JSON text, or pydantic model);
            the value stays text.
        grammar: the text is written by this grammar: Lark text, the name of a grammar shipped with
            sgrt ("sql_select", "iso_date", ...), or any constraint of `sgrt.core`, put together
            with ``|``, ``+`` and ``repeat``.
        ebnf: the text is written by this grammar in llama.cpp's GBNF; for xgrammar's EBNF, give
            ``grammar=Ebnf(text, "xgrammar")``.
        substring_of: the text is a part of this one, at least a character: a quotation.
        structural_tag: free text in which triggers begin structures with a JSON body, or any
            `format`, as servers take it (`core.StructuralTag.from_dict`).
        output: type of the value (`lang.outputs` says how each is spelled): int, float, bool, str,
            dates, Literal, Enum, Union, dataclass, TypedDict, pydantic model, lists of these, ...
            The value is a validated object of the type. Undeclared keys are not written unless
            a model allows them.
        separators: how the JSON of json_schema or output is laid out: "compact" (no white space;
            the default), "fixed" (``", "`` and ``": "``, as `json.dumps` writes) or "flexible"
            (the model may break lines and indent; see `core.JsonSchema`).

    Raises:
        RequestError: more than one of regex, json_schema, choices, grammar, ebnf, substring_of,
            structural_tag, output, dtype; separators without JSON; choices with what a `select`
            has no use for; what is refused above.
        ConstraintError: choices or schema that nothing satisfies or that cannot be read.
        InvalidSamplingParams: n below 1, or a stop_regex that is no text. Other values are checked
            where the gen is appended.
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
        "logprobs": peer.logprobs(logprobs, return_logprob, top_logprobs_num),
        "logprobs_mode": logprobs_mode,
        "finish": finish,
    }
    sampling = {key: value for key, value in given.items() if value is not None}
    peer.refuse("logprob_start_len", None if logprob_start_len == -1 else logprob_start_len)
    peer.refuse_false("return_text_in_logprobs", return_text_in_logprobs)
    n = 1 if n is None else n
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise InvalidSamplingParams("n", n, "must be an integer >= 1")
    patterns = _patterns(stop_regex)
    if dtype is not None and output is not None:
        raise RequestError("gen takes one constraint, not output and dtype")
    dtype = peer.DTYPES.get(dtype, dtype) if isinstance(dtype, str) else dtype
    form = PLAIN.get(dtype) if isinstance(dtype, type) else None
    constraint = types.constraint_of(
        regex=regex,
        json_schema_=json_schema,
        choices_=choices,
        grammar=grammar,
        ebnf=ebnf,
        substring_of=substring_of,
        structural_tag=structural_tag,
        output=output if form else output or dtype,
        separators=separators,
    )
    if form is not None:
        if constraint is not None:
            raise RequestError(f"gen takes one constraint, not dtype={form.name} and another")
        constraint = Regex(form.pattern)
        sampling["stop"] = (*_strings(sampling.get("stop", ())), *form.stop)
    if choices is not None or choices_method is not None:
        others = [key for key, value in (("n", n > 1), ("stop_regex", patterns)) if value]
        return _choose(name, choices, choices_method, sampling, others)
    return Gen(
        name=variable_name(name),
        sampling=sampling,
        constraint=constraint,
        output=form or output or dtype,
        n=n,
        stop_regex=patterns,
    )


def _choose(
    name: str | None,
    choices: Sequence[str] | None,
    method: str | ChoicesMethod | None,
    sampling: dict[str, Any],
    unused: Sequence[str],
) -> Select:
    """A `gen` that is a `select`: the other way to say so takes what that one takes."""
    if choices is None:
        raise RequestError("choices_method needs choices")
    others = [*(key for key in sampling if key not in ("temperature", "seed")), *unused]
    if others:
        raise RequestError(
            f"choices are compared whole; no {others[0]} applies",
            hint="to draw one token by token, give grammar=Choices((...)) or output=Literal[...]",
        )
    return select(name, choices, choices_method=method or sequence_probability, **sampling)


def regex(name: str | None, pattern: str, **sampling: Any) -> Gen | Select:
    """`gen` of text that matches a pattern; takes `gen`'s other arguments."""
    return gen(name, regex=pattern, **sampling)


def gen_int(
    name: str | None = None, max_tokens: int | None = None, *args: Any, **sampling: Any
) -> Gen:
    """`gen` with ``dtype=int``; positional arguments go on with ``n``, as `gen`'s do behind
    ``min_tokens``."""
    return _typed(int, name, max_tokens, args, sampling)


def gen_string(
    name: str | None = None, max_tokens: int | None = None, *args: Any, **sampling: Any
) -> Gen:
    """`gen` with ``dtype=str``: a quoted string, the value without its quotes. Positional
    arguments as for `gen_int`."""
    return _typed(str, name, max_tokens, args, sampling)


def _typed(
    dtype: type,
    name: str | None,
    max_tokens: int | None,
    args: tuple[Any, ...],
    sampling: dict[str, Any],
) -> Gen:
    min_tokens = sampling.pop("min_tokens", None)
    given = {**sampling, "dtype": dtype}
    return gen(name, max_tokens, min_tokens, *args, **given)  # type: ignore[return-value]


@_hinted
def select(
    name: str | None = None,
    choices: Sequence[str] = (),
    temperature: float = 0.0,
    choices_method: str | ChoicesMethod = sequence_probability,
    *,
    seed: int | None = None,
) -> Select:
    """Let the model pick an option by the probability of its whole text.

    The default score is the log-probability of the option's full text, so that
    `ProgramState.probabilities` is the model's own distribution, conditioned on the options.
    Where one option begins with another, the shorter one can never score lower;
    ``choices_method="token_length_normalized"`` (SGLang's default) takes that advantage away and
    favours long, predictable options instead.

    Args:
        temperature: 0 takes the best option (ties: the first); above, an option is drawn from
            the softmax of score / temperature. The run's temperature does not apply.
        choices_method: how options are compared; a method of `sgrt.lang.choices` or its name.
        seed: for drawing; None takes the run's.

    Raises:
        ConstraintError: no options, an empty one, or one given twice.
        InvalidSamplingParams: a value outside its range.
        RequestError: a method that is none, or a temperature for one that gives no scores.
    """
    SamplingParams(temperature=temperature, seed=seed)  # the same rules as everywhere
    method = METHODS.get(choices_method) if isinstance(choices_method, str) else choices_method
    if not isinstance(method, ChoicesMethod):
        known = ", ".join(METHODS)
        raise RequestError(f"choices_method={choices_method!r:.80}: must be one of {known}")
    if method.is_ranking and temperature > 0:
        raise RequestError(f"{method.name} orders options; there is nothing to draw from")
    return Select(
        name=variable_name(name),
        options=types.choices(choices).options,
        method=method,
        temperature=temperature,
        seed=seed,
    )


def system(expr: object = "") -> Role:
    """A system message."""
    return Role("system", as_node(expr))


def user(expr: object = "") -> Role:
    """A user message."""
    return Role("user", as_node(expr))


def assistant(expr: object = "") -> Role:
    """An assistant message."""
    return Role("assistant", as_node(expr))


def separate_reasoning(expr: object, model_type: str) -> Reasoning:
    """Split what the generations of ``expr`` write into thoughts and answer.

    ``s["x"]`` is then the answer and ``s["x_reasoning_content"]`` what was thought before it. The
    text itself stays as the model wrote it.

    Args:
        model_type: whose tags to look for: "deepseek-r1", "qwen3", "kimi", ...

    Raises:
        RequestError: a kind of model that is not known.
    """
    tags, is_begun = peer.reasoning(model_type)
    return Reasoning(as_node(expr), tags, is_begun)


def image(path: object) -> NoReturn:
    """Refused: no model here sees.

    Raises:
        RequestError: always.
    """
    raise RequestError(f"image({path!r:.80}): no model that sgrt runs can see")


def video(path: object, num_frames: int = 0) -> NoReturn:
    """Refused: no model here sees.

    Raises:
        RequestError: always.
    """
    raise RequestError(f"video({path!r:.80}): no model that sgrt runs can see")


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


def _strings(value: Any) -> tuple[Any, ...]:
    return (value,) if isinstance(value, str) else value


def _patterns(value: Any) -> tuple[str, ...]:
    found = () if value is None else _strings(sequence_of(value))
    if not isinstance(found, tuple) or not all(isinstance(pattern, str) for pattern in found):
        raise InvalidSamplingParams("stop_regex", value, "must be a pattern or a list of them")
    return found


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
