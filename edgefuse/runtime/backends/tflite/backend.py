"""The backend for TFLite files: LiteRT (ai-edge-litert), or tflite-runtime where only that is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgefuse.bundle.manifest import Binding
from edgefuse.errors import BackendError, cited
from edgefuse.runtime.backends.backend import (
    Array,
    InputPorts,
    Operator,
    OutputPorts,
    SessionOptions,
    check_tensors,
)
from edgefuse.runtime.forks import outlive

try:
    from ai_edge_litert.interpreter import Interpreter
except ModuleNotFoundError as litert_missing:
    try:
        from tflite_runtime.interpreter import Interpreter
    except ModuleNotFoundError:
        raise litert_missing from None

_PREDECESSOR = Interpreter.__module__.startswith("tflite_runtime")


class TfliteBackend:
    """Opens TFLite files with LiteRT; XNNPACK runs what it can."""

    name = "tflite"
    title = "LiteRT"
    suffix = ".tflite"

    def open(
        self, data: bytes, inputs: tuple[Binding, ...], outputs: tuple[Binding, ...], options: SessionOptions
    ) -> TfliteSession:
        """Open a file from its bytes. LiteRT reads weights from these bytes, so they live as long as the session.

        Raises:
            BackendError: if the runtime refuses the file, its signature lacks a tensor that a binding names, or a
                binding leaves a size open.
        """
        _check_fixed((*inputs, *outputs))
        try:
            interpreter = Interpreter(model_content=data, num_threads=options.threads)
            outlive(interpreter)
            interpreter.allocate_tensors()
            found_inputs, found_outputs = _signature(interpreter)
            wrong = _PREDECESSOR and _has_products_by_channel(interpreter)
        except Exception as error:  # LiteRT's bindings raise whatever they like
            raise BackendError(
                "LiteRT cannot open a stage file",
                got=cited(error),
                fix="check that the bundle was made for this version of ai-edge-litert",
            ) from error
        if wrong:
            raise BackendError(
                "tflite-runtime computes this stage file wrong",
                got="a dynamically quantized layer with a scale per channel",
                fix="pip install ai-edge-litert, or compile with schemes that end in '.tensor'",
            )
        check_tensors("input", found_inputs, inputs)
        check_tensors("output", found_outputs, outputs)
        return TfliteSession(interpreter, inputs, outputs, input_indices=found_inputs, output_indices=found_outputs)

    def versions(self) -> dict[str, str]:
        """Return the version of the runtime that is installed."""
        from importlib.metadata import PackageNotFoundError, version  # megabytes that a prediction does not need

        for distribution in ("ai-edge-litert", "tflite-runtime"):
            try:
                return {distribution: version(distribution)}
            except PackageNotFoundError:
                continue
        return {}

    def operators(
        self,
        data: bytes,
        inputs: tuple[Binding, ...],
        outputs: tuple[Binding, ...],
        feeds: Mapping[str, Array],
        options: SessionOptions,
    ) -> tuple[Operator, ...]:
        """Return the operators of the main graph, and what XNNPACK took of them; see `Placing`."""
        from edgefuse.runtime.backends.tflite.placement import operators  # which a prediction does not need

        session = self.open(data, inputs, outputs, options)
        session.run(feeds)
        return operators(session.interpreter)


class TfliteSession:
    """An opened TFLite file.

    Tensors are set and read by index: a signature runner resizes and allocates all tensors anew on every call.
    """

    def __init__(
        self,
        interpreter: Any,
        inputs: tuple[Binding, ...],
        outputs: tuple[Binding, ...],
        *,
        input_indices: dict[str, int],
        output_indices: dict[str, int],
    ) -> None:
        self.interpreter = interpreter
        self._inputs = InputPorts(inputs)
        self._input_indices = input_indices
        self.outputs = OutputPorts(outputs)
        self._output_indices = [output_indices[binding.tensor] for binding in outputs]
        self._ports = {one.port: input_indices[one.tensor] for one in inputs}
        self.holder: object = None
        self._said = ""

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; see `Session.run`."""
        arranged = self._inputs.arrange(feeds)
        interpreter, self.holder = self.interpreter, None
        try:
            for tensor, index in self._input_indices.items():
                interpreter.set_tensor(index, arranged[tensor])
            interpreter.invoke()
            results = [interpreter.get_tensor(index) for index in self._output_indices]
        except Exception as error:
            raise self.failed(error) from error
        return self.outputs.named(results)

    def bind(self, states: Sequence[tuple[str, str]], changed: Sequence[str]) -> BoundTensors:
        """Return buffers for runs that follow each other; see `Stepping.bind`."""
        outputs = dict(zip(self.outputs.ports, self._output_indices, strict=True))
        return BoundTensors(self, self._inputs, self._ports, outputs, states, changed)

    def failed(self, error: Exception) -> BackendError:
        """Return what is to be said of a run that failed."""
        return BackendError("LiteRT cannot run a stage", got=cited(error, clean=self._news))

    def _news(self, said: str) -> str:
        """Return what was said of this run, which stands after all that was said of earlier ones."""
        news, self._said = said.removeprefix(self._said), said
        return news.strip() or said


