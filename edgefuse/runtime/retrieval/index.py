"""An index of embeddings: a folder with `vectors.npy` and `index.json`, searched exactly and in blocks.

It is data of a user's, beside the bundle, and says which encoder files made it. The vectors are read whole when it is
opened, to check their hash, and again with each search: never more than a block of them is in memory, and what the
system keeps of the file it can take back. They are not mapped: a mapped file that is cut short ends the process.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from edgefuse.errors import InputError, cited, shown
from edgefuse.files import check_regular, read_regular, reason
from edgefuse.runtime.pipeline import Pipeline
from edgefuse.runtime.retrieval.encoder import Vector, encoder_of, unit
from edgefuse.typed_json import decode

VECTORS, RECORD = "vectors.npy", "index.json"
HEADER_BYTES = 128
MAX_SIZE = 1 << 16
_MAX_RECORD_BYTES = 1 << 30
_BLOCK_BYTES = 1 << 20
"""Small enough for the processor's cache: a block is multiplied where it was read to."""
_ANEW = "make it anew with 'edgefuse index'"

_Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `index.json` holds.

    Attributes:
        version: of this format.
        model: the name of the model that embedded the items.
        modality: of the items.
        rung: at which they were embedded.
        encoder: the digest of what embedded them: see `encoder.Encoder`.
        size: of a vector.
        vectors_sha256: of `vectors.npy`.
        names: of the items, one for each row.
    """

    version: Annotated[int, msgspec.Meta(ge=1, le=1)] = 1
    model: str
    modality: str
    rung: str
    encoder: _Digest
    size: Annotated[int, msgspec.Meta(ge=1, le=MAX_SIZE)]
    vectors_sha256: _Digest
    names: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]


class Hit(NamedTuple):
    """An item that was found, and the cosine of the angle between it and what was looked for."""

    name: str
    score: float


def header(rows: int, size: int) -> bytes:
    """Return the head of a `.npy` file with float32 [rows, size]."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {size}), }}"
    return (
        b"\x93NUMPY\x01\x00"
        + (HEADER_BYTES - 10).to_bytes(2, "little")
        + text.ljust(HEADER_BYTES - 11).encode()
        + b"\n"
    )


