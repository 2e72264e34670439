"""The reference model `vqa`, for use in a source checkout: its data and weights are not in the wheel.

- `encoders`: a small CNN, and a Transformer over the words of a question;
- `fusion`: the question steers layers of the CNN's map (FiLM);
- `model`: the whole model;
- `training`: trains it from scratch on scenes that are composed on the way.
"""

from edgefuse.models.vqa.model import build

__all__ = ["build"]
