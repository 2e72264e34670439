"""A compile for OpenVINO, alone and joined with ONNX Runtime: the same format, two runtimes."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgefuse.bundle.reader import open_bundle
from edgefuse.cli import main
from edgefuse.compiler import compile

from .conftest import Compiled


@pytest.mark.slow
def test_it_compiles_alone_and_joined_and_passes_verify(compiled: Compiled, tmp_path: Path) -> None:
    result = compile(compiled.recipe, tmp_path, targets=["openvino", "onnx+openvino"], cache=compiled.cache)
    assert [path.name for path in result.bundles] == ["pair-openvino.edgefuse", "pair-onnx+openvino.edgefuse"]
    for path in result.bundles:
        with open_bundle(path) as bundle:
            targets = {candidate.target for candidate in bundle.manifest.candidates}
            assert all(candidate.backend == candidate.target for candidate in bundle.manifest.candidates)
        assert targets <= {"onnx", "openvino"}
        assert main(["verify", str(path)]) == 0
