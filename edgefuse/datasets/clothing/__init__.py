"""The data set of the reference model `classifier`, for use in a source checkout: it is not in the wheel.

- `pictures`: Fashion-MNIST;
- `names`: what clothes are called, and their tokenizer;
- `items`: the data set.
"""

from edgefuse.datasets.clothing.items import ClothingItems, Settings, items, load, pool
from edgefuse.datasets.digits.pool import SPLITS

__all__ = ["SPLITS", "ClothingItems", "Settings", "items", "load", "pool"]
