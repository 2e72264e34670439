"""What a model is to the compiler.

- `decoder`: `Decoder`, for a model that makes tokens;
- `streaming`: `Streaming`, for encoders that can be run on a stream;
- `fusion`: `FusionModel`;
- `pretrained`: folders of pretrained models;
- `reference`: what the reference models share;
- `digits`: the reference model `digits`;
- `assistant`: the reference model `assistant`;
- `classifier`: the reference model `classifier`;
- `sentiment`: the reference model `sentiment`;
- `retrieval`: the reference model `retrieval`;
- `seq2seq`: the reference model `seq2seq`;
- `vqa`: the reference model `vqa`;
- `captioning`: the reference model `captioning`;
- `dialogue`: the reference model `dialogue`;
- `intent`: the reference model `intent`.
"""

from edgefuse.models.decoder import Decoder
from edgefuse.models.fusion import FusionModel

__all__ = ["Decoder", "FusionModel"]
