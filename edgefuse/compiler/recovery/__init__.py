"""Pruned stages: made and recovered.

- `batches`: samples of a split as torch batches;
- `kept`: a pruned form on disk;
- `recover`: one form, made and recovered;
- `rehearsal`: every form pruned once, before any recovery;
- `forms`: the pruned forms of all stages, made by workers and kept.
"""
