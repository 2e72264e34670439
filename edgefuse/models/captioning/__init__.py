"""The reference model `captioning`, for use in a source checkout: its data and weights are not in the wheel.

- `encoders`: the lower part of a pretrained MobileNetV2, and an LSTM over the first words;
- `fusion`: a map of the picture that can be looked at, and a summary;
- `decoder`: an LSTM that looks at the map after every word;
- `model`: the whole model;
- `training`: trains all but the pretrained part, whose answers are computed once.
"""

from edgefuse.models.captioning.model import build

__all__ = ["build"]
