"""Limits of a recipe that nothing can hold, and those that the data are too few for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgefuse.bundle.spec import subset_name
from edgefuse.compiler.check.data import SplitRead
from edgefuse.compiler.check.record import Finding, FoundStage, LoweredStage, PrunedStage
from edgefuse.compiler.model.subject import Model

_FEWEST_BYTES = 0.5
"""Per weight: no scheme stores one in fewer than four bits."""

_MOST_GAINED = 10.0
"""No combination of precision and the usual prunings was measured to gain more over float."""


def unholdable(model: Model, stages: Sequence[FoundStage], pruned: Sequence[PrunedStage]) -> Iterator[Finding]:
    """Yield the limits that no combination of candidates can hold.

    Args:
        model: with its recipe.
        stages: their sizes.
        pruned: what is left by what the recipe prunes.
    """
    search = model.recipe.search
    fewest = {stage.name: stage.parameters for stage in stages}
    for one in pruned:
        if one.asked and not one.says:
            fewest[one.stage] = min(fewest[one.stage], one.parameters)
    files = {stage.spec.name: stage.file_name for stage in model.stages}  # one that stages share is stored once
    once = {files[name]: min(fewest[other] for other in fewest if files[other] == files[name]) for name in fewest}
    counted = {files[stage.name] for stage in stages if stage.role != "frontend"}
    sizes = (
        ("max_size_bytes", search.max_size_bytes, sum(once[file] for file in counted)),
        ("max_memory_bytes", search.max_memory_bytes, sum(once.values())),
    )
    for name, limit, parameters in sizes:
        least = int(_FEWEST_BYTES * parameters)
        if limit is not None and limit < least:
            yield Finding(
                about="budget",
                says=f"[search] {name} cannot be held: got {limit}, where {parameters} weights take {least} bytes in "
                "four bits each. Fix: raise it, or prune more.",
                stops=True,
            )


def doubtful(model: Model, lowered: Sequence[LoweredStage], read: Sequence[SplitRead]) -> Iterator[Finding]:
    """Yield the limits that will hardly be held, or that the data are too few for.

    Args:
        model: with its recipe.
        lowered: with what a run of each stage takes in float.
        read: what was read of the data.
    """
    yield from _latency(model, lowered)
    yield from _few_samples(model, read)


def _latency(model: Model, lowered: Sequence[LoweredStage]) -> Iterator[Finding]:
    limit = model.recipe.search.max_latency_ms
    if limit is None or model.recipe.device.uri is not None:
        return
    for target in dict.fromkeys(one.target for one in lowered):
        times = [one.run_ms for one in lowered if one.target == target]
        known = [time for time in times if time is not None]
        if len(known) == len(times) and sum(known) > _MOST_GAINED * limit:
            yield Finding(
                about="budget",
                target=target,
                says=f"[search] max_latency_ms is {limit:g}, and the float stages take about {sum(known):.3g} ms here: "
                f"more than {_MOST_GAINED:g} times as long, which no compression was seen to gain",
            )


def _few_samples(model: Model, read: Sequence[SplitRead]) -> Iterator[Finding]:
    """Say where a single wrong answer is more than a budget allows; of tokens, an item has several."""
    metric = model.metrics[model.spec.outputs[0].name]
    if not metric.share or metric.figure_of is not None:
        return
    spec, search, allowed = model.spec, model.recipe.search, model.max_drops[model.spec.outputs[0].name]
    names = [modality.name for modality in spec.modalities]
    judged = [subset for subset in spec.subsets() if not search.subsets or subset_name(subset) in search.subsets]
    for split in (split for split in read if split.name in ("validation", "test")):
        counts = {
            subset_name(subset): sum(all(row[names.index(one)] for one in subset) for row in split.present)
            for subset in judged
        }
        fewest = min(counts, key=counts.__getitem__, default="")
        if split.read == split.total and fewest and counts[fewest] and allowed.value < 1 / counts[fewest]:
            yield Finding(
                about="budget",
                says=f"'{split.name}' has {counts[fewest]} samples of {fewest}: a single wrong answer is "
                f"{100 / counts[fewest]:.2g} points, and [search] max_drop allows {100 * allowed.value:g}"
                + (" % of what the reference reaches" if allowed.of_reference else ""),
            )
