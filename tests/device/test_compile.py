"""`edgefuse compile` with `[device] uri`: what is chosen is chosen by what a device measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefuse.bundle.reader import open_bundle
from edgefuse.compiler import compile
from edgefuse.compiler.recipe.recipe import load
from edgefuse.device.tasks import packed, packed_inputs, unpacked, unpacked_inputs
from edgefuse.errors import DeviceError, RecipeError
from edgefuse.runtime.backends.backend import Array
from edgefuse.runtime.pipeline import Inputs
from edgefuse.runtime.pressure import Pressure

OWN = Path(__file__).parents[1] / "compiler" / "own"
Place = Any  # of conftest
# A processor that this machine has not.
DEVICE = """
import platform
platform.machine = lambda: "riscv64"
"""


def recipe(folder: Path, device: str) -> Path:
    """Write the recipe of the two-input model, with a device."""
    shutil.copy(OWN / "pair.py", folder)
    path = folder / "recipe.toml"
    path.write_text((OWN / "recipe.toml").read_text() + f"\n[device]\n{device}\n")
    return path


@pytest.mark.slow
def test_a_device_decides(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", place.variables["PATH"])
    monkeypatch.setattr(Pressure, "seen", ())  # what was timed on a busy machine would be timed again
    (tmp_path / "sitecustomize.py").write_text(DEVICE)
    place.behave(before=f"export PYTHONPATH={tmp_path}")
    (tmp_path / "own").mkdir()
    path = recipe(tmp_path / "own", f'uri = "{place.uri}"\npython = "{place.python}"')
    result = compile(path, tmp_path / "out", cache=tmp_path / "cache")
    with open_bundle(result.bundles[0]) as bundle:
        figures = [figure for rung in bundle.manifest.rungs for figure in rung.figures]
    assert {figure.machine.architecture for figure in figures} == {"riscv64"}
    assert all(figure.peak_rss_bytes for figure in figures)
    report = json.loads(result.report_json.read_text(encoding="utf-8"))
    assert report["machine"]["architecture"] == "riscv64"
    assert report["reference"]["p50_ms"] is None  # torch did not run there
    assert "Latency and memory were measured on the device" in report["notes"][0]
    assert place.uri not in result.report_json.read_text(encoding="utf-8") + str(figures)
    assert place.left() == []
    before = place.connections()
    compile(path, tmp_path / "again", cache=tmp_path / "cache")
    described = place.connections() - before
    assert before - described >= 4  # a run for each of three stages, and one for the rungs


def test_what_a_device_lacks_is_told_first(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", place.variables["PATH"])
    path = recipe(tmp_path, f'uri = "{place.uri}"\npython = "/none"')
    with pytest.raises(DeviceError, match="the device has no such Python: got '/none'"):
        compile(path, tmp_path / "out", cache=tmp_path / "cache")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("device", "what"),
    [
        ('uri = "ssh://-x"', "this is no device behind ssh: got 'ssh://-x'"),
        ('uri = "usb://1"', "unknown device 'usb': expected adb or ssh"),
        ('url = "ssh://host"', r"unknown key \[device\] 'url'. Fix: did you mean 'uri'"),
    ],
)
def test_a_recipe_with_a_wrong_device(tmp_path: Path, device: str, what: str) -> None:
    with pytest.raises((DeviceError, RecipeError), match=what):
        load(recipe(tmp_path, device))


def test_feeds_travel_as_they_are(tmp_path: Path) -> None:
    values: dict[str, Array] = {
        "image.pixels": np.arange(6, dtype=np.uint8).reshape(1, 6),
        "text.length": np.array([3], np.int32),
    }
    (tmp_path / "a").write_bytes(packed([values, values]))
    assert len(unpacked(tmp_path / "a")) == 2
    (tmp_path / "b").write_bytes(packed_inputs([Inputs(values=values, present=("image", "text"))] * 11))
    found = unpacked_inputs(tmp_path / "b")
    assert [item.present for item in found] == [("image", "text")] * 11
    for key, value in values.items():
        np.testing.assert_array_equal(found[10].values[key], value, strict=True)
