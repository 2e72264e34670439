"""The data set of the reference model `seq2seq`, for use in a source checkout: it is not in the wheel.

- `words`: instructions and answers in three languages, what they mean, and the tokenizer;
- `items`: clips of handwritten digits with an instruction for each frame, and what is answered.
"""

from edgefuse.datasets.digits.pool import SPLITS
from edgefuse.datasets.sequence.items import SequenceItems, Settings, items, load

__all__ = ["SPLITS", "SequenceItems", "Settings", "items", "load"]
