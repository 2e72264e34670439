"""An environment per peer, made on first use from a file of pinned requirements."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

from filelock import FileLock

from edgefuse.errors import MeasureError

REQUIREMENTS = Path(__file__).parent / "requirements"
PROJECT = "project"
ROOT = Path(__file__).parents[2]
"""Where `benchmarks` lies: workers start here, so that they find it without installing anything."""

# Whoever computes on its own pool of threads reads one of these.
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "XNNPACK_NUM_THREADS"), "1"
)


# `import edgefuse` has set what switches off the reports of tools that it imports itself.
QUIET = MappingProxyType({"OLIVE_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"})
"""Variables that keep other peers from reporting to their makers."""


def home() -> TemporaryDirectory[str]:
    """Return a home for a worker, which goes with it; there stands the answer to OpenVINO's question: do not report.

    That is how `opt_in_out --opt_out` answers for OpenVINO and NNCF. `NNCF_CI` comes too late: NNCF reports when it is
    imported.
    """
    folder = TemporaryDirectory(prefix="edgefuse-peer-", ignore_cleanup_errors=True)
    answer = Path(folder.name, "intel", "openvino_telemetry")
    answer.parent.mkdir()
    answer.write_text("0", encoding="ascii")
    return folder


def variables(home: str) -> dict[str, str]:
    """Return the environment variables of a worker: one thread, nothing shared with the project's environment.

    Args:
        home: the folder for what the peer leaves behind.
    """
    dropped = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "TORCHINDUCTOR_CACHE_DIR")
    kept = {key: value for key, value in os.environ.items() if key not in dropped}
    own = {"HOME": home, "TMPDIR": home, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return {**QUIET, **kept, **_ONE_THREAD, **own}


def interpreter(name: str, cache: Path) -> Path:
    """Return the Python of an environment, making it if it is not there; `PIP_ARGS` is handed to pip.

    Raises:
        MeasureError: if pip cannot install what is required.
    """
    if name == PROJECT:
        return Path(sys.executable)
    requirements = (REQUIREMENTS / f"{name}.txt").read_bytes()
    key = hashlib.sha256(requirements + sys.version.encode()).hexdigest()[:16]
    place = cache.absolute() / f"{name}-{key}"  # workers stand elsewhere
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{place}.lock"):
        if not (place / "ready").is_file():
            shutil.rmtree(place, ignore_errors=True)
            _install(name, place)
            (place / "ready").touch()
    return place / "bin" / "python"


def _install(name: str, place: Path) -> None:
    python = place / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-input"]
    install += [*shlex.split(os.environ.get("PIP_ARGS", "")), "--requirement", str(REQUIREMENTS / f"{name}.txt")]
    for command in ([sys.executable, "-m", "venv", "--without-pip", str(place)], install):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise MeasureError(
                f"the environment '{name}' cannot be made",
                got=(lines or done.stderr.splitlines() or ["no message"])[-1],
            )


def versions(python: Path, packages: tuple[str, ...]) -> str:
    """Return the versions of packages in an environment: `nncf 3.4.0, openvino 2026.4.1`."""
    if python == Path(sys.executable):
        return ", ".join(f"{name} {_version(name)}" for name in packages)
    script = "import sys; from importlib.metadata import version; [print(n, version(n)) for n in sys.argv[1:]]"
    done = subprocess.run([str(python), "-c", script, *packages], capture_output=True, text=True, check=False)
    return ", ".join(done.stdout.splitlines())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "?"
