"""NNCF's post-training quantization of an ONNX graph, with the reports to its maker cut off (decision 089).

NNCF 3.4 quantizes ONNX graphs as well as OpenVINO's own: the same places and ranges, the same speed, the same bytes
each time. What computes no activations that vary (constants of the graph) it leaves alone.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from edgefuse.bundle.manifest import Binding
from edgefuse.errors import QuantizeError
from edgefuse.export.tracing import first_words, quiet
from edgefuse.quantize.onnx.calibration import observe
from edgefuse.runtime.backends.openvino.api import unreported
from edgefuse.stages.stage import FeedSource

with quiet(), unreported():
    import nncf
    from nncf.common.logging import nncf_logger

SAMPLES = 300
"""Feeds that NNCF takes, at most: its own default."""


def quantize(model: ir.Model, exclude: Sequence[str], inputs: tuple[Binding, ...], calibration: FeedSource) -> ir.Model:
    """Return a graph with QuantizeLinear and DequantizeLinear where NNCF wants them.

    Args:
        model: the float graph.
        exclude: names of nodes that stay float.
        inputs: how the feeds' ports are called in the graph.
        calibration: starts a pass; NNCF takes several over its first `SAMPLES`, one at a time.

    Raises:
        QuantizeError: if there are no feeds, one does not fit, numbers are not finite, or NNCF refuses the graph.
    """
    names = [value.name or "" for value in model.graph.outputs]
    observe(model, names, inputs, calibration, counting=False)  # refuses what NNCF would take without a word
    nncf_logger.setLevel(logging.ERROR)
    try:
        with quiet():
            made = nncf.quantize(
                ir.to_proto(model),
                nncf.Dataset(_Pass(calibration, inputs)),
                subset_size=SAMPLES,
                ignored_scope=nncf.IgnoredScope(names=list(exclude), validate=False),
            )
    except Exception as error:  # NNCF raises what it likes
        raise QuantizeError("NNCF cannot quantize this stage", got=first_words(error)) from error
    result: ir.Model = ir.from_proto(made)
    return result


class _Pass:
    """The feeds by the names in the graph; each iteration is a fresh pass, so that none is kept."""

    def __init__(self, calibration: FeedSource, inputs: tuple[Binding, ...]) -> None:
        self._calibration, self._inputs = calibration, inputs

    def __iter__(self) -> Any:
        return iter({binding.tensor: feeds[binding.port] for binding in self._inputs} for feeds in self._calibration())
