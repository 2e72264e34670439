from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgefuse.datasets.cache import Cache, digest
from edgefuse.datasets.cache import cache_folder as default_folder

_SLOW_WRITER = """
import sys, time
from pathlib import Path
from edgefuse.datasets.cache import Cache

def make(folder):
    (folder / "one").write_text("1")
    print("writing", flush=True)
    time.sleep(float(sys.argv[2]))
    (folder / "two").write_text("2")

entry = Cache(Path(sys.argv[1])).entry("kind", ["key"], make)
print(sorted(p.name for p in entry.iterdir()), flush=True)
"""


def writer(folder: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _SLOW_WRITER, str(folder), str(seconds)], stdout=subprocess.PIPE, text=True
    )


def test_an_entry_is_made_once(tmp_path: Path) -> None:
    calls = []

    def make(folder: Path) -> None:
        calls.append(folder)
        (folder / "file").write_text("x")

    cache = Cache(tmp_path)
    first = cache.entry("kind", {"a": 1, "b": [2]}, make)
    assert cache.entry("kind", {"b": [2], "a": 1}, make) == first
    assert (first / "file").read_text() == "x"
    assert len(calls) == 1


def test_keys_are_hashed_in_full() -> None:
    assert digest(["a", "b"]) != digest(["ab"])
    assert len(digest([])) == 64


def test_a_failed_entry_leaves_nothing(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Cache(tmp_path).entry("kind", 1, make)
    assert [p for p in (tmp_path / "kind").iterdir() if p.is_dir()] == []


def test_a_killed_writer_leaves_no_entry_and_the_next_one_completes(tmp_path: Path) -> None:
    process = writer(tmp_path, 60)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not any((p / "two").exists() for p in (tmp_path / "kind").iterdir())
    output, _ = writer(tmp_path, 0).communicate()
    assert output.endswith("['one', 'seal.json', 'two']\n")
    assert [p.name for p in (tmp_path / "kind").iterdir() if "tmp" in p.name] == []


def test_two_processes_share_the_work(tmp_path: Path) -> None:
    first = writer(tmp_path, 1.0)
    assert first.stdout is not None
    assert first.stdout.readline() == "writing\n"
    started = time.monotonic()
    second = writer(tmp_path, 1.0)
    outputs = [first.communicate()[0], second.communicate()[0]]
    assert outputs == ["['one', 'seal.json', 'two']\n", "['one', 'seal.json', 'two']\n"]  # the second never wrote
    assert time.monotonic() - started < 60


def test_the_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEFUSE_CACHE", str(tmp_path))
    assert default_folder() == tmp_path
