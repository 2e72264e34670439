"""What a model is to the compiler."""

from edgefuse.models.fusion import FusionModel

__all__ = ["FusionModel"]
