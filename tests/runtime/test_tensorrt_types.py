"""Every call of TensorRT is checked by mypy against what TensorRT's own bindings declare.

The distribution tensorrt-stubs (10.13) is what pybind11-stubgen made of them. One file of it is fetched, for installing
it asks for TensorRT's libraries. Some of its parameters are called `in`, which is no Python: a repaired copy is used.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from edgefuse.datasets.packages import fetch
from edgefuse.errors import DataError

ROOT = Path(__file__).parents[2]
STUBS = (
    *("tensorrt-stubs", "10.13.0.35.1", "tensorrt_bindings/tensorrt.pyi"),
    *("b4cabd654492d265b7d9f96f16494102575c4d17cde7d94e99aae1fcaacf7d92",),
)
BACKEND = ROOT / "edgefuse" / "runtime" / "backends" / "tensorrt"
CALLERS = (BACKEND / "api.py", BACKEND / "build.py")
CONFIGURATION = """
[mypy]
strict = True
python_version = 3.11
explicit_package_bases = True
mypy_path = {stubs}:{root}
[mypy-tensorrt_bindings.*]
ignore_errors = True
[mypy-edgefuse.compiler.*,numpy.*]
follow_imports = skip
"""

pytestmark = pytest.mark.slow


def mypy(sources: Sequence[Path], stubs: Path, folder: Path) -> list[str]:
    """Return the errors that mypy finds in files with these stubs; numpy is not followed, for the sake of time."""
    configuration = folder / "mypy.ini"
    configuration.write_text(CONFIGURATION.format(stubs=stubs, root=ROOT))
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        configuration,
        "--cache-dir",
        folder / "cache",
        *sources,
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert f"{len(sources)} source file" in done.stdout, done.stdout + done.stderr  # not a crash
    errors = (line for line in done.stdout.splitlines() if " error: " in line)
    return [line for line in errors if any(f"{source.name}:" in line for source in sources)]


@pytest.fixture
def stubs(tmp_path: Path) -> Path:
    """A copy of tensorrt-stubs that can be read."""
    try:
        text = fetch(*STUBS).read_text(encoding="utf-8")
    except DataError as error:
        pytest.skip(f"tensorrt-stubs cannot be fetched, so our declarations of TensorRT are not held to it: {error}")
    text = re.sub(r"\bin: (?=[\w.\[\]]+ ?[,)=])", "in_: ", text)
    text = re.sub(r"(def \w+\([^\n]*=[^\n,]*, channel_axis: [\w.]+)\)", r"\1 = ...)", text)
    contents = {
        "tensorrt": "from tensorrt_bindings.tensorrt import *\n__version__: str\n",
        "tensorrt_bindings": "",
    }
    for name, content in contents.items():
        (tmp_path / "stubs" / name).mkdir(parents=True)
        (tmp_path / "stubs" / name / "__init__.pyi").write_text(content)
    (tmp_path / "stubs" / "tensorrt_bindings" / "tensorrt.pyi").write_text(text, encoding="utf-8")
    return tmp_path / "stubs"


def test_every_call_is_one_that_tensorrt_declares(stubs: Path, tmp_path: Path) -> None:
    assert mypy(CALLERS, stubs, tmp_path) == []


def test_a_wrong_call_is_found(tmp_path: Path) -> None:
    wrong = {
        "parser.parse(data)": "parser.parse_bytes(data)",
        "config.clear_flag(trt.BuilderFlag.TF32)": 'config.clear_flag("TF32")',
        "engine.get_tensor_name(index)": "engine.get_tensor_name(str(index))",
    }
    spoiled = [tmp_path / f"wrong_{path.name}" for path in CALLERS]
    for path, copy in zip(CALLERS, spoiled, strict=True):
        text = path.read_text(encoding="utf-8")
        for right, other in wrong.items():
            text = text.replace(right, other)
        copy.write_text(text, encoding="utf-8")
    errors = mypy(spoiled, ROOT / "typings", tmp_path)
    said = "\n".join(errors)
    assert '"OnnxParser" has no attribute "parse_bytes"' in said
    assert 'Argument 1 to "clear_flag" of "IBuilderConfig" has incompatible type "str"; expected "BuilderFlag"' in said
    assert 'Argument 1 to "get_tensor_name" of "ICudaEngine" has incompatible type "str"; expected "int"' in said
    assert len(errors) == 3
