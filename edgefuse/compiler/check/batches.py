"""Whether a batch answers like its samples one by one.

The torch reference and the recoveries run in batches, the files on devices take one sample at a time. A model that
mixes the samples of a batch (a mean over the first axis, a wrong transpose) would be held to answers that no device
can give.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgefuse.bundle.manifest import Tolerance
from edgefuse.bundle.spec import StageSpec
from edgefuse.errors import ModelError
from edgefuse.graph import StageGraph
from edgefuse.graph.decoding import step_ports
from edgefuse.runtime.graph import zeros_of_tensor
from edgefuse.stages.examples import Mask, columns_of, outside_values, silenced, variants_of
from edgefuse.stages.running import run_torch
from edgefuse.stages.silence import first_words
from edgefuse.stages.stage import Array, Feeds, TorchStage

_BATCH = 3
_FIX = "keep the first axis of every tensor for the batch, and compute nothing across it"


def mixing(
    stages: Sequence[TorchStage], masks: Sequence[Mask] = (), modalities: Sequence[str] = ()
) -> dict[str, ModelError]:
    """Return the error of each stage that cannot be run, or not in batches, or mixes the samples of one, by its name.

    Batches are tried at the largest and at the smallest sizes, of samples that differ in lengths and in what is absent.

    Args:
        stages: in an order in which they can run.
        masks: the absences that the model admits; by default any one of the modalities.
        modalities: the names of all, in order.
    """
    trial = _Trial(stages, masks, modalities)
    for variant in variants_of(stages):
        trial.run(variant)
    return trial.faults


class _Stopped(Exception):  # noqa: N818 - no error: what comes after a stage without an answer has nothing to run on
    pass


class _Trial:
    """Runs stages on samples one by one and in a batch; what they read from each other is what torch makes of it.

    Attributes:
        faults: the first of each stage that has one.
    """

    def __init__(self, stages: Sequence[TorchStage], masks: Sequence[Mask], modalities: Sequence[str]) -> None:
        self.faults: dict[str, ModelError] = {}
        self._stages = {stage.spec.name: stage for stage in stages}
        self._masks = masks
        self._columns = columns_of(stages, modalities)
        self._graph = StageGraph(tuple(stage.spec for stage in stages), ())

    def run(self, variant: int) -> None:
        """Run all stages at a variant of their sizes."""
        stages = list(self._stages.values())
        samples = [outside_values(stages, index, variant=variant, seed=1, masks=self._masks) for index in range(_BATCH)]
        values = {key: [sample[key] for sample in samples] for key in samples[0]}
        state = self._graph.initial(lambda tensor: [zeros_of_tensor(tensor)] * _BATCH)
        try:
            self._graph.run(self._graph.plan(()), self._run_stage, values, state)
        except _Stopped:
            return

    def _run_stage(self, spec: StageSpec, given: dict[str, list[Array]]) -> dict[str, list[Array]]:
        stage = self._stages[spec.name]
        position = step_ports(spec).position if spec.role == "decoder" else ""
        first = {position: np.zeros(1, np.int32)} if position else {}
        samples = [
            silenced(spec, first | {port: arrays[number] for port, arrays in given.items()}, self._columns)
            for number in range(_BATCH)
        ]
        alone = [self._alone(stage, feeds) for feeds in samples]
        if (fault := _fault(stage, samples, alone)) is not None:
            self.faults.setdefault(spec.name, fault)
        return {port: [one[port] for one in alone] for port in alone[0]}

    def _alone(self, stage: TorchStage, feeds: Feeds) -> Feeds:
        try:
            return run_torch(stage, feeds)
        except ModelError as error:
            self.faults.setdefault(stage.spec.name, error)
            raise _Stopped from error


def _fault(stage: TorchStage, samples: Sequence[Feeds], alone: Sequence[Feeds]) -> ModelError | None:
    """Return what is wrong with a stage's answer to a batch.

    Args:
        stage: to run.
        samples: that make the batch.
        alone: its answers to them one by one.
    """
    name = stage.spec.name
    try:
        together = run_torch(stage, _stacked(samples))
    except ModelError as error:
        return ModelError(
            f"the stage '{name}' fails on a batch of {_BATCH}, where it takes the same samples one by one",
            got=first_words(error),
            expected="a model that takes batches, as the torch reference runs",
            fix=_FIX,
        )
    for port, batch in together.items():
        if (wrong := _difference([sample[port] for sample in alone], batch)) is not None:
            return ModelError(
                f"the stage '{name}' mixes the samples of a batch: '{port}' of {_BATCH} samples is not "
                "what it gives for each of them alone",
                got=wrong,
                expected="a batch that answers like its samples",
                fix=_FIX,
            )
    return None


def _stacked(feeds: Sequence[Feeds]) -> Feeds:
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


def _difference(alone: Sequence[Array], batch: Array) -> str | None:
    """Return by how much a batch is off, in words, if it is more than float files may be off."""
    expected = np.concatenate(alone)
    if expected.shape != batch.shape:
        return f"a tensor of {list(batch.shape)} in place of {list(expected.shape)}"
    tolerance = Tolerance()
    off = (expected != batch) & ~(np.isnan(expected) & np.isnan(batch))  # what is not finite either way is no mixture
    error = float(np.abs(np.subtract(expected[off], batch[off], dtype=np.float64)).max(initial=0.0))
    largest = float(np.abs(expected[np.isfinite(expected)]).max(initial=0.0))
    if not error <= tolerance.absolute + tolerance.relative * largest:  # NaN is not within it, either
        return f"a difference of {error:.3g} where values go up to {largest:.3g}"
    return None
