"""What a device installs is enough: everything of the device part imports and every `--help` works without torch.

Each environment is a venv of its own, whose only packages are links to what `pip install edgefuse[...]` would bring:
the distributions of the extra and what they require, by their own metadata.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import venv
import zipfile
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from packaging.requirements import Requirement
from torch import Tensor, nn

import edgefuse
from edgefuse import registry
from edgefuse.bundle.manifest import Candidate, GoldenCase, GoldenTensor, Manifest, Provenance, Rung, Tolerance
from edgefuse.bundle.spec import ClassOutput, ModelSpec, tensor
from edgefuse.bundle.writer import write_bundle
from edgefuse.cli import VERBS
from edgefuse.device.archive import PARTS, archive
from edgefuse.export.target import Lowered
from edgefuse.stages.examples import example_feeds
from edgefuse.stages.explicit import split
from edgefuse.stages.running import run_torch

Python: TypeAlias = "Callable[..., subprocess.CompletedProcess[str]]"

PACKAGE = Path(edgefuse.__file__).parent
DEVICE_PARTS = (*(part.removesuffix(".py") for part in PARTS), "cli", "commands")
BACKENDS = {"onnx": "onnxruntime", "tflite": "ai-edge-litert", "openvino": "openvino"}
NEVER = (
    *("torch", "onnx", "onnxscript", "litert_torch", "ai_edge_quantizer", "nncf"),
    *("PIL", "av", "soundfile", "tokenizers"),
)


def closure(names: Iterable[str]) -> set[str]:
    """Return distributions with everything that they require."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            required = [Requirement(line) for line in distribution(name).requires or ()]
        except PackageNotFoundError:
            continue  # of another platform or Python
        found.add(name)
        waiting += [r.name for r in required if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def link(name: str, site: Path) -> None:
    """Link what a distribution installed into a folder of packages."""
    installed = distribution(name)
    root = Path(str(installed.locate_file("")))
    for file in installed.files or ():
        shared = (
            len(file.parts) > 2 and "." not in file.parts[0] and not (root / file.parts[0] / "__init__.py").exists()
        )
        top = Path(*file.parts[: 2 if shared else 1])
        if file.parts[0] != ".." and not (site / top).exists():
            (site / top).parent.mkdir(exist_ok=True)
            (site / top).symlink_to(root / top)


def environment(folder: Path, packages: Iterable[str], sent: bytes | None = None) -> Python:
    """Make a venv with edgefuse, numpy, msgspec and some packages; return a call of its interpreter.

    edgefuse is what is `sent` to a device, or all of it.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in closure(("numpy", "msgspec", *packages)):
        link(name, site)
    if sent is None:
        (site / "edgefuse").symlink_to(PACKAGE)
    else:
        zipfile.ZipFile(io.BytesIO(sent)).extractall(site)
    metadata = site / "edgefuse-0.dist-info"
    metadata.mkdir()
    installed = distribution("edgefuse")
    requires = "".join(f"Requires-Dist: {requirement}\n" for requirement in installed.requires or ())
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: edgefuse\nVersion: 0\n{requires}")
    entries = installed.read_text("entry_points.txt")
    assert entries is not None
    (metadata / "entry_points.txt").write_text(entries)

    def python(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        variables = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {
            "PYTHONDONTWRITEBYTECODE": "1"
        }
        command = [folder / "bin" / "python", "-W", "error", *arguments]
        return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)

    return python


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Python:
    """An environment with numpy and msgspec only."""
    return environment(tmp_path_factory.mktemp("bare") / "venv", ())


_IMPORTS = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError as error:  # of another library: this environment has none
        if (error.name or "edgefuse").startswith("edgefuse"):
            print(name, error)
"""


def test_what_travels_to_a_device_needs_nothing_of_ours_that_stays_here(tmp_path: Path) -> None:
    data = archive()
    names = [name for name in zipfile.ZipFile(io.BytesIO(data)).namelist() if name.endswith(".py")]
    modules = [name.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".") for name in names]
    assert {"edgefuse.device.agent", "edgefuse.runtime.pipeline", "edgefuse.measure.rungs"} <= set(modules)
    modules.remove("edgefuse.device.bootstrap")  # it is run as a script
    found = environment(tmp_path / "venv", ("onnxruntime",), data)("-c", _IMPORTS, *modules)
    assert (found.returncode, found.stdout) == (0, ""), found.stderr


