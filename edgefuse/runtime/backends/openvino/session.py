"""How a file is opened and run by OpenVINO, whoever asks for it."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from edgefuse.bundle.manifest import Binding
from edgefuse.errors import BackendError, cited
from edgefuse.runtime.backends.backend import Array, InputPorts, OutputPorts, SessionOptions, check_tensors
from edgefuse.runtime.backends.denormals import Flushed
from edgefuse.runtime.backends.openvino.api import FrontEndManager, openvino, operators
from edgefuse.runtime.backends.openvino.indices import hold
from edgefuse.runtime.forks import outlive

# Where in its source OpenVINO failed, in its messages.
_WHERE = re.compile(r"^(Exception from|Check '.*' failed at) \S+:\d+:| Check '.*' failed at \S+:\d+(?=:)", re.MULTILINE)


def read(data: bytes) -> Any:
    """Return an ONNX file as OpenVINO's model.

    The frontend is named: `Core.read_model` tries each on the bytes, and takes XML that no check of a bundle has seen.

    Raises:
        BackendError: if OpenVINO refuses the file.
    """
    try:
        frontend = _frontend()
        source = frontend.load(io.BytesIO(data))
        model = frontend.convert(source)
        _take_all(source, model)
        hold(model)
    except Exception as error:  # OpenVINO's errors have no base of their own
        raise cannot_open(said(error)) from error
    if not model.outputs:
        raise cannot_open("a file without outputs")
    return model


def _take_all(source: Any, model: Any) -> None:
    """Give a model the inputs of its file that nothing reads, which OpenVINO leaves out."""
    taken = {name for port in model.inputs for name in port.get_names()}
    for place in source.get_inputs():
        names = set(place.get_names())
        if not names & taken:
            unread = operators.parameter(source.get_partial_shape(place), source.get_element_type(place))
            unread.output(0).get_tensor().set_names(names)
            model.add_parameters([unread])


def opened(
    model: Any, inputs: tuple[Binding, ...], outputs: tuple[Binding, ...], options: SessionOptions
) -> OpenvinoSession:
    """Return a session of a model.

    Args:
        model: what `read` returned.
        inputs: bindings of its ports.
        outputs: bindings of its ports.
        options: threads, spinning.

    Raises:
        BackendError: if the file lacks a tensor that a binding names, or OpenVINO cannot compile it.
    """
    indices = [
        _indices(kind, ports, bindings)
        for kind, ports, bindings in (("input", model.inputs, inputs), ("output", model.outputs, outputs))
    ]
    try:
        with Flushed():
            compiled = core().compile_model(model, "CPU", settings(options))
        outlive(compiled)
        return OpenvinoSession(compiled, inputs, outputs, indices=(indices[0], indices[1]))  # makes a request
    except Exception as error:
        raise cannot_open(said(error)) from error


class OpenvinoSession:
    """An opened ONNX file.

    Feeds are copied to the request's own tensors: to give it others costs OpenVINO more than a small stage computes
    (measured: 55 microseconds with four inputs). Outputs are copied, since the next ones are written to the same place.
    Its option for denormal numbers leaves the calling thread flushing them, so the thread's mode is put back.
    """

    def __init__(
        self,
        compiled: Any,
        inputs: tuple[Binding, ...],
        outputs: tuple[Binding, ...],
        *,
        indices: tuple[dict[str, int], dict[str, int]],
    ) -> None:
        self.compiled = compiled
        self._request = compiled.create_infer_request()
        self._flushed = Flushed()
        self._inputs = InputPorts(inputs)
        self._outputs = OutputPorts(outputs)
        self._input_indices, output_indices = indices
        self._places: dict[str, Array] = {}
        self._output_indices = [output_indices[binding.tensor] for binding in outputs]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; see `Session.run`."""
        arranged = self._inputs.arrange(feeds)
        request = self._request
        try:
            with self._flushed:
                for tensor, value in arranged.items():
                    place = self._places.get(tensor)
                    if place is None or place.shape != value.shape:
                        place = self._place(tensor, value.shape)
                    place[...] = value
                request.infer(share_outputs=True)
                results = [request.get_output_tensor(index).data.copy() for index in self._output_indices]
        except Exception as error:
            raise BackendError("OpenVINO cannot run a stage", got=said(error)) from error
        return self._outputs.named(results)

    def _place(self, tensor: str, shape: tuple[int, ...]) -> Array:
        """Return where an input of a shape is written to."""
        target = self._request.get_input_tensor(self._input_indices[tensor])
        if tuple(target.shape) != shape:
            target.shape = shape
        place: Array = target.data
        self._places[tensor] = place
        return place


def settings(options: SessionOptions) -> dict[str, object]:
    """Return the options in OpenVINO's words.

    One thread is the caller's own: no stream, no pool. With a stream of one thread OpenVINO (2026.4) loses the errors
    of a run and leaves the last answer where the next one should be.

    Its compiler of kernels (Snippets) is off: it takes heads for steps in attention with as many of both, and crashes
    on attention in int8 of one head. That costs 0 to 5 % of a float stage and up to 17 % of a small one in int8.
    """
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": options.threads,
        "NUM_STREAMS": 0 if options.threads == 1 else 1,
        "ENABLE_CPU_PINNING": False,  # a pinned thread waits where the machine has other work
        "INFERENCE_PRECISION_HINT": "f32",  # with AMX, float32 would be computed in bfloat16
        "EXECUTION_MODE_HINT": "ACCURACY",
        "CPU_DENORMALS_OPTIMIZATION": True,
        "SNIPPETS_MODE": "DISABLE",
    }


@cache
def core() -> Any:
    """Return OpenVINO's core, one for all sessions; nothing is cached on disk unless a folder is named, and none is."""
    return openvino.Core()


@cache
def _frontend() -> Any:
    return FrontEndManager().load_by_framework("onnx")


def said(error: Exception) -> str:
    """Return what an error says, without where in OpenVINO's source."""
    return cited(error, clean=lambda text: _WHERE.sub("", text))


def cannot_open(got: str) -> BackendError:
    """Return the error of a file that cannot be opened."""
    return BackendError(
        "OpenVINO cannot open a stage file", got=got, fix="check that the bundle was made for this version of openvino"
    )


def _indices(kind: Any, ports: Any, bindings: tuple[Binding, ...]) -> dict[str, int]:
    """Return the index of each tensor that a binding names, after checking that there are these and no others.

    Args:
        kind: `input` or `output`.
        ports: of OpenVINO's model; one may have several names.
        bindings: of the manifest.
    """
    wanted = {binding.tensor for binding in bindings}
    found: dict[str, int] = {}
    for index, port in enumerate(ports):
        names = sorted(port.get_names())
        for name in [name for name in names if name in wanted] or names[:1]:
            found[name] = index
    check_tensors(kind, found, bindings)
    return found
