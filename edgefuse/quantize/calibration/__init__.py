"""Ranges of activations.

- `ranges`: running statistics of activations;
- `calibrators`: ranges chosen from them.
"""
