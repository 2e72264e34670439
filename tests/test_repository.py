"""What must hold for the repository as a whole: contracts, names, what is tracked, what a wheel weighs."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import pkgutil
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import edgefuse
from edgefuse import registry
from edgefuse.cli import VERBS

ROOT = Path(__file__).parents[1]
MAX_WHEEL_BYTES = 1_250_000
MAX_DEVICE_BYTES = 410_000
DEVICE_PARTS = (
    *("bundle", "graph", "runtime", "measure", "device", "commands"),
    *("errors.py", "files.py", "typed_json.py", "registry.py", "progress.py", "cli.py"),
)
DEVICE = ("bundle", "graph", "runtime", "measure", "device")
BUILD_HOST = (
    *("torch", "onnx", "onnxscript", "litert_torch", "ai_edge_quantizer", "nncf", "jinja2", "scipy"),
    *("safetensors", "filelock", "espeakng_loader"),
)
MEDIA = ("PIL", "av", "soundfile", "soxr", "tokenizers")
# Written so that no pattern matches itself.
FORBIDDEN = {
    "a path of somebody's machine": re.compile(rb"(?<![\w.*])/(?:work|root|home/\w+|Users/\w+)/"),
    "a folder beside the checkout": re.compile(rb"\.\./shared|(?<!\w)[.]library\b"),
    "the host of a package or model registry": re.compile(
        rb"pypi[.]org|pythonhosted[.]org|pytorch[.]org/whl|npmjs[.]org|huggingface[.]co|conda[.]io"
    ),
}


def tracked_files() -> list[Path]:
    """Return what git tracks, or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def blocking(modules: tuple[str, ...]) -> str:
    """Return code after which these modules cannot be imported."""
    return f"import sys; sys.modules.update(dict.fromkeys({modules!r}))\n"


def test_import_contracts_are_kept() -> None:
    linter = shutil.which("lint-imports", path=Path(sys.executable).parent)
    assert linter, "import-linter is missing: pip install 'edgefuse[dev]'"
    result = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_device_module_imports_without_the_build_host() -> None:
    modules = [
        module.name
        for name in DEVICE
        for module in pkgutil.walk_packages([str(ROOT / "edgefuse" / name)], prefix=f"edgefuse.{name}.")
        if not module.name.endswith((".tensorrt.api", ".tensorrt.build", ".tensorrt.edition"))  # need its libraries
    ]
    assert "edgefuse.runtime.pipeline" in modules
    imports = "".join(f"import {name}\n" for name in ("edgefuse", "edgefuse.errors", "edgefuse.registry", *modules))
    result = run_python(blocking((*BUILD_HOST, *MEDIA)) + imports)
    assert result.returncode == 0, result.stderr


