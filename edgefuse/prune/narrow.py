"""Narrow a whole fusion model, the interfaces between its stages included."""

from __future__ import annotations

from edgefuse.bundle.manifest import PruningStep
from edgefuse.errors import PruneError
from edgefuse.models.fusion import FusionModel
from edgefuse.prune.pruner import Examples, apply_steps
from edgefuse.stages.explicit import as_one_stage


def narrowed(model: FusionModel, ratio: float, importance: str, examples: Examples) -> FusionModel:
    """Return a copy of a model in which every width lost a fraction, also those of the features.

    Args:
        model: in eval mode; it stays as it is.
        ratio: the fraction to remove, from 0 to less than 1.
        importance: as in `structured` pruning.
        examples: of the model as one stage.

    Raises:
        PruneError: the model cannot be narrowed.
    """
    step = PruningStep(method="structured", ratio=ratio, importance=importance)
    whole = apply_steps(as_one_stage(model), [step], examples)
    if not isinstance(whole.model, FusionModel):
        raise PruneError("only a FusionModel has interfaces to narrow", got=type(whole.model).__name__)
    return whole.model
