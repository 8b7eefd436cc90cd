"""Lark grammars shipped with sgrt."""
