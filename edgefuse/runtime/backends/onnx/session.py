"""How an ONNX file is opened and run, whoever asks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

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

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; see `Session.run`."""
        arranged = self._inputs.arrange(feeds)
        try:
            with self._flushed:
                results = self._run(self._tensors, arranged, self._options)
        except Exception as error:
            raise BackendError("ONNX Runtime cannot run a stage", got=cited(error)) from error
        return self._outputs.named(results)


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
