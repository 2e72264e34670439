"""Arrays in files, whose headers may say anything."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgefuse.errors import InputError
from edgefuse.runtime.preprocess import array_file
from edgefuse.runtime.preprocess.array_file import read_array

Array = npt.NDArray[Any]
PLAIN = np.arange(12, dtype=np.float32).reshape(1, 4, 3)
EXPECTED = "expected an array that numpy.save wrote, without pickled objects"


def saved(values: Array, version: tuple[int, int] = (1, 0)) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, values, version=version)
    return buffer.getvalue()


def with_header(header: str, body: bytes = PLAIN.tobytes(), major: int = 1) -> bytes:
    text = header.encode("latin-1")
    return b"\x93NUMPY" + bytes((major, 0)) + struct.pack("<H" if major == 1 else "<I", len(text)) + text + body


def read(folder: Path, data: bytes) -> Array:
    path = folder / "motion.npy"
    path.write_bytes(data)
    return read_array(path, "motion")


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "|u1", "|i1", "<i4", ">i8", "<u2", "|b1", "<c8", "<f2"])
@pytest.mark.parametrize("shape", [(), (0,), (7,), (1, 4, 3), (2, 0, 3), (1,) * 12])
def test_what_numpy_saved_is_what_is_read(
    shape: tuple[int, ...], dtype: str, version: tuple[int, int], tmp_path: Path
) -> None:
    values = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    for given in (values, values.copy(order="F")):
        found = read(tmp_path, saved(given, version))
        assert (found.dtype, found.shape) == (values.dtype, values.shape)
        np.testing.assert_array_equal(found, values)


def test_headers_of_other_writers_are_read(tmp_path: Path) -> None:
    for header in (
        '{"shape": (1,4,3), "fortran_order": False, "descr": "<f4"}'.replace('"', "'"),
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 4, 3)}        \n",
        "{'descr': 'f4', 'fortran_order': False, 'shape': (1, 4, 3, ), }\n",
    ):
        np.testing.assert_array_equal(read(tmp_path, with_header(header)), PLAIN)
    column = with_header("{'descr': '<f4', 'fortran_order': True, 'shape': (4, 3), }", PLAIN.tobytes())
    np.testing.assert_array_equal(read(tmp_path, column), PLAIN.reshape(3, 4).T)


def header(descr: str = "'<f4'", shape: str = "(1, 4, 3)", order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


@pytest.mark.parametrize(
    "text",
    [
        *(
            header(descr=descr)
            for descr in ("'|O'", "'O'", "'<f4,<f4'", "'(3,)<f4'", "[('a', '<f4')]", "None", "1", "'<f3'")
        ),
        *(header(descr=descr) for descr in ("'|V2147483647'", "'<U99999999'", "'<M8[s]'", "'float32'", "'<f0'")),
        *(
            header(shape=shape)
            for shape in ("(-1,)", "[1, 4, 3]", "(True,)", "(1.5,)", "(1 2)", "(2**9,)", "(1L,)", "12")
        ),
        *(header(shape=f"({'1,' * 200})", order=order) for order in ("True", "False")),
        *(header(order=order) for order in ("None", "1", "'yes'")),
        header(shape="(" + "9" * 5_000 + ",)"),
        "__import__('os').abort()",
        "(" * 9_000,
        "-" * 9_000 + "1",
        "{" * 5_000,
        "{'descr': '\\d', 'fortran_order': False, 'shape': (3,)}",
        "{'shape': (1," * 700,
        "\0" * 100,
        "",
    ],
)
def test_no_header_is_evaluated(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, with_header(text))
    said = str(caught.value)
    assert said.startswith("the array for 'motion' cannot be read: got the header ")
    assert "motion.npy'" in said
    assert EXPECTED in said
    assert said.isprintable()


@pytest.mark.parametrize(
    "shape", ["(99999999999999,)", "(4294967296, 4294967296)", "(13,)", "(0, 99999999999999999999)", "(1, 4, 4)"]
)
def test_a_shape_that_the_file_does_not_hold_takes_no_memory(shape: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"got .*motion\.npy'"):
        read(tmp_path, with_header(header(shape=shape)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"the file for 'motion' is empty: got 0 bytes in '.*motion\.npy'"),
        (b"1 2 3\n", r"got b'1 2 3\\n' at the beginning of '.*motion\.npy'"),
        (saved(PLAIN)[:60], "got a header of 128 bytes"),
        (saved(PLAIN)[:-1], r"got 47 bytes of float32 for \(1, 4, 3\) in"),
        (with_header(" " * 60_000), "got a header of 60010 bytes"),
        (b"\x93NUMPY\x02\0\xff\xff\xff\xff", "got a header of 4294967307 bytes"),
        (b"\x93NUMPY\x03\0" + saved(PLAIN)[8:], r"at the beginning of"),
        (b"\x93NUMPY\x01", "got a header of"),
    ],
)
def test_what_is_no_whole_array_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, data)


def test_objects_and_archives_are_refused(tmp_path: Path) -> None:
    objects = io.BytesIO()
    np.save(objects, np.array([{}], object), allow_pickle=True)
    with pytest.raises(InputError, match=EXPECTED):
        read(tmp_path, objects.getvalue())
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("motion.npy", saved(PLAIN))
    with pytest.raises(
        InputError, match=r"got an archive of several arrays .* Fix: save the one array with numpy\.save"
    ):
        read(tmp_path, archive.getvalue())


def test_the_size_of_a_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_file, "MAX_FILE_BYTES", 100)
    with pytest.raises(InputError, match="too large: got 176 bytes"):
        read(tmp_path, saved(PLAIN))
