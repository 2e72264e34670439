"""`edgefuse run` and the options that a bundle brings."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgefuse.bundle.spec import ModelSpec, image, tensor, text, video
from edgefuse.bundle.writer import write_bundle
from edgefuse.commands import modalities
from edgefuse.commands.run import add_arguments
from edgefuse.errors import InputError
from tests import overflow

Cli = Callable[..., Any]
SPEC = ModelSpec(
    name="door",
    modalities=(
        image("camera", height=8, width=8),
        text("text", tokenizer="t.json", max_length=4),
        tensor("threads", shape=(1, 2)),
    ),
    outputs=(),
)


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    """The verb's own parser."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser


@pytest.fixture
def motion(tmp_path: Path) -> Path:
    """An array in a file."""
    path = tmp_path / "motion.npy"
    np.save(path, np.ones((1, 4, 3), np.float32))
    return path


def test_run_predicts_from_arrays(cli: Cli, tiny_bundle: Path, motion: Path) -> None:
    done = cli("run", tiny_bundle, "--motion", motion)
    assert (done.returncode, done.stderr) == (0, "")
    label, percent, sign = done.stdout.splitlines()[0].split()
    assert label in ("stop", "go", "wait")
    assert 33 < float(percent) <= 100
    assert sign == "%"
    assert "from motion, rung 'float'" in done.stdout


def test_run_gives_machines_everything(cli: Cli, tiny_bundle: Path, motion: Path) -> None:
    answer = json.loads(cli("run", tiny_bundle, "--motion", motion, "--rung", "small", "--json").stdout)
    assert (answer["rung"], answer["present"]) == ("small", ["motion"])
    assert answer["scores"][answer["label"]] == answer["score"] == max(answer["scores"].values())
    assert sum(answer["scores"].values()) == pytest.approx(1)
    assert np.shape(answer["outputs"]["logits"]) == (1, 3)
    assert answer["inference_ms"] > 0


def test_text_is_tokenised(cli: Cli, tiny_bundle: Path) -> None:
    stop, go = (json.loads(cli("run", tiny_bundle, "--text", word, "--json").stdout) for word in ("stop now", "go"))
    assert stop["present"] == ["text"]
    assert stop["outputs"] != go["outputs"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no input is given: expected --image or --text or --motion."),
        (("--sound", "a.wav"), "'tiny' takes no such input: got --sound a.wav, expected --image FILE --text TEXT"),
        (("--text",), "the inputs of 'tiny' cannot be read: got argument --text: expected one argument"),
        (("--motion", "gone.npy"), "the file for 'motion' cannot be read: got 'gone.npy' (No such file"),
        (("--motion", "objects.npy"), "expected an array that numpy.save wrote, without pickled objects"),
        (("--motion", "wide.npy"), "'motion.values' has the wrong shape: got [1, 4, 7]"),
        (("--image", "gone.png"), "gone.png"),
        (("--text", "go", "--rung", "huge"), "no such rung: got 'huge', expected float or small"),
        (
            ("--text", "go", "--backend", "cloud"),
            "this bundle is for the backend 'onnx': got 'cloud', expected onnx or null",
        ),
        (("--text", "go", "--threads", "0"), "the number of threads does not fit this machine: got 0, expected 1"),
    ],
)
def test_wrong_input_is_one_sentence(
    cli: Cli, tiny_bundle: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.save(tmp_path / "wide.npy", np.ones((1, 4, 7), np.float32))
    done = cli("run", tiny_bundle, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("edgefuse: error: ")
    assert message in line


def test_files_stay_paths_and_text_stays_text(parser: argparse.ArgumentParser) -> None:
    raw = modalities.parse(SPEC, ["--text", "a.npy", "--camera", "b.png"], parser)
    assert raw == {"camera": Path("b.png"), "text": "a.npy"}


def test_a_video_is_a_file_or_an_array(parser: argparse.ArgumentParser, tmp_path: Path) -> None:
    clip = video("video", height=2, width=2, frames=3, fps=5)
    described = ModelSpec(name="door", modalities=(clip,), outputs=())
    assert modalities.parse(described, ["--video", "c.mp4"], parser) == {"video": Path("c.mp4")}
    np.save(tmp_path / "c.npy", np.zeros((3, 2, 2, 3), np.uint8))
    raw = modalities.parse(described, ["--video", str(tmp_path / "c.npy")], parser)
    assert np.array_equal(raw["video"], np.zeros((3, 2, 2, 3)))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"expected --video FILE"):
        modalities.parse(described, ["--vidio", "c.mp4"], parser)


def test_text_may_look_like_an_option(parser: argparse.ArgumentParser) -> None:
    assert modalities.parse(SPEC, ["--text=--help"], parser) == {"text": "--help"}


def test_a_modality_that_is_called_like_an_option_gets_another_one(
    parser: argparse.ArgumentParser, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", np.ones((1, 2), np.float32))
    raw = modalities.parse(SPEC, ["--input-threads", str(tmp_path / "a.npy")], parser)
    assert np.array_equal(raw["threads"], np.ones((1, 2)))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"--camera FILE --text TEXT --input-threads FILE\.npy"):
        modalities.parse(SPEC, ["--thread", "x"], parser)


@pytest.mark.parametrize("kind", sorted(overflow.OUTPUTS))
def test_an_answer_that_overflowed_is_an_error(cli: Cli, tmp_path: Path, kind: str) -> None:
    write_bundle(tmp_path / kind, *overflow.bundle(kind))
    np.save(tmp_path / "huge.npy", np.array([[[3e38, -3e38, 3e38], [3e38, 3e38, -3e38]]], np.float32))
    for more in ((), ("--json",)):
        done = cli("run", tmp_path / kind, "--motion", tmp_path / "huge.npy", *more)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            "edgefuse: error: the model's answer is not finite: it overflows, or was never right: "
            "got up to 3e+38 in 'motion.values', expected numbers. "
            "Fix: scale the inputs as in training, or ask 'edgefuse verify' whether the bundle is right.\n"
        )


