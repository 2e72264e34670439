"""The reference model `classifier`, for use in a source checkout: its data and weights are not in the wheel.

- `layers`: the blocks of its encoders;
- `model`: the whole model, a plain module;
- `training`: trains it on classes of unequal size.
"""

from edgefuse.models.classifier.model import build

__all__ = ["build"]
