"""The few calls of the CUDA runtime that running an engine takes: libcudart through ctypes (decision 051).

Signatures are those of the CUDA runtime API since 11.4; every call returns a status, 0 for success.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Iterator
from ctypes import POINTER, byref, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgefuse.errors import BackendError

Bytes = npt.NDArray[np.uint8]

_ADDRESS = POINTER(c_void_p)
_SIGNATURES = {
    "cudaDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cudaEventCreateWithFlags": (_ADDRESS, c_uint),
    "cudaEventDestroy": (c_void_p,),
    "cudaEventRecord": (c_void_p, c_void_p),
    "cudaEventSynchronize": (c_void_p,),
    "cudaFree": (c_void_p,),
    "cudaFreeHost": (c_void_p,),
    "cudaGetDevice": (POINTER(c_int),),
    "cudaGetLastError": (),
    "cudaGraphDestroy": (c_void_p,),
    "cudaGraphExecDestroy": (c_void_p,),
    "cudaGraphInstantiateWithFlags": (_ADDRESS, c_void_p, c_ulonglong),
    "cudaGraphLaunch": (c_void_p, c_void_p),
    "cudaMalloc": (_ADDRESS, c_size_t),
    "cudaMallocHost": (_ADDRESS, c_size_t),
    "cudaMemcpyAsync": (c_void_p, c_void_p, c_size_t, c_int, c_void_p),
    "cudaRuntimeGetVersion": (POINTER(c_int),),
    "cudaStreamBeginCapture": (c_void_p, c_int),
    "cudaStreamCreateWithFlags": (_ADDRESS, c_uint),
    "cudaStreamDestroy": (c_void_p,),
    "cudaStreamEndCapture": (c_void_p, _ADDRESS),
}
_TO_DEVICE, _TO_HOST = 1, 2  # cudaMemcpyKind
_THREAD_LOCAL = 1  # cudaStreamCaptureMode: other threads may allocate meanwhile
_NON_BLOCKING = 1  # of a stream: it does not wait for the default one
_BLOCKING_SYNC, _DISABLE_TIMING = 1, 2  # of an event
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # cudaDeviceAttr


class Cuda:
    """The CUDA runtime and its current device.

    Raises:
        BackendError: if there is no library, or none that finds a device.
    """

    def __init__(self) -> None:
        reason = "no libcudart"
        for name in _libraries():
            try:
                self._library = ctypes.CDLL(name)
                for function, types in _SIGNATURES.items():
                    getattr(self._library, function).argtypes = types
                self._device = self._number("cudaGetDevice")
            except (OSError, AttributeError):  # not there, or older than these functions
                continue
            except BackendError as error:  # a newer library than the driver is for
                reason = error.what
            else:
                return
        raise BackendError("no GPU can be used through CUDA", got=reason, fix="check the driver with nvidia-smi")

    def call(self, name: str, *arguments: object) -> None:
        """Call a function of the runtime; `BackendError` with its message if it fails."""
        status = getattr(self._library, name)(*arguments)
        if status:
            self._library.cudaGetErrorString.restype = ctypes.c_char_p
            text = self._library.cudaGetErrorString(status).decode()
            self._library.cudaGetLastError()  # clears it, so that the next call is not blamed
            raise BackendError(f"{name} says '{text}' (CUDA error {status})")

    def version(self) -> str:
        """Return the version of the runtime."""
        number = self._number("cudaRuntimeGetVersion")
        return f"{number // 1000}.{number % 1000 // 10}"

    def compute_capability(self) -> str:
        """Return the compute capability of the device, such as `8.7`."""
        parts = (_CAPABILITY_MAJOR, _CAPABILITY_MINOR)
        return ".".join(str(self._number("cudaDeviceGetAttribute", part, self._device)) for part in parts)

    def address(self, name: str, *arguments: object) -> int:
        """Call a function that gives a handle or an address first."""
        value = c_void_p()
        self.call(name, byref(value), *arguments)
        return value.value or 0

    def _number(self, name: str, *arguments: object) -> int:
        value = c_int()
        self.call(name, byref(value), *arguments)
        return value.value


class CudaStream:
    """A stream with all memory that one session uses; it is freed with the stream.

    Args:
        cuda: the runtime.
        spinning: wait with a busy core, which wakes sooner.
    """

    def __init__(self, cuda: Cuda, *, spinning: bool) -> None:
        self._cuda = cuda
        self._owned: list[tuple[str, int]] = []
        weakref.finalize(self, _free, cuda, self._owned)
        self.handle = self._own("cudaStreamDestroy", cuda.address("cudaStreamCreateWithFlags", _NON_BLOCKING))
        flags = _DISABLE_TIMING | (0 if spinning else _BLOCKING_SYNC)
        self._done = self._own("cudaEventDestroy", cuda.address("cudaEventCreateWithFlags", flags))

    def allocate(self, size_bytes: int) -> int:
        """Return the address of new memory of the device."""
        return self._own("cudaFree", self._cuda.address("cudaMalloc", max(size_bytes, 1)))

    def pinned(self, size_bytes: int) -> Bytes:
        """Return new memory of the host that the device copies from and to without help."""
        size = max(size_bytes, 1)
        address = self._own("cudaFreeHost", self._cuda.address("cudaMallocHost", size))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def upload(self, device: int, host: Bytes) -> None:
        """Copy from the host, in the order of the stream."""
        self._cuda.call("cudaMemcpyAsync", device, host.ctypes.data, host.nbytes, _TO_DEVICE, self.handle)

    def download(self, host: Bytes, device: int) -> None:
        """Copy to the host, in the order of the stream."""
        self._cuda.call("cudaMemcpyAsync", host.ctypes.data, device, host.nbytes, _TO_HOST, self.handle)

    def wait(self) -> None:
        """Return when everything so far is done."""
        self._cuda.call("cudaEventRecord", self._done, self.handle)
        self._cuda.call("cudaEventSynchronize", self._done)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what `work` puts into the stream as a CUDA graph, and return what replays it.

        Raises:
            BackendError: if it cannot be recorded; the stream can be used as before.
        """
        self._cuda.call("cudaStreamBeginCapture", self.handle, _THREAD_LOCAL)
        graph = c_void_p()
        try:
            try:
                work()
            finally:
                self._cuda.call("cudaStreamEndCapture", self.handle, byref(graph))
            ready = self._cuda.address("cudaGraphInstantiateWithFlags", graph, 0)
        finally:
            if graph:
                self._cuda.call("cudaGraphDestroy", graph)
        self._own("cudaGraphExecDestroy", ready)
        return lambda: self._cuda.call("cudaGraphLaunch", ready, self.handle)

    def _own(self, destroy: str, handle: int) -> int:
        self._owned.append((destroy, handle))
        return handle


def _free(cuda: Cuda, owned: list[tuple[str, int]]) -> None:
    """Free the newest first, the stream itself last. It does not use the stream, which is gone by then."""
    for destroy, handle in reversed(owned):
        cuda.call(destroy, handle)


def _libraries() -> Iterator[str]:
    """Yield where libcudart may be: what the process has or the loader finds, CUDA's own folder, wheels of NVIDIA."""
    yield from ("libcudart.so.13", "libcudart.so.12", "libcudart.so", "/usr/local/cuda/lib64/libcudart.so")
    wheels = find_spec("nvidia")
    for folder in (wheels and wheels.submodule_search_locations) or ():
        yield from map(str, sorted(Path(folder).glob("*/lib/libcudart.so.*"), reverse=True))
