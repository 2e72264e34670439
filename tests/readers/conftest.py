"""The readers of docs/readers/, built with what this machine and its package registries offer."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from benchmarks.portability.debian import unpacked
from edgefuse.datasets.packages import cache_folder
from edgefuse.errors import DataError
from edgefuse.runtime.backends.onnx.api import onnxruntime

READERS = Path(__file__).parents[2] / "docs" / "readers"
LIBRARY = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"), None)
# Of Debian's release: older headers go with a newer library, which serves every older version of its interface.
HEADERS = ("libonnxruntime-dev", "nlohmann-json3-dev")


@pytest.fixture(scope="session")
def cpp_reader() -> Path:
    """The C++ reader as a program that has one backend, `onnx`."""
    return _built()


@pytest.fixture(scope="session")
def cpp_reader_of_two() -> Path:
    """The C++ reader with a backend `tflite` beside it, which runs stages in another process."""
    return _built(Path(__file__).parent / "cpp" / "served.cpp")


def _built(*more: Path) -> Path:
    """Build the reader and more sources against the library in onnxruntime's wheel; kept until a source changes."""
    compiler = shutil.which("g++")
    if compiler is None or LIBRARY is None:
        pytest.skip("the C++ reader was not checked: no g++, or no library in the wheel of onnxruntime")
    try:
        architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
        headers = unpacked(HEADERS, architecture, cache_folder()) / "usr" / "include"
    except DataError as error:
        pytest.skip(f"the C++ reader was not checked: {error}")
    sources = [*sorted((READERS / "cpp").glob("*.[ch]pp")), *more]
    made_from = b"".join(path.read_bytes() for path in sources) + str((LIBRARY, headers)).encode()
    folder = cache_folder() / "readers" / f"cpp-{hashlib.sha256(made_from).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "predict"
    with FileLock(folder / "lock"):
        if not program.is_file():
            (folder / "libonnxruntime.so").unlink(missing_ok=True)
            (folder / "libonnxruntime.so").symlink_to(LIBRARY)
            (folder / "libonnxruntime.so.1").unlink(missing_ok=True)
            (folder / "libonnxruntime.so.1").symlink_to(LIBRARY)
            command = [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wno-sign-compare"]
            command += ["-isystem", str(headers / "onnxruntime"), "-isystem", str(headers), "-I", str(READERS / "cpp")]
            command += [str(path) for path in sources if path.suffix == ".cpp"]
            command += [f"-L{folder}", "-lonnxruntime", f"-Wl,-rpath,{folder}", "-o", f"{program}.new"]
            built = subprocess.run(command, capture_output=True, text=True, check=False)
            assert built.returncode == 0, built.stderr
            Path(f"{program}.new").rename(program)
    return program


@pytest.fixture(scope="session")
def tiny_tensors() -> Mapping[str, np.ndarray]:
    """What the modalities of the tiny model take, preprocessed but for cutting and padding."""
    rng = np.random.default_rng(3)
    return {
        "image": rng.integers(0, 256, (8, 8, 1), dtype=np.uint8),
        "text": np.array([5, 2, 6], np.int32),
        "motion": rng.normal(size=(1, 5, 3)).astype(np.float32),
    }


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., list[str]]:
    """Write arrays to files, and return the arguments that name them to a reader."""

    def write(**arrays: np.ndarray) -> list[str]:
        paths = {name: tmp_path / f"{name}.raw" for name in arrays}
        for name, path in paths.items():
            path.write_bytes(arrays[name].tobytes())
        return [f"{name}={path}" for name, path in paths.items()]

    return write
