"""The cache of engines: what is kept comes back, and nothing else is ever handed out."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from edgefuse.bundle.manifest import BuildPlan, Profile
from edgefuse.errors import BackendError, EngineFileError
from edgefuse.runtime.backends.tensorrt.engines import EngineCache, EngineKey, jetpack

ENGINE = memoryview(bytes(range(256)) * 8)
KEY = EngineKey(tensorrt="10.3.0", compute_capability="8.7", jetpack="36.4.3", graph_sha256="ab" * 32, plan=BuildPlan())
FIX = "Fix: run `edgefuse prepare` on the bundle, which builds it anew."


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "cache" / "engines")


@pytest.fixture
def kept(cache: EngineCache) -> Path:
    """The file of an engine that was kept under `KEY`."""
    return cache.write(KEY, ENGINE)


def replaced(**fields: object) -> EngineKey:
    return msgspec.structs.replace(KEY, **fields)


def test_an_engine_comes_back_under_its_key_only(cache: EngineCache) -> None:
    assert cache.read(KEY) is None
    path = cache.write(KEY, ENGINE)
    assert cache.read(KEY) == ENGINE
    assert (path.name, path.parent) == (KEY.file, cache.folder)
    others = [
        replaced(tensorrt="10.7.0"),
        replaced(compute_capability="8.9"),
        replaced(jetpack="36.5"),
        replaced(graph_sha256="ac" * 32),
        replaced(plan=BuildPlan(sparse_weights=True)),
        replaced(plan=BuildPlan(profiles=(Profile(port="x", minimum=(1,), optimum=(2,), maximum=(3,)),))),
    ]
    assert [cache.read(key) for key in others] == [None] * len(others)
    assert len({key.file for key in (KEY, *others)}) == len(others) + 1


def test_folder_and_files_are_the_users_alone(cache: EngineCache, kept: Path) -> None:
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    assert kept.stat().st_mode & 0o777 == 0o600


def test_the_folder_is_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert EngineCache().folder == tmp_path / "edgefuse" / "engines"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the specification says to ignore it
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert EngineCache().folder == tmp_path / "home" / ".cache" / "edgefuse" / "engines"

    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", none)
    assert EngineCache(tmp_path).folder == tmp_path
    with pytest.raises(BackendError, match=r"no folder to keep engines in: got a user without a home\. Fix: set XDG"):
        EngineCache()


@pytest.mark.parametrize("size", [0, 10, 18, 60, -2048, -1])
def test_a_truncated_engine_is_refused(cache: EngineCache, kept: Path, size: int) -> None:
    kept.write_bytes(kept.read_bytes()[:size])
    with pytest.raises(EngineFileError) as caught:
        cache.read(KEY)
    assert str(caught.value).endswith(FIX)


@pytest.mark.parametrize("position", [-1, -1000])
def test_a_damaged_engine_is_refused(cache: EngineCache, kept: Path, position: int) -> None:
    data = bytearray(kept.read_bytes())
    data[position] ^= 1
    kept.write_bytes(data)
    with pytest.raises(EngineFileError, match=r"is damaged: got SHA-256 \w{64}, expected \w{64}\. Fix: run `edgefuse"):
        cache.read(KEY)


@pytest.mark.parametrize("bit", [0, 7])  # with the last one set, a string is no UTF-8
def test_no_flipped_bit_of_the_head_gets_through(cache: EngineCache, kept: Path, bit: int) -> None:
    whole = kept.read_bytes()
    for position in range(len(whole) - 2048):
        data = bytearray(whole)
        data[position] ^= 1 << bit
        kept.write_bytes(data)
        with pytest.raises(EngineFileError):
            cache.read(KEY)


def test_an_engine_with_something_behind_it_is_refused(cache: EngineCache, kept: Path) -> None:
    kept.write_bytes(kept.read_bytes() + b"\0")
    with pytest.raises(EngineFileError, match="has the wrong size: got 2049 bytes, expected 2048"):
        cache.read(KEY)


def test_another_file_is_refused(cache: EngineCache, kept: Path) -> None:
    kept.write_bytes(b"ftrt" + bytes(ENGINE))  # how a bare engine of TensorRT begins
    with pytest.raises(EngineFileError, match="is not an engine that edgefuse keeps: got b'ftrt"):
        cache.read(KEY)


def test_an_engine_under_another_name_is_refused(cache: EngineCache, kept: Path) -> None:
    newer = replaced(tensorrt="10.7.0", jetpack="36.5")
    kept.rename(cache.folder / newer.file)
    expected = "got tensorrt 10.3.0, jetpack 36.4.3, expected tensorrt 10.7.0, jetpack 36.5"
    with pytest.raises(EngineFileError, match=f"was built for something else: {expected}") as caught:
        cache.read(newer)
    assert str(caught.value).endswith(FIX)


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_an_engine_that_others_can_write_is_refused(cache: EngineCache, kept: Path, mode: int) -> None:
    kept.chmod(mode)
    with pytest.raises(
        EngineFileError, match=r"is not this user's own: got user \d+, mode -rw.*, expected user \d+, not"
    ):
        cache.read(KEY)


@pytest.mark.parametrize("what", ["link", "folder", "pipe"])
def test_what_is_no_file_is_refused(cache: EngineCache, kept: Path, tmp_path: Path, what: str) -> None:
    kept.rename(tmp_path / "elsewhere")
    if what == "link":
        kept.symlink_to(tmp_path / "elsewhere")
    elif what == "folder":
        kept.mkdir()
    else:
        os.mkfifo(kept)
    with pytest.raises(EngineFileError, match=r"cannot be read|is not this user's own"):
        cache.read(KEY)


@pytest.mark.skipif(os.geteuid() != 0, reason="files of another user are made by root alone: ownership is not checked")
def test_what_another_user_owns_is_refused(cache: EngineCache, kept: Path) -> None:
    os.chown(kept, 12345, -1)
    with pytest.raises(EngineFileError, match=r"is not this user's own: got user 12345, .*, expected user 0"):
        cache.read(KEY)
    os.chown(cache.folder, 12345, -1)
    for use in (lambda: cache.read(KEY), lambda: cache.write(KEY, ENGINE)):
        with pytest.raises(
            BackendError, match=r"engines cannot be kept in .*: got user 12345, mode drwx------, expected"
        ):
            use()


def test_a_folder_that_others_can_fill_is_refused(cache: EngineCache, kept: Path) -> None:
    cache.folder.chmod(0o770)
    uses: tuple[Callable[[], object], ...] = (
        lambda: cache.read(KEY),
        lambda: cache.write(KEY, ENGINE),
        lambda: cache.building().__enter__(),
    )
    for use in uses:
        with pytest.raises(
            BackendError, match=r"mode drwxrwx---, .* Fix: remove it, or set XDG_CACHE_HOME to a folder"
        ):
            use()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BackendError, match=r"engines cannot be kept in .*: got (File exists|Not a directory)"):
        EngineCache(tmp_path / "file" / "engines").write(KEY, ENGINE)


def test_engines_of_the_graph_under_other_keys_are_removed(cache: EngineCache, kept: Path) -> None:
    newer, other_graph = replaced(tensorrt="10.7.0"), replaced(graph_sha256="cd" * 32)
    cache.write(newer, ENGINE)
    cache.write(other_graph, ENGINE)
    assert cache.prune(newer) == 1
    assert not kept.exists()
    assert cache.read(newer) == cache.read(other_graph) == ENGINE
    assert cache.prune(newer) == 0


def test_what_a_killed_process_left_is_removed_later(cache: EngineCache, kept: Path) -> None:
    fresh, abandoned = cache.folder / ".a.tmp", cache.folder / ".b.tmp"
    for path in (fresh, abandoned):
        path.touch()
    os.utime(abandoned, (time.time() - 7200,) * 2)
    assert cache.prune(KEY) == 1
    assert fresh.exists()


def test_a_full_disk_leaves_nothing(cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.write(KEY, ENGINE)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)  # where many file systems find out
    with pytest.raises(BackendError, match=r"cannot be kept in .*: got No space left on device\. Fix: .* 0.0 MB free"):
        cache.write(KEY, memoryview(b"another"))
    assert cache.read(KEY) == ENGINE
    assert [path.name for path in cache.folder.iterdir()] == [KEY.file]


def test_a_write_that_stops_half_way_leaves_nothing(cache: EngineCache) -> None:
    """The system itself ends the write: files of this process may have 64 KiB."""
    program = f"""
