"""What a model is to the compiler.

- `fusion`: `FusionModel`;
- `pretrained`: folders of pretrained models;
- `digits`: the reference model `digits`;
- `assistant`: the reference model `assistant`;
- `classifier`: the reference model `classifier`;
- `sentiment`: the reference model `sentiment`;
- `retrieval`: the reference model `retrieval`.
"""

from edgefuse.models.fusion import FusionModel

__all__ = ["FusionModel"]
