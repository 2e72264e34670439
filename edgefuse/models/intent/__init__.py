"""The reference model `intent`, for use in a source checkout: its data and weights are not in the wheel.

- `fusion`: attention over the tokens of all modalities, and a class token for each output;
- `model`: the whole model;
- `training`: trains it on requests for a home.
"""

from edgefuse.models.intent.model import build

__all__ = ["build"]
