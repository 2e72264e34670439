"""`FusionModel`: the model of a user, with its stages kept apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import ModelSpec
from edgefuse.errors import ModelError


def masked(feature: Tensor, present: Tensor) -> Tensor:
    """Replace the features of absent modalities by zeros.

    Args:
        feature: [batch, ...].
        present: [batch], more than 0 where the modality is there.
    """
    mask = present.reshape(-1, *([1] * (feature.dim() - 1))) > 0
    return torch.where(mask, feature, torch.zeros_like(feature))


class FusionModel(nn.Module):
    """A model that encodes each modality by itself and then fuses the features.

    An encoder takes the tensors of its modality in the order of the spec and then, if the modality has one, the
    `length` (int32 [batch]); it returns one feature, a float32 tensor with the batch first. If it has a submodule
    `frontend`, the frontend takes the modality's tensors instead and its output goes to the encoder, which is called
    as `encoder(frontend(*tensors), *lengths)`; the encoder's own `forward` must not call its frontend.

    Fusion is called as `fusion(features, present)`, where features maps a modality's name to its feature and
    `present` is float32 [batch, modalities] of ones and zeros in spec order. The feature of an absent modality is
    zeros, and the output must not depend on it.

    Args:
        spec: the modalities and outputs.
        encoders: one module per modality.
        fusion: the module that makes the outputs: one tensor, or a tuple in the order of `spec.outputs`.
        assets: files that preprocessing needs on the device, by name (`tokenizer.json`).

    Raises:
        ModelError: if the encoders and the modalities of the spec do not match.
    """

    def __init__(
        self,
        spec: ModelSpec,
        encoders: Mapping[str, nn.Module],
        fusion: nn.Module,
        *,
        assets: Mapping[str, bytes] | None = None,
    ) -> None:
        super().__init__()
        names = [modality.name for modality in spec.modalities]
        if sorted(encoders) != sorted(names):
            raise ModelError(
                f"the encoders of '{spec.name}' do not match its modalities",
                got=", ".join(sorted(encoders)) or "no encoders",
                expected=", ".join(sorted(names)),
                fix="give one encoder for each modality, under the modality's name",
            )
        self.spec = spec
        self.assets = dict(assets or {})
        self.encoders = nn.ModuleDict({name: encoders[name] for name in names})
        self.fusion = fusion

    def encode(self, name: str, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the feature of one modality from its tensors and length, under `"<modality>.<tensor>"`."""
        modality = self.spec.modality(name)
        encoder = self.encoders[name]
        tensors = [inputs[f"{name}.{tensor.name}"] for tensor in modality.tensors]
        lengths = [inputs[f"{name}.length"]] if modality.length else []
        frontend = getattr(encoder, "frontend", None)
        features = [frontend(*tensors)] if frontend is not None else tensors
        return cast(Tensor, encoder(*features, *lengths))

    def forward(self, inputs: Mapping[str, Tensor], present: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the outputs for a batch; see `encode` for the inputs (zeros where absent), the class for `present`."""
        features: dict[str, Tensor] = {}
        for column, modality in enumerate(self.spec.modalities):
            feature = self.encode(modality.name, inputs)
            features[modality.name] = masked(feature, present[:, column])
        return cast("Tensor | tuple[Tensor, ...]", self.fusion(features, present))
