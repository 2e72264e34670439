"""Gather statistics of activations by running an ONNX file on calibration feeds, one sample at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from edgefuse.bundle.manifest import Binding
from edgefuse.errors import QuantizeError, cited
from edgefuse.quantize.calibration.calibrators import CALIBRATORS
from edgefuse.quantize.calibration.ranges import Range, RunningRange, not_finite
from edgefuse.runtime.backends.onnx.api import onnxruntime, state
from edgefuse.stages.stage import Array, FeedSource


def observe(
    model: ir.Model,
    tensors: Sequence[str],
    inputs: tuple[Binding, ...],
    calibration: FeedSource,
    *,
    counting: bool = True,
) -> dict[str, RunningRange]:
    """Run the model over one pass of calibration feeds and gather statistics of some of its tensors.

    Args:
        model: the float graph.
        tensors: names of float tensors in it.
        inputs: how the feeds' ports are called in the graph.
        calibration: starts a pass; one sample is held at a time, and nothing of it is kept but the statistics.
        counting: whether to gather histograms besides the extremes.

    Raises:
        QuantizeError: if there are no feeds, one does not fit, or a value is not finite.
    """
    statistics = {name: RunningRange(name, counting) for name in tensors}
    for values in _runs(model, tensors, inputs, calibration):
        for name, value in zip(tensors, values, strict=True):
            statistics[name].update(value)
    return statistics


def chosen_ranges(
    model: ir.Model, values: Iterable[ir.Value], inputs: tuple[Binding, ...], calibration: FeedSource, calibrator: str
) -> dict[str, Range]:
    """Return the ranges of float values, by name, that a calibrator chooses over one pass of calibration feeds.

    Args:
        model: the float graph.
        values: of it.
        inputs: how the feeds' ports are called in the graph.
        calibration: starts a pass; see `observe`.
        calibrator: its name.

    Raises:
        QuantizeError: if there are no feeds, one does not fit, or a value is not finite.
    """
    names = [value.name or "" for value in values]
    statistics = observe(model, names, inputs, calibration, counting=calibrator != "minmax")
    return {name: CALIBRATORS[calibrator](seen) for name, seen in statistics.items()}


def channel_means(
    model: ir.Model, channels: Mapping[str, int], inputs: tuple[Binding, ...], calibration: FeedSource
) -> dict[str, npt.NDArray[np.float64]]:
    """Return the mean of tensors in each channel over one pass of calibration feeds: [channels].

    Args:
        model: the graph.
        channels: tensor names, each with the axis of its channels.
        inputs: how the feeds' ports are called in the graph.
        calibration: starts a pass.

    Raises:
        QuantizeError: if there are no feeds, one does not fit, or a value is not finite.
    """
    sums: dict[str, npt.NDArray[np.float64]] = {}
    counts = dict.fromkeys(channels, 0)
    for values in _runs(model, tuple(channels), inputs, calibration):
        for (name, axis), value in zip(channels.items(), values, strict=True):
            rows = np.moveaxis(np.asarray(value, np.float64), axis, -1).reshape(-1, value.shape[axis])
            total = rows.sum(axis=0)
            if not np.isfinite(total).all():
                raise not_finite(name, "NaN or infinity")
            sums[name] = sums.get(name, 0.0) + total
            counts[name] += len(rows)
    return {name: total / max(counts[name], 1) for name, total in sums.items()}


def _runs(
    model: ir.Model, tensors: Sequence[str], inputs: tuple[Binding, ...], calibration: FeedSource
) -> Iterator[list[Array]]:
    """Yield the wanted tensors of every sample."""
    session = _session(model, tensors)
    samples = 0
    for feeds in calibration():
        missing = [binding.port for binding in inputs if binding.port not in feeds]
        if missing:
            raise QuantizeError(
                "a calibration sample lacks an input", got=", ".join(sorted(feeds)) or "nothing", expected=missing[0]
            )
        try:
            values = session.run(list(tensors), {binding.tensor: feeds[binding.port] for binding in inputs})
        except (RuntimeError, ValueError, state.InvalidArgument) as error:
            raise QuantizeError("a calibration sample does not fit the stage", got=cited(error)) from error
        yield values
        samples += 1
    if samples == 0:
        raise QuantizeError("calibration got no samples", expected="at least one", fix="give a calibration split")


def _session(model: ir.Model, tensors: Sequence[str]) -> onnxruntime.InferenceSession:
    """Open the graph with the wanted tensors as its outputs."""
    proto = ir.to_proto(model)
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in tensors)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
