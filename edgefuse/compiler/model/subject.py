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
class _TakenApart:
    """What a recipe asks for, and the model that it names, taken apart.

    Attributes:
        recipe: what is asked for.
        found: the stages, how they were found, and what was seen on the way.
        assets: files that preprocessing reads, by name.
    """

    recipe: Recipe
    found: Found
    assets: Mapping[str, bytes]

    @property
    def module(self) -> nn.Module:
        """The torch module, called by position where the user's takes keywords."""
        return self.found.module

    @property
    def spec(self) -> ModelSpec:
        """How the model describes itself."""
        return self.found.spec

    @property
    def stages(self) -> tuple[TorchStage, ...]:
        """In an order in which they can run."""
        return self.found.stages


@dataclass(frozen=True)
class Model(_TakenApart):
    """A model taken apart, as the recipe names it.

    Attributes:
        path: of the recipe.
        data: that the recipe names, as far as they were read to see what inputs look like.
        max_drop: what the recipe allows to be lost of the model's metric.
    """

    path: Path
    data: Splits
    max_drop: MaxDrop

    def __post_init__(self) -> None:
        """Take all fingerprints now, before anything runs: see `fingerprint.once`."""
        for module in (self.module, *(stage.module for stage in self.stages)):
            fingerprint.once(module)


@dataclass(frozen=True)
class Subject(_TakenApart):
    """A model under compilation, and its data; it travels to workers.

    Attributes:
        splits: the three that every compile reads, and `train` where stages are to be pruned and recover.
        provenance: of the bundles.
        budget: what may be lost, in numbers, once the reference has answered.
    """

    splits: Mapping[str, SplitData]
    provenance: Provenance
    budget: Budget = field(default_factory=Budget)

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
