"""Bundles of schema 1 are read as what they mean in schema 2.

`data/tiny-1.2.edgefuse` is the bundle of `tests/tiny.py` as the last version that wrote schema 1.2 made it; its int8
candidate says `aware` and `exclude`.
"""

from __future__ import annotations

import copy
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import edgefuse
from edgefuse.bundle.codec import decode
from edgefuse.bundle.manifest import Manifest
from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.validation import check
from edgefuse.cli import main
from edgefuse.errors import BundleError

Json = dict[str, Any]
OLD = Path(__file__).parent / "data" / "tiny-1.2.edgefuse"
INT8 = "image_encoder.dynamic_wi8_af32"
GIVEN = {
    "image": np.arange(64, dtype=np.uint8).reshape(8, 8),
    "text": "please stop now",
    "motion": np.linspace(-1, 1, 9, dtype=np.float32).reshape(1, 3, 3),
}


@pytest.fixture(scope="module")
def old() -> Json:
    """The manifest of the old bundle as JSON."""
    with zipfile.ZipFile(OLD) as archive:
        found: Json = json.loads(archive.read("manifest.json"))
        return found


def read(manifest: Json) -> Manifest:
    """Decode and check a manifest, as opening a bundle does."""
    found = decode(json.dumps(manifest).encode())
    check(found)
    return found


def test_it_is_what_was_written(old: Json) -> None:
    assert (old["schema"], old["backend"]) == ([1, 2], "onnx")
    with open_bundle(OLD, digest="6b2493877ee26c71be942f15fc95108f2172e09eda4d62d7f5e69ab170bffec5") as bundle:
        bundle.verify()


@pytest.mark.parametrize("rung", ["float", "small"])
@pytest.mark.parametrize("present", [("image", "text", "motion"), ("text",)])
def test_every_rung_predicts_what_it_predicts_in_a_bundle_of_today(
    rung: str, present: tuple[str, ...], tiny_bundle: Path
) -> None:
    given = {name: GIVEN[name] for name in present}
    with edgefuse.load(OLD, rung=rung) as before, edgefuse.load(tiny_bundle, rung=rung) as now:
        np.testing.assert_array_equal(before(**given).outputs["logits"], now(**given).outputs["logits"])


def test_what_schema_2_says_otherwise_is_worked_out(tiny_manifest: Manifest) -> None:
    with open_bundle(OLD) as bundle:
        found = bundle.manifest
    assert found.schema == (1, 2)
    assert (found.target, found.backends, found.backend) == ("onnx", ("onnx",), "onnx")
    assert {(one.backend, one.accelerator) for one in found.candidates} == {("onnx", "cpu")}
    int8 = found.candidate(INT8)
    assert int8.exclude == ("Gather", "head/*")
    assert int8.scheme == "dynamic_wi8_af32.x249e46c9.aware"
    same = {"scheme": "dynamic_wi8_af32", "exclude": ()}
    upgraded = tuple(msgspec.structs.replace(one, **same) if one == int8 else one for one in found.candidates)
    assert upgraded == tiny_manifest.candidates
    assert (found.model, found.stages, found.rungs) == (tiny_manifest.model, tiny_manifest.stages, tiny_manifest.rungs)


@pytest.mark.parametrize(
    ("scheme", "spelled"),
    [
        ({"name": "float"}, "float"),
        ({"name": "fp16", "aware": True}, "fp16.aware"),
        ({"name": "static_wi8_ai8", "activation": "u8", "aware": True}, "static_wi8_ai8.u8.aware"),
        (
            {
                "name": "static_wi8_ai8",
                "activation": "s8",
                "granularity": "tensor",
                "calibrator": "mse",
                "balanced": True,
                "corrected": True,
                "fitted": True,
                "table_bits": 4,
                "rest": "fp16",
            },
            "static_wi8_ai8.s8.tensor.mse.balanced.corrected.fitted.table4.fp16",
        ),
    ],
)
def test_schemes_become_text(scheme: Json, spelled: str, old: Json) -> None:
    changed = copy.deepcopy(old)
    changed["candidates"][0]["scheme"] = scheme
    assert read(changed).candidates[0].scheme == spelled


