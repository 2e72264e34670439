"""Mistakes of a user: each is one sentence and exit code 2, before anything long has begun and with nothing written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from edgefuse import cli
from edgefuse.datasets import samples
from edgefuse.errors import DataError

from .conftest import Compiled

OWN = Path(__file__).parent / "own"

_PRUNED = """
[[prune.variants]]
stages = ["image_encoder"]
steps = [{ method = "structured", ratio = 0.5 }]
[recover]
epochs = 1
"""


def refused(folder: Path, recipe: str, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """Compile a recipe that must be refused and return the sentence."""
    for name in ("pair.py", "faulty.py"):
        shutil.copy(OWN / name, folder)
    path, out, cache = folder / "recipe.toml", folder / "out", folder / "cache"
    path.write_text(recipe, encoding="utf-8")
    capsys.readouterr()
    code = cli.main(["compile", str(path), "-o", str(out), "--cache", str(cache), *options])
    written, said = capsys.readouterr()
    assert (code, written) == (2, ""), said
    *before, sentence = said.splitlines()
    assert not any("prune" in line or "quantize" in line for line in before), said
    assert sentence.startswith("edgefuse: error: ")
    assert not out.exists()
    kinds = {path.name for path in cache.iterdir()} if cache.exists() else set()
    assert kinds.isdisjoint({"pruned", "prepared", "features", "outputs", "figures"})  # nothing long was done
    return sentence


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[search]", "[serach]", "has an unknown key 'serach'. Fix: did you mean 'search'?"),
        ("[model]\n", '[model]\nfacotry = "a:b"\n', "unknown key [model] 'facotry'. Fix: did you mean 'factory'?"),
        ("max_drop", "maxdrop", "unknown key [search] 'maxdrop'. Fix: did you mean 'max_drop'?"),
        ("epochs", "epoch", "unknown key [recover] 'epoch'. Fix: did you mean 'epochs'?"),
        ("[[prune.variants]]", "[[prune.variant]]", "unknown key [prune] 'variant'. Fix: did you mean 'variants'?"),
        ("stages =", "stage =", "unknown key [[prune.variants]] 'stage'. Fix: did you mean 'stages'?"),
        ("ratio =", "ration =", "unknown key [[prune.variants]] steps 'ration'. Fix: did you mean 'ratio'?"),
        ("max_drop = 0.05", 'max_drop = "little"', "[search] max_drop in "),
        ("max_drop = 0.05", "max_drop = 1.5", "got 1.5, expected less than 1 (0.01 is one point), or a share ('2 %')."),
        ("max_drop = 0.05", 'max_drop = "100 %"', "got 100 %, expected less than 100 %."),
        ("epochs = 1", "epochs = 1.5", "Expected `int`, got `float` - at `$.recover.epochs`"),
        ("epochs = 1", "epochs = -1", "/recipe.toml is out of range: got -1, expected at least 0."),
        ('stages = ["image_encoder"]', 'stages = "image_encoder"', "Expected `array`, got `str`"),
        ("ratio = 0.5", "ratio = 1.2", "the fraction to remove, from 0 to less than 1"),
        ("ratio = 0.5", "ratio = nan", "the fraction to remove, from 0 to less than 1"),
        ('method = "structured"', 'method = "magic"', "got 'magic', expected depth or hidden or magnitude"),
        ('["image_encoder"]', '["image_encodr"]', "got 'image_encodr', expected image_encoder or sensor_encoder or"),
        ("[search]", '[schemes]\nfusoin = ["float"]\n[search]', "got 'fusoin', expected image_encoder or"),
        (
            "[search]",
            '[schemes]\nfusion = ["int3"]\n[search]',
            "[schemes] fusion names a scheme that cannot be applied: got 'int3', expected float or",
        ),
        ('"image+sensor"', '"image+smell"', "got 'image+smell', expected image+sensor or image or sensor"),
        ('"pair:data"', '"pair:date"', "the module 'pair' has no 'date'"),
        ('"pair:data"', '"peer:data"', "cannot import the factory 'peer:data'"),
        ('"pair:data"', '"pair.data"', "got 'pair.data', expected 'module:callable'"),
        ('[data]\nfactory = "pair:data"', "", "Object missing required field `data`"),
        ('"pair:data"', '"faulty:whole"', "prunes, but 'faulty:whole' gives no training samples"),
    ],
)
def test_a_mistake_in_the_recipe(
    old: str, new: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = (OWN / "recipe.toml").read_text(encoding="utf-8") + _PRUNED
    assert old in recipe
    assert message in refused(tmp_path, recipe.replace(old, new), capsys)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("fails", "the factory 'faulty:fails' of "),
        ("fails", "failed: got KeyError: 'labels.csv' (faulty.py:"),
        ("unspeakable", "failed: got UnspeakableError: an error that cannot be spelled (faulty.py:"),
        ("not_even_an_exception", "failed: got BaseException: stop it (faulty.py:"),
        ("a_generator", "the split 'calibration' of 'faulty:a_generator' has no length: got TypeError: "),
        ("negative_length", "the split 'test' of 'faulty:negative_length' has no length: got ValueError: "),
        ("unreadable_item", "sample 2 of 'calibration' cannot be read: got OSError: disk gone (faulty.py:"),
        ("no_digest", "the data of 'faulty:no_digest' have no digest: got ''"),
        ("odd_digest", "the data of 'faulty:odd_digest' have no digest: got '\\ud800'"),
        ("no_splits", "the factory 'faulty:no_splits' returns no data: got tuple, expected edgefuse.datasets.Splits."),
        ("empty_split", "the split 'test' of 'faulty:empty_split' is empty: expected at least one sample."),
        ("no_samples", "sample 0 of 'calibration' has the wrong type: got tuple, expected edgefuse.datasets.Sample("),
        (
            "label_out_of_range",
            "sample 3 of 'calibration' does not fit the model's output: got 4, expected a class from 0 to 3.",
        ),
        (
            "label_in_words",
            "sample 3 of 'calibration' does not fit the model's output: got 'north', expected a class",
        ),
        ("shorter_column", "differ in length: got 6 targets, 6 of 'image', 5 of 'sensor', expected one entry of each"),
        ("zipped_strictly", "got ValueError: zip() argument 2 is shorter than argument 1 (faulty.py:"),
        ("without_sensor", "no sample of the split 'calibration' has the modality 'sensor': got 0 of 6"),
        ("never_together", "no sample of the split 'validation' has all of image+sensor, which is judged: got 0 of 2"),
        (
            "unknown_modality",
            "sample 1 of 'calibration' has an unknown modality: got 'smell', expected image or sensor.",
        ),
        (
            "wrong_shape",
            "sample 2 of 'calibration' is wrong: 'sensor.values' has the wrong shape: got [9, 8], expected",
        ),
        ("wrong_dtype", "'sensor.values' has the wrong type: got float64, expected an array of float32."),
        ("not_a_number", "sample 5 of 'test' is wrong: 'sensor.values' holds values that are not finite: got 72 of 72"),
    ],
)
def test_a_mistake_in_the_data(
    factory: str, message: str, compiled: Compiled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(compiled.cache / "stage-onnx", tmp_path / "cache" / "stage-onnx")  # the same model: lowered before
    recipe = (OWN / "recipe.toml").read_text(encoding="utf-8").replace("pair:data", f"faulty:{factory}")
    assert message in refused(tmp_path, recipe, capsys)


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (
            "contrast",
            "black_pictures",
            "the metric 'accuracy' cannot judge 'pair': the outputs of 1 of 6 items are NaN",
        ),
        (
            "temperature",
            "nan_target",
            "sample 4 of 'calibration' does not fit the model's output: got nan, expected 1 finite number.",
        ),
        ("temperature_by_accuracy", "whole", "no such metric of the output 'values' (values): got 'accuracy'"),
        ("temperature_by_luck", "whole", "no such metric of the output 'values' (values): got 'luck'"),
    ],
)
def test_a_metric_that_cannot_judge(
    model: str, data: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = (OWN / "recipe.toml").read_text(encoding="utf-8")
    recipe = recipe.replace("pair:build", f"faulty:{model}").replace("pair:data", f"faulty:{data}")
    assert message in refused(tmp_path, recipe, capsys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--engine", "moon"), "unknown engine 'moon': expected local or ray."),
        (("--target", "coreml"), "got 'coreml', expected onnx or openvino or tensorrt or tflite"),
    ],
)
def test_a_mistake_on_the_command_line(
    options: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = (OWN / "recipe.toml").read_text(encoding="utf-8")
    assert message in refused(tmp_path, recipe, capsys, *options)


def test_columns_become_samples_with_what_each_has() -> None:
    first, second = samples([0, 1], text=["one", "two"], tone=["high", None])
    assert (first.inputs, first.target) == ({"text": "one", "tone": "high"}, 0)
    assert (second.inputs, second.target) == ({"text": "two"}, 1)
    with pytest.raises(DataError, match=r"got 2 targets, 1 of 'text', expected .* Fix: pair them anew"):
        samples([0, 1], text=["one"])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ('assets = ["pipe"]', "cannot read the asset 'pipe' of "),
        ('assets = ["/dev/zero"]', "cannot read the asset '/dev/zero' of "),
        ('assets = ["a\\u0000b"]', "cannot read the asset 'a\\x00b' of "),
        ('weights = "a\\u0000b"', "cannot read the weights "),
        ('assets = ["pair.py", "./pair.py"]', "have one name: got 'pair.py'"),
        ('weights = "pipe"', "of the recipe: got it is a named pipe."),
        ('weights = "."', "of the recipe: got it is a folder."),
        ('weights = "/dev/zero"', "of the recipe: got it is a character device."),
        ("x = " + "{a=" * 3000 + "1" + "}" * 3000, "is not TOML: got maximum recursion depth"),
    ],
)
def test_a_file_that_is_none_is_refused_at_once(
    model: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    recipe = (OWN / "recipe.toml").read_text(encoding="utf-8").replace("[model]", f"[model]\n{model}", 1)
    assert message in refused(tmp_path, recipe, capsys)


@pytest.mark.parametrize("place", ["file", "loop", "file/deeper", "x" * 300, "/proc/edgefuse"])
def test_an_output_folder_that_cannot_be_is_refused_before_any_work(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("pair.py", "recipe.toml"):
        shutil.copy(OWN / name, tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    out = tmp_path / place
    code = cli.main(["compile", str(tmp_path / "recipe.toml"), "-o", str(out), "--cache", str(tmp_path / "cache")])
    said = capsys.readouterr().err
    assert code == 2
    assert said.count("\n") == 1
    assert "cannot be used: got " in said
    assert not (tmp_path / "cache").exists()
    assert not list(tmp_path.glob(".edgefuse-*"))


def test_a_cache_in_a_loop_of_links_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cache").symlink_to("cache")
    for name in ("pair.py", "recipe.toml"):
        shutil.copy(OWN / name, tmp_path)
    code = cli.main(
        ["compile", str(tmp_path / "recipe.toml"), "-o", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    )
    assert (code, "cannot be used: got " in capsys.readouterr().err) == (2, True)


def test_a_factory_that_goes_elsewhere_takes_nobody_along(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = Path.cwd()
    recipe = (OWN / "recipe.toml").read_text(encoding="utf-8").replace("pair:data", "faulty:elsewhere")
    assert "the split 'calibration' of 'faulty:elsewhere' is empty" in refused(tmp_path, recipe, capsys)
    assert Path.cwd() == here
