"""The data set of the reference model `dialogue`, for use in a source checkout: it is not in the wheel.

- `grammar`: sentences drawn from templates;
- `commands`: commands for a home in three languages, and what is replied;
- `pictures`: six rooms, drawn;
- `speech`: sentences, said, in noise;
- `items`: samples and splits.
"""

from edgefuse.datasets.dialogue.items import DialogueItems, Settings, items, load

__all__ = ["DialogueItems", "Settings", "items", "load"]
"""What a recipe, a test or a training script uses."""