def test_help_needs_nothing_but_numpy_and_msgspec() -> None:
    code = "from edgefuse.cli import main, VERBS\nsys.exit(max(main([*verb, '--help']) for verb in ([], *zip(VERBS))))"
    result = run_python(blocking((*BUILD_HOST, *MEDIA, "onnxruntime", "ai_edge_litert")) + code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("usage: edgefuse") == 1 + len(VERBS)


def test_import_edgefuse_loads_neither_numpy_nor_torch() -> None:
    result = run_python("import sys, edgefuse; print(sorted({'numpy', 'torch', 'msgspec'} & set(sys.modules)))")
    assert result.stdout.strip() == "[]"


def test_public_names_are_these() -> None:
    assert edgefuse.__all__ == [
        "BackendError",
        "BundleError",
        "CheckError",
        "DataError",
        "Decoder",
        "DeviceError",
        "EdgefuseError",
        "EngineError",
        "ExportError",
        "FusionModel",
        "Generation",
        "GenerationConfig",
        "InputError",
        "Inputs",
        "Live",
        "MeasureError",
        "MissingExtraError",
        "ModelError",
        "ModelSpec",
        "Pipeline",
        "Prediction",
        "PruneError",
        "QuantizeError",
        "RecipeError",
        "Sample",
        "Splits",
        "check",
        "compile",
        "export",
        "load",
    ]
    assert set(edgefuse.__all__) <= set(dir(edgefuse))
    # These would import torch: that they resolve is for the tests of the compiler.
    for name in set(edgefuse.__all__) - {"FusionModel", "check", "compile", "export"}:
        assert getattr(edgefuse, name).__module__.startswith("edgefuse.")


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'edgefuse' has no attribute 'lode'"):
        edgefuse.lode  # noqa: B018


def test_the_version_is_the_same_everywhere() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["metadata"]["version"] == edgefuse.__version__ == importlib.metadata.version("edgefuse")


@pytest.mark.parametrize("group", ["backends", "devices", "targets", "quantizers"])
def test_every_entry_point_leads_to_a_class(group: str) -> None:
    entries = importlib.metadata.entry_points(group=f"edgefuse.{group}")
    assert entries
    for entry in entries:
        # Read, not imported: the converters behind them take seconds.
        source = ROOT.joinpath(*entry.module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
        assert re.search(rf"^class {entry.attr}\b", source, re.MULTILINE)


def test_nothing_tracked_names_a_machine_or_a_registry() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {what}: {match.group().decode()}"
        for path in tracked_files()
        for what, pattern in FORBIDDEN.items()
        if (match := pattern.search(path.read_bytes()))
    ]
    assert not found, "\n".join(found)


def test_documents_link_to_what_exists() -> None:
    dead = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in tracked_files()
        if page.suffix == ".md"
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
        if not (page.parent / link).exists()
    ]
    assert not dead, "\n".join(dead)


def test_the_wheel_is_small(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for path in tracked_files():
        name = path.relative_to(ROOT)
        if name.parts[0] in {"edgefuse", "setup.cfg", "pyproject.toml", "LICENSE"}:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    built = subprocess.run(
        [*command, "--disable-pip-version-check", "--wheel-dir", str(tmp_path), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        members = archive.infolist()
    names = {member.filename for member in members}
    pages = {"edgefuse/compiler/report/page/page.html", "edgefuse/serve/http/page/index.html"}
    assert {"edgefuse/py.typed", *pages} <= names
    assert all(name.startswith(("edgefuse/", f"edgefuse-{edgefuse.__version__}.dist-info/")) for name in names)
    systems = "assistant|captioning|classifier|dialogue|digits|intent|sentiment|seq2seq|vqa"
    data = "clothing|scenes|sequence|stamps"
    assert not [name for name in names if re.search(f"/({systems}|{data})/|models/(reference|retrieval)/", name)]
    weights = sum(member.compress_size for member in members if member.filename.endswith(".safetensors"))
    assert wheel.stat().st_size - weights <= MAX_WHEEL_BYTES
    device = [member for member in members if member.filename.split("/")[1] in DEVICE_PARTS]
    assert sum(member.compress_size for member in device) <= MAX_DEVICE_BYTES


def test_no_table_names_a_target() -> None:
    """What differs by target is asked of target, quantizer and backend, which stand in folders of their own."""
    allowed = {
        "edgefuse/bundle/manifest_1.py",  # what there was
        "edgefuse/compiler/recipe/recipe.py",  # the default of `[compile] targets`
        # Of the file that is brought in place of a torch module, not of a target:
        "edgefuse/compiler/recipe/described.py",
        "edgefuse/stages/onnx/traced.py",
        "edgefuse/stages/stage.py",
    }
    targets = set(registry.names("targets"))
    own = {f"edgefuse/{part}/{name}/" for part in ("export", "quantize", "runtime/backends") for name in targets}
    titles = ("ONNX Runtime", "LiteRT", "TensorRT", "OpenVINO", "Jetson")
    found = set()
    for path in (ROOT / "edgefuse").rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(tuple(own)):
            continue
        tree = ast.parse(path.read_text("utf-8"))
        documented = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in documented]
        texts = {node.value for node in constants if isinstance(node.value, str)}
        if texts & targets or any(title in text for title in titles for text in texts):
            found.add(name)
    assert found == allowed
