"""`FusionModel`: the model of a user, with its stages kept apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import ModelSpec, TokensOutput
from edgefuse.errors import ModelError
from edgefuse.models.decoder import Decoder, decoded


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

    With a `decoder`, a model makes tokens, one after the other, and its only output is a `TokensOutput` that says with
    which it starts and ends; what fusion returns goes to `decoder.prepare`.

    Args:
        spec: the modalities and outputs.
        encoders: one module per modality.
        fusion: the module that makes the outputs: one tensor, or a tuple in the order of `spec.outputs`.
        decoder: what makes a token from the one before, if the model does.
        assets: files that preprocessing needs on the device, by name (`tokenizer.json`).

    Raises:
        ModelError: if the encoders and the modalities of the spec do not match, or the outputs and the decoder.
    """

    def __init__(
        self,
        spec: ModelSpec,
        encoders: Mapping[str, nn.Module],
        fusion: nn.Module,
        *,
        decoder: Decoder | None = None,
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
        if decoder is not None:
            _check_decoder(spec, decoder)
        self.spec = spec
        self.assets = dict(assets or {})
        self.encoders = nn.ModuleDict({name: encoders[name] for name in names})
        self.fusion = fusion
        self.decoder = decoder

    def encode(self, name: str, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the feature of one modality from its tensors and length, under `"<modality>.<tensor>"`."""
        modality = self.spec.modality(name)
        encoder = self.encoders[name]
        tensors = [inputs[f"{name}.{tensor.name}"] for tensor in modality.tensors]
        lengths = [inputs[f"{name}.length"]] if modality.length else []
        frontend = getattr(encoder, "frontend", None)
        features = [frontend(*tensors)] if frontend is not None else tensors
        return cast(Tensor, encoder(*features, *lengths))

    def forward(
        self, inputs: Mapping[str, Tensor], present: Tensor, tokens: Tensor | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """Return the outputs for a batch; of a model with a decoder, the logits [batch, steps, vocabulary].

        Args:
            inputs: as for `encode`, zeros where absent.
            present: as the class says.
            tokens: the ids that are right, [batch, at most the output's steps]: each step is given the one before its
                own (teacher forcing). If None, each is given the likeliest of the step before.
        """
        features: dict[str, Tensor] = {}
        for column, modality in enumerate(self.spec.modalities):
            feature = self.encode(modality.name, inputs)
            features[modality.name] = masked(feature, present[:, column])
        fused = cast("Tensor | tuple[Tensor, ...]", self.fusion(features, present))
        if self.decoder is None:
            return fused
        output = cast(TokensOutput, self.spec.outputs[0])
        return decoded(self.decoder, output, fused if isinstance(fused, tuple) else (fused,), tokens)


def _check_decoder(spec: ModelSpec, decoder: object) -> None:
    """Refuse what is no decoder, and outputs that no decoder makes."""
    if not isinstance(decoder, Decoder):
        what = f"the decoder of '{spec.name}' is none"
        raise ModelError(what, got=type(decoder).__name__, expected="a subclass of edgefuse.Decoder")
    output = spec.outputs[0] if len(spec.outputs) == 1 else None
    if not isinstance(output, TokensOutput) or output.start is None or output.end is None:
        raise ModelError(
            f"the model '{spec.name}' has a decoder, and does not say what that makes",
            got=", ".join(type(one).__name__ for one in spec.outputs) or "no outputs",
            expected="one TokensOutput with a `start` and an `end`",
        )
