"""The reference model `assistant`, for use in a source checkout: its data and weights are not in the wheel."""

from edgefuse.models.assistant.model import build

__all__ = ["build"]
