"""Entries of the cache are whole or made anew, whatever happened to them; what cannot be helped is one sentence."""

from __future__ import annotations

import errno
import logging
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgefuse.datasets import seal
from edgefuse.datasets.cache import Cache, open_cache
from edgefuse.errors import CacheError
from tests.attack import damage

KEY = ["a key"]
CONTENT = {"one": b"1" * 3000, "in/two": b"", "in/three": b"3"}
NOBODY = 65534


def make(folder: Path) -> None:
    (folder / "in").mkdir()
    for name, data in CONTENT.items():
        (folder / name).write_bytes(data)


def content(entry: Path) -> dict[str, bytes]:
    names = {path.relative_to(entry).as_posix(): path for path in entry.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in names.items() if name != seal.SEAL}


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return open_cache(tmp_path / "cache")


@pytest.fixture
def entry(cache: Cache) -> Path:
    return cache.entry("kind", KEY, make)


@pytest.mark.parametrize("what", [*damage.CONTENT, *damage.PLACE])
@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_entry_is_made_anew_and_said_once(
    what: str, seed: int, cache: Cache, entry: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if what.endswith("closed") and os.geteuid() == 0:
        pytest.skip("not checked: what root may not read")
    {**damage.CONTENT, **damage.PLACE}[what](entry, random.Random(seed))
    for _ in range(2):
        assert content(cache.entry("kind", KEY, make)) == CONTENT
    said = [record.getMessage() for record in caplog.records]
    assert all(line.startswith(f"the cache entry {entry} is damaged and made anew: ") for line in said)
    assert len(said) <= 1
    # What is gone as a whole is no damage, and some of this does not change a file of nothing or of equal bytes.
    assert said or what in ("whole_remove", "transpose", "zeros", "truncate", "empty", "garbage")
    assert [path.name for path in entry.parent.iterdir() if "tmp" in path.name] == []


def test_the_files_of_another_key_or_kind_are_not_taken(
    cache: Cache, entry: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def make_other(folder: Path) -> None:
        (folder / "one").write_bytes(b"other")

    other = cache.entry("kind", ["another key"], make_other)
    shutil.rmtree(entry)
    shutil.copytree(other, entry)
    assert content(cache.entry("kind", KEY, make)) == CONTENT
    shutil.copytree(entry, cache.folder / "second" / entry.name)
    assert content(cache.entry("second", KEY, make)) == CONTENT
    assert caplog.text.count("it is another entry") == 2


def test_a_large_entry_is_read_once_by_a_process_unless_its_files_change(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    hashed = seal._sha256

    def noted(path: Path) -> str:
        read.append(path.name)
        return hashed(path)

    monkeypatch.setattr(seal, "_sha256", noted)

    def large(folder: Path) -> None:
        (folder / "large").write_bytes(bytes(2 << 20))

    place = cache.entry("kind", "large", large)
    time.sleep(0.2)  # what was written just now is not trusted: a change within the same tick would not show
    del read[:]
    for _ in range(4):
        cache.entry("kind", "large", large)
    assert read == ["large"]
    with (place / "large").open("r+b") as file:
        file.write(b"\1")
    os.utime(place / "large", ns=(0, 0))
    cache.entry("kind", "large", large)
    assert (place / "large").read_bytes() == bytes(2 << 20)


def test_a_change_right_after_an_entry_was_made_is_seen(cache: Cache) -> None:
    def large(folder: Path) -> None:
        (folder / "large").write_bytes(bytes(2 << 20))

    for _ in range(20):
        place = cache.entry("kind", "large", large)
        with (place / "large").open("r+b") as file:
            file.write(b"\1")
        assert (cache.entry("kind", "large", large) / "large").read_bytes()[:1] == b"\0"


def test_who_reads_a_damaged_entry_keeps_what_was_opened(cache: Cache, entry: Path) -> None:
    mapped = np.memmap(entry / "one", mode="r")
    (entry / "in" / "three").unlink()
    cache.entry("kind", KEY, make)
    assert bytes(mapped) == CONTENT["one"]


_READER = """
import logging, sys, time
from pathlib import Path
from edgefuse.datasets.cache import Cache

logging.basicConfig()

def make(folder):
    time.sleep(0.5)
    (folder / "one").write_text("1")
    print("made", flush=True)

for number in range(20):
    entry = Cache(Path(sys.argv[1])).entry("kind", number, make)
    assert (entry / "one").read_text() == "1"
"""


def test_of_many_processes_one_makes_a_damaged_entry_anew(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _READER.replace("0.5", "0"), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    places = sorted(path for path in (tmp_path / "kind").iterdir() if path.is_dir())
    assert len(places) == 20
    for place in places:
        (place / "one").write_text("2")
    command[2] = _READER.replace("0.5", "0.02")
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    found = [reader.communicate() for reader in readers]
    assert [reader.returncode for reader in readers] == [0] * 4, found
    assert sum(out.count("made") for out, _ in found) == 20
    assert sum(err.count("is damaged and made anew") for _, err in found) == 20


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_folder_that_others_can_write_to_is_told_with_a_fix(
    mode: int, cache: Cache, entry: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for place in (cache.folder, entry.parent):
        place.chmod(mode)
        open_cache(cache.folder)
        (record,) = caplog.records
        assert record.getMessage().startswith(f"others can write to {place} (user {os.geteuid()}, drwxrwxr-x"[:-3])
        assert f"Fix: chown -R and chmod -R go-w {cache.folder}, or name another folder" in record.getMessage()
        caplog.clear()
        place.chmod(0o755)
    cache.folder.chmod(0o1777)  # sticky, as a folder for temporary files: nobody can move what others made
    open_cache(cache.folder)
    assert caplog.records == []


@pytest.mark.skipif(os.geteuid() != 0, reason="folders of another user are made by root alone: owners are not checked")
def test_a_folder_of_somebody_else_is_told(cache: Cache, entry: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.chown(entry.parent, 12345, -1)
    open_cache(cache.folder)
    assert f"others can write to {entry.parent} (user 12345, drwxr-xr-x) in the cache" in caplog.text


def test_what_is_made_is_ours_alone_whatever_the_umask(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = os.umask(0)
    try:
        open_cache(tmp_path / "cache").entry("kind", KEY, make)
        open_cache(tmp_path / "cache")
    finally:
        os.umask(before)
    assert caplog.records == []
    made = [path for path in (tmp_path / "cache").rglob("*") if path.suffix != ".lock"]
    assert len(made) == 7
    assert [path for path in made if path.stat().st_mode & 0o022] == []


def test_what_is_in_the_way_is_one_sentence(cache: Cache, entry: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fix = "Fix: remove what is in the way or correct its permissions, or name another folder with --cache or "
    fix += "EDGEFUSE_CACHE."
    for folder, got in ((tmp_path / "file", "File exists"), (tmp_path / "file" / "cache", "Not a directory")):
        with pytest.raises(CacheError) as caught:
            open_cache(folder)
        assert str(caught.value) == (
            f"the cache {folder} cannot be used: got {got} at {folder}, expected a folder of your own. {fix}"
        )
    lock = entry.with_name(f"{entry.name}.lock")
    lock.unlink()
    lock.mkdir()
    (entry / "one").unlink()
    with pytest.raises(CacheError, match=rf"cannot be used: got Is a directory at {lock}, expected .*\. {fix}"):
        cache.entry("kind", KEY, make)
    shutil.rmtree(entry.parent)
    entry.parent.touch()
    with pytest.raises(CacheError, match=rf"cannot be used: got File exists at {entry.parent}, "):
        cache.entry("kind", KEY, make)


def test_a_lock_does_not_lead_elsewhere(cache: Cache, entry: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    lock = entry.with_name(f"{entry.name}.lock")
    lock.unlink()
    lock.symlink_to(tmp_path / "precious")
    (entry / "one").unlink()
    assert content(cache.entry("kind", KEY, make)) == CONTENT
    assert (tmp_path / "precious").read_text() == "kept"


def test_no_room_is_one_sentence_and_leaves_nothing(cache: Cache) -> None:
    def full(folder: Path) -> None:
        (folder / "half").write_bytes(b"1")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(CacheError) as caught:
        cache.entry("kind", KEY, full)
    assert str(caught.value).startswith(
        f"there is no room for another entry in the cache {cache.folder}: got No space left on device. Fix: free some"
    )
    assert [path for path in (cache.folder / "kind").iterdir() if path.is_dir()] == []


def test_a_write_that_the_system_stops_is_one_sentence(cache: Cache) -> None:
    program = f"""
import resource, signal, sys
from pathlib import Path
from edgefuse.datasets.cache import Cache
from edgefuse.errors import CacheError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
try:
    Cache(Path({str(cache.folder)!r})).entry("kind", 1, lambda folder: (folder / "a").write_bytes(bytes(1 << 20)))
except CacheError as error:
    sys.exit(str(error))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "there is no room for another entry in the cache" in done.stderr
    assert "got File too large. Fix: free some space there (and in" in done.stderr
    assert [path for path in (cache.folder / "kind").iterdir() if path.is_dir()] == []


def test_what_else_goes_wrong_in_making_stays_what_it_is(cache: Cache) -> None:
    def lost(folder: Path) -> None:
        Path("nowhere/at/all").read_bytes()

    with pytest.raises(FileNotFoundError, match="nowhere/at/all"):
        cache.entry("kind", KEY, lost)


@pytest.fixture
def unprivileged() -> Callable[[Callable[[], object]], str]:
    """Run something as a user who is not root, in a child; return what it raised."""

    def run(call: Callable[[], object]) -> str:
        reading, writing = os.pipe()
        if not (child := os.fork()):
            said = "nothing"
            try:
                if os.geteuid() == 0:
                    os.setegid(NOBODY)
                    os.seteuid(NOBODY)
                call()
            except BaseException as error:  # noqa: BLE001 - for the parent to judge
                said = f"{type(error).__name__}: {error}"
            os.write(writing, said.encode())
            os._exit(0)
        os.close(writing)
        os.waitpid(child, 0)
        with os.fdopen(reading, "rb") as pipe:
            return pipe.read().decode()

    return run


def let_others_in(folder: Path) -> None:
    """Let others through the folders that pytest makes for its user alone; a worker has one more."""
    for place in (folder, *folder.parents):
        if place.name.startswith(("test_", "popen-", "pytest-")):
            place.chmod(0o755)


def test_without_rights_a_whole_entry_is_read_and_a_damaged_one_is_one_sentence(
    tmp_path: Path, unprivileged: Callable[[Callable[[], object]], str]
) -> None:
    let_others_in(tmp_path)
    cache = open_cache(tmp_path / "cache")
    entry = cache.entry("kind", KEY, make)
    for place in (entry.parent, cache.folder):
        place.chmod(0o555)
    assert unprivileged(lambda: cache.entry("kind", KEY, make)) == "nothing"
    (entry / "one").write_bytes(b"")
    said = unprivileged(lambda: cache.entry("kind", KEY, make))
    assert said.startswith(f"CacheError: the cache {cache.folder} cannot be used: got Permission denied at ")
    assert "Fix: " in said
    said = unprivileged(lambda: open_cache(cache.folder / "new"))
    assert said.startswith(f"CacheError: the cache {cache.folder}/new cannot be used: got Permission denied at ")
    for place in (entry.parent, cache.folder):
        place.chmod(0o755)


def test_what_cannot_be_read_is_made_anew(
    tmp_path: Path, unprivileged: Callable[[Callable[[], object]], str], caplog: pytest.LogCaptureFixture
) -> None:
    let_others_in(tmp_path)
    cache = open_cache(tmp_path / "cache")
    entries = [cache.entry("kind", number, make) for number in range(2)]
    if os.geteuid() == 0:
        for path in (cache.folder, *cache.folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
    (entries[0] / "one").chmod(0)
    entries[1].chmod(0)

    def read() -> None:
        for number in range(2):
            if content(cache.entry("kind", number, make)) != CONTENT:
                raise RuntimeError(f"entry {number}")

    with caplog.at_level(logging.CRITICAL):
        assert unprivileged(read) == "nothing"
    assert [content(place) for place in entries] == [CONTENT] * 2
    assert sorted(path.suffix for path in entries[0].parent.iterdir()) == ["", "", ".lock", ".lock"]
