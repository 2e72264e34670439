"""Torch's own: the exported program as it is."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.subject import Subject


def build(setting: str, subject: Subject, folder: Path) -> list[Path]:
    """Return the file of the program."""
    return [subject.program]
