"""Find the ranges of a TFLite file's activations by running it over calibration feeds, one sample at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter

from edgefuse.bundle.manifest import Binding
from edgefuse.errors import QuantizeError
from edgefuse.export.stage import Array, Feeds, FeedSource
from edgefuse.export.tflite_silence import quiet
from edgefuse.runtime.backends.ports import InputPorts

Range = tuple[float, float]


def calibrate(
    data: bytes, bindings: tuple[Binding, ...], tensors: Mapping[int, str], calibration: FeedSource
) -> dict[int, Range]:
    """Return the smallest and largest value of tensors over all calibration feeds.

    One sample is held at a time, so memory does not grow with their number. Feeds that are shorter than the file's
    fixed shapes are padded with zeros, as the runtime does. Absent modalities are samples like any other.

    Args:
        data: the float file.
        bindings: its inputs.
        tensors: indices of the activations wanted, with their names for messages.
        calibration: starts a pass over feeds by port.

    Raises:
        QuantizeError: if there are no feeds, or a value is NaN or infinite.
        InputError: if a feed does not fit the stage.
    """
    runner = _Runner(data, bindings)
    indices = list(tensors)
    low, high = np.full(len(indices), np.inf), np.full(len(indices), -np.inf)
    samples = 0
    for feeds in calibration():
        runner.run(feeds)
        values = [runner.value(index) for index in indices]
        low = np.minimum(low, [value.min() for value in values])
        high = np.maximum(high, [value.max() for value in values])
        _check_finite(low, high, [tensors[index] for index in indices], samples)
        samples += 1
    if samples == 0:
        raise QuantizeError(
            "static quantization has nothing to calibrate on",
            got="no feeds",
            expected="at least one",
            fix="give the recipe's data a calibration split with samples in it",
        )
    return {index: (float(a), float(b)) for index, a, b in zip(indices, low, high, strict=True)}


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


def _check_finite(
    low: npt.NDArray[np.float64], high: npt.NDArray[np.float64], names: Iterable[str], sample: int
) -> None:
    finite = np.isfinite(low) & np.isfinite(high)
    if not finite.all():
        first = next(name for name, good in zip(names, finite, strict=True) if not good)
        raise QuantizeError(
            f"calibration met NaN or infinity in the tensor '{first}'",
            got=f"sample {sample}",
            expected="finite activations",
            fix="check the model in float32 on that sample",
        )
