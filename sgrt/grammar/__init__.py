"""Constraints enforced exactly, or refused by name and place, or over budget.

`compiler.GrammarCompiler` turns a constraint into a `matcher.Grammar`; `masks` fills what a
batch of matchers allows. See `json_schema` and `regex` for what is accepted.
"""
