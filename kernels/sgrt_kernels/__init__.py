"""Kernels of sgrt: one folder per op, with a plain torch reference as its definition.

Architecture invariant: nothing here imports sgrt; `sgrt/ops.py` is the only importer.
"""
