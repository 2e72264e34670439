"""Read files out of a Debian package without installing it and without root.

apt does the download, so the machine's own sources, mirrors and keys apply; what arrives is held to a SHA-256.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from edgefuse.errors import DataError


def members(package: str, version: str, sha256: str, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Download a package and return the regular files whose path `wanted` accepts, by path without the leading `./`.

    Args:
        package: its name ("tuxpaint-stamps-default").
        version: its exact version.
        sha256: of the `.deb` file, in hexadecimal.
        wanted: whether a file is to be read.

    Raises:
        DataError: apt or dpkg is missing or fails, or the hash differs.
    """
    with tempfile.TemporaryDirectory() as scratch:
        archive = _download(package, version, Path(scratch))
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != sha256:
            raise DataError(
                f"the Debian package {package} {version} is not the file it should be",
                got=f"SHA-256 {found}",
                expected=sha256,
                fix="check the sources that apt is configured to use",
            )
        content = _run(["dpkg-deb", "--fsys-tarfile", str(archive)], Path(scratch), package)
    with tarfile.open(fileobj=io.BytesIO(content)) as files:
        chosen = {entry.name.removeprefix("./"): entry for entry in files if entry.isfile()}
        streams = {name: files.extractfile(entry) for name, entry in sorted(chosen.items()) if wanted(name)}
        return {name: stream.read() for name, stream in streams.items() if stream is not None}


def _download(package: str, version: str, folder: Path) -> Path:
    _run(["apt-get", "download", "-q", f"{package}={version}"], folder, package)
    archives = sorted(folder.glob("*.deb"))
    if len(archives) != 1:
        raise DataError(f"apt-get download {package}={version} left no package", got=f"{len(archives)} files")
    return archives[0]


def _run(command: list[str], folder: Path, package: str) -> bytes:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise DataError(
            f"the data in the Debian package {package} cannot be fetched",
            got=f"no program '{command[0]}'",
            expected="a Debian or Ubuntu system with apt and dpkg",
            fix="fetch it on such a system (a container will do) and copy the cache folder",
        ) from error
    if done.returncode != 0:
        complaints = done.stderr.decode(errors="replace").strip().splitlines()
        raise DataError(
            f"'{' '.join(command[:2])}' could not deliver the Debian package {package}",
            got=f"exit code {done.returncode}, '{complaints[-1] if complaints else 'no message'}'",
            fix=f"run 'apt-get update', then 'apt-get download {package}', and see why it fails",
        )
    return done.stdout
