"""sgrt: a structured-generation language and the runtime under it.

::

    import sgrt

    @sgrt.function
    def greet(s, name):
        s += sgrt.user(f"Say hello to {name}.")
        s += sgrt.assistant(sgrt.gen("hello", max_tokens=32))

    print(greet.run(name="Ada")["hello"])

Names load what they need when they are first used: importing sgrt loads neither torch nor any
grammar library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sgrt.errors import MissingPackage

if TYPE_CHECKING:
    from sgrt.backends.fake import ScriptedBackend as ScriptedBackend
    from sgrt.backends.local import Engine as Engine
    from sgrt.backends.openai import OpenAI as OpenAI
    from sgrt.backends.sglang import RuntimeEndpoint as RuntimeEndpoint
    from sgrt.backends.spawned import Runtime as Runtime
    from sgrt.config import EngineConfig as EngineConfig
    from sgrt.core import AnyText as AnyText
    from sgrt.core import Choices as Choices
    from sgrt.core import Ebnf as Ebnf
    from sgrt.core import JsonReader as JsonReader
    from sgrt.core import JsonSchema as JsonSchema
    from sgrt.core import Lark as Lark
    from sgrt.core import OneOf as OneOf
    from sgrt.core import Regex as Regex
    from sgrt.core import RepeatOf as RepeatOf
    from sgrt.core import SamplingParams as SamplingParams
    from sgrt.core import SequenceOf as SequenceOf
    from sgrt.core import StructuralFormat as StructuralFormat
    from sgrt.core import StructuralTag as StructuralTag
    from sgrt.core import Structure as Structure
    from sgrt.core import Substring as Substring
    from sgrt.core import Usage as Usage
    from sgrt.core import ValueEvent as ValueEvent
    from sgrt.errors import BackendError as BackendError
    from sgrt.errors import ConstraintError as ConstraintError
    from sgrt.errors import EngineError as EngineError
    from sgrt.errors import ModelError as ModelError
    from sgrt.errors import ProgramError as ProgramError
    from sgrt.errors import RequestError as RequestError
    from sgrt.errors import SgrtError as SgrtError
    from sgrt.lang.api import assistant as assistant
    from sgrt.lang.api import assistant_begin as assistant_begin
    from sgrt.lang.api import assistant_end as assistant_end
    from sgrt.lang.api import gen as gen
    from sgrt.lang.api import gen_int as gen_int
    from sgrt.lang.api import gen_string as gen_string
    from sgrt.lang.api import image as image
    from sgrt.lang.api import regex as regex
    from sgrt.lang.api import select as select
    from sgrt.lang.api import separate_reasoning as separate_reasoning
    from sgrt.lang.api import system as system
    from sgrt.lang.api import system_begin as system_begin
    from sgrt.lang.api import system_end as system_end
    from sgrt.lang.api import user as user
    from sgrt.lang.api import user_begin as user_begin
    from sgrt.lang.api import user_end as user_end
    from sgrt.lang.api import video as video
    from sgrt.lang.choices import greedy_token_selection as greedy_token_selection
    from sgrt.lang.choices import sequence_probability as sequence_probability
    from sgrt.lang.choices import token_length_normalized as token_length_normalized
    from sgrt.lang.choices import (
        unconditional_likelihood_normalized as unconditional_likelihood_normalized,
    )
    from sgrt.lang.defaults import flush_cache as flush_cache
    from sgrt.lang.defaults import get_server_info as get_server_info
    from sgrt.lang.defaults import global_config as global_config
    from sgrt.lang.defaults import set_default_backend as set_default_backend
    from sgrt.lang.plan.plan import Plan as Plan
    from sgrt.lang.preview import Preview as Preview
    from sgrt.lang.program import Program as Program
    from sgrt.lang.program import function as function
    from sgrt.lang.record import record as record
    from sgrt.lang.record import replay as replay
    from sgrt.lang.state import ProgramState as ProgramState

__version__ = "0.1.0"

_HOME = {
    "sgrt.backends.fake": ("ScriptedBackend",),
    "sgrt.backends.local": ("Engine",),
    "sgrt.backends.openai": ("OpenAI",),
    "sgrt.backends.sglang": ("RuntimeEndpoint",),
    "sgrt.backends.spawned": ("Runtime",),
    "sgrt.config": ("EngineConfig",),
    "sgrt.core": (
        "AnyText",
        "Choices",
        "Ebnf",
        "JsonReader",
        "JsonSchema",
        "Lark",
        "OneOf",
        "Regex",
        "RepeatOf",
        "SamplingParams",
        "SequenceOf",
        "StructuralFormat",
        "StructuralTag",
        "Structure",
        "Substring",
        "Usage",
        "ValueEvent",
    ),
    "sgrt.errors": (
        "BackendError",
        "ConstraintError",
        "EngineError",
        "ModelError",
        "ProgramError",
        "RequestError",
        "SgrtError",
    ),
    "sgrt.lang.api": (
        "assistant",
        "assistant_begin",
        "assistant_end",
        "gen",
        "gen_int",
        "gen_string",
        "image",
        "regex",
        "select",
        "separate_reasoning",
        "system",
        "system_begin",
        "system_end",
        "user",
        "user_begin",
        "user_end",
        "video",
    ),
    "sgrt.lang.choices": (
        "greedy_token_selection",
        "sequence_probability",
        "token_length_normalized",
        "unconditional_likelihood_normalized",
    ),
    "sgrt.lang.defaults": (
        "flush_cache",
        "get_server_info",
        "global_config",
        "set_default_backend",
    ),
    "sgrt.lang.preview": ("Preview",),
    "sgrt.lang.plan.plan": ("Plan",),
    "sgrt.lang.program": ("Program", "function"),
    "sgrt.lang.record": ("record", "replay"),
    "sgrt.lang.state": ("ProgramState",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

_ELSEWHERE = {
    "Anthropic": "sgrt.OpenAI with base_url= of its OpenAI-compatible interface",
    "Crusoe": "sgrt.OpenAI with base_url= of its OpenAI-compatible interface",
    "LiteLLM": "sgrt.OpenAI with base_url= of a LiteLLM proxy",
    "VertexAI": "sgrt.OpenAI with base_url= of its OpenAI-compatible interface",
    "ServerArgs": "sgrt.Runtime with the options of `sgrt serve`",
    "Shortfin": "sgrt.RuntimeEndpoint, if it has SGLang's /generate",
}
"""Names of SGLang's frontend that are not here, and what to use."""

__all__ = [*sorted(_MODULE_OF), "__version__"]


def __getattr__(name: str) -> Any:
    if name in _ELSEWHERE:
        raise AttributeError(f"sgrt has no {name!r}; use {_ELSEWHERE[name]}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'sgrt' has no attribute {name!r}")
    try:
        module = import_module(_MODULE_OF[name])
    except ModuleNotFoundError as error:
        raise MissingPackage(error, extra="engine") from error
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
