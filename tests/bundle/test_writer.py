"""A bundle appears whole or not at all, and never in the place of something else."""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from edgefuse.bundle import writer
from edgefuse.bundle.containers import Folder
from edgefuse.bundle.manifest import Manifest
from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.writer import write_bundle
from edgefuse.errors import BundleError

FORMS = ("bundle", "bundle.edgefuse")
Contents = dict[str, bytes]

# Writes bundles of growing reports over each other for as long as it lives. The pickle is the test's own.
WRITER = """
import pickle, sys
from pathlib import Path
from edgefuse.bundle.writer import write_bundle
manifest, contents = pickle.loads(Path(sys.argv[1]).read_bytes())
print("ready", flush=True)
for round in range(100_000):
    write_bundle(sys.argv[2], manifest, {**contents, "report.json": b"%d" % round * 1000})
"""


def _without(contents: Contents, name: str) -> Contents:
    return {key: data for key, data in contents.items() if key != name}


def test_a_named_file_without_contents(tmp_path: Path, manifest: Manifest, contents: Contents) -> None:
    with pytest.raises(BundleError, match=r"names 'stages/fusion\.fp16\.bin', of which no contents are given"):
        write_bundle(tmp_path / "b", manifest, _without(contents, "stages/fusion.fp16.bin"))
    with pytest.raises(BundleError, match=r"names 'assets/tokenizer\.json', of which no contents are given"):
        write_bundle(tmp_path / "b", manifest, _without(contents, "assets/tokenizer.json"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["stages/extra.bin", "notes.txt", "golden/extra.bin"])
def test_contents_that_nothing_names(name: str, tmp_path: Path, manifest: Manifest, contents: Contents) -> None:
    with pytest.raises(BundleError, match=f"'{name}' is given but the manifest does not name it"):
        write_bundle(tmp_path / "b", manifest, {**contents, name: b""})


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("assets/../../x", "escapes the bundle"),
        ("/x", "is absolute"),
        ("manifest.json", "appears twice"),
        ("Manifest.sha256", "by case alone"),
        ("assets/größe.json", "is not ASCII"),
    ],
)
def test_contents_with_an_unsafe_name(
    name: str, reason: str, tmp_path: Path, manifest: Manifest, contents: Contents
) -> None:
    with pytest.raises(BundleError, match=reason):
        write_bundle(tmp_path / "b", manifest, {**contents, name: b""})
    assert list(tmp_path.iterdir()) == []


def test_contents_that_are_not_those_the_manifest_describes(
    tmp_path: Path, manifest: Manifest, contents: Contents
) -> None:
    with pytest.raises(BundleError, match=r"and the list of files do not agree on 'stages/fusion\.fp16\.bin'"):
        write_bundle(tmp_path / "b", manifest, {**contents, "stages/fusion.fp16.bin": b"other"})


def test_a_manifest_that_a_reader_would_refuse(tmp_path: Path, manifest: Manifest, contents: Contents) -> None:
    rung = msgspec.structs.replace(manifest.rungs[0], accuracy={"image": float("nan")})
    with pytest.raises(BundleError, match="Expected `float`, got `null`"):
        write_bundle(tmp_path / "b", msgspec.structs.replace(manifest, rungs=(rung,)), contents)
    with pytest.raises(BundleError, match="the default rung does not exist"):
        write_bundle(tmp_path / "b", msgspec.structs.replace(manifest, default_rung="x"), contents)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", FORMS)
def test_an_older_bundle_is_replaced(form: str, tmp_path: Path, manifest: Manifest, contents: Contents) -> None:
    write_bundle(tmp_path / form, manifest, {**contents, "assets/old.txt": b"old"})
    digest = write_bundle(tmp_path / form, manifest, contents)
    with open_bundle(tmp_path / form, digest=digest) as bundle:
        bundle.verify()
    assert [path.name for path in tmp_path.iterdir()] == [form]


def test_a_folder_is_replaced_where_names_cannot_change_places(
    tmp_path: Path, manifest: Manifest, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_exchange", lambda a, b: False)
    test_an_older_bundle_is_replaced("bundle", tmp_path, manifest, contents)


def test_an_empty_folder_and_missing_parents_are_filled(tmp_path: Path, manifest: Manifest, contents: Contents) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "new" / "er"):
        write_bundle(path, manifest, contents)
        open_bundle(path).close()


def _foreign_folder(path: Path) -> None:
    path.mkdir()
    (path / "thesis.tex").write_text("three years of work")


def _bundle_with_notes(path: Path) -> None:
    path.mkdir()
    for name in ("manifest.json", "manifest.sha256", "notes.txt"):
        (path / name).write_text("")


