"""The layout of a bundle: the names of its files, and the limits that hold in both of its containers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from edgefuse.errors import MAX_SHOWN, BundleError

MANIFEST = "manifest.json"
DIGEST = "manifest.sha256"
REPORT = "report.json"
STAGES = "stages/"
ASSETS = "assets/"
GOLDEN = "golden/"
ARCHIVE_SUFFIX = ".edgefuse"

MAX_FILES = 4096
MAX_BUNDLE_BYTES = 4_000_000_000
"""Below 4 GiB, so that no archive needs ZIP64."""
MAX_FILE_BYTES = 2**31 - 1
"""The limit of a protobuf message and of a flatbuffer."""
MAX_MANIFEST_BYTES = 4 * 2**20
"""A hundred times what a model of three modalities needs; it bounds the time that a hostile one takes."""
MAX_PATH_CHARACTERS = 200
MAX_PATH_SEGMENTS = 8

_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@,-]*")
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def digest_line(digest: str) -> bytes:
    """Return the content of `manifest.sha256`, as `sha256sum` writes it."""
    return f"{digest}  {MANIFEST}\n".encode()


def check_path(path: str) -> None:
    """Refuse, with `BundleError`, a path that is not relative, portable and inside the bundle.

    Segments are ASCII letters, digits and `_.+=@,-`, start with a letter, a digit or `_`, and do not end with a dot: no
    two paths differ by Unicode form alone, and every file system can hold them.
    """
    reason = _unsafe(path)
    if reason:
        raise BundleError(f"the path {quoted(path)} {reason}", fix="use letters, digits and '_.+=@,-' between slashes")


def check_paths(paths: Collection[str]) -> None:
    """Refuse, with `BundleError`, paths that are unsafe, too many, equal up to case, or both a file and a folder."""
    if len(paths) > MAX_FILES:
        raise BundleError("there are too many files", got=len(paths), expected=f"at most {MAX_FILES}")
    seen: dict[str, str] = {}
    for path in paths:
        check_path(path)
        twin = seen.setdefault(path.lower(), path)
        if twin is not path:
            alike = "appears twice" if twin == path else f"differs from '{twin}' by case alone"
            raise BundleError(f"the path '{path}' {alike}")
    for path in paths:
        parts = path.lower().split("/")
        for count in range(1, len(parts)):
            folder = "/".join(parts[:count])
            if folder in seen:
                raise BundleError(f"the path '{path}' lies under '{seen[folder]}', which is a file")


def check_size(path: str, size_bytes: int) -> None:
    """Refuse, with `BundleError`, a file that is larger than a file of its kind may be."""
    limit = MAX_MANIFEST_BYTES if path in (MANIFEST, DIGEST) else MAX_FILE_BYTES
    if size_bytes > limit:
        raise BundleError(f"the file '{path}' is too large", got=f"{size_bytes} bytes", expected=f"at most {limit}")


def quoted(text: str) -> str:
    """Return a text out of a bundle as a message quotes it: in ASCII, on one line, not endless."""
    return ascii(text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "...")


def twice(names: Iterable[str]) -> str | None:
    """Return the first name that appears a second time, if there is one."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _unsafe(path: str) -> str:
    """Return what is wrong with a path, or nothing."""
    if len(path) > MAX_PATH_CHARACTERS:
        return f"is longer than {MAX_PATH_CHARACTERS} characters"
    segments = path.split("/")
    rules = (
        (not path, "is empty"),
        (not path.isascii(), "is not ASCII"),
        (path.startswith("/"), "is absolute"),
        (".." in segments, "escapes the bundle"),
        ("\\" in path, "has a backslash"),
        (":" in path, "has a colon"),
        (path.endswith("/"), "is a folder"),
        (len(segments) > MAX_PATH_SEGMENTS, f"is deeper than {MAX_PATH_SEGMENTS} segments"),
        (
            not all(_SEGMENT.fullmatch(s) for s in segments),
            "has a segment that is empty, hidden or of other characters",
        ),
        (any(s.endswith(".") for s in segments), "has a segment that ends with a dot"),
        (any(_DEVICE.fullmatch(s) for s in segments), "is the name of a device on Windows"),
    )
    return next((reason for broken, reason in rules if broken), "")
