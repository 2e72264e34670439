"""Folders of packages for a Python and a processor that need not be this one's, filled by pip from wheels."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import distributions, requires
from pathlib import Path

from filelock import FileLock
from packaging.requirements import Requirement

from edgefuse.errors import DataError

_GLIBC = (28, 27, 24, 17)


def site(requirements: Sequence[str], python: str, architecture: str, cache: Path) -> Path:
    """Return a folder for `PYTHONPATH` with some packages and what they need; nothing of it is executed here.

    Args:
        requirements: as pip takes them.
        python: the version of the interpreter, such as `3.13`.
        architecture: `x86_64` or `aarch64`.
        cache: of everything that is kept between runs.

    Raises:
        DataError: pip cannot deliver wheels.
    """
    key = hashlib.sha256("\n".join(sorted(requirements)).encode()).hexdigest()[:16]
    place = cache / "sites" / f"cp{python}-{architecture}-{key}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{place}.lock"):
        if not place.is_dir():
            with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
                target = Path(scratch) / "site"
                _install(requirements, python, architecture, target)
                target.rename(place)
    return place


def _install(requirements: Sequence[str], python: str, architecture: str, target: Path) -> None:
    tags = [*(f"manylinux_2_{minor}_{architecture}" for minor in _GLIBC), f"manylinux2014_{architecture}"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--target", str(target), "--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    command += [part for tag in tags for part in ("--platform", tag)]
    command += [*shlex.split(os.environ.get("PIP_ARGS", "")), *requirements]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        complaints = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise DataError(
            f"pip has no wheels of {', '.join(requirements)} for Python {python} on {architecture}",
            got=complaints[-1].strip() if complaints else "no message",
            fix="see whether pip reaches its index",
        )


def installed(place: Path) -> dict[str, str]:
    """Return the versions of the packages of a folder."""
    return {found.metadata["Name"]: found.version for found in distributions(path=[str(place)])}


def oldest(package: str, extra: str) -> str:
    """Return the oldest version of a package that an extra of edgefuse allows: `onnxruntime==1.20.*`.

    Raises:
        DataError: if the extra names no such package, or no lower bound.
    """
    for line in requires("edgefuse") or ():
        found = Requirement(line)
        if found.name == package and found.marker and found.marker.evaluate({"extra": extra}):
            for clause in found.specifier:
                if clause.operator == ">=" and re.fullmatch(r"\d+\.\d+", clause.version):
                    return f"{package}=={clause.version}.*"
    raise DataError(f"the extra '{extra}' of edgefuse names no oldest version of {package}")
