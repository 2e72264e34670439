"""Find the ranges of activations by running a LiteRT file on calibration feeds, one sample at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from edgefuse.bundle.manifest import Binding
from edgefuse.errors import QuantizeError
from edgefuse.export.tracing import quiet
from edgefuse.quantize.calibration.ranges import RunningRange
from edgefuse.runtime.backends.backend import InputPorts
from edgefuse.stages.stage import Array, Feeds, FeedSource


def observe(
    data: bytes,
    bindings: tuple[Binding, ...],
    tensors: Mapping[int, str],
    calibration: FeedSource,
    *,
    counting: bool = True,
) -> tuple[RunningRange, ...]:
    """Run a float file over one pass of calibration feeds and gather statistics of some of its tensors.

    One sample is held at a time. Feeds that are shorter than the file's fixed shapes are padded with zeros, as the
    runtime does. Absent modalities are samples like any other.

    Args:
        data: the file.
        bindings: how the feeds' ports are called in it.
        tensors: index to name.
        calibration: starts a pass.
        counting: whether to gather histograms besides the extremes.

    Raises:
        QuantizeError: if there are no feeds, or a value is NaN or infinite.
        InputError: if a feed does not fit the stage.
    """
    runner = _Runner(data, bindings)
    statistics = {index: RunningRange(name, counting) for index, name in tensors.items()}
    samples = 0
    for feeds in calibration():
        runner.run(feeds)
        for index, seen in statistics.items():
            seen.update(runner.value(index))
        samples += 1
    if samples == 0:
        raise QuantizeError("calibration got no samples", expected="at least one", fix="give a calibration split")
    return tuple(statistics.values())


class _Runner:
    """The float file, opened so that every tensor can be read after a run."""

    def __init__(self, data: bytes, bindings: tuple[Binding, ...]) -> None:
        with quiet():
            self._interpreter: Any = Interpreter(
                model_content=data, num_threads=1, experimental_preserve_all_tensors=True
            )
            self._interpreter.allocate_tensors()
        (signature,) = self._interpreter.get_signature_list()
        details = self._interpreter.get_signature_runner(signature).get_input_details()
        self._indices = {name: int(detail["index"]) for name, detail in details.items()}
        self._ports = InputPorts(bindings)

    def run(self, feeds: Feeds) -> None:
        """Run once, after checking that the feeds are finite."""
        for port, value in feeds.items():
            if not np.isfinite(value).all():
                raise QuantizeError(
                    f"a calibration feed of the input '{port}' is not finite",
                    got="NaN or infinity",
                    fix="remove the sample or repair what computes the feature",
                )
        for tensor, value in self._ports.arrange(feeds).items():
            self._interpreter.set_tensor(self._indices[tensor], value)
        self._interpreter.invoke()

    def value(self, index: int) -> Array:
        """Return a copy of a tensor of the last run."""
        value: Array = self._interpreter.get_tensor(index)
        return value
