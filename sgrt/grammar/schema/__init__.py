"""JSON Schema as an algebra: read into formulas, expanded per type, written for the engine.

`document` finds what references mean, `reader` turns keywords into `formula`s, `expand` makes
alternatives of them, and `writer` writes the alternatives of one place as a schema that holds
only what the engine enforces.
"""
