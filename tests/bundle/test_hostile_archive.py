"""Each way in which a zip can be hostile or damaged is refused with one sentence that names file and reason."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefuse.bundle import layout
from edgefuse.bundle.containers import pack
from edgefuse.bundle.reader import open_bundle
from edgefuse.errors import BundleError

Members = dict[str, bytes]
FUSION = "stages/fusion.float.bin"


def _refusal(path: Path) -> str:
    with pytest.raises(BundleError) as caught, open_bundle(path) as bundle:
        bundle.verify()
    assert str(caught.value).startswith(f"the bundle '{path}' is refused: ")
    return str(caught.value)


def _central(data: bytes, name: str) -> int:
    """Return where the entry of a member begins in the central directory."""
    return data.rindex(name.encode()) - 46


def _local(data: bytes, name: str) -> int:
    """Return where a member begins."""
    offset: int = struct.unpack_from("<L", data, _central(data, name) + 42)[0]
    return offset


def _patched(data: bytes, offset: int, form: str, value: int) -> bytes:
    field = struct.pack(form, value)
    return data[:offset] + field + data[offset + len(field) :]


def _patched_twice(data: bytes, name: str, central_offset: int, form: str, value: int) -> bytes:
    """Change a field that both headers of a member have."""
    central, local = _central(data, name), _local(data, name)
    return _patched(_patched(data, central + central_offset, form, value), local + central_offset - 2, form, value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/passwd", "is absolute"),
        ("../outside.bin", "escapes the bundle"),
        ("stages/../../outside.bin", "escapes the bundle"),
        ("stages\\outside.bin", "has a backslash"),
        ("C:/outside.bin", "has a colon"),
        ("stages/", "is a folder"),
        ("stages//x.bin", "has a segment that is empty"),
        ("./x.bin", "has a segment that is empty, hidden"),
        (".hidden", "has a segment that is empty, hidden"),
        ("stages/x.", "ends with a dot"),
        ("stages/nul.bin", "is the name of a device on Windows"),
        ("a" * 201, "is longer than 200 characters"),
        ("a/" * 8 + "b", "is deeper than 8 segments"),
        ("stages/x\n.bin", "has a segment that is empty, hidden or of other characters"),
    ],
)
def test_a_name_outside_of_the_rules(name: str, reason: str, tmp_path: Path, members: Members) -> None:
    path = tmp_path / "hostile.edgefuse"
    path.write_bytes(b"".join(pack({**members, name: b"x"})))
    assert reason in _refusal(path)
    assert not (tmp_path / "outside.bin").exists()


@pytest.mark.parametrize("name", ["stages/café.bin", "stages/cafe\u0301.bin", "ſtages/x.bin"])
def test_a_name_that_has_several_unicode_forms(name: str, tmp_path: Path, members: Members) -> None:
    path = tmp_path / "hostile.edgefuse"
    with zipfile.ZipFile(path, "w") as hostile:
        for each, data in {**members, name: b"x"}.items():
            hostile.writestr(each, data)
    assert "is not ASCII" in _refusal(path)


def test_a_name_that_appears_twice(tmp_path: Path, members: Members) -> None:
    path = tmp_path / "hostile.edgefuse"
    with zipfile.ZipFile(path, "w") as hostile:
        for name in members:
            hostile.writestr(name, members[name])
        with pytest.warns(UserWarning, match="Duplicate name"):
            hostile.writestr(FUSION, members[FUSION])
    assert f"the path '{FUSION}' appears twice" in _refusal(path)


def test_names_that_differ_by_case_alone(tmp_path: Path, members: Members) -> None:
    path = tmp_path / "hostile.edgefuse"
    path.write_bytes(b"".join(pack({**members, "Stages/fusion.float.bin": b"x"})))
    assert "by case alone" in _refusal(path)


def test_a_file_that_is_also_a_folder(tmp_path: Path, members: Members) -> None:
    path = tmp_path / "hostile.edgefuse"
    path.write_bytes(b"".join(pack({**members, FUSION + "/inner": b"x"})))
    assert f"lies under '{FUSION}', which is a file" in _refusal(path)


def test_a_compressed_member(tmp_path: Path, members: Members) -> None:
    path = tmp_path / "hostile.edgefuse"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as hostile:
        for name, data in members.items():
            hostile.writestr(name, data)
    assert "is compressed with method 8" in _refusal(path)


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        (0o120777, "is a symbolic link"),
        (0o040755, "is not a regular file (mode 40755)"),
        (0o010644, "is not a regular file (mode 10644)"),
    ],
)
def test_a_member_that_is_no_regular_file(mode: int, reason: str, archive: Path) -> None:
    data = archive.read_bytes()
    archive.write_bytes(_patched(data, _central(data, FUSION) + 38, "<L", mode << 16))
    assert f"'{FUSION}' {reason}" in _refusal(archive)


@pytest.mark.parametrize(
    ("offset", "form", "value", "reason"),
    [
        (8, "<H", 0x0001, "is encrypted"),
        (8, "<H", 0x0008, "has a data descriptor"),
        (8, "<H", 0x0040, "has unknown flags 0x0040"),
        (20, "<L", 0xFFFFFFFF, "uses ZIP64"),
        (24, "<L", 3, "has two different sizes"),
    ],
)
def test_a_field_of_both_headers(offset: int, form: str, value: int, reason: str, archive: Path) -> None:
    archive.write_bytes(_patched_twice(archive.read_bytes(), FUSION, offset, form, value))
    assert f"'{FUSION}' {reason}" in _refusal(archive)


@pytest.mark.parametrize(
    ("offset", "form", "value", "reason"),
    [
        (30, "<H", 1, "has an extra field or a comment"),
        (32, "<H", 1, "has an extra field or a comment"),
        (34, "<H", 1, "lies on another disk"),
        (38, "<L", 0x10, "is a folder or a volume label"),
        (42, "<L", 0xFFFFFFFF, "uses ZIP64"),
    ],
)
def test_a_field_of_the_central_directory(offset: int, form: str, value: int, reason: str, archive: Path) -> None:
    data = archive.read_bytes()
    archive.write_bytes(_patched(data, _central(data, FUSION) + offset, form, value))
    assert f"'{FUSION}' {reason}" in _refusal(archive)


@pytest.mark.parametrize("offset", [0, 4, 10, 14, 22, 28, 30], ids=str)
def test_a_local_header_that_differs_from_the_central_directory(offset: int, archive: Path) -> None:
    data = archive.read_bytes()
    position = _local(data, FUSION) + offset
    archive.write_bytes(_patched(data, position, "<B", data[position] ^ 1))
    assert f"the local header of '{FUSION}' differs from the central directory" in _refusal(archive)


def test_members_that_overlap(archive: Path) -> None:
    data = archive.read_bytes()
    first, second = "assets/tokenizer.json", "golden/000.bin"
    archive.write_bytes(_patched(data, _central(data, second) + 42, "<L", _local(data, first)))
    assert "overlaps another one" in _refusal(archive)


def test_data_before_the_first_member(archive: Path) -> None:
    shift = b"#!/bin/sh\n"
    data = archive.read_bytes()
    directory, end = data.index(b"PK\x01\x02"), len(data) - 22
    position = directory
    while position < end:
        offset = struct.unpack_from("<L", data, position + 42)[0]
        data = _patched(data, position + 42, "<L", offset + len(shift))
        position += 46 + struct.unpack_from("<H", data, position + 28)[0]
    data = _patched(data, end + 16, "<L", directory + len(shift))
    archive.write_bytes(shift + data)
    assert "there is data outside of members before 'assets/tokenizer.json'" in _refusal(archive)


def test_data_between_the_members_and_the_directory(archive: Path) -> None:
    data = archive.read_bytes()
    directory = data.index(b"PK\x01\x02")
    data = _patched(data, len(data) - 6, "<L", directory + 4)
    archive.write_bytes(data[:directory] + b"evil" + data[directory:])
    assert "the members do not end where the central directory begins" in _refusal(archive)


def test_data_behind_the_entries_of_the_directory(archive: Path) -> None:
    data = archive.read_bytes()
    size = struct.unpack_from("<L", data, len(data) - 10)[0]
    data = data[:-22] + b"evil" + _patched(data[-22:], 12, "<L", size + 4)
    archive.write_bytes(data)
    assert "there is data between the central directory and the end record" in _refusal(archive)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data + b"x", "does not end with the end record"),
        (lambda data: data + data[-22:], "the central directory does not end at the end record"),
        (lambda data: data + data, "the central directory does not end at the end record"),
        (lambda data: data[:-1], "does not end with the end record"),
        (lambda data: data[: len(data) // 2], "does not end with the end record"),
        (lambda data: b"", "this is not a bundle"),
        (lambda data: b"PK", "this is not a bundle"),
        (lambda data: _patched(data, len(data) - 2, "<H", 5) + b"hello", "does not end with the end record"),
        (lambda data: _patched(data, len(data) - 12, "<H", 0xFFFF), "uses ZIP64"),
        (lambda data: _patched(data, len(data) - 6, "<L", 0xFFFFFFFF), "uses ZIP64"),
        (lambda data: _patched(data, len(data) - 18, "<H", 1), "spans several disks"),
        (lambda data: _patched(data, len(data) - 12, "<H", 5000), "spans several disks"),
        (lambda data: _patched(data, len(data) - 14, "<L", 0x13881388), "there are too many files"),
        (lambda data: _patched(data, len(data) - 14, "<L", 0x00010001), "too large for its entries"),
        (lambda data: _patched(data, len(data) - 14, "<L", 0x000B000B), "is cut short"),
    ],
)
def test_an_end_record_or_a_length_that_is_not_right(
    change: Callable[[bytes], bytes], reason: str, archive: Path
) -> None:
    archive.write_bytes(change(archive.read_bytes()))
    assert reason in _refusal(archive)


def test_an_entry_without_signature(archive: Path) -> None:
    data = archive.read_bytes()
    archive.write_bytes(_patched(data, _central(data, FUSION), "<B", 0))
    assert "of the central directory has no signature" in _refusal(archive)


def test_too_many_files(tmp_path: Path) -> None:
    path = tmp_path / "hostile.edgefuse"
    path.write_bytes(b"".join(pack({f"assets/{i}": b"" for i in range(layout.MAX_FILES + 1)})))
    assert "there are too many files: got 4097, expected at most 4096" in _refusal(path)


def test_an_archive_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "hostile.edgefuse"
    with path.open("wb") as file:
        file.truncate(layout.MAX_BUNDLE_BYTES + 1)
    assert "the archive is too large" in _refusal(path)


def test_a_manifest_that_is_too_large(tmp_path: Path, members: Members) -> None:
    path = tmp_path / "hostile.edgefuse"
    path.write_bytes(b"".join(pack({**members, "manifest.json": b" " * (layout.MAX_MANIFEST_BYTES + 1)})))
    assert "the file 'manifest.json' is too large" in _refusal(path)


def test_a_named_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.edgefuse")
    assert "this is neither a regular file nor a folder" in _refusal(tmp_path / "pipe.edgefuse")


def test_a_path_where_nothing_is(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"the bundle '.*' cannot be read: got 'No such file or directory'"):
        open_bundle(tmp_path / "missing.edgefuse")


def test_every_truncation_is_refused(archive: Path) -> None:
    data = archive.read_bytes()
    for size in range(0, len(data), 97):
        archive.write_bytes(data[:size])
        _refusal(archive)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_corrupted_byte_is_refused_or_harmless(
    data: st.DataObject, members: Members, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = b"".join(pack(members))
    # Half of the examples go to the headers at the end, which are a small part of the bytes.
    start = data.draw(st.sampled_from([0, whole.index(b"PK\x01\x02")]))
    position = data.draw(st.integers(start, len(whole) - 1))
    flipped = whole[position] ^ data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / "corrupt.edgefuse"
    path.write_bytes(whole[:position] + bytes([flipped]) + whole[position + 1 :])
    try:
        with open_bundle(path) as bundle:
            found = {entry.path: bundle.read(entry.path) for entry in bundle.manifest.files}
    except BundleError:
        return
    assert found == {name: each for name, each in members.items() if not name.startswith("manifest.")}
