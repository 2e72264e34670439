"""A bundle comes back as it was written, in both containers, with the same bytes each time."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefuse.bundle.manifest import Candidate, Manifest
from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.writer import write_bundle
from edgefuse.errors import BundleError

FORMS = ("bundle", "bundle.edgefuse")
DIGEST = "54bac0de313bbab76fcefed42f04bc5fae459cd33527966ce1add60eb8703fe5"
ARCHIVE_SHA256 = "31a3a71684a649474db7fee5dbb217c9df250f720f1f926164f88ce426ee7f27"


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_is_read(form: str, tmp_path: Path, manifest: Manifest, contents: dict[str, bytes]) -> None:
    digest = write_bundle(tmp_path / form, manifest, contents)
    with open_bundle(tmp_path / form, digest=digest.upper()) as bundle:
        assert {entry.path for entry in bundle.manifest.files} == set(contents)
        assert msgspec.structs.replace(bundle.manifest, files=()) == manifest
        assert {name: bundle.read(name) for name in contents} == contents
        assert bundle.digest == digest
        assert bundle.path == tmp_path / form
        bundle.verify()


def test_size_is_that_of_the_archive_or_of_all_files(folder: Path, archive: Path) -> None:
    with open_bundle(folder) as bundle:
        assert bundle.size_bytes == sum(map(len, _tree(folder).values()))
    with open_bundle(archive) as bundle:
        assert bundle.size_bytes == archive.stat().st_size


def test_both_forms_hold_the_same_files(folder: Path, members: dict[str, bytes]) -> None:
    assert _tree(folder) == members


def test_bytes_of_the_archive_and_the_manifest_stay_the_same_for_ever(archive: Path) -> None:
    with open_bundle(archive) as bundle:
        assert bundle.digest == DIGEST, "the canonical encoding has changed: bundles of users change their digest"
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == ARCHIVE_SHA256


def test_order_and_place_do_not_change_the_bytes(
    tmp_path: Path, archive: Path, manifest: Manifest, contents: dict[str, bytes]
) -> None:
    again = tmp_path / "elsewhere" / "other-name.edgefuse"
    write_bundle(again, manifest, dict(reversed(contents.items())))
    assert again.read_bytes() == archive.read_bytes()


def test_other_tools_read_the_archive(archive: Path, folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None
        assert {info.date_time for info in opened.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        opened.extractall(tmp_path / "unpacked")
    with open_bundle(tmp_path / "unpacked") as bundle:
        bundle.verify()


def test_an_archive_that_another_tool_has_stored_is_read(tmp_path: Path, members: dict[str, bytes]) -> None:
    path = tmp_path / "repacked.edgefuse"
    with zipfile.ZipFile(path, "w") as repacked:
        for name in reversed(members):
            repacked.writestr(zipfile.ZipInfo(name, (2024, 2, 29, 12, 0, 0)), members[name])
    with open_bundle(path) as bundle:
        bundle.verify()


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_sha256sum_checks_the_manifest(folder: Path) -> None:
    done = subprocess.run(["sha256sum", "-c", "manifest.sha256"], cwd=folder, capture_output=True, check=False)
    assert done.stdout == b"manifest.json: OK\n"


def test_equal_stage_files_become_one(tmp_path: Path, manifest: Manifest, contents: dict[str, bytes]) -> None:
    def twin(candidate: Candidate) -> Candidate:
        same = hashlib.sha256(b"fusion, float").hexdigest()
        return msgspec.structs.replace(candidate, sha256=same, size_bytes=13)

    candidates = (*manifest.candidates[:3], twin(manifest.candidates[3]))
    manifest = msgspec.structs.replace(manifest, candidates=candidates)
    write_bundle(tmp_path / "b", manifest, {**contents, "stages/fusion.fp16.bin": b"fusion, float"})
    with open_bundle(tmp_path / "b") as bundle:
        assert [c.file for c in bundle.manifest.candidates[2:]] == ["stages/fusion.float.bin"] * 2
        assert bundle.read("stages/fusion.float.bin") == b"fusion, float"
    assert not (tmp_path / "b/stages/fusion.fp16.bin").exists()


def test_a_closed_bundle_says_so(archive: Path) -> None:
    with open_bundle(archive) as bundle:
        pass
    bundle.close()
    with pytest.raises(BundleError, match="the bundle is closed"):
        bundle.read("report.json")


def test_opening_and_closing_leaves_no_descriptor(archive: Path, folder: Path) -> None:
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0  # noqa: PTH208
    for path in (archive, folder):
        with open_bundle(path) as bundle:
            bundle.verify()
        with pytest.raises(BundleError):
            open_bundle(path, digest="0" * 64)
    after = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0  # noqa: PTH208
    assert after <= before  # what tests before left behind may be closed meanwhile


@settings(max_examples=10, deadline=None)
@given(
    files=st.dictionaries(
        st.from_regex(r"[a-z0-9_]{1,8}(/[a-z0-9_]{1,8}\.bin)?", fullmatch=True), st.binary(max_size=300)
    ),
    weights=st.binary(max_size=100),
)
def test_any_contents_survive_a_round_trip(
    files: dict[str, bytes], weights: bytes, manifest: Manifest, contents: dict[str, bytes]
) -> None:
    first = msgspec.structs.replace(
        manifest.candidates[0], sha256=hashlib.sha256(weights).hexdigest(), size_bytes=len(weights)
    )
    changed = msgspec.structs.replace(manifest, candidates=(first, *manifest.candidates[1:]))
    assets = {f"assets/extra/{name}": data for name, data in files.items() if name + "/" not in "".join(files)}
    expected = {**contents, first.file: weights, **assets}
    with tempfile.TemporaryDirectory() as scratch:
        digests = {write_bundle(Path(scratch) / form, changed, expected) for form in FORMS}
        assert len(digests) == 1
        for form in FORMS:
            with open_bundle(Path(scratch) / form) as bundle:
                assert {name: bundle.read(name) for name in expected} == expected