class Index:
    """An index that was opened; safe for searches from several threads. It is a context manager that closes its file.

    Attributes:
        record: what it says of itself.
    """

    def __init__(self, path: Path, record: Record, file: FileIO) -> None:
        self.record = record
        self._path = path
        self._file = file
        self._reading = Lock()

    @classmethod
    def open(cls, path: str | os.PathLike[str], pipeline: Pipeline | None = None) -> Index:
        """Open an index, and check it whole.

        Args:
            path: of its folder.
            pipeline: what embeds the queries; the index must have been made by its bundle, with the files of its rung.
                None for points that come from elsewhere.

        Raises:
            InputError: if it is damaged, or of another encoder.
        """
        folder = Path(path)
        record = _record(folder)
        if pipeline is not None:
            _check_encoder(folder, record, pipeline)
        try:
            check_regular(folder / VECTORS)
            file = FileIO(folder / VECTORS)
        except OSError as error:
            raise _damaged(folder, f"{VECTORS}: {reason(error)}") from error
        index = cls(folder, record, file)
        try:
            index._check()
        except BaseException:
            file.close()
            raise
        return index

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.record.names)

    def search(self, points: npt.ArrayLike, top: int = 10) -> list[list[Hit]]:
        """Return the nearest items of each point, the nearest first; of equals, the one that was indexed first.

        Args:
            points: float [Q, size], or [size] for one.
            top: how many items.

        Raises:
            InputError: if the points do not fit or have no direction, `top` is below 1, or the index is damaged.
        """
        queries = self.queries(points, top)
        best = [(np.empty(0, np.float32), np.empty(0, np.int64)) for _ in queries]
        for start, block in self.blocks():
            with np.errstate(all="ignore"):  # what is no number is told below
                near = queries @ block.T
            self._check_near(near, start, len(block))
            for number, (scores, rows) in enumerate(best):
                new = np.flatnonzero(near[number] > scores[-1]) if len(scores) == top else np.arange(len(block))
                if len(new):
                    scores, rows = np.append(scores, near[number, new]), np.append(rows, new + start)
                    order = np.argsort(-scores, kind="stable")[:top]
                    best[number] = scores[order], rows[order]
        names = self.record.names
        return [[Hit(names[row], float(score)) for score, row in zip(*found, strict=True)] for found in best]

    def close(self) -> None:
        """Close the file. Closing twice is harmless."""
        self._file.close()

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def queries(self, points: npt.ArrayLike, top: int) -> Vector:
        """Return points at length one, float32 [Q, size]; arguments and errors as those of `search`."""
        if not isinstance(top, int | np.integer) or top < 1:
            raise InputError("a search needs a positive number of items", got=shown(top, 80), expected="1 or more")
        try:
            given = np.atleast_2d(np.asarray(points))
        except ValueError as error:
            raise _no_point(cited(error)) from error
        if given.dtype.kind not in "biuf":
            raise _no_point(str(given.dtype))
        if given.ndim != 2 or given.shape[1] != self.record.size or not len(given):
            raise InputError(
                "a point does not fit the index",
                got=f"the shape {list(np.shape(points))}",
                expected=f"[{self.record.size}], or [points, {self.record.size}]",
            )
        return np.stack([unit(point, "a point that is looked for") for point in given])

    def blocks(self) -> Iterator[tuple[int, Vector]]:
        """Yield the number of a first row, and some rows; their array is used again."""
        rows = max(1, _BLOCK_BYTES // (4 * self.record.size))
        buffer = np.empty((rows, self.record.size), "<f4")
        for start in range(0, len(self), rows):
            yield start, self._rows(start, buffer[: min(rows, len(self) - start)])

    def ranked(self, query: Vector, rows: npt.NDArray[np.int64], top: int) -> list[Hit]:
        """Return the nearest of some rows, with exact scores.

        Args:
            query: of length one, float32 [size].
            rows: their numbers, ascending.
            top: how many of them.
        """
        buffer = np.empty((1, self.record.size), "<f4")
        near = np.array([float(self._rows(row, buffer)[0] @ query) for row in rows.tolist()])
        self._check_near(near, int(rows[0]), int(rows[-1] - rows[0]) + 1)
        return [Hit(self.record.names[rows[n]], float(near[n])) for n in np.argsort(-near, kind="stable")[:top]]

    def _check_near(self, near: Vector | npt.NDArray[np.float64], start: int, count: int) -> None:
        if not float(np.abs(near).max()) < 1.01:  # NaN is not, either
            raise _damaged(self._path, f"a vector in rows {start} to {start + count - 1} that is not of length 1")

    def _rows(self, start: int, into: Vector) -> Vector:
        """Read rows from one on, as many as there are in an array, and return it."""
        self._read(HEADER_BYTES + 4 * start * self.record.size, into.data.cast("B"))
        return into

    def _read(self, begin: int, into: memoryview) -> None:
        with self._reading:
            try:
                self._file.seek(begin)
                while into:
                    read = self._file.readinto(into)
                    if not read:
                        raise _damaged(self._path, f"{VECTORS} became shorter")
                    into = into[read:]
            except (OSError, ValueError) as error:  # ValueError: it is closed
                raise InputError(f"the index '{self._path}' cannot be read", got=cited(error)) from error

    def _check(self) -> None:
        """Hold the file of vectors to what the record says."""
        begin = header(len(self), self.record.size)
        expected = len(begin) + 4 * len(self) * self.record.size
        found = os.fstat(self._file.fileno()).st_size
        if found != expected:
            raise _damaged(self._path, f"{VECTORS} of {found} bytes", f"{expected} for {len(self)} items")
        digest, buffer = hashlib.sha256(), bytearray(_BLOCK_BYTES)
        for start in range(0, expected, _BLOCK_BYTES):
            part = memoryview(buffer)[: min(_BLOCK_BYTES, expected - start)]
            self._read(start, part)
            digest.update(part)
            if start == 0 and part[: len(begin)] != begin:
                raise _damaged(self._path, f"another header of {VECTORS}")
        if digest.hexdigest() != self.record.vectors_sha256:
            raise _damaged(self._path, f"{VECTORS} with SHA-256 {digest.hexdigest()}", self.record.vectors_sha256)


def _record(folder: Path) -> Record:
    try:
        return decode(read_regular(folder / RECORD, _MAX_RECORD_BYTES), Record)
    except OSError as error:
        raise InputError(
            f"there is no index at '{folder}'", got=f"{RECORD}: {reason(error)}", fix="make one with 'edgefuse index'"
        ) from error
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _damaged(folder, f"{RECORD}: {cited(error)}") from error


def _check_encoder(folder: Path, record: Record, pipeline: Pipeline) -> None:
    manifest = pipeline.manifest
    known = [modality.name for modality in manifest.model.modalities]
    digests = {
        rung.name: encoder_of(manifest, rung, record.modality).digest
        for rung in manifest.rungs
        if record.modality in known
    }
    here = digests.get(pipeline.rung.name, "")
    if here == record.encoder:
        return
    fitting = [name for name, digest in digests.items() if digest == record.encoder]
    raise InputError(
        f"the index '{folder}' was made by other files than those that embed '{record.modality}' here",
        got=f"those of '{record.model}' at its rung '{record.rung}', {record.encoder[:12]}",
        expected=f"those of '{manifest.model.name}' at the rung '{pipeline.rung.name}', {here[:12] or 'none'}",
        fix=f"name the rung '{fitting[0]}'" if fitting else _ANEW,
    )


def _no_point(got: str) -> InputError:
    return InputError(
        "a point that is looked for is no array of numbers", got=got, expected="[size], or [points, size]"
    )


def _damaged(folder: Path, got: str, expected: str | None = None) -> InputError:
    return InputError(f"the index '{folder}' is damaged", got=got, expected=expected, fix=_ANEW)
