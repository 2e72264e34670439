"""Open a bundle for reading. Whatever is wrong with it, damage or malice, is one `BundleError`.

Each file is read once, hashed, and handed on as those same bytes. Nothing is executed, unpacked to disk or written, and
nothing outside the bundle is opened.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Protocol

from edgefuse.bundle.codec import decode
from edgefuse.bundle.containers import Archive, Folder
from edgefuse.bundle.layout import DIGEST, MANIFEST, digest_line
from edgefuse.bundle.manifest import Manifest
from edgefuse.bundle.stage_files import checks
from edgefuse.bundle.tokenizer.check import check_tokenizer
from edgefuse.bundle.validation import check
from edgefuse.errors import BundleError, shown
from edgefuse.files import reason


class _Store(Protocol):
    """Where the files of a bundle lie: `Archive` or `Folder`."""

    sizes: dict[str, int]
    size_bytes: int

    def read(self, name: str) -> bytes:
        """Return the bytes of a file."""

    def close(self) -> None:
        """Let go of what is open."""


class Bundle:
    """An opened bundle, whose list of files and manifest have been checked; `open_bundle` makes it.

    A context manager; `read` may be called from several threads.

    Attributes:
        path: of the folder or archive.
        manifest: what the bundle says about itself.
        digest: the SHA-256 of `manifest.json` in hexadecimal; it stands for the whole bundle.
        size_bytes: of the archive, or of all files of the folder.
    """

    def __init__(self, path: Path, store: _Store, manifest: Manifest, digest: str) -> None:
        self.path = path
        self.manifest = manifest
        self.digest = digest
        self.size_bytes = store.size_bytes
        self._store: _Store | None = store
        self._sha256 = {entry.path: entry.sha256 for entry in manifest.files}
        self._checks = checks(manifest)

    def read(self, name: str) -> bytes:
        """Return the verified bytes of a file that the manifest lists; they are read anew on each call.

        Raises:
            BundleError: there is no such file, it is damaged or has changed, no runtime should open it, or the bundle
                is closed.
        """
        with _naming(self.path):
            if self._store is None:
                raise BundleError(f"'{name}' cannot be read, the bundle is closed")
            if name not in self._sha256:
                raise BundleError(f"there is no file {name!a} in it")
            data = self._store.read(name)
            found = hashlib.sha256(data).hexdigest()
            if found != self._sha256[name]:
                raise BundleError(
                    f"'{name}' is damaged", got=f"SHA-256 {found}", expected=self._sha256[name], fix="copy it again"
                )
            if refuse := self._checks.get(name):
                refuse(name, data)
            check_tokenizer(self.manifest.model, name, data)
            return data

    def verify(self) -> None:
        """Read every file once and drop it, or raise `BundleError` at the first that is not as the manifest says."""
        for name in self._sha256:
            self.read(name)

    def close(self) -> None:
        """Close the bundle; closing it twice does no harm."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def __enter__(self) -> Bundle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_bundle(path: str | os.PathLike[str], *, digest: str | None = None) -> Bundle:
    """Open a bundle: a folder, or a `.edgefuse` archive.

    The manifest and the list of files are checked in full, the files' own bytes when they are read (all of them by
    `Bundle.verify`), so that a larger bundle opens as fast.

    Args:
        path: of the folder or archive.
        digest: the expected digest in hexadecimal. The hashes inside a bundle show damage; only a digest from elsewhere
            shows that it is the bundle that its author made.

    Raises:
        BundleError: the bundle cannot be read, is damaged, hostile, of a newer schema, or not the pinned one.
    """
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise BundleError("there is no such bundle", got=repr(path)[:200], expected="the path of a folder or archive")
    path = Path(path)
    with _naming(path), ExitStack() as stack:
        store: _Store = Folder(path) if path.is_dir() else Archive(path)
        stack.callback(store.close)
        if MANIFEST not in store.sizes:
            raise BundleError("this is not a bundle", got=f"no {MANIFEST} in it")
        data = store.read(MANIFEST)
        found = hashlib.sha256(data).hexdigest()
        _check_digest(store, found, digest)
        manifest = decode(data)
        check(manifest)
        _check_files(manifest, store.sizes)
        bundle = Bundle(path, store, manifest, found)
        stack.pop_all()
        return bundle


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the path of the bundle at the head of each refusal, and turn what the system refuses into one."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a path with a null character, or that cannot be encoded
        raise BundleError(f"the bundle '{shown(str(path))}' cannot be read", got=f"'{reason(error)}'") from error
    except BundleError as error:
        error.args = (f"the bundle '{path}' is refused: {error}",)
        raise


def is_pinned(found: str, pinned: str | None) -> bool:
    """Tell whether a digest is the pinned one, in either case of letters, or none is pinned."""
    return pinned is None or str(pinned).lower() == found


def _check_digest(store: _Store, found: str, pinned: str | None) -> None:
    if not is_pinned(found, pinned):
        raise BundleError(
            "its digest is not the pinned one",
            got=found,
            expected=pinned,
            fix="get the bundle from its author again, or pin the digest of the bundle that you mean",
        )
    if DIGEST not in store.sizes:
        raise BundleError(f"it has no {DIGEST}")
    if store.sizes[DIGEST] != len(digest_line(found)) or store.read(DIGEST) != digest_line(found):
        raise BundleError(f"{DIGEST} does not match {MANIFEST}", expected=found, fix="copy the bundle again")


def _check_files(manifest: Manifest, sizes: Mapping[str, int]) -> None:
    """Refuse files that the manifest does not list, lists and are not there, or lists with another size."""
    listed = {entry.path: entry.size_bytes for entry in manifest.files}
    present = set(sizes) - {MANIFEST, DIGEST}
    for name in sorted(set(listed) - present):
        raise BundleError(f"'{name}' is missing, which {MANIFEST} lists", fix="copy the bundle again")
    for name in sorted(present - set(listed)):
        raise BundleError(f"'{name}' is not listed in {MANIFEST}", fix="remove it, or copy the bundle again")
    for name, size_bytes in listed.items():
        if sizes[name] != size_bytes:
            raise BundleError(f"'{name}' has another size", got=f"{sizes[name]} bytes", expected=f"{size_bytes} bytes")
