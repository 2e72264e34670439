"""The reference model `seq2seq`, for use in a source checkout: its data and weights are not in the wheel.

- `layers`: the encoder of frames, the encoder of words, and their fusion step by step;
- `decoder`: the recurrent step that answers;
- `model`: the model;
- `training`: trains it, and the baselines that ignore an input.
"""

from edgefuse.models.seq2seq.model import build

__all__ = ["build"]
