"""The subject of a compile: a model taken apart, and the same with its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from edgefuse.bundle.manifest import Provenance
from edgefuse.bundle.spec import ModelSpec, StageSpec, subset_name
from edgefuse.compiler.cache import fingerprint
from edgefuse.compiler.model.budget import Budget
from edgefuse.compiler.model.splits import SplitData
from edgefuse.compiler.recipe.max_drop import MaxDrop
from edgefuse.compiler.recipe.recipe import Recipe
from edgefuse.datasets.sample import Splits
from edgefuse.graph import StageGraph
from edgefuse.graph.stage_graph import zeros_of
from edgefuse.stages.found import Found
from edgefuse.stages.stage import TorchStage


@dataclass(frozen=True)
class Model:
    """A model taken apart, as the recipe names it.

    Attributes:
        recipe: what is asked for.
        path: of the recipe.
        module: the torch module, called by position where the user's takes keywords.
        spec: how it describes itself.
        stages: in an order in which they can run.
        assets: files that preprocessing reads, by name.
        found: how the stages were found, and what was seen on the way.
        data: that the recipe names, as far as they were read to see what inputs look like.
        max_drop: what the recipe allows to be lost of the model's metric.
    """

    recipe: Recipe
    path: Path
    module: nn.Module
    spec: ModelSpec
    stages: tuple[TorchStage, ...]
    assets: Mapping[str, bytes]
    found: Found
    data: Splits
    max_drop: MaxDrop

    def __post_init__(self) -> None:
        """Take all fingerprints now, before anything runs: see `fingerprint.once`."""
        for module in (self.module, *(stage.module for stage in self.stages)):
            fingerprint.once(module)


@dataclass(frozen=True)
class Subject:
    """A model under compilation, and its data.

    `splits` has the three that every compile reads, and `train` where stages are to be pruned and recover. `max_drop`
    is what the recipe allows to be lost, `budget` the same in numbers, once the reference has answered. `share` is that
    of the multiply-accumulates which see one modality, if it is known; `notes` says how the model was taken apart.
    """

    recipe: Recipe
    module: nn.Module
    spec: ModelSpec
    stages: tuple[TorchStage, ...]
    assets: Mapping[str, bytes]
    splits: Mapping[str, SplitData]
    provenance: Provenance
    max_drop: MaxDrop
    budget: Budget = field(default_factory=Budget)
    share: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def specs(self) -> tuple[StageSpec, ...]:
        """The wiring."""
        return tuple(stage.spec for stage in self.stages)

    @property
    def graph(self) -> StageGraph:
        """The wiring as what plans and runs it."""
        return StageGraph(self.specs, self.spec.modalities)

    @property
    def subsets(self) -> tuple[tuple[str, ...], ...]:
        """The admissible subsets of the modalities, the largest first."""
        return self.spec.subsets()

    @property
    def value_keys(self) -> tuple[str, ...]:
        """The keys of the preprocessed tensors and lengths, as `Source.key` spells them."""
        return tuple(zero.key for modality in self.spec.modalities for zero in zeros_of(modality))

    def columns(self, subset: tuple[str, ...]) -> list[int]:
        """Return the columns of `present` that a subset fills."""
        return [i for i, modality in enumerate(self.spec.modalities) if modality.name in subset]

    @property
    def budget_subsets(self) -> tuple[str, ...]:
        """The names of the subsets that the budget binds."""
        return self.recipe.search.subsets or tuple(subset_name(subset) for subset in self.subsets)
