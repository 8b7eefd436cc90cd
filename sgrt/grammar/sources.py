"""From a constraint to the engine's grammar text: audited, rewritten, nothing built yet."""

from __future__ import annotations

import json
from contextlib import suppress

from sgrt.core import Constraint, Ebnf, JsonSchema, Lark, Regex
from sgrt.errors import ConstraintError, GrammarBudgetExceeded
from sgrt.grammar import compose, different, ebnf, json_schema, lark_, layout, regex, spelled
from sgrt.grammar.engines import llguidance_
from sgrt.grammar.schema import digits


def source_of(constraint: Constraint) -> str:
    """The text that `LLGrammar` takes, for any constraint but `Choices`.

    Raises:
        UnsupportedSchema: a schema that cannot be enforced exactly, or allows nothing.
        GrammarSyntaxError: a pattern or grammar that does not parse or has no single meaning.
        GrammarBudgetExceeded: larger than `limits` allow.
        ConstraintError: something else that cannot be enforced.

    Cost: milliseconds mostly; seconds where schemas multiply (see `limits.patience`).
    """
    if isinstance(constraint, JsonSchema):
        return _source_of_schema(constraint)
    if isinstance(constraint, Regex):
        return llguidance_.regex_source(regex.rewrite(constraint.pattern, regex.PYTHON))
    if isinstance(constraint, Lark):
        return lark_.rules_of(constraint.grammar).source()
    if isinstance(constraint, Ebnf):
        return ebnf.rules_of(constraint).source()
    if isinstance(constraint, compose.COMPOSED):
        return compose.source(constraint)
    raise ConstraintError(f"{type(constraint).__name__} is not a constraint")


def _source_of_schema(constraint: JsonSchema) -> str:
    """Numbers are told by their digits where that is all the engine needs help with, and the rules for
    it are not too many; otherwise bounds are moved in, or such numbers refused."""
    spaced = layout.of(constraint)
    text = constraint.schema
    normal = json_schema.normalise(text, compares_items=True, spells_integers=spaced.white is None)
    if f'"{digits.KEY}"' in normal:
        schema = json.loads(normal)
        if spelled.holds_digits(schema):
            if not different.holds_marks(schema):
                with suppress(GrammarBudgetExceeded):
                    return spelled.source(schema, spaced)
            normal = json_schema.normalise(text, compares_items=True)
    return llguidance_.json_schema_source(normal, spaced)
