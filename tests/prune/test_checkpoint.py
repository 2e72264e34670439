from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from edgefuse.prune import checkpoint
from tests.attack import damage


def test_a_state_survives(tmp_path: Path) -> None:
    path = tmp_path / "new" / "c.pt"
    checkpoint.save(path, "key", {"weights": {"w": torch.arange(3.0)}, "epoch": 2, "names": ["a"]})

    state = checkpoint.load(path, "key")

    assert state is not None
    assert torch.equal(state["weights"]["w"], torch.arange(3.0))
    assert (state["epoch"], state["names"]) == (2, ["a"])
    assert [file.name for file in path.parent.iterdir()] == ["c.pt"]


def test_a_failed_write_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    checkpoint.save(path, "key", {"epoch": 1})

    with pytest.raises(TypeError, match="pickle"):
        checkpoint.save(path, "key", {"epoch": 2, "bad": threading.Lock()})

    assert checkpoint.load(path, "key") == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]


def test_nothing_there_is_nothing_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert checkpoint.load(tmp_path / "c.pt", "key") is None
    assert caplog.text == ""


def test_another_key_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "c.pt"
    checkpoint.save(path, "key", {"epoch": 1})

    assert checkpoint.load(path, "other") is None
    assert f"{path} belongs to another student, data or settings and is not used" in caplog.text


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 half a file"])
def test_a_damaged_file_is_logged(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "c.pt"
    path.write_bytes(content)

    with caplog.at_level(logging.WARNING):
        assert checkpoint.load(path, "key") is None
    assert "is damaged and not used" in caplog.text


def test_every_bit_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "c.pt"
    checkpoint.save(path, "key", {"weights": torch.arange(6.0)})
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        assert checkpoint.load(path, "key") is None, position
    for data in (whole[:-1], whole[:40], whole + b"\0", whole[40:] + whole[:40]):
        path.write_bytes(data)
        assert checkpoint.load(path, "key") is None
    assert caplog.text.count("is damaged and not used: it has another") == len(caplog.records)
    path.write_bytes(whole)
    assert checkpoint.load(path, "key") is not None


@pytest.mark.parametrize("what", ["folder", "link", "pipe", "hole"])
def test_what_is_no_file_of_ours_is_not_waited_for(tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "c.pt"
    checkpoint.save(path, "key", {"epoch": 1})
    damage.PLACE[f"whole_{what}"](path, random.Random(0)) if what != "hole" else os.truncate(path, 1 << 40)
    assert checkpoint.load(path, "key") is None
    assert "is damaged and not used" in caplog.text
    checkpoint.remove(path)
    assert what == "folder" or not os.path.lexists(path)


def test_a_disk_that_is_full_says_so_and_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    """The system itself ends the write: files of that process may have 64 KiB."""
    checkpoint.save(tmp_path / "c.pt", "key", {"epoch": 1})
    program = f"""
import resource, signal, sys
from pathlib import Path
import torch
from edgefuse.prune import checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
try:
    checkpoint.save(Path({str(tmp_path / "c.pt")!r}), "key", {{"weights": torch.zeros(1 << 20)}})
except OSError as error:
    sys.exit(error.strerror)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr.strip().endswith("File too large")
    assert checkpoint.load(tmp_path / "c.pt", "key") == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "c.pt"
    with path.open("wb") as file:
        hashed = checkpoint._Hashed(file)
        checkpoint._write(hashed, {"key": "key", "state": nn.Linear(1, 1)})
        file.write(hashed.seal())

    assert checkpoint.load(path, "key") is None
    assert "is damaged and not used: Weights only load failed" in caplog.text


def test_the_identity_follows_weights_examples_and_facts() -> None:
    torch.manual_seed(0)
    module = nn.Linear(2, 2)
    tensors = {"x": torch.zeros(2, dtype=torch.int32), "scalar": torch.tensor(1.0)}
    base = checkpoint.identity(module, tensors, {"epochs": 1})

    assert checkpoint.identity(module, tensors, {"epochs": 1}) == base
    assert checkpoint.identity(module, tensors, {"epochs": 2}) != base
    assert checkpoint.identity(module, {**tensors, "x": torch.ones(2, dtype=torch.int32)}, {"epochs": 1}) != base
    assert checkpoint.identity(nn.Linear(2, 2), tensors, {"epochs": 1}) != base
