"""How libcudart is found and called. A library of the same names over the host's memory shows that addresses and sizes
arrive whole; what CUDA itself does is for tests/gpu.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgefuse.errors import BackendError
from edgefuse.runtime.backends.tensorrt import cuda
from edgefuse.runtime.backends.tensorrt.cuda import Cuda, CudaStream

HOST_RUNTIME = r"""
#include <stdlib.h>
#include <string.h>
static int alive, capturing;
static long handle(void **out) { *out = malloc(1); alive++; return 0; }
static int drop(void *any) { free(any); alive--; return 0; }
const char *cudaGetErrorString(int status) { return status == 35 ? "the driver is too old" : "not permitted"; }
int living(void) { return alive; }
int cudaDeviceGetAttribute(int *value, int which, int device) { *value = which == 75 ? 8 : 7; return device; }
int cudaEventCreateWithFlags(void **out, unsigned flags) { return handle(out); }
int cudaEventDestroy(void *event) { return drop(event); }
int cudaEventRecord(void *event, void *stream) { return 0; }
int cudaEventSynchronize(void *event) { return 0; }
int cudaFree(void *memory) { return drop(memory); }
int cudaFreeHost(void *memory) { return drop(memory); }
int cudaGetDevice(int *device) { *device = 0; return STATUS; }
int cudaGetLastError(void) { return 0; }
int cudaGraphDestroy(void *graph) { return drop(graph); }
int cudaGraphExecDestroy(void *graph) { return drop(graph); }
int cudaGraphInstantiateWithFlags(void **out, void *graph, unsigned long long flags) { return handle(out); }
int cudaGraphLaunch(void *graph, void *stream) { return 0; }
int cudaMalloc(void **out, size_t size) { *out = malloc(size); alive++; return size > (1ull << 40) ? 2 : 0; }
int cudaMallocHost(void **out, size_t size) { return cudaMalloc(out, size); }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) {
    memcpy(to, from, size);
    return kind == 1 || kind == 2 ? 0 : 1;
}
int cudaRuntimeGetVersion(int *version) { *version = 12060; return 0; }
int cudaStreamBeginCapture(void *stream, int mode) { capturing = 1; return mode - 1; }
int cudaStreamCreateWithFlags(void **out, unsigned flags) { return handle(out); }
int cudaStreamDestroy(void *stream) { return drop(stream); }
int cudaStreamEndCapture(void *stream, void **out) { capturing = 0; return handle(out); }
"""


@pytest.fixture
def library(tmp_path: Path) -> Callable[[int], Path]:
    """Compile the library; its `cudaGetDevice` gives a status."""

    def build(status: int) -> Path:
        compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
        source, path = tmp_path / "cudart.c", tmp_path / f"libcudart-{status}.so"
        source.write_text(HOST_RUNTIME)
        try:
            subprocess.run([compiler, "-shared", "-fPIC", f"-DSTATUS={status}", "-o", path, source], check=True)
        except FileNotFoundError:
            pytest.skip("no C compiler: how libcudart is called is not checked")
        return path

    return build


@pytest.fixture
def host(library: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch) -> Cuda:
    path = str(library(0))
    monkeypatch.setattr(cuda, "_libraries", lambda: iter(["libnothing.so", path]))
    return Cuda()


def test_no_library_means_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_libraries", lambda: iter(["libnothing.so"]))
    with pytest.raises(
        BackendError, match=r"no GPU can be used through CUDA: got no libcudart\. Fix: check the driver"
    ):
        Cuda()


def test_a_library_that_finds_no_device_is_passed_over(
    library: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    new, old = str(library(35)), str(library(0))
    monkeypatch.setattr(cuda, "_libraries", lambda: iter([new]))
    expected = r"got cudaGetDevice says 'the driver is too old' \(CUDA error 35\)\. Fix: check the driver"
    with pytest.raises(BackendError, match=expected):
        Cuda()
    monkeypatch.setattr(cuda, "_libraries", lambda: iter([new, old]))
    assert Cuda().version() == "12.6"


def test_libraries_are_looked_for_in_wheels_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "nvidia" / "cuda_runtime" / "lib" / "libcudart.so.12"
    path.parent.mkdir(parents=True)
    path.touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    assert str(path) in cuda._libraries()


def test_the_device_is_described(host: Cuda) -> None:
    assert host.compute_capability() == "8.7"


def test_bytes_go_there_and_back(host: Cuda) -> None:
    stream = CudaStream(host, spinning=False)
    source, target = stream.pinned(1 << 20), stream.pinned(1 << 20)
    source[:] = np.random.default_rng(0).integers(0, 256, source.size, dtype=np.uint8)
    device = stream.allocate(1 << 20)
    stream.upload(device, source)
    stream.download(target, device)
    stream.wait()
    np.testing.assert_array_equal(target, source)


def test_everything_is_freed_with_the_stream(host: Cuda) -> None:
    def use() -> None:
        stream = CudaStream(host, spinning=True)
        stream.allocate(0)
        stream.pinned(16)
        stream.capture(lambda: None)()
        assert host._library.living() == 5  # stream, event, two pieces of memory, the graph that can be launched

    use()
    gc.collect()
    assert host._library.living() == 0


def test_work_that_fails_while_it_is_recorded_leaves_nothing(host: Cuda) -> None:
    stream = CudaStream(host, spinning=False)
    before = host._library.living()

    def work() -> None:
        raise BackendError("TensorRT cannot run a stage")

    with pytest.raises(BackendError, match="TensorRT cannot run a stage"):
        stream.capture(work)
    assert host._library.living() == before


def test_a_call_that_fails_says_what_cuda_says(host: Cuda) -> None:
    with pytest.raises(BackendError, match=r"cudaMalloc says 'not permitted' \(CUDA error 2\)"):
        CudaStream(host, spinning=False).allocate(1 << 41)
