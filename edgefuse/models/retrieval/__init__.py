"""The reference model `retrieval`, for use in a source checkout: its data and weights are not in the wheel.

- `names`: what ImageNet's classes are called;
- `model`: three encoders into one space;
- `training`: trains the maps into it;
- `ranking`: how well queries find what they are for.
"""

from edgefuse.models.retrieval.model import build

__all__ = ["build"]
