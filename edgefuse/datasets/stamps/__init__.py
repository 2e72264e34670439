"""The data set of the reference model `assistant`, for use in a source checkout: it is not in the wheel.

- `debian`: files out of a Debian package;
- `material`: the stamps of Tux Paint;
- `grouping`: drawings of one thing stay in one split;
- `augmentation`: an item out of clean material;
- `items`: the data set;
- `pairs`: the same for the reference model `retrieval`, each stamp once;
- `glosses`: English out of WordNet, for recovery;
- `phrases`: made-up phrases, for recovery;
- `texts`: samples that hold a text alone.
"""

from edgefuse.datasets.stamps.items import SPLITS, Settings, StampItems, items, load
from edgefuse.datasets.stamps.material import CATEGORIES, Material, material

__all__ = ["CATEGORIES", "SPLITS", "Material", "Settings", "StampItems", "items", "load", "material"]
