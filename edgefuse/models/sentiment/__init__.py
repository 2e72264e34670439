"""The reference model `sentiment`, for use in a source checkout: its data and weights are not in the wheel.

- `text`: MiniLM, taken apart before its last layer;
- `fusion`: concatenation of what was heard and read;
- `model`: the model of two modalities, trained;
- `training`: trains heads, fusion and the last layer of the text;
- `three`: the model of three modalities, with seeded weights and made-up data.
"""

from edgefuse.models.sentiment.model import build

__all__ = ["build"]
