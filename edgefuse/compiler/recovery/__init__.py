"""Pruned stages: made and recovered.

- `batches`: samples of a split as torch batches;
- `forms`: the pruned forms of all stages, made by workers and kept.
"""
