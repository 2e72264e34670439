"""Pruned encoders stream, too: what they remember is as wide as their layers are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from edgefuse.bundle.manifest import Pruning, PruningStep
from edgefuse.prune.pruner import apply_steps
from edgefuse.stages.stage import TorchStage
from edgefuse.stages.streaming import branches, held_steps

STRUCTURED, DEPTH = (
    PruningStep(method="structured", ratio=0.5, importance="magnitude"),
    PruningStep(method="depth", ratio=0.5),
)


@pytest.mark.parametrize("steps", [(STRUCTURED,), (DEPTH, STRUCTURED)])
def test_a_pruned_encoder_streams(
    digits: Mapping[str, TorchStage], examples_of: Any, steps: tuple[PruningStep, ...]
) -> None:
    whole = digits["audio_encoder"]
    module = apply_steps(whole, steps, examples_of(whole))
    pruned = replace(whole, module=module, pruning=Pruning(steps=steps))
    ((frontend, encoder),) = branches([digits["audio_frontend"], pruned])
    _, step = held_steps((frontend, encoder))
    (_, unpruned), *_ = (held_steps(branch) for branch in branches(list(digits.values())))
    assert step.spec.name.startswith("audio_encoder_step_")
    assert step.pruning == pruned.pruning
    sizes = [sum(port.tensor.size_bytes for port in one.spec.inputs[1:]) for one in (step, unpruned)]
    assert sizes[0] < 0.7 * sizes[1]
