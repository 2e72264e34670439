"""The data set of the reference model `digits`, for use in a source checkout: it is not in the wheel.

- `images`: handwritten digits in a frame;
- `espeak`: speech synthesis;
- `speech`: spoken names in noise;
- `text`: spelled-out digits, and their tokenizer;
- `pool`: pictures and speech, kept, and items that draw from them;
- `items`: the data set.
"""

from edgefuse.datasets.digits.items import DigitItems, Settings, export_files, items, load, pool
from edgefuse.datasets.digits.pool import SPLITS

__all__ = ["SPLITS", "DigitItems", "Settings", "export_files", "items", "load", "pool"]