@pytest.mark.parametrize(("backend", "accelerator"), [("tensorrt", "gpu"), ("tflite", "cpu"), ("null", "cpu")])
def test_the_backend_of_the_bundle_is_that_of_every_file(backend: str, accelerator: str, old: Json) -> None:
    found = read(old | {"backend": backend})
    assert {(one.backend, one.accelerator) for one in found.candidates} == {(backend, accelerator)}


@pytest.mark.parametrize("minor", [0, 1, 2])
def test_older_minors_lacked_fields_that_have_defaults(minor: int, old: Json) -> None:
    changed = copy.deepcopy(old) | {"schema": [1, minor]}
    for candidate in changed["candidates"]:
        candidate.pop("plan")
        candidate["scheme"] = {"name": candidate["scheme"]["name"]}
    found = read(changed)
    assert found.schema == (1, minor)
    assert {one.scheme for one in found.candidates} == {"float", "dynamic_wi8_af32"}


def test_the_command_line_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(OLD)]) == 0
    assert "target onnx, backend onnx, schema 1.2" in capsys.readouterr().out
    assert main(["verify", str(OLD)]) in (0, 1)  # 1 where this CPU clips sums of int8
    assert "golden vectors on the backend 'onnx'" in capsys.readouterr().out


HOSTILE: list[tuple[Callable[[Json], object], str]] = [
    (lambda m: m.update(hook="rm"), "unknown field `hook`"),
    (lambda m: m.pop("backend"), "missing required field `backend`"),
    (lambda m: m.update(backend=""), "the backend of the candidate 'fusion.float' has an unusable name: got ''"),
    (lambda m: m.update(backend="a b"), "the backend of the candidate 'fusion.float' has an unusable name: got 'a b'"),
    (lambda m: m.update(backend="../onnx"), "the backend of the candidate 'fusion.float' has an unusable name"),
    (lambda m: m.update(backend="\x1b[2J"), "the backend of the candidate 'fusion.float' has an unusable name"),
    (lambda m: m.update(backend=7), "Expected `str`, got `int` - at `$.backend`"),
    (lambda m: m["candidates"][0].update(backend="onnx"), "unknown field `backend`"),
    (lambda m: m["candidates"][0].update(accelerator="gpu"), "unknown field `accelerator`"),
    (lambda m: m["candidates"][0].update(exclude=[]), "unknown field `exclude`"),
    (lambda m: m["candidates"][0].update(scheme="float"), "Expected `object`, got `str`"),
    (lambda m: m["candidates"][0].update(target="tflite"), "the candidate 'fusion.float' is for another target"),
    (lambda m: m["candidates"][0]["scheme"].update(name="static_wi2_ai2"), "Invalid enum value 'static_wi2_ai2'"),
    (lambda m: m["candidates"][0]["scheme"].update(name=""), "Invalid enum value ''"),
    (lambda m: m["candidates"][0]["scheme"].update(calibrator="guess"), "Invalid enum value 'guess'"),
    (lambda m: m["candidates"][0]["scheme"].update(exclude=["x"] * 1025), "length <= 1024"),
    (lambda m: m["candidates"][0]["scheme"].update(new=1), "unknown field `new`"),
    (lambda m: m.update(schema=[1, 2, 3]), "is not a valid manifest"),
    (lambda m: m.update(schema=[0, 9]), "of a schema that this version of edgefuse cannot read: got version 0.9"),
]


@pytest.mark.parametrize(("change", "reason"), HOSTILE, ids=[reason for _, reason in HOSTILE])
def test_hostile_manifests_are_refused(change: Callable[[Json], object], reason: str, old: Json) -> None:
    changed = copy.deepcopy(old)
    change(changed)
    with pytest.raises(BundleError) as caught:
        read(changed)
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("key", ["backend", "schema"])
def test_a_key_that_stands_twice_is_refused(key: str, old: Json) -> None:
    text = json.dumps(old)
    twice = text[:-1] + f', "{key}": {json.dumps(old[key])}}}'
    with pytest.raises(BundleError, match=f"the key '{key}' twice in one object"):
        decode(twice.encode())
