"""Which language a grammar text is written in, where users do not say."""

from __future__ import annotations

from sgrt.core import Ebnf, Lark
from sgrt.errors import ConstraintError, GrammarSyntaxError
from sgrt.grammar import ebnf, lark_, library


def detect_grammar(text: str) -> Lark | Ebnf:
    """The constraint that a grammar text can only be.

    The name of a shipped grammar is Lark. Other text is what it parses as; no text is both Lark
    and EBNF. Where both dialects of EBNF read it, they have to read the same.

    Args:
        text: Lark text, a shipped grammar's name, or EBNF of any dialect in `ebnf.DIALECTS`.

    Raises:
        ConstraintError: the dialects of EBNF read it differently, or a name that is not shipped.
        GrammarSyntaxError: it parses as none; the error is that of the language it looks like.
        GrammarBudgetExceeded: larger than `sgrt.grammar.limits` allow.
    """
    if not isinstance(text, str):
        raise ConstraintError(f"a grammar is a text, not {text!r:.80}")
    if "::=" not in text or library.is_name(text):
        lark_.rules_of(text).check()
        return Lark(text)
    constraints = [Ebnf(text, "gbnf"), Ebnf(text, "xgrammar")]
    errors = [_error(constraint) for constraint in constraints]
    found = [c for c, error in zip(constraints, errors, strict=True) if error is None]
    if not found:
        if _is_lark(text):
            return Lark(text)
        assert errors[0] is not None
        raise errors[0]
    if len(found) == 2 and ebnf.parse(found[0]) != ebnf.parse(found[1]):
        raise ConstraintError(
            "the dialects of EBNF read this grammar differently",
            hint="say which is meant: Ebnf(text, 'gbnf') or Ebnf(text, 'xgrammar')",
        )
    return found[0]


def _error(constraint: Ebnf) -> GrammarSyntaxError | None:
    try:
        ebnf.rules_of(constraint).check()
    except GrammarSyntaxError as error:
        return error
    return None


def _is_lark(text: str) -> bool:
    """Whether ``::=`` only stands in a string, a pattern or a comment."""
    try:
        lark_.parse(text).check()
    except GrammarSyntaxError:
        return False
    return True
