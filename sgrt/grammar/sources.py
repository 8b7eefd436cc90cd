"""From a constraint to the engine's grammar text: audited, rewritten, nothing built yet."""

from __future__ import annotations

from sgrt.core import Constraint, Ebnf, JsonSchema, Lark, Regex
from sgrt.errors import ConstraintError
from sgrt.grammar import compose, ebnf, json_schema, lark_, layout, regex
from sgrt.grammar.engines import llguidance_


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
        normal = json_schema.normalise(constraint.schema, compares_items=True)
        return llguidance_.json_schema_source(normal, layout.of(constraint))
    if isinstance(constraint, Regex):
        return llguidance_.regex_source(regex.rewrite(constraint.pattern, regex.PYTHON))
    if isinstance(constraint, Lark):
        return lark_.rules_of(constraint.grammar).source()
    if isinstance(constraint, Ebnf):
        return ebnf.rules_of(constraint).source()
    if isinstance(constraint, compose.COMPOSED):
        return compose.source(constraint)
    raise ConstraintError(f"{type(constraint).__name__} is not a constraint")
