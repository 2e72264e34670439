"""From the bytes of `manifest.json` to a typed manifest, strictly.

msgspec refuses unknown fields, wrong types, NaN, numbers that overflow and trailing text; it takes the last of two
equal keys, as JSON allows. Another reader may take the first and see another bundle, so equal keys are refused here.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

from edgefuse.bundle.layout import MANIFEST
from edgefuse.bundle.manifest import SCHEMA_MAJOR, SCHEMA_MINOR, Manifest
from edgefuse.errors import BundleError


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
        minor = _check_version(_decode(data, _Version, fix=None).schema)
        manifest = _decode(data, Manifest, fix=_UPDATE if minor > SCHEMA_MINOR else None)
        json.loads(text, object_pairs_hook=_distinct)
    except UnicodeDecodeError as error:
        raise BundleError(f"{MANIFEST} is not UTF-8", got=f"byte {error.start}") from error
    except RecursionError as error:
        raise BundleError(f"{MANIFEST} is nested too deeply") from error
    return manifest


_UPDATE = "update edgefuse here, or compile the bundle with the version that is installed here"
_Decoded = TypeVar("_Decoded")


def _decode(data: bytes, kind: type[_Decoded], *, fix: str | None) -> _Decoded:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise BundleError(f"{MANIFEST} is not a valid manifest", got=f"'{error}'", fix=fix) from error


def _check_version(version: tuple[int, int]) -> int:
    """Return the minor version, having refused another major."""
    if version[0] != SCHEMA_MAJOR:
        raise BundleError(
            f"{MANIFEST} is of a schema that this version of edgefuse cannot read",
            got=f"version {version[0]}.{version[1]}",
            expected=f"{SCHEMA_MAJOR}.x",
            fix=_UPDATE,
        )
    return version[1]


def _distinct(pairs: list[tuple[str, Any]]) -> None:
    """Refuse an object with two equal keys. The value is not needed: msgspec has decoded it."""
    keys = [key for key, _ in pairs]
    if len(keys) != len(set(keys)):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BundleError(f"{MANIFEST} has the key {twice!a} twice in one object")
