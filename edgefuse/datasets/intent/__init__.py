"""The data set of the reference model `intent`, for use in a source checkout: it is not in the wheel.

- `requests`: what is asked of a home in three languages, as intents and slots;
- `items`: samples and splits.
"""

from edgefuse.datasets.intent.items import IntentItems, Settings, items, load

__all__ = ["IntentItems", "Settings", "items", "load"]
"""What a recipe, a test or a training script uses."""