import resource, signal, sys
from pathlib import Path
from edgefuse.bundle.manifest import BuildPlan
from edgefuse.errors import BackendError
from edgefuse.runtime.backends.tensorrt.engines import EngineCache, EngineKey
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
key = EngineKey(tensorrt="", compute_capability="", jetpack="", graph_sha256="0" * 64, plan=BuildPlan())
try:
    EngineCache(Path({str(cache.folder)!r})).write(key, memoryview(bytes(1 << 20)))
except BackendError as error:
    sys.exit(str(error))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "an engine cannot be kept in" in done.stderr
    assert "File too large" in done.stderr
    assert list(cache.folder.iterdir()) == []


def test_two_writers_leave_one_whole_engine(cache: EngineCache) -> None:
    engines = [memoryview(bytes([value]) * 100_000) for value in range(8)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda engine: cache.write(KEY, engine), engines))
    assert cache.read(KEY) in engines
    assert [path.name for path in cache.folder.iterdir()] == [KEY.file]


def test_one_builds_at_a_time(cache: EngineCache) -> None:
    """Each of four processes that want an engine builds it unless another has, and it is built once."""
    built: list[int] = []

    def prepare(number: int) -> None:
        with cache.building():  # a lock of the open file: it holds between threads as between processes
            if cache.read(KEY) is None:
                time.sleep(0.01)
                built.append(number)
                cache.write(KEY, ENGINE)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(prepare, range(4)))
    assert len(built) == 1
    assert cache.read(KEY) == ENGINE


@pytest.mark.parametrize(
    ("path", "text", "release"),
    [
        ("etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n", "36.4.3"),
        ("var/lib/dpkg/status", "Package: a\nVersion: 1\n\nPackage: nvidia-jetpack\nStatus: ok\nVersion: 6.2\n", "6.2"),
        ("var/lib/dpkg/status", "Package: nvidia-jetpack\nStatus: ok\n\nPackage: b\nVersion: 2\n", ""),
        ("etc/other", "", ""),
    ],
)  # fmt: skip
def test_the_jetpack_release_is_read_where_there_is_one(tmp_path: Path, path: str, text: str, release: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(text)
    assert jetpack(tmp_path) == release
