"""Arrays in `.npy` files, as `numpy.save` writes them: plain numbers, whose header promises no more than there is."""

from __future__ import annotations

import math
import re

import numpy as np

from edgefuse.errors import InputError, shown
from edgefuse.runtime.backends.backend import Array
from edgefuse.runtime.preprocess.files import Encoded, origin, read

MAX_FILE_BYTES = 256 << 20
_MAX_HEADER_BYTES = 10_000
_MAX_SHAPE = 1_000  # characters: 32 dimensions of up to 18 digits
_MAGIC = b"\x93NUMPY"
_ARCHIVE = b"PK\x03\x04"
_EXPECTED = "an array that numpy.save wrote, without pickled objects"

# NumPy evaluates the header as a Python literal, which warns, nests and takes what no array of numbers has.
_HEADER = re.compile(
    r"\{"
    r"(?=.*'descr'\s*:\s*'(?P<type>[<>|=]?[biufc]\d{1,2})')"
    r"(?=.*'fortran_order'\s*:\s*(?P<fortran>True|False))"
    r"(?=.*'shape'\s*:\s*\((?P<shape>(?:\d+\s*,\s*)*(?:\d+\s*)?)\))"
    r"[^{}]*\}\s*"
)


def read_array(path: Encoded, name: str) -> Array:
    """Return the array in a `.npy` file.

    Args:
        path: of the file, or what is in it as bytes.
        name: of the modality that it is for.

    Raises:
        InputError: if it is no regular file, too large, or holds anything but one whole array of numbers.
    """
    data = read(path, name, MAX_FILE_BYTES)
    where = origin(path, "array")
    header, begin = _header(data, name, where)
    found = _HEADER.fullmatch(header)
    if found is None or len(found["shape"]) > _MAX_SHAPE:
        raise _refused(name, f"the header {shown(header, 80)} in {where}")
    shape = [int(size) for size in found["shape"].replace(",", " ").split()]
    try:
        dtype = np.dtype(found["type"])
        if math.prod(shape) * dtype.itemsize <= len(data) - begin:
            values = np.frombuffer(data, dtype, math.prod(shape), begin)
            return values.reshape(shape, order="F" if found["fortran"] == "True" else "C")
    except (TypeError, ValueError) as error:  # no such type; more dimensions than there can be
        raise _refused(name, f"the header {shown(header, 80)} in {where}") from error
    raise _refused(name, f"{len(data) - begin} bytes of {dtype} for ({shown(found['shape'], 60)}) in {where}")


def _header(data: bytes, name: str, where: str) -> tuple[str, int]:
    """Return the text of the header, and where the numbers begin."""
    if data[:4] == _ARCHIVE:
        raise _refused(name, f"an archive of several arrays in {where}", fix="save the one array with numpy.save")
    major, width = data[6:7], 2 if data[6:7] == b"\x01" else 4
    if data[:6] != _MAGIC or major not in (b"\x01", b"\x02"):  # 3 is for structured arrays with odd field names
        raise _refused(name, f"{data[:8]!r} at the beginning of {where}")
    begin = 8 + width + int.from_bytes(data[8 : 8 + width], "little")
    if begin > min(len(data), _MAX_HEADER_BYTES):
        raise _refused(name, f"a header of {begin} bytes in {where}")
    return data[8 + width : begin].decode("latin-1"), begin


def _refused(name: str, got: str, fix: str | None = None) -> InputError:
    return InputError(f"the array for '{name}' cannot be read", got=got, expected=_EXPECTED, fix=fix)
