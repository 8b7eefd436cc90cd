"""Words of SGLang's frontend for what is said otherwise here, or refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sgrt.errors import RequestError

if TYPE_CHECKING:
    from sgrt.lang.plan.plan import Plan

_THINK = ("<think>", "</think>")
_REASONING: dict[str, tuple[tuple[str, str], bool]] = {
    "deepseek-r1": (_THINK, True),
    "deepseek-v3": (_THINK, False),
    "glm45": (_THINK, False),
    "interns1": (_THINK, False),
    "kimi": (("◁think▷", "◁/think▷"), False),
    "kimi_k2": (_THINK, True),
    "minimax": (_THINK, True),
    "nemotron_3": (_THINK, False),
    "qwen3": (_THINK, False),
    "qwen3-thinking": (_THINK, True),
    "step3": (_THINK, True),
}
"""Per kind of model: its tags, and whether its prompt has opened the thoughts already."""

DTYPES: dict[str, type] = {"int": int, "float": float, "bool": bool, "str": str, "string": str}
"""Names that ``dtype`` may be given instead of the types."""

_REFUSED = {
    "n": "a gen has its own: gen(n=...)",
    "stop_regex": "a gen has its own: gen(stop_regex=...)",
    "logprob_start_len": "the prompt's tokens are not scored; logprobs= scores those generated",
    "position_ids_offset": "a fork's positions follow its parent's",
    "use_thread": "runs never need a thread each",
    "return_text_in_logprobs": "get_meta_info always spells tokens out",
}


@dataclass(frozen=True)
class Traced:
    """A program as `Program.trace` gives it.

    Args:
        plan: what is known of it.
    """

    plan: Plan

    @property
    def last_node(self) -> Traced:
        """Itself: the plan is shown as a whole."""
        return self

    def print_graph_dfs(self) -> str:
        """The plan as text."""
        return str(self.plan)

    __str__ = print_graph_dfs


def refuse(name: str, value: object) -> None:
    """Refuse an argument of the peer's that would have no effect here.

    Raises:
        RequestError: it was given.
    """
    if value is not None:
        raise RequestError(f"{name}={value!r:.80} is not supported", hint=_REFUSED.get(name))


def refuse_false(name: str, value: bool | None) -> None:
    """Refuse to do without something that is always done.

    Raises:
        RequestError: that was asked for.
    """
    if value is not None and value is not True:
        refuse(name, value)


def logprobs(own: int | None, return_logprob: bool | None, top: int | None) -> int | None:
    """How many alternatives to report, from either way to say it.

    Raises:
        RequestError: both ways, or alternatives of log-probabilities that nobody wants.
    """
    if return_logprob is None and top is None:
        return own
    if own is not None:
        raise RequestError("logprobs and return_logprob say the same; give one of them")
    if not return_logprob:
        if top:
            raise RequestError(f"top_logprobs_num={top} has no effect without return_logprob")
        return None
    return top or 0


def defaults(given: dict[str, Any]) -> dict[str, Any]:
    """Defaults of a run, in our own words.

    Raises:
        RequestError: one that would have no effect.
    """
    own = dict(given)
    if "max_new_tokens" in own:
        if own.get("max_tokens") is not None:
            raise RequestError("max_tokens and max_new_tokens say the same; give one of them")
        own["max_tokens"] = own.pop("max_new_tokens")
    asked = [own.pop(name, None) for name in ("logprobs", "return_logprob", "top_logprobs_num")]
    own["logprobs"] = logprobs(*asked)
    for name in ("stop_regex", "logprob_start_len"):
        refuse(name, own.pop(name, None))
    refuse_false("return_text_in_logprobs", own.pop("return_text_in_logprobs", None))
    refuse_false("use_thread", own.pop("use_thread", None))
    refuse("n", None if (n := own.pop("n", None)) == 1 else n)
    return own


DEFAULTS = (
    *("max_new_tokens", "return_logprob", "top_logprobs_num", "stop_regex", "logprob_start_len"),
    *("return_text_in_logprobs", "use_thread", "n"),
)
"""Names of a run's defaults that the peer has and `core.SamplingParams` has not."""


def reasoning(model_type: object) -> tuple[tuple[str, str], bool]:
    """How a kind of model marks its thoughts.

    Raises:
        RequestError: it is not known.
    """
    found = _REASONING.get(model_type.lower()) if isinstance(model_type, str) else None
    if found is None:
        known = ", ".join(_REASONING)
        raise RequestError(f"model_type={model_type!r:.80}: must be one of {known}")
    return found


def split_reasoning(text: str, tags: tuple[str, str], *, is_begun: bool) -> tuple[str, str]:
    """What was thought, and what was said.

    A text that never ends its thoughts is all thought, if it has begun any.
    """
    begin, end = tags
    if begin not in text and end not in text and not is_begun:
        return "", text
    before, _, inside = text.partition(begin) if begin in text else ("", "", text)
    thought, _, said = inside.partition(end)
    return thought.strip(), before + said.lstrip()
