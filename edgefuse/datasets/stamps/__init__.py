"""The data set of the reference model `assistant`, for use in a source checkout: it is not in the wheel."""

from edgefuse.datasets.stamps.items import SPLITS, Settings, StampItems, items, load
from edgefuse.datasets.stamps.material import CATEGORIES, Material, material

__all__ = ["CATEGORIES", "SPLITS", "Material", "Settings", "StampItems", "items", "load", "material"]
