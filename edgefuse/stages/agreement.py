"""Compare a lowered file with torch on the same feeds."""

from __future__ import annotations

from edgefuse.bundle.manifest import Tolerance
from edgefuse.measure.agreement import Agreement, agreement, at_true_size
from edgefuse.runtime.backends.backend import Session
from edgefuse.stages.examples import run_torch
from edgefuse.stages.stage import Feeds, TorchStage


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
