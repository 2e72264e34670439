"""One small model as bundles for Arm, and the processors and Pythons that can be had here to run them on."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.portability import answers, judge, machines, runtimes
from benchmarks.portability.judge import Answers, Question
from benchmarks.portability.machines import PROCESSORS, Device, Machine
from benchmarks.portability.runtimes import Placement
from edgefuse.datasets.packages import cache_folder
from edgefuse.errors import DataError

OWN = Path(__file__).parents[1] / "compiler" / "own"
ITEMS = 200
# One candidate per stage besides the float one: nothing is searched for. One scale per tensor suits every runtime.
RECIPE = """
[model]
factory = "pair:build"
[data]
factory = "pair:data"
[compile]
targets = ["onnx", "tflite"]
device = "arm64"
[search]
max_drop = 0.2
max_fusion_passes = 2
[schemes]
"""
SCHEMES = {
    "int8": {
        "image_encoder": "static_wi8_ai8.s8",
        "sensor_encoder": "dynamic_wi8_af32.tensor",
        "fusion": "dynamic_wi8_af32.tensor",
    },
    "float": dict.fromkeys(("image_encoder", "sensor_encoder", "fusion"), "float"),
}
_told: list[str] = []


@dataclass(frozen=True)
class Asked:
    """A bundle, items to answer, and what this machine answers."""

    question: Question
    here: Answers

    def compare(self, device: Device, folder: Path) -> judge.Row:
        """Answer on a device and compare; the differences are told at the end of the run."""
        row = judge.compare(self.question, judge.answer(device, self.question, folder), self.here)
        here = judge.compare(self.question, self.here, self.here)["accuracy"]
        place = f"{self.question.name} on {device.machine.name}, Python {device.machine.python}"
        told = f"{place}: labels {row['label_agreement']:.1%}, accuracy {row['accuracy'] - here:+.1%}"
        _told.append(
            told + (f", largest float error {error:.1e}" if (error := row["max_abs_error"]) is not None else "")
        )
        return row

    def check(self, device: Device, folder: Path, labels: float = 0.99) -> None:
        """Hold a device to float outputs that differ by 1e-4 at the most, and to a share of equal labels."""
        row = self.compare(device, folder)
        assert row["max_abs_error"] is None or row["max_abs_error"] <= 1e-4
        assert row["label_agreement"] >= labels


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how the answers elsewhere differ from those here."""
    for line in _told:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def cache() -> Path:
    """Where roots and wheels are kept between runs."""
    return cache_folder()


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with edgefuse as devices import it."""
    return machines.install(tmp_path_factory.mktemp("installed") / "project")


@pytest.fixture(scope="session")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Asked]:
    """The two-input model compiled for Arm, with items and their answers here: as `onnx-int8`, `tflite-float`."""
    compiler = pytest.importorskip("edgefuse.compiler")
    folder = tmp_path_factory.mktemp("arm64")
    shutil.copy(OWN / "pair.py", folder)
    found = {}
    for kind, schemes in SCHEMES.items():
        recipe = folder / f"{kind}.toml"
        lines = [f'{stage} = ["{scheme}"]' for stage, scheme in schemes.items()]
        recipe.write_text(RECIPE + "\n".join(lines), encoding="utf-8")
        result = compiler.compile(recipe, folder / kind, cache=folder / "cache")
        pair = importlib.import_module("pair")  # the compiler put the recipe's folder on the path
        samples = pair.samples(pair.build(), 100, ITEMS)
        for path in result.bundles:
            question = judge.ask(path, samples, folder / "items")
            answers.main(path, question.inputs, folder / "answers.npz")
            found[f"{question.manifest.backend}-{kind}"] = Asked(question, judge.read(folder / "answers.npz"))
    return found


@pytest.fixture(scope="session")
def emulated(cache: Path, project: Path) -> Mapping[str, Device]:
    """The emulated processors by name, with the newest runtimes and pytest; skips where they cannot be had."""
    try:
        found = machines.emulated(cache)
        packages = (*runtimes.newest(), "pytest")
        devices = [Placement(machine, packages).device(project, cache) for machine in found]
    except DataError as error:
        pytest.skip(f"nothing was checked on Arm: {error}")
    return dict(zip(PROCESSORS, devices, strict=True))


@pytest.fixture(params=[PROCESSORS[0], *(pytest.param(name, marks=pytest.mark.exhaustive) for name in PROCESSORS[1:])])
def device(request: pytest.FixtureRequest, emulated: Mapping[str, Device]) -> Device:
    """An emulated processor."""
    return emulated[request.param]


@pytest.fixture(scope="session")
def pythons(cache: Path) -> Mapping[str, Machine]:
    """This processor with every Python that can be had, by series."""
    own = machines.this()
    found = {machine.series: machine for machine in machines.others()}
    try:
        newer = machines.newer(cache)
    except DataError:
        return found | {own.series: own}
    return found | {newer.series: newer} | {own.series: own}
