"""Where int8 is exact and where its sums are clipped, on CPUs that are not here."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import msgspec
import pytest

import edgefuse
from edgefuse.bundle.manifest import Manifest
from edgefuse.bundle.scheme import Scheme
from edgefuse.errors import MissingExtraError
from edgefuse.runtime import opened, suitability
from edgefuse.runtime.backends.choice import Backends
from edgefuse.runtime.processor import Processor

HASWELL = Processor("Old Xeon", "x86_64", 4, 8, ("avx2",))
ICELAKE = Processor("New Xeon", "x86_64", 4, 8, ("avx2", "avx512_vnni", "avx512f"))
CORTEX = Processor("Arm Cortex-A53", "aarch64", 4, 4, ())
SILENT = Processor("unknown", "x86_64", 4, 4, None)

STATIC_U8 = Scheme(name="static_wi8_ai8", activation="u8")
STATIC_S8 = Scheme(name="static_wi8_ai8", activation="s8")
DYNAMIC = Scheme(name="dynamic_wi8_af32")


def saturates(manifest: Manifest, scheme: Scheme, cpu: Processor, backend: str = "onnx") -> bool:
    """Say whether a CPU clips a file of a scheme in a backend."""
    file = f"stages/a.{backend}"
    candidate = msgspec.structs.replace(manifest.candidates[0], scheme=scheme.id, backend=backend, file=file)
    return suitability.saturates(candidate, Backends(msgspec.structs.replace(manifest, candidates=(candidate,))), cpu)


@pytest.mark.parametrize(
    ("scheme", "clipped"),
    [
        (STATIC_U8, True),
        (DYNAMIC, True),
        (STATIC_S8, False),
        (Scheme(name="float"), False),
        (Scheme(name="fp16"), False),
    ],
)
def test_unsigned_activations_saturate_without_vnni(tiny_manifest: Manifest, scheme: Scheme, clipped: bool) -> None:
    assert saturates(tiny_manifest, scheme, HASWELL) is clipped
    assert not saturates(tiny_manifest, scheme, ICELAKE)


@pytest.mark.parametrize("cpu", [CORTEX, SILENT])
def test_arm_is_exact_and_what_is_not_known_is_not_assumed(tiny_manifest: Manifest, cpu: Processor) -> None:
    assert not saturates(tiny_manifest, STATIC_U8, cpu)


def test_litert_is_exact_without_vnni(tiny_manifest: Manifest) -> None:
    assert not saturates(tiny_manifest, DYNAMIC, HASWELL, "tflite")


def test_the_concern_names_stages_and_the_rung_that_is_exact(tiny_manifest: Manifest) -> None:
    assert suitability.concern(tiny_manifest, tiny_manifest.rung("small"), Backends(tiny_manifest), HASWELL) == (
        "the rung 'small' loses accuracy here: in image_encoder sums of uint8 x int8 are clipped to 16 bits, since "
        "this CPU (Old Xeon) has no VNNI. Fix: open the rung 'float', which is exact here."
    )
    assert suitability.concern(tiny_manifest, tiny_manifest.rung("small"), Backends(tiny_manifest), ICELAKE) is None
    assert suitability.concern(tiny_manifest, tiny_manifest.rung("float"), Backends(tiny_manifest), HASWELL) is None


def test_a_bundle_without_an_exact_rung_says_what_to_compile(tiny_manifest: Manifest) -> None:
    only = msgspec.structs.replace(tiny_manifest, rungs=(tiny_manifest.rung("small"),), default_rung="small")
    sentence = suitability.concern(only, only.rung(), Backends(only), HASWELL)
    assert sentence is not None
    assert sentence.endswith(
        "Fix: compile for this CPU with s8 activations, or for a target that 'edgefuse doctor' calls exact."
    )


def test_a_rung_that_cannot_be_opened_here_is_no_remedy(
    tiny_manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    floats, small = tiny_manifest.rungs
    twin = msgspec.structs.replace(
        tiny_manifest.candidate("fusion.float"),
        id="fusion.float.tflite",
        target="tflite",
        backend="tflite",
        file="stages/fusion.float.tflite",
    )
    elsewhere = msgspec.structs.replace(
        floats, name="elsewhere", candidates=floats.candidates | {"fusion": "fusion.float.tflite"}
    )
    joined = msgspec.structs.replace(
        tiny_manifest,
        target="onnx+tflite",
        candidates=(*tiny_manifest.candidates, twin),
        rungs=(elsewhere, small, floats),
    )
    monkeypatch.delitem(sys.modules, "edgefuse.runtime.backends.tflite.backend", raising=False)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", None)
    sentence = suitability.concern(joined, small, Backends(joined), HASWELL)
    assert sentence is not None
    assert "open the rung 'float'" in sentence
    alone = msgspec.structs.replace(joined, rungs=(elsewhere, small))
    sentence = suitability.concern(alone, small, Backends(alone), HASWELL)
    assert sentence is not None
    assert "compile for this CPU with s8 activations" in sentence
    unknown = msgspec.structs.replace(twin, backend="abacus")
    strange = msgspec.structs.replace(alone, candidates=(*tiny_manifest.candidates, unknown))
    assert suitability.concern(strange, small, Backends(strange), HASWELL) == sentence
    with pytest.raises(MissingExtraError, match=r"edgefuse\[tflite\]"):
        suitability.concern(joined, elsewhere, Backends(joined), HASWELL)


def test_opening_warns_once_per_rung_and_still_opens(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(opened, "processor", lambda: HASWELL)
    with caplog.at_level(logging.WARNING, logger="edgefuse"):
        edgefuse.load(tiny_bundle, rung="float").close()
        edgefuse.load(tiny_bundle, rung="small", backend="null").close()
        assert not caplog.records
        with edgefuse.load(tiny_bundle, rung="small") as pipeline:
            pipeline.at("float").at("small")
    (record,) = caplog.records
    assert "open the rung 'float', which is exact here" in record.message