@pytest.fixture(scope="module", params=sorted(BACKENDS))
def device(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Python]:
    """The name of a backend and an environment with its extra."""
    return request.param, environment(tmp_path_factory.mktemp(request.param) / "venv", (BACKENDS[request.param],))


class Linear(nn.Module):
    """A linear layer over the modality `motion`."""

    spec = ModelSpec(
        name="motion",
        modalities=(tensor("motion", shape=(1, 4, 3)),),
        outputs=(ClassOutput(labels=("stop", "go")),),
    )

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 2)

    def forward(self, values: Tensor) -> Tensor:
        result: Tensor = self.layer(values.flatten(1))
        return result


def motion_bundle(path: Path, target: str) -> Path:
    """Write a bundle of one stage, `Linear`, for a target."""
    (stage,) = split(Linear())
    made = registry.create("targets", target)
    lowered: Lowered = made.lower(stage)
    feeds = next(iter(example_feeds(stage)))
    tensors = {**feeds, **run_torch(stage, feeds)}
    kept = {
        port: GoldenTensor(port=port, dtype="float32", shape=value.shape, file=f"golden/{port}.bin")
        for port, value in tensors.items()
    }
    candidate = Candidate(
        id="model.float",
        stage="model",
        target=target,
        backend=made.backend,
        scheme="float",
        file=f"stages/model.float{made.suffix}",
        sha256=hashlib.sha256(lowered.data).hexdigest(),
        size_bytes=len(lowered.data),
        inputs=lowered.inputs,
        outputs=lowered.outputs,
        opset=lowered.opset,
        tolerance=Tolerance(),
    )
    rung = Rung(
        name="float",
        objective="float",
        candidates={"model": candidate.id},
        accuracy={"motion": 1.0},
        drop_ci95={"motion": (0.0, 0.0)},
        within_budget=True,
        size_bytes=candidate.size_bytes,
    )
    outputs = tuple(kept[port.tensor.name] for port in stage.spec.outputs)
    case = GoldenCase(stage="model", inputs=tuple(kept[port] for port in feeds), outputs=outputs)
    manifest = Manifest(
        target=target,
        model=Linear.spec,
        stages=(stage.spec,),
        candidates=(candidate,),
        rungs=(rung,),
        default_rung=rung.name,
        golden=(case,),
        files=(),
        provenance=Provenance(weights_sha256="0" * 64, data_sha256="1" * 64, recipe_sha256="2" * 64, tools={}),
    )
    contents = {kept[port].file: value.tobytes() for port, value in tensors.items()}
    write_bundle(path, manifest, {candidate.file: lowered.data, **contents})
    return path


def device_modules() -> list[str]:
    """Return the names of all modules of the device part."""
    names = (path.relative_to(PACKAGE.parent).with_suffix("").parts for path in sorted(PACKAGE.rglob("*.py")))
    modules = (".".join(parts).removesuffix(".__init__") for parts in names if parts[1] in DEVICE_PARTS)
    return [name for name in modules if not name.startswith("edgefuse.serve")]  # its extra brings Flask


def test_the_environments_hold_nothing_else(bare: Python) -> None:
    names = ", ".join(repr(name) for name in (*NEVER, "onnxruntime", "ai_edge_litert", "openvino"))
    done = bare("-c", f"import importlib.util as u; print([n for n in ({names}) if u.find_spec(n)])")
    assert done.stdout == "[]\n", done.stderr


