"""The reference model `digits`, for use in a source checkout: its data and weights are not in the wheel.

- `layers`: blocks of the model;
- `encoders`: its encoders and its fusion, in torch alone;
- `model`: the whole model;
- `training`: trains it.
"""

from edgefuse.models.digits.model import build

__all__ = ["build"]
