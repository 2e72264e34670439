"""The cache of TensorRT engines: native code that this device built for itself, so a file is checked before it is used.

A file is three parts: the line `edgefuse engine 1`, a line of JSON (the key, the size and the SHA-256 of what follows)
and the engine. It appears whole or not at all.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkstemp

import msgspec

from edgefuse.bundle.manifest import BuildPlan
from edgefuse.bundle.spec import Record
from edgefuse.errors import BackendError, EngineFileError
from edgefuse.files import OTHERS_WRITE, open_unfollowed, users_cache
from edgefuse.typed_json import decode

_MAGIC = b"edgefuse engine 1"
_ABANDONED_SECONDS = 3600  # writing takes seconds: what is older was left by a process that was killed
_PREPARE = "run `edgefuse prepare` on the bundle, which builds it anew"


class EngineKey(Record, frozen=True, kw_only=True):
    """What an engine is good for; where anything of this differs, it is built anew.

    Attributes:
        tensorrt: the version, and the edition where it is not the full one.
        compute_capability: of the GPU, such as `8.7`.
        jetpack: the release of Jetson Linux or JetPack; empty elsewhere.
        graph_sha256: of the ONNX file.
    """

    tensorrt: str
    compute_capability: str
    jetpack: str
    graph_sha256: str
    plan: BuildPlan

    @property
    def file(self) -> str:
        """The name of the file. It is short for the sake of encrypted file systems; the file holds the whole key."""
        return f"{self.graph_sha256[:32]}-{hashlib.sha256(_json(self)).hexdigest()[:32]}.engine"


class _Header(Record, frozen=True, kw_only=True):
    key: EngineKey
    sha256: str
    size_bytes: int


def jetpack(root: Path = Path("/")) -> str:
    """Return the release of Jetson Linux, or of the package nvidia-jetpack, or nothing where this is no Jetson."""
    places = (
        ("etc/nv_tegra_release", r"# R(\d+) .*?REVISION: ([\d.]+)"),
        ("var/lib/dpkg/status", r"(?m)^Package: nvidia-jetpack\n(?:.+\n)*?Version: (\S+)()"),
    )
    for name, pattern in places:
        with suppress(OSError):
            if found := re.search(pattern, (root / name).read_text(encoding="utf-8", errors="replace")):
                return ".".join(filter(None, found.groups()))
    return ""


def _folder() -> Path:
    if (base := users_cache()) is None:
        fix = "set XDG_CACHE_HOME to a folder of this user's own"
        raise BackendError("there is no folder to keep engines in", got="a user without a home", fix=fix)
    return base / "edgefuse" / "engines"


class EngineCache:
    """Engines by key in a folder of the user's own: `$XDG_CACHE_HOME/edgefuse/engines`, or in `~/.cache`.

    Raises:
        BackendError: if there is no such folder: the user has no home.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or _folder()

    def read(self, key: EngineKey) -> memoryview | None:
        """Return the engine of a key; None if it was never built.

        Raises:
            EngineFileError: if its file is truncated, damaged, for another key, or not this user's own.
            BackendError: if the folder is not this user's own, or cannot be read.
        """
        if not self.folder.exists():
            return None
        path = self._owned() / key.file
        try:
            with open(path, "rb", opener=open_unfollowed) as file:
                state = os.fstat(file.fileno())
                if not stat.S_ISREG(state.st_mode) or not _own(state):
                    raise _refused(path, "is not this user's own", _owner(state), _owner_wanted())
                return _checked(path, file.read(), key)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _refused(path, "cannot be read", error.strerror, "a file") from error

    def write(self, key: EngineKey, engine: memoryview) -> Path:
        """Keep an engine, in place of what its file held, and return the file.

        Raises:
            BackendError: if it cannot be kept, the disk being full for one; nothing is left behind then.
        """
        folder = self._owned()
        header = _Header(key=key, sha256=hashlib.sha256(engine).hexdigest(), size_bytes=engine.nbytes)
        temporary = None
        try:
            descriptor, temporary = mkstemp(prefix=".", suffix=".tmp", dir=folder)  # of mode 0600
            with os.fdopen(descriptor, "wb") as file:
                file.write(_MAGIC + b"\n" + _json(header) + b"\n")
                file.write(engine)
                file.flush()
                os.fsync(descriptor)
            return Path(temporary).replace(folder / key.file)
        except OSError as error:
            if temporary:
                Path(temporary).unlink(missing_ok=True)
            raise BackendError(
                f"an engine cannot be kept in {folder}",
                got=error.strerror,
                fix=f"make the folder writable, with {engine.nbytes / 1e6:.1f} MB free",
            ) from error

    def prune(self, key: EngineKey) -> int:
        """Remove engines of the same graph under other keys, and what killed processes left; return how many."""
        stale = {*self.folder.glob(f"{key.file[:32]}-*.engine")} - {self.folder / key.file}
        oldest = time.time() - _ABANDONED_SECONDS
        with suppress(FileNotFoundError):  # another process may do the same
            stale |= {path for path in self.folder.glob(".*.tmp") if path.stat().st_mtime < oldest}
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)

    @contextmanager
    def building(self) -> Iterator[None]:
        """Let one process of this user build at a time: two would disturb each other's choice of the fastest kernels.

        Raises:
            BackendError: if the folder cannot be used.
        """
        path = self._owned() / ".lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable(self.folder, error.strerror) from error
        with os.fdopen(descriptor, "w"):
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # until it is closed
            yield

    def _owned(self) -> Path:
        """Return the folder, having made it where it is missing; refuse one that somebody else could fill."""
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
            state = self.folder.stat()
        except OSError as error:
            raise _unusable(self.folder, error.strerror) from error
        if not _own(state):
            raise _unusable(self.folder, _owner(state))
        return self.folder


