"""The reference model `dialogue`, for use in a source checkout: its data and weights are not in the wheel.

- `encoders`: a CNN, a recurrent layer over log-mel frames, an embedding of characters;
- `decoder`: attention over modalities, and the Transformer decoder;
- `model`: the whole model;
- `fitting`: training with all modalities and with a random subset at a time;
- `training`: trains it.
"""

from edgefuse.models.dialogue.model import build

__all__ = ["build"]
"""What a recipe, a test or a training script uses."""
