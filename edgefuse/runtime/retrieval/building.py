"""An index made of items, and written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

import msgspec

from edgefuse.bundle.writer import publish_folder
from edgefuse.errors import InputError
from edgefuse.files import reason
from edgefuse.runtime.pipeline import Inputs, Pipeline
from edgefuse.runtime.retrieval.encoder import embed, encoder_of
from edgefuse.runtime.retrieval.index import RECORD, VECTORS, Index, Record, header

_CHUNK_BYTES = 1 << 20

Failed = Callable[[str, InputError], None]
"""Told of an item that cannot be embedded."""


def build(
    path: str | os.PathLike[str],
    pipeline: Pipeline,
    items: Iterable[tuple[str | os.PathLike[str], object]],
    *,
    modality: str,
    failed: Failed | None = None,
) -> Index:
    """Embed items and write an index of them; an index that is there is replaced.

    Vectors go to a temporary file beside it as they are made, so that only their names are in memory.

    Args:
        path: of the index, a folder.
        pipeline: embeds, at its rung.
        items: their names, and what the pipeline takes as `modality` (paths, arrays, text), preprocessed or not.
        modality: of the items.
        failed: is called with the name of an item that cannot be read and the error, and the item is left out; such an
            error ends it if None.

    Raises:
        InputError: if nothing is embedded, the model cannot embed the modality alone, something else than an index has
            that path, or it cannot be written.
        BackendError: if a runtime cannot run a stage.
    """
    folder, names = Path(path), list[str]()
    encoder = encoder_of(pipeline.manifest, pipeline.rung, modality)
    try:
        _check_replaceable(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder.parent) as vectors:
            for name, raw in _named(items):
                try:
                    inputs = raw if isinstance(raw, Inputs) else pipeline.preprocess(**{modality: raw})
                    vector = embed(pipeline, inputs)
                except InputError as error:
                    if failed is None:
                        raise
                    failed(name, error)
                    continue
                names.append(name.encode("utf-8", "backslashreplace").decode())  # a file's name may be any bytes
                vectors.write(vector.astype("<f4").tobytes())
            if not names:
                raise InputError("there is nothing to index", got="no item that can be read", expected="at least one")
            made = Record(
                model=pipeline.manifest.model.name,
                modality=modality,
                rung=pipeline.rung.name,
                encoder=encoder.digest,
                size=encoder.output.size,
                vectors_sha256="",
                names=tuple(names),
            )
            _publish(folder, made, vectors)
    except OSError as error:
        raise InputError(f"the index '{folder}' cannot be written", got=reason(error)) from error
    return Index.open(folder, pipeline)


def _named(items: Iterable[tuple[str | os.PathLike[str], object]]) -> Iterator[tuple[str, object]]:
    """Yield each item's name as text, and what it is.

    Raises:
        InputError: if these are no pairs, or a name is neither text nor a path.
    """
    if not isinstance(items, Iterable):
        raise _no_items(items)
    for item in items:
        try:
            name, raw = item
            text = os.fsdecode(name)
        except (TypeError, ValueError) as error:
            raise _no_items(item) from error
        yield text, raw


def _no_items(found: object) -> InputError:
    return InputError(
        "these are no items of an index", got=type(found).__name__, expected="pairs of a name and what it names"
    )


def _publish(folder: Path, record: Record, vectors: IO[bytes]) -> None:
    begin, digest = header(len(record.names), record.size), hashlib.sha256()

    def chunks() -> Iterator[bytes]:
        vectors.seek(0)
        yield begin
        while chunk := vectors.read(_CHUNK_BYTES):
            yield chunk

    for chunk in chunks():
        digest.update(chunk)
    record = msgspec.structs.replace(record, vectors_sha256=digest.hexdigest())
    publish_folder(folder, {VECTORS: chunks(), RECORD: [msgspec.json.encode(record)]})


def _check_replaceable(folder: Path) -> None:
    """Refuse to replace anything but an index, or an empty folder."""
    try:
        found = sorted(os.listdir(folder))  # noqa: PTH208 - names alone
    except FileNotFoundError:
        return
    except NotADirectoryError:
        found = [""]
    if not set(found) <= {VECTORS, RECORD} or folder.is_symlink():
        raise InputError(
            f"'{folder}' is in the way of the index",
            got=next((name for name in found if name not in (VECTORS, RECORD)), "a link") or "a file",
            expected="an index, an empty folder or nothing",
            fix="choose another path",
        )
