"""Whether stages depend on padding: targets of fixed shapes pad what is shorter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgefuse.compiler.check.record import Finding
from edgefuse.errors import EdgefuseError, cited
from edgefuse.stages.padding import dependences
from edgefuse.stages.stage import TorchStage


def padding_findings(stages: Sequence[TorchStage]) -> Iterator[Finding]:
    """Yield the stages of variable size that answer otherwise where their input is padded.

    It is in the way of targets that pad, whose lowering says so; others take the true size.

    Args:
        stages: in an order in which they can run.
    """
    try:
        found = dependences(stages)
    except (EdgefuseError, RuntimeError, TypeError, ValueError, IndexError) as error:
        yield Finding(about="padding", says=f"the stages do not run at every size of their inputs: {cited(error)}")
        return
    for name, dependence in found.items():
        says = f"the stage '{name}' depends on padding: {dependence}; targets of fixed shapes cannot have it so"
        yield Finding(about="padding", stage=name, says=says)
