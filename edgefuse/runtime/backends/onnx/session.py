"""How an ONNX file is opened and run, whoever asks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain, cycle

import numpy as np

from edgefuse.bundle.manifest import Binding
from edgefuse.errors import BackendError, cited
from edgefuse.runtime.backends.backend import (
    Array,
    InputPorts,
    OutputPorts,
    SessionOptions,
    check_tensors,
)
from edgefuse.runtime.backends.denormals import Flushed
from edgefuse.runtime.backends.onnx.api import onnxruntime
from edgefuse.runtime.forks import outlive

# Severity of what ONNX Runtime writes to stderr by itself: nothing. Errors are raised as well, and names out of a file
# would reach the terminal as they are.
_ONLY_FATAL = 4


def opened(
    make: Callable[[], onnxruntime.InferenceSession], inputs: tuple[Binding, ...], outputs: tuple[Binding, ...]
) -> OnnxSession:
    """Return what `make` opens, with its tensors held against the bindings.

    Args:
        make: opens the file.
        inputs: bindings of its ports.
        outputs: bindings of its ports.

    Raises:
        BackendError: if the runtime refuses the file, or the file lacks a tensor that a binding names.
    """
    try:
        with Flushed():
            session = make()
    except Exception as error:  # ONNX Runtime's own errors have no other base, and bindings raise what they like
        raise BackendError(
            "ONNX Runtime cannot open a stage file",
            got=cited(error),
            fix="check that the bundle was made for this version of onnxruntime",
        ) from error
    # The session would keep the file's bytes for resetting itself, which is never asked of it: a second copy of
    # all weights in memory for as long as it lives.
    session._model_bytes = None
    check_tensors("input", [port.name for port in session.get_inputs()], inputs)
    check_tensors("output", [port.name for port in session.get_outputs()], outputs)
    return OnnxSession(session, inputs, outputs)


class OnnxSession:
    """An opened ONNX file."""

    def __init__(
        self, session: onnxruntime.InferenceSession, inputs: tuple[Binding, ...], outputs: tuple[Binding, ...]
    ) -> None:
        self._session = session  # which must outlive what is in it: see `forks`
        # The public `run` asks C++ for the name and type of every input, at each call, and makes options anew. That
        # takes a microsecond and a half; what it checks, `InputPorts` has checked.
        self._run = getattr(session, "_sess", session).run
        self._options = onnxruntime.RunOptions()
        self._flushed = Flushed()
        self._inputs = InputPorts(inputs)
        self._tensors = [binding.tensor for binding in outputs]
        self._outputs = OutputPorts(outputs)
        self._bindings = inputs, outputs

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; see `Session.run`."""
        arranged = self._inputs.arrange(feeds)
        try:
            with self._flushed:
                results = self._run(self._tensors, arranged, self._options)
        except Exception as error:
            raise BackendError("ONNX Runtime cannot run a stage", got=cited(error)) from error
        return self._outputs.named(results)

    def bind(self, states: Sequence[tuple[str, str]], changed: Sequence[str]) -> BoundBuffers | None:
        """Return buffers for runs that follow each other; see `Stepping.bind`."""
        inputs, outputs = self._bindings
        if any(-1 in binding.shape for binding in (*inputs, *outputs)):
            return None
        return BoundBuffers(self._session, inputs, outputs, states)


class BoundBuffers:
    """Buffers of an ONNX session, bound once: each state has two, of which a run reads one and writes the other.

    ONNX Runtime checks types and sizes as it writes.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        inputs: tuple[Binding, ...],
        outputs: tuple[Binding, ...],
        states: Sequence[tuple[str, str]],
    ) -> None:
        self._ports = InputPorts(inputs)
        self._feeds: dict[str, Array] = {one.port: np.zeros(one.shape, one.dtype) for one in inputs}
        made: list[dict[str, Array]] = [{o.port: np.zeros(o.shape, o.dtype) for o in outputs} for _ in range(2)]
        self._buffers = [(tensor, self._feeds[port]) for port, tensor in self._ports.tensors.items()]
        taken = [self._feeds, *({**self._feeds, **{i: results[o] for i, o in states}} for results in made)]
        run, shared = getattr(session, "_sess", session).run_with_iobinding, onnxruntime.OrtValue.ortvalue_from_numpy
        options = onnxruntime.RunOptions()

        def turn(before: int, after: int) -> tuple[Callable[[], None], Mapping[str, Array]]:
            binding = session.io_binding()
            for one in inputs:
                binding.bind_ortvalue_input(one.tensor, shared(taken[before][one.port]))
            for one in outputs:
                binding.bind_ortvalue_output(one.tensor, shared(made[after][one.port]))
            self._bindings.append(binding)
            return partial(run, getattr(binding, "_iobinding", binding), options), made[after]

        self._bindings: list[object] = []  # which own what is bound
        self._first, *self._others = turn(0, 0), turn(1, 1), turn(2, 0)
        self._turns = iter([self._first])
        self._flushed = Flushed()

    def begin(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Copy feeds into the buffers; see `Bound.begin`."""
        arranged = self._ports.arrange(feeds)
        for tensor, buffer in self._buffers:
            np.copyto(buffer, arranged[tensor])
        self._turns = chain([self._first], cycle(self._others))
        return self._feeds

    def run(self) -> Mapping[str, Array]:
        """Run once; see `Bound.run`."""
        run, results = next(self._turns)
        try:
            with self._flushed:
                run()
        except Exception as error:
            raise BackendError("ONNX Runtime cannot run a stage", got=cited(error)) from error
        return results


def create(
    data: bytes, providers: Sequence[object], options: onnxruntime.SessionOptions
) -> onnxruntime.InferenceSession:
    """Open a session with these providers and no others (but for the CPU's, which ONNX Runtime always adds).

    Args:
        data: the file's bytes.
        providers: of ONNX Runtime, in order.
        options: of its session.
    """
    session = onnxruntime.InferenceSession(data, options, providers=providers, enable_fallback=0)
    outlive(session)
    return session


def session_options(options: SessionOptions) -> onnxruntime.SessionOptions:
    """Return the options in ONNX Runtime's words."""
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = options.threads
    # The operators of a stage run one after another, so that `threads` is all that a pipeline ever uses at once.
    session_options.inter_op_num_threads = 1
    session_options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    session_options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session_options.log_severity_level = _ONLY_FATAL
    spinning = "1" if options.spinning else "0"
    session_options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    session_options.add_session_config_entry("session.inter_op.allow_spinning", spinning)
    return session_options