def _checked(path: Path, data: bytes, key: EngineKey) -> memoryview:
    """Return the engine that a file's content holds, if it is whole and for this key."""
    magic, _, rest = data.partition(b"\n")
    line, _, _ = rest.partition(b"\n")
    if magic != _MAGIC:
        raise _refused(path, "is not an engine that edgefuse keeps", repr(magic[:24]), repr(_MAGIC))
    try:
        header = decode(line, _Header)
    except msgspec.MsgspecError as error:
        raise _refused(path, "is damaged", f"'{error}'", "its key") from error
    if header.key != key:
        differing = [name for name in EngineKey.__struct_fields__ if getattr(header.key, name) != getattr(key, name)]
        got, wanted = (", ".join(f"{name} {getattr(k, name)}" for name in differing) for k in (header.key, key))
        raise _refused(path, "was built for something else", got, wanted)
    engine = memoryview(data)[len(magic) + len(line) + 2 :]
    if engine.nbytes != header.size_bytes:
        raise _refused(path, "has the wrong size", f"{engine.nbytes} bytes", header.size_bytes)
    found = hashlib.sha256(engine).hexdigest()
    if found != header.sha256:
        raise _refused(path, "is damaged", f"SHA-256 {found}", header.sha256)
    return engine


def _json(record: Record) -> bytes:
    return msgspec.json.encode(record, order="sorted")


def _own(state: os.stat_result) -> bool:
    return state.st_uid == os.geteuid() and not state.st_mode & OTHERS_WRITE


def _owner(state: os.stat_result) -> str:
    return f"user {state.st_uid}, mode {stat.filemode(state.st_mode)}"


def _owner_wanted() -> str:
    return f"user {os.geteuid()}, not writable by others"


def _refused(path: Path, what: str, got: object, expected: object) -> EngineFileError:
    return EngineFileError(f"the engine {path} {what}", got=got, expected=expected, fix=_PREPARE)


def _unusable(folder: Path, got: object) -> BackendError:
    return BackendError(
        f"engines cannot be kept in {folder}",
        got=got,
        expected=f"a folder of {_owner_wanted()}",
        fix="remove it, or set XDG_CACHE_HOME to a folder of your own",
    )
