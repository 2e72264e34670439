"""The golden table: the same generated inputs through torch fp32 and through every file of every target.

They cover the sizes and the absences that a model admits, and look like its calibration samples (`stages/values.py`).
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from edgefuse.bundle.manifest import GoldenCase, GoldenTensor, Tolerance
from edgefuse.bundle.spec import ModelSpec, Record, TensorSpec
from edgefuse.compiler.candidates.built import Built
from edgefuse.errors import ModelError
from edgefuse.measure.agreement import agreement, at_true_size
from edgefuse.runtime.backends.backend import Backend
from edgefuse.stages.agreement import finite_answer
from edgefuse.stages.examples import chained_feeds
from edgefuse.stages.padding import may_be_padded
from edgefuse.stages.stage import Array, Feeds, TorchStage

logger = logging.getLogger(__name__)

_CASES = 3
_SIZES = 5
# Beyond so many cases more absences tell little, and bundles grow.
_MOST_CASES = 8
# A quantized file below this on generated inputs is not coarse but broken: a wrong scale, a NaN, a lost operator.
_BROKEN_SNR_DB = 3.0
# Another CPU's int8 kernels round differently; a device may lose this much against the build host.
_DEVICE_MARGIN_DB = 6.0
_MOST_ASKED_DB = 80.0


class GoldenRow(Record, frozen=True, kw_only=True):
    """A file against torch on the golden inputs; `tolerance` holds the fields of the manifest's."""

    target: str
    stage: str
    candidate: str
    max_abs_error: float | None = None
    snr_db: float | None = None
    tolerance: dict[str, float | None]
    ok: bool


@dataclass(frozen=True)
class GoldenInputs:
    """Per stage the feeds, and per form of it (stage, `Pruning.id`) what torch made of them.

    Attributes:
        refused: why torch makes nothing of them by a pruned form.
    """

    feeds: Mapping[str, Sequence[Feeds]]
    outputs: Mapping[tuple[str, str], Sequence[Mapping[str, Array]]]
    refused: Mapping[tuple[str, str], str] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """Identifies inputs and outputs."""
        state = hashlib.sha256()
        for name, runs in (*self.feeds.items(), *self.outputs.items()):
            for run in runs:
                for port, array in run.items():
                    state.update(f"{name} {port} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return state.hexdigest()

    def joined(self, other: GoldenInputs) -> GoldenInputs:
        """Return these inputs with those of other stages."""
        return replace(self, feeds={**self.feeds, **other.feeds}, outputs={**self.outputs, **other.outputs})


def form(stage: TorchStage) -> tuple[str, str]:
    """Return the stage's name and how it was pruned."""
    return stage.spec.name, stage.pruning.id if stage.pruning else ""


def generate(
    stages: Sequence[TorchStage],
    variants: Sequence[TorchStage] = (),
    subsets: Sequence[Sequence[str]] = (),
    modalities: Sequence[str] = (),
) -> GoldenInputs:
    """Generate inputs (nobody's voice, nobody's picture) and run them through all stages in torch fp32.

    Args:
        stages: the unpruned stages: they make the features that later ones are fed with.
        variants: pruned forms of them, which are run on the same feeds; one that fails there is refused.
        subsets: of the modalities that the model admits, the largest first; by default all, and all but one.
        modalities: the names of all, in order.

    Raises:
        ModelError: if an unpruned stage fails or answers NaN at a size or absence that the model admits.
    """
    masks = [tuple(float(name in subset) for name in modalities) for subset in subsets[: 1 + len(modalities)]]
    fewest = _SIZES if any(may_be_padded(stage.spec) for stage in stages) else _CASES
    count = min(max(fewest, len(masks)), _MOST_CASES)
    chains = list(chained_feeds(stages, count=count, masks=masks, modalities=modalities))
    feeds = {stage.spec.name: [chain[stage.spec.name] for chain in chains] for stage in stages}
    outputs = {form(s): [finite_answer(s, feed) for feed in feeds[s.spec.name]] for s in stages}
    refused: dict[tuple[str, str], str] = {}
    for variant in variants:
        try:
            outputs[form(variant)] = [finite_answer(variant, feed) for feed in feeds[variant.spec.name]]
        except ModelError as error:
            logger.warning("%s is not pruned by %s: %s", *form(variant), error)
            refused[form(variant)] = str(error)
    return GoldenInputs(feeds, outputs, refused)


def golden_inputs(stages: Sequence[TorchStage], spec: ModelSpec, variants: Sequence[TorchStage] = ()) -> GoldenInputs:
    """Generate the golden inputs of a model at the subsets that it admits.

    Args:
        stages: unpruned.
        spec: of the model.
        variants: pruned forms of the stages.
    """
    return generate(stages, variants, spec.subsets(), [modality.name for modality in spec.modalities])


class Checked(Record, frozen=True, kw_only=True):
    """How one file did, and the tolerance that devices hold it to."""

    row: GoldenRow
    tolerance: Tolerance


def check(built: Built, backend: Backend, golden: GoldenInputs) -> Checked:
    """Run one file on the golden inputs.

    Args:
        built: the file.
        backend: that opens it.
        golden: inputs, and torch's outputs.
    """
    session = built.open(backend, 1)
    pairs = zip(golden.outputs[built.form], golden.feeds[built.stage], strict=True)
    found = agreement(
        ((expected, at_true_size(session.run(feeds), expected)) for expected, feeds in pairs), Tolerance()
    )
    tolerance, held = Tolerance(), found.ok
    loud = found.lowest_db >= _BROKEN_SNR_DB
    if built.scheme.name != "float" and (loud or not held):  # what is nearly nothing has no ratio to noise
        kept_db = min(found.snr_db, _MOST_ASKED_DB) - _DEVICE_MARGIN_DB
        tolerance = Tolerance(min_snr_db=round(kept_db, 1) if loud else _BROKEN_SNR_DB)
        held = loud
    row = GoldenRow(
        target=built.target,
        stage=built.stage,
        candidate=built.id,
        max_abs_error=found.max_abs_error,
        snr_db=found.snr_db if math.isfinite(found.snr_db) else None,
        tolerance={"absolute": tolerance.absolute, "relative": tolerance.relative, "min_snr_db": tolerance.min_snr_db},
        ok=held,
    )
    return Checked(row=row, tolerance=tolerance)


def cases(stages: Sequence[TorchStage], golden: GoldenInputs) -> tuple[tuple[GoldenCase, ...], dict[str, bytes]]:
    """Return the golden cases of stages, pruned or not, and the files of their tensors (equal ones share a file)."""
    files: dict[str, bytes] = {}
    found: list[GoldenCase] = []
    names: dict[bytes, str] = {}

    def keep(port: TensorSpec, array: Array) -> GoldenTensor:
        data = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()
        file = names.setdefault(data, f"golden/{len(names):03d}.bin")
        files[file] = data
        return GoldenTensor(port=port.name, dtype=port.dtype, shape=array.shape, file=file)

    for stage in stages:
        name = stage.spec.name
        for feeds, outputs in zip(golden.feeds[name], golden.outputs[form(stage)], strict=True):
            inputs = tuple(keep(port.tensor, feeds[port.tensor.name]) for port in stage.spec.inputs)
            results = tuple(keep(port.tensor, outputs[port.tensor.name]) for port in stage.spec.outputs)
            found.append(GoldenCase(stage=name, pruning=form(stage)[1], inputs=inputs, outputs=results))
    return tuple(found), files
