"""Manifests that are edited and hashed anew, as an attacker would: each is read or refused within a second.

What is taken must also be shown and predict as it says.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import io
import itertools
import json
import os
import random
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import edgefuse
import edgefuse.runtime.backends.onnx.backend
from edgefuse.bundle.layout import MAX_MANIFEST_BYTES
from edgefuse.bundle.reader import open_bundle
from edgefuse.bundle.writer import write_bundle
from edgefuse.cli import main
from tests import tiny
from tests.attack import json_edits
from tests.attack.attempt import Area, Attempt
from tests.attack.shown import harmless

MAX_CPU_SECONDS = 1.0
"""Of the processor: others on the machine do not count."""
Json = dict[str, Any]
_KINDS = ("modality", "length", "stage", "present", "state")
_SHAPES: tuple[Any, ...] = (
    *([1], [1, 8], [], [1] * 9, [2**40] * 8, [1, {"dim": "bounded", "max": 8}]),
    *([1, {"dim": "bucketed", "sizes": [8, 9]}], [1, {"dim": "bucketed", "sizes": []}], [1, {"dim": "other"}]),
)
_BACKENDS = ("onnx", "tflite", "tensorrt", "null", "abacus", "")
_SCHEMES: tuple[Any, ...] = (
    *("float", "static_wi8_ai8.u8", "dynamic_wi3_af16.new", "float.", ".float", "a_w_a", "a" + ".b" * 80),
    *({"name": "float"}, {"name": "float", "aware": True}, {"name": "other"}, {"name": "float", "exclude": ["*"]}),
)
OLD = Path(__file__).parents[2] / "bundle" / "data" / "tiny-1.2.edgefuse"
_LABELS = (["\x1b[2J", "a\nb", "\u202e"], ["", "", ""], ["x" * 10**6, "y", "z"], ["a"])


def attempts(rng: random.Random, folder: Path) -> Iterator[Attempt]:
    """Yield edits of every kind, in turn, of a manifest of today and of one of schema 1."""
    write_bundle(folder / "tiny", tiny.manifest(), tiny.contents())
    with zipfile.ZipFile(OLD) as archive:
        archive.extractall(folder / "tiny-1")
    texts = {name: (folder / name / "manifest.json").read_bytes() for name in ("tiny", "tiny-1")}
    for name, data in texts.items():
        yield Attempt(f"{name} untouched", functools.partial(check, folder / name, data, taken=True))
    makers: tuple[Callable[[random.Random, Json], tuple[str, Any]], ...]
    makers = (json_edits.edited, wired, grown, consistent, runtimes)
    for name in itertools.cycle(("tiny", "tiny", "tiny-1")):
        for maker in makers:
            what, changed = maker(rng, json.loads(texts[name]))
            yield Attempt(f"{name}: {what}", functools.partial(check, folder / name, json_edits.dumped(changed)))
        what, text = json_edits.damaged(rng, texts[name])
        yield Attempt(f"{name}: {what}", functools.partial(check, folder / name, text))


def wired(rng: random.Random, manifest: Json) -> tuple[str, Json]:
    """Give stages other sources, ports and orders: cycles, strangers, twins."""
    stages, notes = manifest["stages"], []
    for _ in range(rng.choice((1, 1, 2, 5))):
        stage, edit = rng.choice(stages), rng.choice((_other_source, _swap, _other_order, _other_ports, _state))
        edit(rng, stages, stage)
        notes.append(f"{edit.__name__} of {stage['name']}")
    return "; ".join(notes)[:200], manifest


def _other_source(rng: random.Random, stages: list[Json], stage: Json) -> None:
    owner = rng.choice([stage["name"], *(each["name"] for each in stages), "image", "text", "", "x"])
    tensor = rng.choice(("feature", "normalised", "logits", "pixels", "ids", "", "x"))
    for port in stage["inputs"][:1]:
        port["source"] = {"kind": rng.choice(_KINDS), "owner": owner, "tensor": tensor}


def _swap(rng: random.Random, stages: list[Json], stage: Json) -> None:
    ports = [port for each in stages for port in each["inputs"]]
    if len(ports) > 1:
        one, other = rng.sample(ports, 2)
        one["source"], other["source"] = other["source"], one["source"]


def _other_order(rng: random.Random, stages: list[Json], stage: Json) -> None:
    kind = rng.choice(("shuffle", "twin", "rename", "modality"))
    if kind == "shuffle":
        rng.shuffle(stages)
    elif kind == "twin":
        stages.append(copy.deepcopy(stage) | rng.choice(({}, {"name": stage["name"] + "2"})))
    elif kind == "rename":
        stage["name"] = rng.choice((*json_edits.STRINGS, "fusion", "text_encoder"))
    else:
        stage["modality"] = rng.choice(("image", "text", "motion", "", "x", "fusion"))


def _other_ports(rng: random.Random, stages: list[Json], stage: Json) -> None:
    kind = rng.choice(("drop", "kind", "shape"))
    if kind == "drop":
        stage[rng.choice(("inputs", "outputs"))].clear()
    elif kind == "kind":
        for port in stage["outputs"]:
            port["kind"] = rng.choice(("feature", "result", "state"))
    else:
        for port in stage["inputs"]:
            port["tensor"]["shape"] = rng.choice(_SHAPES)


def _state(rng: random.Random, stages: list[Json], stage: Json) -> None:
    state = {"name": rng.choice(("state", "feature")), "shape": rng.choice(([1, 8], [1, 9]))}
    source = {"kind": "state", "owner": stage["name"], "tensor": state["name"]}
    stage["inputs"].append({"tensor": state, "source": source})
    stage["outputs"].append({"tensor": state, "kind": "state"})


def grown(rng: random.Random, manifest: Json) -> tuple[str, Json]:
    """Blow up one value to what still fits into the largest manifest."""
    room = MAX_MANIFEST_BYTES - 200_000 if rng.random() < 0.7 else MAX_MANIFEST_BYTES // 16
    known = list(json_edits.places(manifest))
    place = rng.choice([place for place in known if len(place) <= rng.choice((2, 3, 4, 6, 8))])
    old = json_edits.at(manifest, place)
    size = len(json_edits.dumped(old)) + 1
    if isinstance(old, list) and old:
        new: Any = old * (room // size)
    elif isinstance(old, dict) and old:
        key = rng.choice(sorted(old))
        entry = len(json_edits.dumped(old[key])) + 16
        new = old | {f"{key}{index}": old[key] for index in range(room // entry)}
    elif isinstance(old, str):
        new = rng.choice((old or "x", "a/", "+", "\x1b", "😀", "é")) * (room // 12)
    elif isinstance(old, int) and not isinstance(old, bool):
        new = rng.choice((10**4200, [old] * (room // 12), [10**18] * (room // 20)))
    else:
        new = [old] * (room // size)
    json_edits.at(manifest, place[:-1])[place[-1]] = new
    return f"{'.'.join(map(str, place))} is blown up", manifest


def consistent(rng: random.Random, manifest: Json) -> tuple[str, Json]:
    """Change what may be changed, or nearly: labels, rungs, tolerances, order, texts with control characters."""
    model, rungs = manifest["model"], manifest["rungs"]
    kind = rng.choice(("labels", "rungs", "order", "texts", "tolerance", "subsets", "golden", "required", "candidates"))
    if kind == "labels":
        model["outputs"][0]["labels"] = rng.choice(_LABELS)
    elif kind == "rungs":
        rungs += [dict(rungs[0], name=f"r{index}") for index in range(rng.choice((1, 61, 62, 63)))]
        rng.shuffle(rungs)
    elif kind == "order":
        rng.choice((model["modalities"], manifest["candidates"], manifest["stages"], manifest["files"])).reverse()
    elif kind == "texts":
        rng.choice(manifest["candidates"])["opset"] = rng.choice(json_edits.STRINGS)
        model["metric"] = rng.choice(json_edits.STRINGS)
        manifest["provenance"]["tools"] = {rng.choice(json_edits.STRINGS): rng.choice(json_edits.STRINGS)}
    elif kind == "tolerance":
        rng.choice(manifest["candidates"])["tolerance"] = {"absolute": rng.choice(json_edits.NUMBERS)}
    elif kind == "subsets":
        names = [modality["name"] for modality in model["modalities"]] * rng.choice((1, 2))
        rungs[0]["accuracy"]["+".join(rng.sample(names, rng.randint(1, len(names))))] = rng.choice(json_edits.NUMBERS)
    elif kind == "golden":
        manifest["golden"] *= rng.choice((0, 2, 204, 205))
    elif kind == "required":
        rng.choice(model["modalities"])["optional"] = False
    else:
        manifest["candidates"] += [
            dict(manifest["candidates"][0], id=f"c{index}") for index in range(rng.choice((1, 1018, 1019)))
        ]
    return f"other {kind}", manifest


def runtimes(rng: random.Random, manifest: Json) -> tuple[str, Json]:
    """Give files other targets, backends, accelerators and schemes, and fields of the other schema."""
    candidate, notes = rng.choice(manifest["candidates"]), []
    for _ in range(rng.choice((1, 1, 2, 4))):
        kind = rng.choice(("target", "backend", "accelerator", "scheme", "exclude", "schema"))
        place = rng.choice((candidate, candidate, manifest))
        if kind == "target":
            place["target"] = rng.choice((*_BACKENDS, "onnx+tflite", "+", "onnx+onnx", *json_edits.STRINGS))
        elif kind == "schema":
            manifest["schema"] = rng.choice(([1, 2], [2, 0], [2, 9], [3, 0], [1], [], [2**64, 0]))
        else:
            values = {"backend": _BACKENDS, "accelerator": ("cpu", "gpu", "a b"), "scheme": _SCHEMES}
            place[kind] = rng.choice((*values.get(kind, ([], ["*"] * 1025, ["x"])), *json_edits.STRINGS))
        notes.append(kind)
    return f"other {', '.join(notes)} of {candidate['id']}", manifest


def check(bundle: Path, data: bytes, *, taken: bool = False) -> None:
    """Read a bundle with this manifest; show it and predict with it, if it can be."""
    path = bundle.parent / f"{os.getpid()}"
    try:
        shutil.copytree(bundle, path, copy_function=os.link)
        for name in ("manifest.json", "manifest.sha256"):
            (path / name).unlink()
        (path / "manifest.json").write_bytes(data)
        (path / "manifest.sha256").write_text(f"{hashlib.sha256(data).hexdigest()}  manifest.json\n")
        _read(path)
        _predict(path)
    except edgefuse.EdgefuseError as error:
        message = str(error)
        assert len(message) < 3_000, f"a message of {len(message)} characters"
        assert message.isprintable(), f"control characters in {message!r}"
        assert not taken, message
        raise
    finally:
        shutil.rmtree(path)


def _read(path: Path) -> None:
    begin = time.process_time()
    try:
        with open_bundle(path) as bundle:
            bundle.verify()
    finally:
        seconds = time.process_time() - begin
        assert seconds < MAX_CPU_SECONDS, f"reading took {seconds:.1f} s of CPU"
    begin = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        assert main(["inspect", str(path)]) == 0
    seconds = time.process_time() - begin
    assert seconds < 2 * MAX_CPU_SECONDS, f"showing took {seconds:.1f} s of CPU"
    assert len(shown.getvalue()) < 2 * MAX_MANIFEST_BYTES, f"{len(shown.getvalue())} characters were shown"
    harmless(shown.getvalue().encode())


def _predict(path: Path) -> None:
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    motion = np.linspace(-1, 1, 9, dtype=np.float32).reshape(1, 3, 3)
    with edgefuse.load(path) as pipeline:
        given = {"image": image, "text": "please stop now", "motion": motion}
        known = {modality.name for modality in pipeline.manifest.model.modalities}
        prediction = pipeline(**{name: value for name, value in given.items() if name in known})
        outputs = pipeline.manifest.model.outputs
    assert list(prediction.outputs) == [output.name for output in outputs]
    for output in outputs:
        values = prediction.outputs[output.name]
        assert values.dtype == np.float32, values.dtype
        assert values.shape[0] == 1, values.shape
        assert np.isfinite(values).all(), values
        if hasattr(output, "labels"):
            assert values.shape == (1, len(output.labels)), values.shape


AREA = Area("manifest", attempts, tries=1_600, short=60, max_rss_bytes=1 << 30)
