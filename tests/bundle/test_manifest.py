"""A manifest that is malformed or says something impossible is refused, and the message names what."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgefuse.bundle.codec import decode
from edgefuse.bundle.manifest import BuildPlan, Profile
from edgefuse.bundle.reader import open_bundle
from edgefuse.errors import BundleError

WithManifest = Callable[[bytes], Path]
Json = dict[str, Any]


def _refusal(path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        open_bundle(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.isascii()
    return message


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t[:-10], "is not a valid manifest"),
        (lambda t: b"", "is not a valid manifest"),
        (lambda t: b"[]", "Expected `object`, got `array`"),
        (lambda t: t + b"{}", "trailing characters"),
        (lambda t: b"\xef\xbb\xbf" + t, "is not a valid manifest"),
        (lambda t: t.replace(b'"example"', b'"ex\xffample"'), "is not UTF-8: got byte"),
        (lambda t: t.decode().encode("utf-16"), "is not UTF-8"),
        (lambda t: t.replace(b'"example"', b'"\\ud800"'), "is not a valid manifest"),
        (lambda t: t.replace(b"0.9375", b"NaN"), "is not a valid manifest"),
        (lambda t: t.replace(b"0.9375", b"Infinity"), "is not a valid manifest"),
        (lambda t: t.replace(b"0.9375", b"1e999"), "Number out of range"),
        (lambda t: t.replace(b'"runs": 100', b'"runs": ' + b"9" * 4000), "a figure of the rung"),
        (lambda t: t.replace(b'"runs": 100', b'"runs": ' + b"9" * 9000), "out of range"),
        (lambda t: t.replace(b'"runs": 100', b'"runs": 100.5'), "Expected `int`, got `float`"),
        (lambda t: t.replace(b'"runs": 100', b'"runs": true'), "Expected `int`, got `bool`"),
        (lambda t: t.replace(b'"runs": 100', b'"runs": "100"'), "Expected `int`, got `str`"),
        (lambda t: t.replace(b'"runs":', b'"jumps":'), "unknown field `jumps`"),
        (lambda t: t.replace(b'"runs": 100', b'"runs": 100, "runs": 100'), "has the key 'runs' twice"),
        (lambda t: t.replace(b'"image": 0.75', b'"image": 0.75, "\\u0069mage": 1'), "has the key 'image' twice"),
        (lambda t: b'{"a": ' * 100_000 + b"1" + b"}" * 100_000, "is nested too deeply"),
        (
            lambda t: t.replace(b'"schema": [\n    2,\n    3', b'"schema": [\n    3,\n    0'),
            "got version 3.0, expected 1.x or 2.x",
        ),
        (lambda t: t.replace(b'"schema"', b'"scheme"'), "missing required field `schema`"),
    ],
)
def test_text_that_is_no_manifest(
    change: Callable[[bytes], bytes], reason: str, folder: Path, with_manifest: WithManifest
) -> None:
    text = (folder / "manifest.json").read_bytes()
    assert change(text) != text
    assert reason in _refusal(with_manifest(change(text)))


def test_a_newer_major_is_refused_with_what_to_do(folder: Path, with_manifest: WithManifest) -> None:
    message = _refusal(with_manifest(b'{"schema": [3, 1], "something": {"new": []}}'))
    assert message == (
        f"the bundle '{folder}' is refused: manifest.json is of a schema that this version of edgefuse cannot read: "
        "got version 3.1, expected 1.x or 2.x. Fix: update edgefuse here, or compile the bundle with the version that "
        "is installed here."
    )


def test_a_newer_minor_is_read_as_long_as_it_has_no_unknown_field(folder: Path, with_manifest: WithManifest) -> None:
    text = json.loads((folder / "manifest.json").read_bytes())
    text["schema"] = [2, 7]
    with open_bundle(with_manifest(json.dumps(text).encode())) as bundle:
        assert bundle.manifest.schema == (2, 7)
    text["new"] = 1
    message = _refusal(with_manifest(json.dumps(text).encode()))
    assert "unknown field `new`" in message
    assert "Fix: update edgefuse here" in message


def _image(m: Json) -> Json:
    found: Json = m["model"]["modalities"][0]
    return found


def _video(m: Json, **fields: Any) -> None:
    """Make the image a video of what it declares, but for some fields."""
    preprocess = {"kind": "video", "height": 2, "width": 2, "channels": 1, "frames": 3, "frames_per_second": 12.5}
    _image(m).update(preprocess=preprocess | fields)


def _text(m: Json) -> Json:
    found: Json = m["model"]["modalities"][1]
    return found


def _stage(m: Json, index: int) -> Json:
    found: Json = m["stages"][index]
    return found


def _file(m: Json, path: str) -> Json:
    found: Json = next(entry for entry in m["files"] if entry["path"] == path)
    return found


def _plan(m: Json, index: int, **profile: object) -> None:
    """Give a candidate a build plan; the text may be of any length up to 8."""
    bounded = [1, {"dim": "bounded", "max": 8}]
    _text(m)["tensors"][0]["shape"] = _stage(m, 1)["inputs"][0]["tensor"]["shape"] = bounded
    shapes = {"minimum": [1, 1], "optimum": [1, 4], "maximum": [1, 8]}
    m["candidates"][index]["plan"] = {"profiles": [shapes | profile] if profile else []}


CHANGES: list[tuple[Callable[[Json], object], str]] = [
    # names
    (lambda m: m.update(target="a b"), "the target has an unusable name"),
    (lambda m: m.update(target="nothing+"), "the target joins a name that is empty: got 'nothing+'"),
    (lambda m: m.update(target="nothing+onnx+nothing"), "the target names one twice: got 'nothing+onnx+nothing'"),
    (lambda m: m.update(target="onnx+tflite"), "is for another target: got 'nothing', expected onnx+tflite"),
    (lambda m: m["candidates"][0].update(target="nothing+onnx"), "is for another target: got 'nothing+onnx'"),
    (lambda m: m["candidates"][0].update(backend=""), "the backend of the candidate 'image_encoder.float' has an unus"),
    (lambda m: m["candidates"][0].update(accelerator="a b"), "the accelerator of the candidate"),
    (lambda m: m["model"].update(name="../x"), "the model's name: got '../x'"),
    (lambda m: _image(m).update(name="im.age"), "a modality has an unusable name: got 'im.age'"),
    (lambda m: _image(m).update(name="present"), "a modality is called 'present'"),
    (lambda m: _image(m).update(name="text"), "two modalities have one name"),
    (lambda m: m["model"].update(modalities=[]), "the number of modalities: got 0, expected 1 to 16"),
    (lambda m: m["model"].update(outputs=[]), "the number of outputs"),
    (lambda m: m["model"]["outputs"][0].update(labels=[]), "the shape of 'logits' of the outputs"),
    (lambda m: m["model"]["outputs"][0].update(name="\u001b[2J"), "an output has an unusable name"),
    # tensors and preprocessing
    (lambda m: _image(m).update(tensors=[]), "the number of tensors of the modality 'image'"),
    (lambda m: _image(m)["tensors"][0].update(name="length"), "has a tensor called 'length'"),
    (lambda m: _image(m)["tensors"][0].update(shape=[1, 0, 2, 1]), "the shape of 'pixels'"),
    (lambda m: _image(m)["tensors"][0].update(shape=[1, -2, 2, 1]), "the shape of 'pixels'"),
    (lambda m: _image(m)["tensors"][0].update(shape=[]), "got rank 0"),
    (lambda m: _image(m)["tensors"][0].update(shape=[1] * 9), "got rank 9"),
    (lambda m: _image(m)["tensors"][0].update(shape=[2**20] * 4), "at most 268435456 elements"),
    (lambda m: _image(m)["tensors"][0].update(shape=[1, {"dim": "bucketed", "sizes": [2, 1]}]), "positive, ascending"),
    (lambda m: _image(m)["tensors"][0].update(shape=[1, {"dim": "bucketed", "sizes": []}]), "positive, ascending"),
    (lambda m: _image(m)["tensors"][0].update(shape=[1, {"dim": "bounded", "max": 0}]), "positive, ascending"),
    (lambda m: _image(m)["preprocess"].update(height=3), "does not declare what its preprocessing delivers"),
    (lambda m: _image(m)["tensors"][0].update(dtype="float32"), "does not declare what its preprocessing delivers"),
    (lambda m: _video(m), "does not declare what its preprocessing delivers: got [('uint8', (1, 2, 2, 1))], expected"),
    (lambda m: _video(m, frames_per_second=0), "the frame rate of the modality 'image': got 0.0, expected up to 240"),
    (lambda m: _video(m, frames_per_second=-1.5), "the frame rate of the modality 'image': got -1.5"),
    (lambda m: _video(m, frames_per_second=1e9), "the frame rate of the modality 'image': got 1000000000.0"),
    (lambda m: _video(m, fit="shrink"), "Invalid enum value 'shrink'"),
    (lambda m: _video(m, shortest_edge=2), "unknown field `shortest_edge`"),
    (lambda m: _text(m)["preprocess"].update(tokenizer="../../etc/passwd"), "escapes the bundle"),
    (lambda m: _text(m)["preprocess"].update(tokenizer="other.json"), "got ['assets/other.json']"),
    (lambda m: _text(m)["preprocess"].update(pad_id=-1), "the pad id of the modality 'text'"),
    (lambda m: _text(m)["preprocess"].update(max_length=9), "does not declare what its preprocessing delivers"),
    # wiring
    (lambda m: m.update(stages=[]), "the number of stages"),
    (lambda m: _stage(m, 1).update(name="image_encoder"), "two stages have one name"),
    (lambda m: _stage(m, 0).update(modality="smell"), "belongs to an unknown modality 'smell'"),
    (lambda m: _stage(m, 0)["inputs"][0]["source"].update(owner="smell"), "comes from nowhere: got 'smell.pixels'"),
    (lambda m: _stage(m, 0)["inputs"][0]["source"].update(tensor="dots"), "comes from nowhere: got 'image.dots'"),
    (lambda m: _stage(m, 1)["inputs"][1]["source"].update(owner="image"), "comes from nowhere: got 'image.length'"),
    (lambda m: _stage(m, 2)["inputs"][0]["source"].update(owner="fusion"), "comes from nowhere: got '/fusion.feature'"),
    (lambda m: _stage(m, 2)["inputs"][0]["source"].update(tensor="x"), "comes from nowhere: got '/image_encoder.x'"),
    (lambda m: _stage(m, 2)["inputs"][0]["source"].update(kind="state"), "got '~image_encoder.feature'"),
    (lambda m: _stage(m, 2)["inputs"][2]["source"].update(owner="x"), "comes from nowhere: got 'present'"),
    (lambda m: m["stages"].reverse(), "comes from nowhere: got '/image_encoder.feature'"),
    (lambda m: _stage(m, 2)["inputs"][0]["tensor"].update(shape=[1, 5]), "does not take what its source"),
    (lambda m: _stage(m, 2)["inputs"][2]["tensor"].update(shape=[1, 3]), "does not take what its source 'present'"),
    (lambda m: _stage(m, 2)["inputs"].append(_stage(m, 2)["inputs"][0]), "two inputs of the stage 'fusion'"),
    (lambda m: _stage(m, 0).update(outputs=[]), "the number of outputs of the stage 'image_encoder'"),
    (lambda m: _stage(m, 2)["outputs"][0].update(kind="feature"), "are not the outputs of the model: got none"),
    (lambda m: _stage(m, 2)["outputs"][0]["tensor"].update(shape=[1, 4]), "the result 'logits' is not of the output's"),
    # candidates
    (lambda m: m["candidates"][0].update(id="text_encoder.float"), "two candidates have one name"),
    (lambda m: m["candidates"][0].update(id="a/b"), "the candidate 'a/b' has an unusable id"),
    (lambda m: m["candidates"][0].update(stage="x"), "is of an unknown stage: got 'x'"),
    (lambda m: m["candidates"][0].update(target="onnx"), "is for another target: got 'onnx', expected nothing"),
    (lambda m: m["candidates"][0].update(file="report.json"), "a file is listed but nothing names it"),
    (lambda m: m["candidates"][3].update(file="../x"), "a file is named but not listed under 'files': got ['../x']"),
    (lambda m: m["candidates"][0].update(size_bytes=3), "and the list of files do not agree"),
    (lambda m: m["candidates"][0].update(sha256="0" * 64), "and the list of files do not agree"),
    (lambda m: m["candidates"][0].update(inputs=[]), "are not the ports of its stage: got [], expected ['pixels']"),
    (lambda m: m["candidates"][0]["inputs"][0].update(port="x"), "are not the ports of its stage: got ['x']"),
    (lambda m: m["candidates"][0]["inputs"][0].update(tensor=""), "bind a tensor twice or none"),
    (lambda m: m["candidates"][0]["inputs"][0].update(shape=[1, -2]), "have an impossible shape: got [1, -2]"),
    (lambda m: m["candidates"][0]["tolerance"].update(absolute=-1), "the tolerance of the candidate"),
    (
        lambda m: m["candidates"][0].update(pruning={"steps": [{"method": "x", "ratio": 1.5}]}),
        "got 1.5, expected a number from 0 to 1",
    ),
    (lambda m: m["candidates"][0].update(scheme="int 3"), "is not spelled like one: got 'int 3'"),
    (lambda m: m["candidates"][0].update(scheme="static_wi8"), "is not spelled like one: got 'static_wi8'"),
    (lambda m: m["candidates"][0].update(scheme=""), "is not spelled like one"),
    (lambda m: m["candidates"][0].update(scheme="float" + ".a" * 99), "is not spelled like one"),
    (lambda m: _plan(m, 0, port="pixels"), "are not for the inputs of variable shape: got ['pixels'], expected []"),
    (lambda m: _plan(m, 1), "are not for the inputs of variable shape: got [], expected ['ids']"),
    (lambda m: _plan(m, 1, port="ids", maximum=[1, 9]), "of 'ids' of the candidate 'text_encoder.float' does not fit"),
    (lambda m: _plan(m, 1, port="ids", maximum=[8]), "got [1, 1] to [1, 4] to [8], expected [1, <=8]"),
    (lambda m: _plan(m, 1, port="ids", minimum=[1, 5]), "does not fit its shape: got [1, 5] to [1, 4] to [1, 8]"),
    # rungs
    (lambda m: m.update(rungs=[]), "the number of rungs"),
    (
        lambda m: m.update(default_rung="best"),
        "the default rung does not exist: got 'best', expected fastest or smallest",
    ),
    (lambda m: m["rungs"][0].update(name="smallest"), "two rungs have one name"),
    (lambda m: m["rungs"][0]["candidates"].pop("fusion"), "does not choose one candidate for each stage"),
    (lambda m: m["rungs"][0]["candidates"].update(x="y"), "does not choose one candidate for each stage"),
    (lambda m: m["rungs"][0]["candidates"].update(fusion="x"), "chooses 'x' for 'fusion'"),
    (lambda m: m["rungs"][0]["candidates"].update(fusion="text_encoder.float"), "is not a candidate of that stage"),
    (lambda m: m["rungs"][0]["accuracy"].update(smell=1), "for something that is no subset: got 'smell'"),
    (lambda m: m["rungs"][0]["accuracy"].update({"text+image": 1}), "for something that is no subset"),
    (lambda m: m["rungs"][0]["drop_ci95"].update(image=[1, 0]), "an interval of the rung 'fastest' is empty"),
    (lambda m: m["rungs"][0].update(size_bytes=-1), "the size of the rung 'fastest': got -1"),
    (lambda m: m["rungs"][0]["figures"][0].update(p50_ms=-1.0), "a figure of the rung 'fastest'"),
    (lambda m: m["rungs"][0].update(cost=-1.0), "the cost of the rung 'fastest'"),
    (lambda m: m["rungs"][0]["figures"][0]["machine"].update(threads=0), "got 2 cores, 0 threads"),
    # golden cases
    (lambda m: m["golden"][0].update(stage="x"), "a golden case is of an unknown stage"),
    (lambda m: m["golden"][0].update(outputs=[]), "a file is listed but nothing names it: got ['golden/001.bin']"),
    (lambda m: m["golden"][0]["inputs"][0].update(port="x"), "a golden case does not fit the ports"),
    (lambda m: m["golden"][0]["inputs"][0].update(shape=[1, 2, 2, 2]), "does not fit the port 'pixels'"),
    (lambda m: m["golden"][0]["inputs"][0].update(file="golden/001.bin"), "a file is listed but nothing names it"),
    (lambda m: m["golden"][0]["outputs"][0].update(dtype="int32"), "does not fit the port 'feature'"),
    # files
    (lambda m: m["files"].reverse(), "the files are not in order of path"),
    (lambda m: m["files"].append(m["files"][-1]), "appears twice"),
    (lambda m: m["files"].pop(0), "a file is named but not listed under 'files'"),
    (lambda m: _file(m, "report.json").update(path="/report.json"), "is absolute"),
    (lambda m: _file(m, "report.json").update(path="manifest.json"), "appears twice"),
    (lambda m: _file(m, "report.json").update(sha256="A" * 64), "the SHA-256 of 'report.json' is not one"),
    (lambda m: _file(m, "report.json").update(size_bytes=-1), "the size of 'report.json': got -1"),
    (lambda m: _file(m, "report.json").update(size_bytes=2**31), "the file 'report.json' is too large"),
    (lambda m: _file(m, "report.json").update(size_bytes=12), "'report.json' has another size: got 13 bytes"),
    (lambda m: m["provenance"].update(weights_sha256="abc"), "the SHA-256 of the weights is not one"),
]


@pytest.mark.parametrize(("change", "reason"), CHANGES, ids=[reason for _, reason in CHANGES])
def test_a_manifest_that_says_something_impossible(
    change: Callable[[Json], object], reason: str, folder: Path, with_manifest: WithManifest
) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    change(manifest)
    assert reason in _refusal(with_manifest(json.dumps(manifest).encode()))


def test_the_same_manifest_in_another_layout_is_read(folder: Path, with_manifest: WithManifest) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    with open_bundle(with_manifest(json.dumps(manifest).encode())) as bundle:
        bundle.verify()


def test_an_engine_may_be_built_for_variable_shapes(folder: Path, with_manifest: WithManifest) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    _plan(manifest, 1, port="ids")
    with open_bundle(with_manifest(json.dumps(manifest).encode())) as bundle:
        plan = bundle.manifest.candidate("text_encoder.float").plan
    assert plan == BuildPlan(profiles=(Profile(port="ids", minimum=(1, 1), optimum=(1, 4), maximum=(1, 8)),))


def test_what_a_pruner_was_told_stands_in_its_step(folder: Path, with_manifest: WithManifest) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    options = [["keep", 3], ["mode", "\u00fc"], ["soft", True], ["weight", 0.5]]
    step = {"method": "sieve", "ratio": 0.25, "options": options}
    manifest["candidates"][0]["pruning"] = {"steps": [step]}
    with open_bundle(with_manifest(json.dumps(manifest).encode())) as bundle:
        pruning = bundle.manifest.candidates[0].pruning
    assert pruning is not None
    assert pruning.steps[0].options == (("keep", 3), ("mode", "\u00fc"), ("soft", True), ("weight", 0.5))
    spelled = json.dumps(options, separators=(",", ":"), ensure_ascii=False)  # as the page tells other readers
    assert pruning.id == f"sieve25.o{hashlib.sha256(spelled.encode()).hexdigest()[:8]}"


def test_states_may_loop(folder: Path, with_manifest: WithManifest) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    state = {"name": "state", "dtype": "float32", "shape": [1, 4]}
    stage, candidate = manifest["stages"][1], manifest["candidates"][1]
    stage["inputs"].append({"tensor": state, "source": {"kind": "state", "owner": "text_encoder", "tensor": "state"}})
    stage["outputs"].append({"tensor": state, "kind": "state"})
    for side in ("inputs", "outputs"):
        candidate[side].append({"port": "state", "tensor": "s", "dtype": "float32", "shape": [1, 4]})
    open_bundle(with_manifest(json.dumps(manifest).encode())).close()


def test_decoding_alone_reports_the_place(folder: Path) -> None:
    text = (folder / "manifest.json").read_bytes().replace(b'"cores": 2', b'"cores": "2"')
    with pytest.raises(BundleError, match=r"`\$\.rungs\[.*\]\.figures\[.*\]\.machine\.cores`"):
        decode(text)
