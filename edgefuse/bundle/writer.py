"""Write a bundle, as a folder or as one archive; the same content gives the same bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from edgefuse.bundle.archive import Archive, pack
from edgefuse.bundle.decoding import decode
from edgefuse.bundle.external_data import refuse_external_data
from edgefuse.bundle.folder import Folder
from edgefuse.bundle.layout import (
    ARCHIVE_SUFFIX,
    ASSETS,
    DIGEST,
    GOLDEN,
    MANIFEST,
    REPORT,
    STAGES,
    check_paths,
    check_size,
    digest_line,
)
from edgefuse.bundle.manifest import Candidate, FileEntry, GoldenTensor, Manifest, encode
from edgefuse.bundle.publication import publish_file, publish_folder
from edgefuse.bundle.validation import check, named_paths, onnx_files
from edgefuse.errors import BundleError

_FilePointer = TypeVar("_FilePointer", Candidate, GoldenTensor)


def write_bundle(path: str | Path, manifest: Manifest, contents: Mapping[str, bytes]) -> str:
    """Write a bundle under a path, whole or not at all, replacing an older bundle there.

    Stage files with the same bytes become one file (the first by name), and so do golden tensors.

    Args:
        path: an archive if it ends with `.edgefuse`, else a folder. Missing parents are created.
        manifest: what the bundle says; its `files` is filled in here.
        contents: the bytes of each file that the manifest names, and of any more under `assets/` and `report.json`.

    Returns:
        The bundle's digest: the SHA-256 of `manifest.json` in hexadecimal.

    Raises:
        BundleError: the contents do not fit the manifest, the manifest would be refused by a reader, something that
            is not a bundle has that path, or it cannot be written.
    """
    path = Path(path)
    _check_names(manifest, contents)
    manifest, files = _share(manifest, contents)
    manifest = msgspec.structs.replace(
        manifest, files=tuple(_entry(name, data) for name, data in sorted(files.items()))
    )
    data = encode(manifest)
    # What a reader would refuse is never written: the very bytes go through the reader's checks.
    check(decode(data))
    for name in sorted(onnx_files(manifest)):
        refuse_external_data(name, files[name])
    digest = hashlib.sha256(data).hexdigest()
    _publish(path, {**files, MANIFEST: data, DIGEST: digest_line(digest)})
    return digest


def _check_names(manifest: Manifest, contents: Mapping[str, bytes]) -> None:
    """Refuse contents that the manifest does not name, and names that have no contents."""
    check_paths([*contents, MANIFEST, DIGEST])
    named = named_paths(manifest)
    for name in sorted(named - set(contents)):
        raise BundleError(f"the manifest names '{name}', of which no contents are given")
    for name in sorted(set(contents) - named):
        if name != REPORT and not name.startswith(ASSETS):
            raise BundleError(f"'{name}' is given but the manifest does not name it", fix=f"put it under {ASSETS}")
    for name, data in contents.items():
        check_size(name, len(data))


def _share(manifest: Manifest, contents: Mapping[str, bytes]) -> tuple[Manifest, dict[str, bytes]]:
    """Let equal stage files, and equal golden tensors, be one file. Assets keep their names: the model uses them."""
    first: dict[tuple[str, bytes], str] = {}
    shared: dict[str, str] = {}
    for name, data in sorted(contents.items()):
        kind = next((kind for kind in (STAGES, GOLDEN) if name.startswith(kind)), name)
        shared[name] = first.setdefault((kind, hashlib.sha256(data).digest()), name)

    def moved(pointer: _FilePointer) -> _FilePointer:
        return msgspec.structs.replace(pointer, file=shared[pointer.file])

    golden = tuple(
        msgspec.structs.replace(case, inputs=tuple(map(moved, case.inputs)), outputs=tuple(map(moved, case.outputs)))
        for case in manifest.golden
    )
    manifest = msgspec.structs.replace(manifest, candidates=tuple(map(moved, manifest.candidates)), golden=golden)
    return manifest, {name: contents[name] for name in sorted(set(shared.values()))}


def _entry(name: str, data: bytes) -> FileEntry:
    return FileEntry(path=name, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def _publish(path: Path, files: Mapping[str, bytes]) -> None:
    try:
        _check_replaceable(path)
        if path.suffix == ARCHIVE_SUFFIX:
            publish_file(path, pack(files))
        else:
            publish_folder(path, files)
    except OSError as error:
        raise BundleError(f"the bundle '{path}' cannot be written", got=f"'{error.strerror or error}'") from error


def _check_replaceable(path: Path) -> None:
    """Refuse to replace anything but a bundle of the same form (or an empty folder)."""
    if not path.is_symlink() and not path.exists():
        return
    archive = path.suffix == ARCHIVE_SUFFIX
    what = "a bundle archive" if archive else "a bundle folder, an empty folder"
    problem = "a symbolic link" if path.is_symlink() else _foreign(path, archive=archive)
    if problem:
        raise BundleError(
            f"'{path}' is in the way of the bundle",
            got=problem,
            expected=f"{what} or nothing",
            fix="choose another path, or move away what is there",
        )


def _foreign(path: Path, *, archive: bool) -> str:
    """Return what makes an existing path something other than a bundle of the form, or nothing."""
    if path.is_dir() == archive:
        return "a folder" if archive else "a file"
    try:
        store = Archive(path) if archive else Folder(path)
    except BundleError as error:
        return f"something else ({error.what})"
    store.close()
    known = (MANIFEST, DIGEST, REPORT)
    others = [name for name in store.sizes if name not in known and not name.startswith((STAGES, ASSETS, GOLDEN))]
    if others:
        return f"{others[0]!a} in it, which no bundle has"
    empty = not archive and not any(path.iterdir())
    return "" if empty or {MANIFEST, DIGEST} <= set(store.sizes) else f"no {MANIFEST} in it"
