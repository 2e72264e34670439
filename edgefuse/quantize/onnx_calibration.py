"""Find the ranges of activations by running an ONNX file on calibration feeds, one sample at a time."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_ir as ir
import onnxruntime

from edgefuse.bundle.manifest import Binding
from edgefuse.errors import QuantizeError
from edgefuse.export.stage import FeedSource
from edgefuse.quantize.ranges import RunningRange


def observe(
    model: ir.Model, tensors: Sequence[str], inputs: tuple[Binding, ...], calibration: FeedSource
) -> dict[str, RunningRange]:
    """Run the model over one pass of calibration feeds and gather statistics of some of its tensors.

    Args:
        model: the float graph.
        tensors: names of float tensors in it.
        inputs: how the feeds' ports are called in the graph.
        calibration: starts a pass; one sample is held at a time, and nothing of it is kept but the statistics.

    Raises:
        QuantizeError: if there are no feeds, one does not fit, or a value is not finite.
    """
    statistics = {name: RunningRange(name) for name in tensors}
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
        except (RuntimeError, ValueError, onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument) as error:
            raise QuantizeError(
                "a calibration sample does not fit the stage", got=str(error).strip().split("\n")[0]
            ) from error
        for name, value in zip(tensors, values, strict=True):
            statistics[name].update(value)
        samples += 1
    if samples == 0:
        raise QuantizeError("calibration got no samples", expected="at least one", fix="give a calibration split")
    return statistics


def _session(model: ir.Model, tensors: Sequence[str]) -> onnxruntime.InferenceSession:
    """Open the graph with the wanted tensors as its outputs."""
    proto = ir.to_proto(model)
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in tensors)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
