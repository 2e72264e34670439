"""How an engine runs: buffers, shapes, and the CUDA graph. The work is done behind two protocols."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgefuse.bundle.manifest import Binding, BuildPlan
from edgefuse.errors import BackendError, InputError
from edgefuse.runtime.backends.backend import Array, InputPorts, OutputPorts
from edgefuse.runtime.forks import outlive

log = logging.getLogger(__name__)

Shape = tuple[int, ...]
Bytes = npt.NDArray[np.uint8]


class Context(Protocol):
    """What a session needs of `tensorrt.IExecutionContext`."""

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        """Set an input's shape; false where no profile allows it."""

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Set where a tensor lies on the device."""

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Put a run into a stream."""


class Stream(Protocol):
    """What a session needs of `cuda.CudaStream`."""

    handle: int

    def allocate(self, size_bytes: int) -> int:
        """Return the address of new memory of the device."""

    def pinned(self, size_bytes: int) -> Bytes:
        """Return new memory of the host."""

    def upload(self, device: int, host: Bytes) -> None:
        """Copy from the host."""

    def download(self, host: Bytes, device: int) -> None:
        """Copy to the host."""

    def wait(self) -> None:
        """Return when everything so far is done."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record work and return what replays it."""


def input_ranges(inputs: tuple[Binding, ...], plan: BuildPlan) -> dict[str, tuple[Shape, Shape, Shape]]:
    """Return the least, the best and the largest shape by the name of a tensor, for inputs whose shape is not fixed.

    Raises:
        BackendError: if the plan has no profile for one of them, or one that does not fit.
    """
    profiles = {profile.port: (profile.minimum, profile.optimum, profile.maximum) for profile in plan.profiles}
    ranges = {binding.tensor: profiles.get(binding.port, ()) for binding in inputs if -1 in binding.shape}
    for binding in inputs:
        shapes = ranges.get(binding.tensor)
        if shapes is not None and not (shapes and all(_within(shape, binding.shape) for shape in shapes)):
            raise BackendError(
                f"the build plan does not say which shapes the input '{binding.port}' takes",
                got=shapes or "no profile",
                expected=f"shapes within {list(binding.shape)}",
                fix="compile the bundle again",
            )
    return ranges  # type: ignore[return-value]  # an empty one was refused


def _within(shape: Shape, wanted: Shape) -> bool:
    return len(shape) == len(wanted) and all(w in (-1, size) for size, w in zip(shape, wanted, strict=True))


class _Buffer:
    """A tensor's memory on both sides, large enough for its largest shape."""

    def __init__(self, binding: Binding, largest: Shape, stream: Stream) -> None:
        self.port, self.tensor, self.dtype = binding.port, binding.tensor, np.dtype(binding.dtype)
        size = math.prod(largest) * self.dtype.itemsize
        self.device, self._pinned = stream.allocate(size), stream.pinned(size)
        self.resize(largest)

    def resize(self, shape: Shape) -> None:
        """Use the first part of the memory."""
        self.shape = shape
        size = math.prod(shape) * self.dtype.itemsize
        if size > self._pinned.nbytes:
            raise BackendError(f"'{self.port}' is larger than at the largest inputs", got=list(shape))
        self.bytes = self._pinned[:size]
        self.values: Array = self.bytes.view(self.dtype).reshape(shape)


class EngineSession:
    """An engine with its memory.

    Inputs of fixed shapes: copies and kernels are recorded once as a CUDA graph, whose launch costs one call. Otherwise
    every run enqueues them, since a graph holds for one shape only.

    Args:
        context: of the engine; `shape_of` gives the shape of one of its tensors for the inputs' shapes of now.
        ranges: by the name of a tensor, of the inputs whose shape is not fixed.
    """

    def __init__(
        self,
        context: Context,
        shape_of: Callable[[str], Shape],
        stream: Stream,
        inputs: tuple[Binding, ...],
        outputs: tuple[Binding, ...],
        ranges: Mapping[str, tuple[Shape, Shape, Shape]],
    ) -> None:
        self._context, self._shape_of, self._stream = context, shape_of, stream
        self._ports, self._results = InputPorts(inputs), OutputPorts(outputs)
        self._open = tuple(ranges)
        for tensor, (*_, largest) in ranges.items():
            context.set_input_shape(tensor, largest)
        self._inputs = [_Buffer(b, ranges[b.tensor][2] if b.tensor in ranges else b.shape, stream) for b in inputs]
        self._outputs = [_Buffer(b, shape_of(b.tensor), stream) for b in outputs]
        for buffer in (*self._inputs, *self._outputs):
            context.set_tensor_address(buffer.tensor, buffer.device)
        self._launch = self._enqueue if self._open else self._captured()
        outlive(self)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; see `Session.run`."""
        arranged = self._ports.arrange(feeds)
        if self._open:
            self._reshape(arranged)
        for buffer in self._inputs:
            np.copyto(buffer.values, arranged[buffer.tensor])
        self._launch()
        self._stream.wait()
        return self._results.named([buffer.values.copy() for buffer in self._outputs])

    def _captured(self) -> Callable[[], None]:
        """Return what replays a run or, where it cannot be recorded, what enqueues one."""
        self._enqueue()  # the first run sets up what must not be part of a graph
        self._stream.wait()
        try:
            return self._stream.capture(self._enqueue)
        except BackendError as error:
            log.info("a stage runs without a CUDA graph: %s", error)
            return self._enqueue

    def _enqueue(self) -> None:
        for buffer in self._inputs:
            self._stream.upload(buffer.device, buffer.bytes)
        if not self._context.execute_async_v3(self._stream.handle):
            raise BackendError("TensorRT cannot run a stage")
        for buffer in self._outputs:
            self._stream.download(buffer.bytes, buffer.device)

    def _reshape(self, arranged: Mapping[str, Array]) -> None:
        """Tell the engine the shapes of this run, and make the outputs as large as they then are."""
        for buffer in self._inputs:
            if buffer.tensor not in self._open:
                continue
            shape = arranged[buffer.tensor].shape
            if not self._context.set_input_shape(buffer.tensor, shape):
                raise InputError(
                    f"the input '{buffer.port}' has a shape that the engine was not built for", got=list(shape)
                )
            buffer.resize(shape)
        for buffer in self._outputs:
            buffer.resize(self._shape_of(buffer.tensor))
