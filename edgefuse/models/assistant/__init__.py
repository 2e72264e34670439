"""The reference model `assistant`, for use in a source checkout: its data and weights are not in the wheel.

- `image`: MobileNetV2;
- `audio`: a speech embedding;
- `text`: MiniLM;
- `fusion`: attention over their features;
- `pretrained`: their published weights;
- `model`: the whole model;
- `training`: trains heads and fusion;
- `matching`: how often the nearest is the right one.
"""

from edgefuse.models.assistant.model import build

__all__ = ["build"]