def test_every_module_imports_without_a_backend(bare: Python) -> None:
    of_onnx, of_tflite = (
        tuple(f"onnx.{name}" for name in ("api", "session", "backend", "placement")),
        ("tflite.backend", "tflite.placement"),
    )
    of_tensorrt = tuple(f"tensorrt.{name}" for name in ("edition", "build", "api", "providers"))
    of_openvino = tuple(f"openvino.{name}" for name in ("api", "backend", "indices", "placement", "session"))
    backends = (*of_onnx, *of_tflite, *of_openvino, *of_tensorrt)
    vendors = tuple(f"edgefuse.runtime.backends.{name}" for name in backends)
    modules = [name for name in device_modules() if name not in vendors]
    assert "edgefuse.runtime.pipeline" in modules
    assert "edgefuse.commands.bench" in modules
    done = bare("-c", "\n".join(f"import {name}" for name in modules))
    assert (done.returncode, done.stderr) == (0, "")


def test_every_help_works_without_a_backend(bare: Python) -> None:
    program = "import sys, edgefuse.cli as c\nsys.exit(sum(c.main([*v.split(), '--help']) for v in sys.argv[1:]))"
    done = bare("-c", program, *VERBS, "")
    assert (done.returncode, done.stderr) == (0, "")
    for verb in VERBS:
        assert f"usage: edgefuse {verb} [-h]" in done.stdout


def test_what_is_missing_is_named_with_its_extra(bare: Python, tiny_bundle: Path) -> None:
    for arguments, extra in (
        (("verify", tiny_bundle), "onnx"),
        (("compile", "a.toml", "-o", "out"), "compile"),
        (("bench", tiny_bundle), "onnx"),
    ):
        done = bare("-m", "edgefuse", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.splitlines()[-1].endswith(f"Fix: pip install 'edgefuse[{extra}]'.")


def test_doctor_works_everywhere_and_names_what_is_missing(bare: Python, device: tuple[str, Python]) -> None:
    name, python = device
    # Graphs for TensorRT can be checked wherever ONNX Runtime is.
    for call, present in ((bare, set[str]()), (python, {name, "tensorrt"} if name == "onnx" else {name})):
        done = call("-m", "edgefuse", "doctor", "--json")
        assert (done.returncode, done.stderr) == (0, "")
        report = json.loads(done.stdout)
        found = {backend for backend, facts in report["backends"].items() if facts["missing"] is None}
        assert found == present | {"null"}
        compiling = report["packages"]["compile"].keys() - {"onnxruntime", "ai-edge-litert", "openvino"}
        assert not any(report["packages"]["compile"][package] for package in compiling)


def test_a_device_runs_a_bundle_from_arrays(
    device: tuple[str, Python], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    name, python = device
    bundle = request.getfixturevalue("tiny_bundle") if name == "onnx" else motion_bundle(tmp_path / "motion", name)
    np.save(tmp_path / "image.npy", np.zeros((8, 8, 1), np.uint8))
    np.save(tmp_path / "motion.npy", np.ones((1, 4, 3), np.float32))
    files = ["--motion", tmp_path / "motion.npy", *(("--image", tmp_path / "image.npy") if name == "onnx" else ())]
    done = python("-m", "edgefuse", "run", bundle, *files, "--json")
    said = [line for line in done.stderr.splitlines() if not line.startswith("INFO: ")]  # LiteRT's own greeting
    assert (done.returncode, said) == (0, [])
    assert "motion" in json.loads(done.stdout)["present"]
    assert python("-m", "edgefuse", "verify", bundle).returncode == 0
    measured = python("-m", "edgefuse", "prepare", bundle, "--json")
    assert json.loads(measured.stdout)["measured_now"], measured.stderr
    if name == "onnx":
        text = python("-m", "edgefuse", "run", bundle, "--text", "go")
        assert text.returncode == 2
        assert text.stderr.endswith("Fix: pip install 'edgefuse[media]'.\n")


def test_the_backend_of_a_device_imports(device: tuple[str, Python]) -> None:
    name, python = device
    done = python("-c", f"from edgefuse import registry; print(registry.create('backends', {name!r}).versions())")
    assert done.returncode == 0, done.stderr
    assert BACKENDS[name] in done.stdout
