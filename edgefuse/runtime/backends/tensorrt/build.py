"""From a graph to an engine whose types are those of the graph, with TensorRT's own parser and builder."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edgefuse.bundle.manifest import Binding, BuildPlan
from edgefuse.errors import BackendError
from edgefuse.runtime.backends.tensorrt.edition import trt
from edgefuse.runtime.backends.tensorrt.session import input_ranges

log = logging.getLogger(__name__)

_LEVELS = {
    trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
    trt.ILogger.Severity.ERROR: logging.ERROR,
    trt.ILogger.Severity.WARNING: logging.INFO,  # it warns of much that nobody can change
    trt.ILogger.Severity.INFO: logging.DEBUG,
}


class Log(trt.ILogger):
    """Hands on what TensorRT says, and keeps the last error for our own, and the warnings.

    Attributes:
        error: the last one.
        warnings: each once, in the order in which they came.
    """

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.error: str | None = None
        self.warnings: dict[str, None] = {}

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        """Take a message; TensorRT calls this."""
        level = _LEVELS.get(severity)
        if level == logging.ERROR:
            self.error = msg.strip()
        if severity == trt.ILogger.Severity.WARNING:
            self.warnings[msg.strip()] = None
        if level:
            log.log(level, "TensorRT: %s", msg)


LOG = Log()  # TensorRT keeps the first logger of a process for good


def build(
    data: bytes,
    inputs: tuple[Binding, ...],
    plan: BuildPlan,
    configure: Callable[[trt.IBuilderConfig], None] = lambda config: None,
) -> trt.IHostMemory:
    """Turn a graph into an engine.

    Args:
        data: the ONNX file.
        inputs: its bindings.
        plan: shapes and sparsity.
        configure: sets what else the builder is to know.

    Raises:
        BackendError: if TensorRT does not take the graph, or the plan does not fit it.
    """
    builder = trt.Builder(LOG)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, LOG)
    if not parser.parse(data):
        raise BackendError("TensorRT cannot read the graph of a stage", got=_parser_error(parser))
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default; float32 in a graph means float32
    if plan.sparse_weights:
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    ranges = input_ranges(inputs, plan)
    if ranges:
        profile = builder.create_optimization_profile()
        for tensor, shapes in ranges.items():
            profile.set_shape(tensor, *(trt.Dims(list(shape)) for shape in shapes))
        config.add_optimization_profile(profile)
    configure(config)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise BackendError("TensorRT cannot build an engine", got=LOG.error)
    return engine


def _parser_error(parser: trt.OnnxParser) -> str | None:
    """Say what the parser refused first, and at which node."""
    if not parser.num_errors:
        return LOG.error
    error = parser.get_error(0)
    return f"{' '.join(error.desc().split())} (node {error.node()}, {error.node_operator()} '{error.node_name()}')"
