"""The tokens that a decoder is given while it is judged and calibrated: the right ones, or the reference's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgefuse.bundle.spec import ModelSpec, TokensOutput
from edgefuse.errors import DataError
from edgefuse.models.fusion import FusionModel
from edgefuse.runtime.decoding import NO_TOKENS
from edgefuse.stages.found.generating import Generating
from edgefuse.stages.stage import Array


@dataclass(frozen=True)
class GivenTokens:
    """Gives each sample the tokens that the steps of its decoder are fed with: int32 [1, n].

    The first is the output's `start`, each other the right one of the step before (teacher forcing, Williams and Zipser
    1989), so that all candidates are judged on the same steps, and the features before them can be kept. A sample
    without a target is given what the reference says of it, greedily.
    """

    model: FusionModel | Generating
    output: TokensOutput

    def of(self, where: str, target: Any, values: Mapping[str, Array], present: Array) -> Array:
        """Return the tokens of a sample.

        Args:
            where: the sample is, for errors: "sample 3 of 'test'".
            target: its target, as the data set gave it, which fits the output.
            values: its tensors by key.
            present: which modalities it has, [modalities].

        Raises:
            DataError: if its target is text: which tokens that is, only ids say.
        """
        if isinstance(target, Mapping):
            target = target.get(self.output.name)
        if isinstance(target, str):
            raise DataError(
                f"the target of {where} is text, and a decoder's steps are given ids",
                expected="the ids of its tokens; metrics of text spell them out",
            )
        told = self._answered(values, present) if target is None else np.asarray(target).tolist()
        return np.array([[self.output.start, *told[:-1]]], np.int32)

    def _answered(self, values: Mapping[str, Array], present: Array) -> Sequence[int]:
        inputs: dict[str, Tensor] = {key: torch.from_numpy(np.array(value)) for key, value in values.items()}
        mask, none = torch.from_numpy(present.astype(np.float32)[None]), torch.from_numpy(NO_TOKENS.copy())
        arguments: tuple[Any, ...] = (inputs, mask)
        if isinstance(self.model, Generating):
            arguments = self.model.of({**inputs, "present": mask}, none)
        with torch.inference_mode():
            logits = self.model(*arguments)
        ids: list[int] = logits[0].argmax(dim=1).tolist()
        return self.output.sentence(ids)


def given_tokens(module: object, spec: ModelSpec) -> GivenTokens | None:
    """Return what gives tokens to the samples of a model, or None if the model has no decoder.

    Args:
        module: of the model.
        spec: of it.
    """
    output = spec.outputs[0]
    if not isinstance(output, TokensOutput):
        return None
    if isinstance(module, Generating) or (isinstance(module, FusionModel) and module.decoder is not None):
        return GivenTokens(module, output)
    return None
