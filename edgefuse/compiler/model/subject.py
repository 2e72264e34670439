"""The subject of a compile: a model taken apart, and the same with its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from torch import nn

from edgefuse.bundle.manifest import Provenance
from edgefuse.bundle.spec import ModelSpec, StageSpec, subset_name
from edgefuse.compiler.cache import fingerprint
from edgefuse.compiler.metrics.metric import Metric
from edgefuse.compiler.model.budget import Budget
from edgefuse.compiler.model.splits import SplitData
from edgefuse.compiler.recipe.max_drop import MaxDrop
from edgefuse.compiler.recipe.recipe import Recipe
from edgefuse.datasets.sample import Splits
from edgefuse.graph import StageGraph
from edgefuse.graph.decoding import decoder_of
from edgefuse.graph.stage_graph import zeros_of
from edgefuse.runtime.decoding import TOKEN
from edgefuse.stages.found import Found
from edgefuse.stages.stage import TorchStage


@dataclass(frozen=True)
class _TakenApart:
    """What a recipe asks for, and the model that it names, taken apart.

    Attributes:
        recipe: what is asked for.
        found: the stages, how they were found, and what was seen on the way.
        metrics: what judges each output, where samples have targets for it; the first output's comes first.
        assets: files that preprocessing reads, by name.
    """

    recipe: Recipe
    found: Found
    metrics: Mapping[str, Metric]
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
        max_drops: what the recipe allows to be lost of each output's metric.
    """

    path: Path
    data: Splits
    max_drops: Mapping[str, MaxDrop]

    def __post_init__(self) -> None:
        """Take all fingerprints now, before anything runs: see `fingerprint.once`."""
        for module in (self.module, *(stage.module for stage in self.stages)):
            fingerprint.once(module)


@dataclass(frozen=True)
class Guess:
    """A subset in which the reference is right no more often than one answer for all items would be.

    Attributes:
        key: of its figures, see `key_of`.
        reached: how often the reference is right, on the validation set.
        of_one_answer: how often the commonest class is.
    """

    key: str
    reached: float
    of_one_answer: float


@dataclass(frozen=True)
class Subject(_TakenApart):
    """A model under compilation, and its data; it travels to workers.

    Attributes:
        splits: the three that every compile reads, and `train` where stages are to be pruned and recover.
        provenance: of the bundles.
        budget: what may be lost, in numbers, once the reference has answered.
        guesses: known by then, too: what the budget does not bind unless the recipe names the subset.
    """

    splits: Mapping[str, SplitData]
    provenance: Provenance
    budget: Budget = field(default_factory=Budget)
    guesses: tuple[Guess, ...] = ()

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
        """The keys of the preprocessed tensors and lengths, and a decoder's tokens, as `Source.key` spells them."""
        keys = tuple(zero.key for modality in self.spec.modalities for zero in zeros_of(modality))
        return (*keys, TOKEN) if self.makes_tokens else keys

    @property
    def makes_tokens(self) -> bool:
        """Whether the model makes one token after the other."""
        return decoder_of(self.specs) is not None

    def columns(self, subset: tuple[str, ...]) -> list[int]:
        """Return the columns of `present` that a subset fills."""
        return [i for i, modality in enumerate(self.spec.modalities) if modality.name in subset]

    @cached_property
    def judged(self) -> tuple[str, ...]:
        """The names of the outputs that a metric judges: the first one, and those that need no targets or have some."""
        first, *others = self.metrics
        with_targets = self.splits["validation"].targets if "validation" in self.splits else {}
        return first, *(name for name in others if not self.metrics[name].needs_targets or name in with_targets)

    def subsets_of(self, output: str) -> tuple[tuple[str, ...], ...]:
        """Return the subsets in which an output is judged: one that is to find another needs the inputs of both."""
        if self.metrics[output].against == "pair":
            return self.subsets[:1]
        return tuple(subset for subset in self.subsets if output in self.given_by(subset))

    def given_by(self, subset: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names of the outputs that a subset gives: the result of one modality is absent with it."""
        results = dict(self.graph.plan(subset).results)
        return tuple(output.name for output in self.spec.outputs if output.name in results)

    def keys_of(self, output: str) -> dict[str, str]:
        """Return the keys of the figures of an output, by subset: see `key_of`."""
        return {name: key_of(self.spec, output, name) for name in map(subset_name, self.subsets_of(output))}

    def bound_keys_of(self, output: str) -> tuple[str, ...]:
        """Return those that the budget binds: of the subsets that the recipe names, or of all that are no guess."""
        asked, guesses = self.recipe.search.subsets, {guess.key for guess in self.guesses}
        keys = self.keys_of(output).items()
        return tuple(key for subset, key in keys if (subset in asked if asked else key not in guesses))

    @property
    def budget_keys(self) -> tuple[str, ...]:
        """The keys of all figures that the budget binds, the first output's first."""
        return tuple(key for output in self.judged for key in self.bound_keys_of(output))


def key_of(spec: ModelSpec, output: str, subset: str) -> str:
    """Return the key of the figures of an output in a subset: its name, `image+audio`, or `depth: image+audio`.

    Args:
        spec: of the model, whose first output needs no name.
        output: the name of one.
        subset: the name of one.
    """
    return subset if output == spec.outputs[0].name else f"{output}: {subset}"
