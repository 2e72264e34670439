"""TensorRT 10 and 11, or TensorRT for RTX, through its own Python API: a graph becomes an engine, kept and run."""

from __future__ import annotations

import hashlib
import logging
import time
from typing import Literal

from edgefuse.bundle.manifest import Binding, BuildPlan
from edgefuse.errors import BackendError, EngineFileError
from edgefuse.runtime.backends.backend import Session, SessionOptions, check_tensors
from edgefuse.runtime.backends.tensorrt.build import LOG, build
from edgefuse.runtime.backends.tensorrt.cuda import Cuda, CudaStream
from edgefuse.runtime.backends.tensorrt.edition import VERSION, trt
from edgefuse.runtime.backends.tensorrt.engines import EngineCache, EngineKey, jetpack
from edgefuse.runtime.backends.tensorrt.session import EngineSession, Shape, input_ranges

log = logging.getLogger(__name__)

_TYPES = {"float32": trt.DataType.FLOAT, "int32": trt.DataType.INT32, "uint8": trt.DataType.UINT8}


class EngineBackend:
    """Opens ONNX files as engines, which are built once and kept.

    Raises:
        BackendError: if there is no GPU.
    """

    name = "tensorrt"
    title = "TensorRT"
    suffix = ".onnx"
    build_seconds = 3600.0

    def __init__(self) -> None:
        self._cuda = Cuda()
        self._cache = EngineCache()
        self._runtime = trt.Runtime(LOG)
        self._release = jetpack()

    def open(
        self, data: bytes, inputs: tuple[Binding, ...], outputs: tuple[Binding, ...], options: SessionOptions
    ) -> Session:
        """Open a graph; where no engine was prepared, that is done now, and said.

        Raises:
            BackendError: if TensorRT cannot build or open it, or the kept engine is refused.
        """
        plan = options.plan or BuildPlan()
        kept = self._cache.read(self._key(data, plan))
        if kept is None:
            log.warning(
                "a stage has no engine for this device yet; it is built now, which `edgefuse prepare` does ahead"
            )
            kept = self._built(data, inputs, plan)[0]
        engine = self._runtime.deserialize_cuda_engine(kept)
        if engine is None:
            raise BackendError("TensorRT cannot open an engine", got=LOG.error)
        _check(engine, inputs, outputs)
        context = engine.create_execution_context()
        if context is None:
            raise BackendError("TensorRT cannot run an engine", got=LOG.error, fix="free memory of the GPU")

        def shape_of(tensor: str) -> Shape:
            sizes = context.get_tensor_shape(tensor)
            shape = tuple(sizes[axis] for axis in range(len(sizes)))
            if -1 in shape:
                raise BackendError(f"the shape of the output '{tensor}' depends on values", got=list(shape))
            return shape

        stream = CudaStream(self._cuda, spinning=options.spinning)
        return EngineSession(context, shape_of, stream, inputs, outputs, input_ranges(inputs, plan))

    def prepare(self, data: bytes, inputs: tuple[Binding, ...], options: SessionOptions) -> Literal["built", "known"]:
        """Build the engine of a graph unless it is kept and whole; remove those that it replaces."""
        plan = options.plan or BuildPlan()
        _, fresh = self._built(data, inputs, plan)
        self._cache.prune(self._key(data, plan))
        return "built" if fresh else "known"

    def versions(self) -> dict[str, str]:
        """Return the versions of TensorRT and CUDA, and which GPU they run on."""
        return {
            "tensorrt": VERSION,
            "cuda": self._cuda.version(),
            "compute capability": self._cuda.compute_capability(),
        }

    def _key(self, data: bytes, plan: BuildPlan) -> EngineKey:
        return EngineKey(
            tensorrt=VERSION,
            compute_capability=self._cuda.compute_capability(),
            jetpack=self._release,
            graph_sha256=hashlib.sha256(data).hexdigest(),
            plan=plan,
        )

    def _built(self, data: bytes, inputs: tuple[Binding, ...], plan: BuildPlan) -> tuple[memoryview, bool]:
        """Return the engine, and whether it was built now; one that is refused is built anew."""
        key = self._key(data, plan)
        with self._cache.building():
            try:
                kept = self._cache.read(key)  # another process may have built it while this one waited
            except EngineFileError as error:
                log.warning("built anew: %s", error)
                kept = None
            if kept is not None:
                return kept, False
            start = time.monotonic()
            engine = memoryview(build(data, inputs, plan))
            log.info("built an engine of %.1f MB in %.1f s", engine.nbytes / 1e6, time.monotonic() - start)
            self._cache.write(key, engine)
        return engine, True


def _check(engine: trt.ICudaEngine, inputs: tuple[Binding, ...], outputs: tuple[Binding, ...]) -> None:
    """Check that an engine has the tensors that bindings name, of their types and in the device's memory."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    found = {name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT}
    check_tensors("input", found, inputs)
    check_tensors("output", set(names) - found, outputs)
    for binding in (*inputs, *outputs):
        kind = engine.get_tensor_dtype(binding.tensor)
        if kind != _TYPES[binding.dtype]:
            raise BackendError(
                f"the engine's tensor '{binding.tensor}' has the wrong type", got=kind.name, expected=binding.dtype
            )
        if engine.get_tensor_location(binding.tensor) != trt.TensorLocation.DEVICE:
            raise BackendError(f"the values of '{binding.tensor}' decide shapes, which a stage's inputs must not do")
