"""Each way in which a folder can be hostile or damaged is refused, and nothing outside of it is opened."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgefuse.bundle import layout
from edgefuse.bundle.manifest import Manifest
from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.writer import write_bundle
from edgefuse.errors import BundleError

FUSION = "stages/fusion.float.bin"


def _refusal(path: Path, *, digest: str | None = None) -> str:
    with pytest.raises(BundleError) as caught, open_bundle(path, digest=digest) as bundle:
        bundle.verify()
    assert str(caught.value).startswith(f"the bundle '{path}' is refused: ")
    return str(caught.value)


def test_a_symbolic_link_to_a_file(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes((folder / FUSION).read_bytes())
    (folder / FUSION).unlink()
    (folder / FUSION).symlink_to(secret)
    assert f"'{FUSION}' is a symbolic link" in _refusal(folder)


def test_a_symbolic_link_to_a_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "stages").rename(tmp_path / "elsewhere")
    (folder / "stages").symlink_to(tmp_path / "elsewhere")
    assert "'stages' is a symbolic link" in _refusal(folder)


@pytest.mark.parametrize("linked", ["stages", FUSION])
def test_a_link_that_appears_while_the_bundle_is_open(linked: str, folder: Path, tmp_path: Path) -> None:
    with open_bundle(folder) as bundle:
        (folder / linked).rename(tmp_path / "elsewhere")
        (folder / linked).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(
            BundleError, match=r"cannot be read: got '(Not a directory|Too many levels of symbolic links)'"
        ):
            bundle.read(FUSION)


def test_the_path_of_the_bundle_may_be_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(folder)
    with open_bundle(tmp_path / "current") as bundle:
        bundle.verify()


def test_a_named_pipe_in_the_place_of_a_file(folder: Path) -> None:
    (folder / FUSION).unlink()
    os.mkfifo(folder / FUSION)
    assert f"'{FUSION}' is not a regular file" in _refusal(folder)


def test_a_named_pipe_that_appears_while_the_bundle_is_open(folder: Path) -> None:
    with open_bundle(folder) as bundle:
        (folder / FUSION).unlink()
        os.mkfifo(folder / FUSION)
        with pytest.raises(BundleError, match="has changed while the bundle was open"):
            bundle.read(FUSION)


def test_a_file_that_changes_while_the_bundle_is_open(folder: Path) -> None:
    with open_bundle(folder) as bundle:
        (folder / FUSION).write_bytes(b"fusion, other")
        with pytest.raises(BundleError, match=f"'{FUSION}' is damaged: got SHA-256 .*, expected .* Fix: copy it again"):
            bundle.read(FUSION)


def test_a_bundle_that_is_replaced_while_it_is_open(archive: Path) -> None:
    with open_bundle(archive) as bundle:
        archive.with_name("new").write_bytes(b"")
        archive.with_name("new").rename(archive)
        bundle.verify()  # the file that was opened is still there for whoever has it open


def test_a_file_that_is_not_listed(folder: Path) -> None:
    (folder / "stages/extra.bin").write_bytes(b"")
    assert "'stages/extra.bin' is not listed in manifest.json" in _refusal(folder)


def test_a_file_that_is_missing(folder: Path) -> None:
    (folder / FUSION).unlink()
    assert f"'{FUSION}' is missing, which manifest.json lists" in _refusal(folder)


@pytest.mark.parametrize("data", [b"", b"fusion, floa", b"fusion, float."])
def test_a_file_of_another_size(data: bytes, folder: Path) -> None:
    (folder / FUSION).write_bytes(data)
    assert f"'{FUSION}' has another size: got {len(data)} bytes, expected 13 bytes" in _refusal(folder)


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sha256"])
def test_a_bundle_without_manifest_or_digest(name: str, folder: Path) -> None:
    (folder / name).unlink()
    assert f"no {name}" in _refusal(folder)


def test_a_digest_file_that_does_not_match(folder: Path) -> None:
    (folder / "manifest.sha256").write_text("0" * 64 + "  manifest.json\n")
    assert "manifest.sha256 does not match manifest.json" in _refusal(folder)


def test_a_digest_that_is_not_the_pinned_one(folder: Path) -> None:
    assert f"its digest is not the pinned one: got {'54bac0de'}" in _refusal(folder, digest="0" * 64)


def test_a_file_that_the_bundle_does_not_have(folder: Path) -> None:
    with open_bundle(folder) as bundle, pytest.raises(BundleError, match=r"there is no file '\.\./secret' in it"):
        bundle.read("../secret")


def test_an_empty_folder_is_no_bundle(tmp_path: Path) -> None:
    assert "this is not a bundle: got no manifest.json in it" in _refusal(tmp_path)


@pytest.mark.parametrize("name", ["Stages", "caf\u0065\u0301", ".DS_Store", "a:b", "a\\b"])
def test_a_name_outside_of_the_rules(name: str, folder: Path) -> None:
    if name == "Stages":
        (folder / name).mkdir()
        shutil.copy(folder / FUSION, folder / name)
        assert "by case alone" in _refusal(folder)
    else:
        (folder / name).write_bytes(b"")
        assert "the path '" in _refusal(folder)


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgefuse.bundle.containers.MAX_FILES", 20)
    for number in range(40):
        (tmp_path / str(number)).touch()
    assert "there are too many files: expected at most 20" in _refusal(tmp_path)


def test_folders_without_end(tmp_path: Path) -> None:
    (tmp_path / "bundle" / "/".join("a" * 12)).mkdir(parents=True)
    assert f"expected at most {layout.MAX_PATH_SEGMENTS} levels" in _refusal(tmp_path / "bundle")


def test_a_file_that_is_too_large(folder: Path) -> None:
    with (folder / "stages/large.bin").open("wb") as file:
        file.truncate(layout.MAX_FILE_BYTES + 1)
    assert "the file 'stages/large.bin' is too large" in _refusal(folder)


def test_reading_writes_nothing(folder: Path) -> None:
    before = sorted((str(p), p.stat().st_mtime_ns) for p in folder.parent.rglob("*"))
    with open_bundle(folder) as bundle:
        bundle.verify()
    assert sorted((str(p), p.stat().st_mtime_ns) for p in folder.parent.rglob("*")) == before


# The fixture's folder is shared by all examples: each puts back what it has changed.
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_corrupted_byte_is_refused(data: st.DataObject, members: dict[str, bytes], folder: Path) -> None:
    name = data.draw(st.sampled_from(sorted(members)))
    corrupt = bytearray(members[name])
    corrupt[data.draw(st.integers(0, len(corrupt) - 1))] ^= data.draw(st.integers(1, 255))
    (folder / name).write_bytes(corrupt)
    try:
        _refusal(folder)
    finally:
        (folder / name).write_bytes(members[name])


def test_writing_over_an_open_bundle_does_not_mix_the_two(
    folder: Path, manifest: Manifest, contents: dict[str, bytes]
) -> None:
    with open_bundle(folder) as bundle:
        write_bundle(folder, manifest, {**contents, "report.json": b'{"schema": 2}'})
        with pytest.raises(BundleError):
            bundle.read("report.json")
