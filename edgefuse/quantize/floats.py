"""Layers that stay float in a quantized file, with the reason, in the same words for all targets."""

from __future__ import annotations

from dataclasses import dataclass

EXCLUDED = "the scheme excludes it"
TWO_ACTIVATIONS = "it multiplies two activations, where int8 costs accuracy"
NORMALISES = "it normalises, where int8 costs accuracy and saves no time"
RECURRENT = "recurrent layers stay float"
NO_DYNAMIC_KERNEL = "the runtime has no fast kernel for it with ranges found in every run"
NO_KERNEL = "the runtime has no int8 kernel for its form"


@dataclass(frozen=True)
class FloatLayer:
    """A layer that stays float in a quantized file, and why, as a sentence without its full stop."""

    layer: str
    reason: str


def too_small(weights: int) -> str:
    """Return the reason of a layer with few weights."""
    return f"its {weights} weights are too few for int8 to save time"
