"""Mixed precision inside a stage: leave float the few layers that cost the most, found by measuring each alone.

A layer's sensitivity is the signal-to-noise ratio at the *stage's output* when that layer alone is quantized: errors
that the following layers swallow do not count, those that they magnify do. The files that are measured are the very
files of the target, run in its runtime on a handful of feeds.

Source: per-layer sensitivity analysis and partial quantization as in Wu et al., "Integer Quantization for Deep
Learning Inference", arXiv:2004.09602, section 6.2; by output noise as in Nagel et al., arXiv:2106.08295, section 3.5.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import msgspec

from edgefuse.bundle.manifest import Tolerance
from edgefuse.bundle.scheme import Scheme
from edgefuse.errors import QuantizeError
from edgefuse.export.target import Lowered
from edgefuse.measure.agreement import agreement
from edgefuse.quantize.quantizer import Quantizer
from edgefuse.runtime.backends.backend import Backend, Session, SessionOptions
from edgefuse.stages.stage import Array, Feeds, FeedSource

SAMPLES = 16
"""Feeds that every measurement runs on, at most."""


def mixed(
    quantizer: Quantizer,
    backend: Backend,
    lowered: Lowered,
    scheme: Scheme,
    feeds: FeedSource,
    gains_db: Sequence[float],
) -> tuple[Scheme, ...]:
    """Leave the fewest layers float that bring a stage so many dB closer to float, the most sensitive ones.

    Their number is found by bisection: a stage of n layers takes n + 1 files and log2(n) for each gain, each run on a
    few feeds. These calibrate as well, so what they show of a scheme is too good, and only differences mean something.

    Args:
        quantizer: of the file's target.
        backend: runs the file.
        lowered: the float file.
        scheme: for the layers that are quantized.
        feeds: the first `SAMPLES` of them both calibrate and judge.
        gains_db: in signal-to-noise ratio at the stage's output.

    Returns:
        The scheme with those layers excluded by name; one for each gain that a choice of layers reaches, without
        repetition.

    Raises:
        QuantizeError: if there are no feeds, or the scheme cannot be applied.
    """
    trial = _Trial(quantizer, backend, lowered, feeds)
    whole_db, order = trial.snr_db(scheme), _most_sensitive_first(trial, scheme)
    reached: dict[int, float] = {0: whole_db}
    numbers = [_fewest(trial, scheme, order, whole_db + gain_db, reached) for gain_db in gains_db]
    return tuple(_without(scheme, order[:number]) for number in dict.fromkeys(numbers) if number is not None)


def _fewest(
    trial: _Trial, scheme: Scheme, order: Sequence[str], goal_db: float, reached: dict[int, float]
) -> int | None:
    """Return how many of the first layers must be float to reach a goal; None if that takes all of them."""
    low, high = 0, len(order)
    while high - low > 1:
        number = (low + high) // 2
        if number not in reached:
            reached[number] = trial.snr_db(_without(scheme, order[:number]))
        low, high = (low, number) if reached[number] >= goal_db else (number, high)
    return None if high == len(order) else high


class _Trial:
    """A float file and what it answers, against which quantized ones are held."""

    def __init__(self, quantizer: Quantizer, backend: Backend, lowered: Lowered, feeds: FeedSource) -> None:
        self.quantizer = quantizer
        self.lowered = lowered
        self._backend = backend
        self._feeds: tuple[Feeds, ...] = tuple(islice(feeds(), SAMPLES))
        if not self._feeds:
            raise QuantizeError("sensitivity has no feeds to measure on", expected="at least one")
        self._answers: list[Mapping[str, Array]] = list(self._run(lowered))

    def snr_db(self, scheme: Scheme) -> float:
        """Return the signal-to-noise ratio of a scheme over all outputs."""
        quantized = self.quantizer.apply(self.lowered, scheme, lambda: iter(self._feeds))
        return agreement(zip(self._answers, self._run(quantized), strict=True), Tolerance()).snr_db

    def _run(self, file: Lowered) -> Iterable[Mapping[str, Array]]:
        session: Session = self._backend.open(file.data, file.inputs, file.outputs, SessionOptions(plan=file.plan))
        return (session.run(feed) for feed in self._feeds)


def _most_sensitive_first(trial: _Trial, scheme: Scheme) -> tuple[str, ...]:
    """Return the layers that a scheme quantizes, by what each costs alone; equal ones in the order of the graph."""
    layers = trial.quantizer.layers(trial.lowered, scheme)
    alone = {layer: trial.snr_db(_without(scheme, [other for other in layers if other != layer])) for layer in layers}
    return tuple(sorted(layers, key=lambda layer: alone[layer]))


def _without(scheme: Scheme, layers: Iterable[str]) -> Scheme:
    """Return the scheme with more layers excluded; names are taken literally."""
    names = {glob.escape(layer) for layer in layers}
    return msgspec.structs.replace(scheme, exclude=(*scheme.exclude, *sorted(names)))