@pytest.mark.parametrize(
    ("form", "make", "got"),
    [
        ("bundle", _foreign_folder, "'thesis.tex' in it, which no bundle has"),
        ("bundle", _bundle_with_notes, "'notes.txt' in it, which no bundle has"),
        ("bundle", lambda path: path.write_text("x"), "a file"),
        ("bundle", lambda path: path.symlink_to("/nowhere"), "a symbolic link"),
        ("bundle", lambda path: (path / "stages").mkdir(parents=True), "no manifest.json in it"),
        ("bundle.edgefuse", lambda path: path.mkdir(), "a folder"),
        ("bundle.edgefuse", lambda path: path.write_text("x" * 100), "something else"),
        ("bundle.edgefuse", lambda path: path.write_bytes(b"PK\5\6" + bytes(18)), "no manifest.json in it"),
    ],
)
def test_nothing_but_a_bundle_is_replaced(
    form: str, make: object, got: str, tmp_path: Path, manifest: Manifest, contents: Contents
) -> None:
    assert callable(make)
    make(tmp_path / form)
    before = sorted((path.name, path.lstat().st_mtime_ns) for path in tmp_path.rglob("*"))
    with pytest.raises(BundleError, match="is in the way of the bundle: got") as caught:
        write_bundle(tmp_path / form, manifest, contents)
    assert f"got {got}" in str(caught.value)
    assert sorted((path.name, path.lstat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


def test_a_place_where_nothing_can_be_written(tmp_path: Path, manifest: Manifest, contents: Contents) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match=r"the bundle '.*' cannot be written: got '(File exists|Not a directory)'"):
        write_bundle(tmp_path / "file" / "b", manifest, contents)


@pytest.mark.parametrize("form", FORMS)
def test_a_full_disk_leaves_the_old_bundle(
    form: str, tmp_path: Path, manifest: Manifest, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = write_bundle(tmp_path / form, manifest, contents)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BundleError, match="cannot be written: got 'No space left on device'"):
        write_bundle(tmp_path / form, manifest, {**contents, "report.json": b"{}"})
    open_bundle(tmp_path / form, digest=digest).close()
    assert [path.name for path in tmp_path.iterdir()] == [form]


@pytest.mark.parametrize("form", FORMS)
def test_what_dead_runs_left_is_removed_and_nothing_else(
    form: str, tmp_path: Path, manifest: Manifest, contents: Contents
) -> None:
    (tmp_path / f".{form}.0123456789abcdef.tmp").mkdir()
    (tmp_path / f".{form}.0123456789abcdef.tmp" / "half").touch()
    (tmp_path / f".{form}.fedcba9876543210.tmp").touch()
    kept = {f".{form}.tmp", ".other.0123456789abcdef.tmp", f"{form}.0123456789abcdef.tmp"}
    for name in kept:
        (tmp_path / name).touch()
    with writer._sibling(tmp_path / form, folder=True) as alive:
        write_bundle(tmp_path / form, manifest, contents)
        assert {path.name for path in tmp_path.iterdir()} == kept | {form, alive.name}


@pytest.mark.parametrize("form", FORMS)
def test_a_killed_writer_leaves_no_half_bundle(
    form: str, tmp_path: Path, manifest: Manifest, contents: Contents
) -> None:
    (tmp_path / "arguments").write_bytes(pickle.dumps((manifest, contents)))
    path = tmp_path / "out" / form
    for delay_s in (0.0, 0.011, 0.023, 0.057):
        command = [sys.executable, "-c", WRITER, str(tmp_path / "arguments"), str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            time.sleep(delay_s)
            writer.send_signal(signal.SIGKILL)
        if path.exists():
            with open_bundle(path) as bundle:
                bundle.verify()
    write_bundle(path, manifest, contents)
    assert [each.name for each in path.parent.iterdir()] == [form]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("exchange", [True, False])
def test_writers_at_once_leave_one_whole_bundle(
    form: str, exchange: bool, tmp_path: Path, manifest: Manifest, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:
        monkeypatch.setattr(writer, "_exchange", lambda a, b: False)

    def write(number: int) -> str:
        return write_bundle(tmp_path / form, manifest, {**contents, "report.json": b"%d" % number})

    with ThreadPoolExecutor(4) as pool:
        digests = set(pool.map(write, range(8)))
    with open_bundle(tmp_path / form) as bundle:
        bundle.verify()
        assert bundle.digest in digests
    write(9)
    assert [path.name for path in tmp_path.iterdir()] == [form]


@pytest.mark.parametrize("left", [(), ("manifest.json",)])
def test_a_folder_that_another_writer_removes_while_it_is_looked_at(
    left: tuple[str, ...], tmp_path: Path, manifest: Manifest, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is another bundle's by then; what is left of the old one, moved aside, says nothing."""
    path = tmp_path / "bundle"
    write_bundle(path, manifest, {**contents, "report.json": b"old"})
    looks: list[Path] = []

    class Vanishing(Folder):
        def _scan(self, folder_fd: int, prefix: str) -> None:
            looks.append(path)
            if len(looks) == 1:
                path.rename(tmp_path / "aside")
                write_bundle(path, manifest, {**contents, "report.json": b"other"})
                for file in [file for file in (tmp_path / "aside").rglob("*") if file.name not in left]:
                    if file.is_file():
                        file.unlink()
                if not left:
                    raise FileNotFoundError(2, "No such file or directory")
            super()._scan(folder_fd, prefix)

    monkeypatch.setattr(writer, "Folder", Vanishing)
    digest = write_bundle(path, manifest, contents)
    open_bundle(path, digest=digest).close()


def test_the_old_bundle_returns_to_its_name_if_the_new_one_cannot_have_it(
    tmp_path: Path, manifest: Manifest, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = write_bundle(tmp_path / "bundle", manifest, contents)
    asked: list[Path] = []

    def renamed(temporary: Path, path: Path) -> bool:
        asked.append(path)
        if len(asked) > 1:
            raise PermissionError(13, "Permission denied")
        return False

    monkeypatch.setattr(writer, "_exchange", lambda a, b: False)
    monkeypatch.setattr(writer, "_renamed", renamed)
    with pytest.raises(BundleError, match="cannot be written: got 'Permission denied'"):
        write_bundle(tmp_path / "bundle", manifest, {**contents, "report.json": b"new"})
    open_bundle(tmp_path / "bundle", digest=digest).close()
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_the_digest_is_that_of_the_manifest(tmp_path: Path, manifest: Manifest, contents: Contents) -> None:
    digest = write_bundle(tmp_path / "b", manifest, contents)
    assert digest == hashlib.sha256((tmp_path / "b" / "manifest.json").read_bytes()).hexdigest()
