"""Write a bundle, as a folder or as one archive; the same content gives the same bytes.

What is seen under the final name is whole, even after SIGKILL or a power cut: the content is written to a hidden
sibling, flushed to the disk and renamed. The writer holds a lock (flock) on its sibling, which the system drops when
the process ends; a sibling without a lock is what a dead run left, and the next one removes it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from edgefuse.bundle.codec import decode, encode
from edgefuse.bundle.containers import Archive, Folder, pack
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
from edgefuse.bundle.manifest import Candidate, FileEntry, GoldenTensor, Manifest
from edgefuse.bundle.stage_files import checks
from edgefuse.bundle.tokenizer.check import check_tokenizer
from edgefuse.bundle.validation import asset_paths, check, named_paths
from edgefuse.errors import BundleError

_FilePointer = TypeVar("_FilePointer", Candidate, GoldenTensor)


def write_bundle(path: str | Path, manifest: Manifest, contents: Mapping[str, bytes]) -> str:
    """Write a bundle under a path, whole or not at all, replacing an older bundle there; return its digest.

    Stage files with the same bytes become one file (the first by name), and so do golden tensors.

    Args:
        path: an archive if it ends with `.edgefuse`, else a folder. Missing parents are created.
        manifest: what the bundle says; its `files` is filled in here.
        contents: the bytes of each file that the manifest names, and of any more under `assets/` and `report.json`.

    Raises:
        BundleError: the contents do not fit the manifest, a reader would refuse it, something that is not a bundle has
            that path, or it cannot be written.
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
    for name, refuse in sorted(checks(manifest).items()):
        refuse(name, files[name])
    for name in sorted(asset_paths(manifest.model)):
        check_tokenizer(manifest.model, name, files[name])
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
    """Refuse to replace anything but a bundle in the same container (or an empty folder)."""
    archive = path.suffix == ARCHIVE_SUFFIX
    what = "a bundle archive" if archive else "a bundle folder, an empty folder"
    if problem := _irreplaceable(path, archive=archive):
        raise BundleError(
            f"'{path}' is in the way of the bundle",
            got=problem,
            expected=f"{what} or nothing",
            fix="choose another path, or move the files away that are there",
        )


def _irreplaceable(path: Path, *, archive: bool) -> str:
    """Return what has a path and is not for us to replace, or nothing."""
    while (seen := _identity(path)) is not None:
        try:
            problem = "a symbolic link" if path.is_symlink() else _foreign(path, archive=archive)
        except OSError:
            if _identity(path) == seen:
                raise
            continue
        if _identity(path) == seen:
            return problem
        # Another writer replaced it meanwhile, and was removing what we looked at: look at what is there now.
    return ""


def _identity(path: Path) -> tuple[int, int, int] | None:
    """Return what tells the file or folder of this name from another one that had or gets the name."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino, status.st_ctime_ns  # renaming sets the time, and a number is used again


def _foreign(path: Path, *, archive: bool) -> str:
    """Return what makes an existing path something other than a bundle in that container, or nothing."""
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


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def publish_file(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a file, replacing the one that is there; `OSError` leaves what was there untouched."""
    with _sibling(path, folder=False) as temporary:
        _write(temporary, chunks)
        temporary.replace(path)
        _flush(path.parent)


def publish_folder(path: Path, contents: Mapping[str, bytes | Iterable[bytes]]) -> None:
    """Write a folder of files, replacing the folder that is there; `OSError` leaves what was there untouched.

    On Linux the two folders change places in one step. Elsewhere there is a moment without either, since POSIX cannot
    replace a folder that is not empty.
    """
    with _sibling(path, folder=True) as temporary:
        folders = {temporary}
        for name, data in contents.items():
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            folders.update(p for p in target.parents if temporary in p.parents)
            _write(target, [data] if isinstance(data, bytes) else data)
        for folder in folders:
            _flush(folder)
        _replace_folder(temporary, path)
        _flush(path.parent)


@contextmanager
def _sibling(path: Path, *, folder: bool) -> Iterator[Path]:
    """Create an empty file or folder beside a path, locked; remove it (or what took its name) in the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    lock = None
    while lock is None:
        temporary = _fresh(path)
        if folder:
            temporary.mkdir()
        else:
            temporary.touch(exist_ok=False)
        lock = _locked(temporary)
    try:
        yield temporary
    finally:
        _remove(temporary)
        os.close(lock)


def _fresh(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def _locked(path: Path) -> int | None:
    """Return a descriptor that holds the lock on a sibling; nothing if another process holds it or has removed it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with suppress(BlockingIOError, FileNotFoundError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between creation and lock, another run may have taken it for a dead one's and removed it.
        if os.path.samestat(os.fstat(fd), path.lstat()):
            return fd
    os.close(fd)
    return None


def _remove_stale(path: Path) -> None:
    """Remove the siblings of this path that nobody holds a lock on; leave those that belong to another user."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}\.tmp")
    for sibling in list(path.parent.iterdir()):
        if pattern.fullmatch(sibling.name) and not sibling.is_symlink():
            with suppress(PermissionError):
                lock = _locked(sibling)
                if lock is not None:
                    _remove(sibling)
                    os.close(lock)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _write(path: Path, chunks: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _replace_folder(temporary: Path, path: Path) -> None:
    """Give a folder its final name; what had that name is gone or under the temporary one afterwards."""
    while not _renamed(temporary, path) and not _exchange(temporary, path):
        # Without a lock the old folder is litter from here on, for us or for the next run to remove.
        old = _fresh(path)
        with suppress(FileNotFoundError):
            path.rename(old)
        try:
            done = _renamed(temporary, path)
        except OSError:
            with suppress(OSError):
                old.rename(path)
            raise
        _remove(old)
        if done:
            return


def _renamed(temporary: Path, path: Path) -> bool:
    """Give a folder its final name; return False if a folder that is not empty has it."""
    try:
        temporary.rename(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _exchange(a: Path, b: Path) -> bool:
    """Let two names change places in one step, where the system and its file system can (Linux renameat2)."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0)
