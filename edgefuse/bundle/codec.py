"""How `manifest.json` is written and read.

The encoding is canonical (sorted keys, no time, host, user or path), so the same content gives the same bytes.

Decoding is strict. msgspec refuses unknown fields, wrong types, NaN, numbers that overflow and trailing text; it takes
the last of two equal keys, as JSON allows. Another reader may take the first, so equal keys are refused here.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

from edgefuse import typed_json
from edgefuse.bundle.layout import MANIFEST, quoted, twice
from edgefuse.bundle.manifest import SCHEMA_MAJOR, SCHEMA_MINOR, Manifest
from edgefuse.errors import BundleError, shown


def encode(manifest: Manifest) -> bytes:
    """Return the canonical JSON of a manifest: sorted keys, two-space indent, a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=2) + b"\n"


class _Version(msgspec.Struct):
    """The one field that every version of the schema has."""

    schema: tuple[int, int]


def decode(data: bytes) -> Manifest:
    """Return the manifest that the JSON text encodes; what it says is checked by `validation.check`.

    Raises:
        BundleError: the text is not strict JSON in UTF-8, or not a manifest of a version that this reader knows.
    """
    try:
        text = data.decode("utf-8")
        major, minor = _checked_version(_decode(data, _Version, fix=None).schema)
        if major == _PREDECESSOR:
            from edgefuse.bundle.manifest_1 import Manifest1  # few devices meet one

            manifest = _decode(data, Manifest1, fix=None).upgraded()
        else:
            manifest = _decode(data, Manifest, fix=_UPDATE if minor > SCHEMA_MINOR else None)
        json.loads(text, object_pairs_hook=_distinct)
    except UnicodeDecodeError as error:
        raise BundleError(f"{MANIFEST} is not UTF-8", got=f"byte {error.start}") from error
    except RecursionError as error:
        raise BundleError(f"{MANIFEST} is nested too deeply") from error
    return manifest


_PREDECESSOR = 1
_UPDATE = "update edgefuse here, or compile the bundle with the version that is installed here"
_Decoded = TypeVar("_Decoded")


def _decode(data: bytes, kind: type[_Decoded], *, fix: str | None) -> _Decoded:
    try:
        return typed_json.decode(data, kind)
    except msgspec.MsgspecError as error:
        raise BundleError(f"{MANIFEST} is not a valid manifest", got=quoted(str(error)), fix=fix) from error


def _checked_version(version: tuple[int, int]) -> tuple[int, int]:
    """Return the version, having refused a major that this reader does not know."""
    if version[0] not in (_PREDECESSOR, SCHEMA_MAJOR):
        raise BundleError(
            f"{MANIFEST} is of a schema that this version of edgefuse cannot read",
            got=f"version {shown(version[0], 20)}.{shown(version[1], 20)}",
            expected=f"{_PREDECESSOR}.x or {SCHEMA_MAJOR}.x",
            fix=_UPDATE,
        )
    return version


def _distinct(pairs: list[tuple[str, Any]]) -> None:
    """Refuse an object with two equal keys. The value is not needed: msgspec has decoded it."""
    if len(dict(pairs)) != len(pairs):
        key = quoted(twice(key for key, _ in pairs) or "")
        raise BundleError(f"{MANIFEST} has the key {key} twice in one object")
