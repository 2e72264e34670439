"""Whether stages depend on padding: targets of fixed shapes pad what is shorter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from edgefuse import registry
from edgefuse.compiler.check.record import Finding
from edgefuse.errors import EdgefuseError, MissingExtraError, cited
from edgefuse.export.target import Target, as_lowered
from edgefuse.stages.padding import Dependence, dependences, takes_variable_features
from edgefuse.stages.stage import TorchStage


def padding_findings(stages: Sequence[TorchStage], targets: Sequence[str]) -> Iterator[Finding]:
    """Yield the stages of variable size that answer otherwise where their input is padded.

    It is in the way of targets that pad, if they do not mend it: their lowering says so of what pads inputs from
    outside, this of what pads the features of earlier stages. Others take the true size.

    Args:
        stages: in an order in which they can run.
        targets: the names of those that the recipe asks for, none of which joins others.
    """
    padding = [target for target in _installed(targets) if target.pads]
    try:
        for target in padding:
            for stage, dependence in _found(as_lowered(target, stages)):
                says = f"{_depends(dependence)}; {target.title} files have fixed shapes and cannot have it so"
                stops = takes_variable_features(stage.spec)
                yield Finding(about="padding", stage=stage.spec.name, target=target.name, says=says, stops=stops)
        for stage, dependence in _found(stages) if not padding else ():
            says = f"{_depends(dependence)}; the targets of this recipe take the true size"
            yield Finding(about="padding", stage=stage.spec.name, says=says)
    except (EdgefuseError, RuntimeError, TypeError, ValueError, IndexError) as error:
        yield Finding(about="padding", says=f"the stages do not run at every size of their inputs: {cited(error)}")


def _found(stages: Sequence[TorchStage]) -> list[tuple[TorchStage, Dependence]]:
    found = dependences(stages)
    return [(stage, found[stage.spec.name]) for stage in stages if stage.spec.name in found]


def _depends(dependence: Dependence) -> str:
    return f"the stage '{dependence.stage}' depends on padding: {dependence}"


def _installed(targets: Sequence[str]) -> Iterator[Target]:
    """Yield the targets whose tools are there; what lowers stages says which are missing."""
    for name in targets:
        with suppress(MissingExtraError):
            yield registry.create("targets", name)