class BoundTensors:
    """Feeds of a session for runs that follow each other: what does not change is set once, unless others ran between.

    A file's sizes are fixed, and its first results of a generation are held against the bindings.
    """

    def __init__(
        self,
        session: TfliteSession,
        ports: InputPorts,
        inputs: Mapping[str, int],
        outputs: Mapping[str, int],
        states: Sequence[tuple[str, str]],
        changed: Sequence[str],
    ) -> None:
        self._session, self._ports = session, ports
        self._inputs, self._outputs, self._states = inputs, list(outputs.items()), states
        self._moving = [(port, inputs[port]) for port in (*changed, *(taken for taken, _ in states))]
        self._feeds: dict[str, Array] = {}

    def begin(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Take feeds; see `Bound.begin`."""
        arranged = self._ports.arrange(feeds)
        self._feeds = {port: arranged[tensor] for port, tensor in self._ports.tensors.items()}
        self._session.holder = None
        return self._feeds

    def run(self) -> Mapping[str, Array]:
        """Run once; see `Bound.run`."""
        session, feeds = self._session, self._feeds
        interpreter = session.interpreter
        moved = self._moving if session.holder is self else self._inputs.items()
        try:
            for port, index in moved:
                interpreter.set_tensor(index, feeds[port])
            interpreter.invoke()
            results = {port: interpreter.get_tensor(index) for port, index in self._outputs}
        except Exception as error:
            raise session.failed(error) from error
        if session.holder is not self:
            session.outputs.named(list(results.values()))
            session.holder = self
        for taken, given in self._states:
            feeds[taken] = results[given]
        return results


def _check_fixed(bindings: tuple[Binding, ...]) -> None:
    """Refuse open sizes: a graph that is resized is no longer the one whose shapes were checked."""
    for binding in bindings:
        if -1 in binding.shape:
            raise BackendError(
                f"the tensor '{binding.tensor}' of a TFLite file has an open size",
                got=list(binding.shape),
                expected="fixed sizes, up to which the runtime pads",
                fix="compile the bundle again",
            )


def _has_products_by_channel(interpreter: Any) -> bool:
    """Tell whether floats meet weights that tflite-runtime (2.14, the last) takes the first channel's scale for."""
    tensors = {details["index"]: details for details in interpreter.get_tensor_details()}
    products = (o["inputs"] for o in interpreter._get_ops_details() if o["op_name"] == "FULLY_CONNECTED")
    return any(
        tensors[data]["dtype"] is np.float32 and len(tensors[weights]["quantization_parameters"]["scales"]) > 1
        for data, weights, *_ in products
    )


def _signature(interpreter: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Return tensor indices by name: of the first signature or, in a file without one, of the main graph."""
    keys = list(interpreter.get_signature_list())
    if not keys:
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        return {d["name"]: int(d["index"]) for d in inputs}, {d["name"]: int(d["index"]) for d in outputs}
    runner = interpreter.get_signature_runner(keys[0])
    return (
        {name: int(details["index"]) for name, details in runner.get_input_details().items()},
        {name: int(details["index"]) for name, details in runner.get_output_details().items()},
    )
