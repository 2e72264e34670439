"""The data set of the reference model `sentiment`, for use in a source checkout: it is not in the wheel.

- `sentences`: what people wrote, and how others rated it;
- `splits`: which is in which split;
- `speech`: the same said by eSpeak NG;
- `items`: the data set.
"""

from edgefuse.datasets.sentiment.items import SentimentItems, items, load
from edgefuse.datasets.sentiment.sentences import LABELS, Sentence, sentences
from edgefuse.datasets.sentiment.splits import SPLITS, Settings, dealt

__all__ = [
    "LABELS",
    "SPLITS",
    "Sentence",
    "SentimentItems",
    "Settings",
    "dealt",
    "items",
    "load",
    "sentences",
]
