"""Whether a batch answers like its samples one by one.

The torch reference and the recoveries run in batches, the files on devices take one sample at a time. A model that
mixes the samples of a batch (a mean over the first axis, a wrong transpose) would be held to answers that no device
can give.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edgefuse.bundle.manifest import Tolerance
from edgefuse.errors import EdgefuseError, ModelError
from edgefuse.stages.examples import example_feeds, run_torch
from edgefuse.stages.silence import first_words
from edgefuse.stages.stage import Array, Feeds, TorchStage

_BATCH = 3
_FIX = "keep the first axis of every tensor for the batch, and compute nothing across it"


def mixing(stages: Sequence[TorchStage]) -> Iterator[tuple[str, ModelError]]:
    """Yield the stages that cannot be run in batches, or mix the samples of one, each with the error that says so."""
    for stage in stages:
        try:
            error = _fault(stage)
        except EdgefuseError as refused:
            error = ModelError(f"the stage '{stage.spec.name}' cannot be run: {refused}")
        if error is not None:
            yield stage.spec.name, error


def _fault(stage: TorchStage) -> ModelError | None:
    feeds = list(example_feeds(stage, count=_BATCH, seed=1, fixed=True))
    alone = [run_torch(stage, feed) for feed in feeds]
    name = stage.spec.name
    try:
        together = run_torch(stage, _stacked(feeds))
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
