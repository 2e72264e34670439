"""What a modality needs on its way into a model, and whether it gives what the processor gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgefuse.bundle.spec import Modality
from edgefuse.models.pretrained.folder import Folder, offline
from edgefuse.runtime.preprocess import Preprocessor

Array = npt.NDArray[Any]
_TOLERANCE = 1e-3
"""Of the largest difference, in parts of the range of what the processor gives. Ids have to be the same."""


@dataclass(frozen=True)
class Input:
    """A modality as a processor prepares it.

    Attributes:
        modality: with its typed preprocessing.
        processed: what the processor itself makes of a raw input, batch first.
        probes: raw inputs to compare both on.
        frontend: takes the modality's tensor, as a stage of its own; None if there is none.
        head: takes what the frontend gives and the modality's length, as the first part of the encoder.
        assets: files that the preprocessing names.
    """

    modality: Modality
    processed: Callable[[Any], Array]
    probes: Sequence[Any]
    frontend: nn.Module | None = None
    head: nn.Module | None = None
    assets: Mapping[str, bytes] = field(default_factory=dict)

    def prepared(self, raw: Any) -> Array:
        """Return what the model gets for a raw input: preprocessing, then the frontend."""
        tensors = Preprocessor(self.modality, self.assets.__getitem__)(raw)
        value = tensors[f"{self.modality.name}.{self.modality.tensors[0].name}"]
        if self.frontend is None:
            return value
        with torch.inference_mode():
            given = self.frontend(torch.from_numpy(value.copy()))
            if self.head is not None:
                given = self.head(given, torch.from_numpy(tensors[f"{self.modality.name}.length"]))
        result: Array = given.numpy()
        return result

    def check(self, folder: Folder) -> None:
        """Hold the preprocessing to the processor's own answers: its numbers may not be all that it does.

        Raises:
            ModelError: if it gives something else.
        """
        name = self.modality.name
        for raw in self.probes:
            with offline(f"the processor of the pretrained model {folder.path} takes no '{name}'"):
                wanted = np.asarray(self.processed(raw), np.float64)
            found = np.asarray(self.prepared(raw), np.float64)
            if found.shape != wanted.shape:
                said = f"{list(wanted.shape)} where its numbers say {list(found.shape)}"
            elif np.abs(found - wanted).max() > _TOLERANCE * np.ptp(wanted) * (not isinstance(raw, str)):
                said = f"a difference of {np.abs(found - wanted).max():.3g} in a range of {np.ptp(wanted):.3g}"
            else:
                continue
            raise folder.refused(
                f"has a processor for '{name}' that does something else than its numbers say", got=said
            )
