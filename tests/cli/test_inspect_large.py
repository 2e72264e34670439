"""What `edgefuse inspect` shows of a bundle is bounded, however much its manifest says."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from edgefuse.bundle.codec import encode
from edgefuse.bundle.manifest import Figure, Machine, Manifest
from edgefuse.bundle.writer import write_bundle
from edgefuse.cli import main
from tests import tiny


def _shown(manifest: Manifest, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    write_bundle(folder / "bundle", manifest, tiny.contents())
    assert main(["inspect", str(folder / "bundle")]) == 0
    return capsys.readouterr().out


def test_one_long_text_does_not_widen_a_column_to_its_length(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(architecture="x", cpu="c" * 500_000, cores=1, features=(), runtimes={}, threads=1)
    long, short = (msgspec.structs.replace(machine, cpu=cpu) for cpu in (machine.cpu, "small"))
    figures = tuple(Figure(machine=each, runs=1, p50_ms=1.0) for each in (long, *[short] * 1000))
    manifest = tiny.manifest()
    rung = msgspec.structs.replace(manifest.rungs[0], figures=figures)
    shown = _shown(msgspec.structs.replace(manifest, rungs=(rung, *manifest.rungs[1:])), tmp_path, capsys)
    assert len(shown) < 1_000_000
    assert "ccc..." in shown
    assert "small" in shown


def _with_modalities(count: int) -> tuple[Manifest, dict[str, bytes]]:
    """Return the tiny bundle with more modalities, which nothing uses, and no golden case that tells their number."""
    text = json.loads(encode(tiny.manifest()))
    modalities = text["model"]["modalities"]
    modalities += [modalities[2] | {"name": f"more{index}"} for index in range(count - len(modalities))]
    text["stages"][-1]["inputs"][-1]["tensor"]["shape"] = [1, count]
    for candidate in text["candidates"]:
        for binding in candidate["inputs"]:
            binding["shape"] = [1, count] if binding["port"] == "present" else binding["shape"]
    text["golden"] = []
    contents = {name: data for name, data in tiny.contents().items() if not name.startswith("golden/")}
    return msgspec.convert(text, Manifest), contents


def test_of_many_subsets_the_first_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bundle(tmp_path / "bundle", *_with_modalities(16))
    assert main(["inspect", str(tmp_path / "bundle")]) == 0
    shown = capsys.readouterr().out
    assert "and 65280 more (--json)" in shown
    assert shown.count("\n") < 500
