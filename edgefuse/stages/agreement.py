"""Compare a lowered file with torch on the same feeds."""

from __future__ import annotations

import numpy as np

from edgefuse.bundle.manifest import Tolerance
from edgefuse.errors import EdgefuseError, ModelError
from edgefuse.measure.agreement import Agreement, agreement, at_true_size
from edgefuse.runtime.backends.backend import Session
from edgefuse.stages.running import run_torch
from edgefuse.stages.stage import Array, Feeds, TorchStage


def verify(stage: TorchStage, session: Session, feeds: Feeds, tolerance: Tolerance) -> Agreement:
    """Run a stage in torch and its file, opened by a backend, on the same feeds and judge the file.

    Args:
        stage: in torch.
        session: of the file.
        feeds: arrays by port, batch first.
        tolerance: of the comparison.
    """
    expected = run_torch(stage, feeds)
    return agreement([(expected, at_true_size(session.run(feeds), expected))], tolerance)


def spelled(feeds: Feeds) -> str:
    """Return the shapes of feeds, and which modalities are there, for errors."""
    shapes = [f"{name} {list(value.shape)}" for name, value in feeds.items() if name != "present"]
    there = [f"present {value.astype(int).tolist()}" for name, value in feeds.items() if name == "present"]
    return ", ".join(shapes + there)


def finite_answer(stage: TorchStage, feeds: Feeds, error: type[EdgefuseError] = ModelError) -> dict[str, Array]:
    """Return what torch makes of generated feeds.

    Args:
        stage: in torch.
        feeds: arrays by port, batch first.
        error: that is raised if an output is NaN or infinite.
    """
    answers = run_torch(stage, feeds)
    for name, answer in answers.items():
        if not np.isfinite(answer).all():
            raise error(
                f"the output '{name}' of {stage.said} is not finite on generated inputs",
                got=f"NaN or infinity in {stage.reference} itself at {spelled(feeds)}",
                expected="finite numbers at every size, whichever inputs are absent",
                fix="look for means over nothing, logarithms, and attention that nothing is left for",
            )
    return answers
