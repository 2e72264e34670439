"""The reference model `digits`, for use in a source checkout: its data and weights are not in the wheel."""

from edgefuse.models.digits.model import build

__all__ = ["build"]
