"""A constraint that would never compile fails alone; the engine goes on and leaves nothing behind."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sgrt.backends.local import Engine
from sgrt.core import GenerateResult, JsonSchema, Regex
from sgrt.errors import GrammarBudgetExceeded
from tests.grammar.grammar_support import ENDLESS, compiler_that_hangs
from tests.runtime.integer_model import integer_parts


def test_engine_given_an_endless_constraint_fails_it_and_serves_the_rest() -> None:
    grammars = compiler_that_hangs(2)
    with Engine.from_parts(replace(integer_parts(), grammars=grammars)) as engine:
        with pytest.raises(GrammarBudgetExceeded, match="seconds"):
            engine.generate("a", constraint=ENDLESS, max_tokens=5)
        costly = JsonSchema('{"type":"integer","multipleOf":10007,"minimum":1,"maximum":99999}')
        result = engine.generate("a", constraint=costly, max_tokens=5, finish="close")
        assert isinstance(result, GenerateResult) and int(result.text) % 10007 == 0
        plain = engine.generate("a", constraint=Regex("b{3}"), max_tokens=5)
        assert isinstance(plain, GenerateResult) and plain.text == "bbb"
        assert grammars.process.pid is not None
    assert grammars.process.pid is None