def test_decoders_write_nothing_beside_the_one_sentence(cli: Cli, tiny_bundle: Path, tmp_path: Path) -> None:
    noise = Image.effect_noise((64, 64), 50)
    noise.save(tmp_path / "whole.tif", compression="tiff_lzw")
    data = (tmp_path / "whole.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(data[:300] + bytes(2_000) + data[2_300:])  # libtiff has its own words for that
    done = cli("run", tiny_bundle, "--image", tmp_path / "cut.tif")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "the picture 'image' cannot be decoded: got " in line
    assert "cut.tif'" in line
    assert cli("run", tiny_bundle, "--image", tmp_path / "whole.tif").returncode == 0


@pytest.mark.parametrize("name", ["pipe", "pipe.npy", "folder", "zero.png"])
@pytest.mark.parametrize("option", ["--image", "--motion"])
def test_what_is_no_regular_file_is_one_sentence(
    cli: Cli, tiny_bundle: Path, tmp_path: Path, option: str, name: str
) -> None:
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    elif name == "zero.png":
        path.symlink_to("/dev/zero")
    else:
        os.mkfifo(path)
    done = cli("run", tiny_bundle, option, path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert f"the file for '{option[2:]}' cannot be read: got '" in line


def test_run_explains(cli: Cli, tiny_bundle: Path, motion: Path) -> None:
    words = ("run", tiny_bundle, "--motion", motion, "--text", "stop now", "--explain")
    answer = json.loads(cli(*words, "--json").stdout)
    assert set(answer["contributions"]["each"]) == {"text", "motion"}
    without = json.loads(cli("run", tiny_bundle, "--motion", motion, "--json").stdout)["scores"][answer["label"]]
    text = answer["contributions"]["each"]["text"]
    assert text["probability"]["logits"] == pytest.approx(answer["score"] - without)
    lines = cli(*words).stdout.splitlines()
    rows = {line.split()[0]: line for line in lines[lines.index(next(one for one in lines if "it added" in one)) :]}
    assert (
        f"{100 * text['probability']['logits']:+.1f} points, log-odds {text['log_odds']['logits']:+.3f}" in rows["text"]
    )
    assert {"motion", "together"} <= set(rows)
    refused = cli(*words, "--index", "a.index")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--explain tells what was added to a prediction: got a search, or tokens one by one." in refused.stderr
