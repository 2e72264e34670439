from __future__ import annotations

from pathlib import Path

import pytest

from edgefuse.compiler.recipe import recipe
from edgefuse.compiler.recipe.factory import call_factory
from edgefuse.errors import RecipeError

_GOOD = """
[model]
factory = "my_module:build"
[data]
factory = "my_module:data"
[compile]
targets = ["onnx", "tflite"]
[search]
objective = "size"
max_drop = 0.02
[schemes]
fusion = ["float"]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_is_read(tmp_path: Path) -> None:
    found = recipe.load(written(tmp_path, _GOOD))
    assert found.compile.targets == ("onnx", "tflite")
    assert found.search.objective == "size"
    assert found.search.max_drop == 0.02
    assert found.schemes == {"fusion": ("float",)}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[search]", "[serach]", "did you mean 'search'?"),
        ("max_drop", "max_drp", "unknown key [search] 'max_drp'. Fix: did you mean 'max_drop'?"),
        ("0.02", '"little"', "[search] max_drop in "),
        ("0.02", "nan", "got nan, expected zero or more"),
        ('"size"', '"speed"', "Invalid enum value 'speed'"),
        ('"tflite"]', '"coreml"]', "expected onnx or openvino or tensorrt or tflite"),
        ('"tflite"]', '"onnx"]', "expected each target once"),
        ("[data]", "[data", "is not TOML"),
        ("[search]", "threads = 0\n[search]", "[compile] threads in "),
        ("[search]", "threads = 100000\n[search]", "got 100000, expected 1"),
        ("[search]", "[recover]\nthreads = 100000\n[search]", "[recover] threads in "),
        ("[search]", 'threads = 0\n[device]\nuri = "adb:"\n[search]', "got 0, expected 1"),
        ('[data]\nfactory = "my_module:data"', "", "missing required field `data`"),
        ('factory = "my_module:build"', "", "names no model, or more than one: got none, expected factory = "),
        (
            "[data]",
            'pretrained = "clip"\n[data]',
            "names no model, or more than one: got factory and pretrained, expected",
        ),
        (
            'factory = "my_module:build"',
            'pretrained = "clip"\nweights = "a.pt"',
            "weights for a model that has its own: got pretrained",
        ),
    ],
)
def test_a_wrong_recipe_is_one_sentence(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe.load(written(tmp_path, _GOOD.replace(old, new)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("deep", ["x" + ".a" * 3_000 + " = 1", "[schemes.x" + ".a" * 3_000 + "]\nb = 1"])
def test_a_key_of_very_many_dots_is_one_sentence(tmp_path: Path, deep: str) -> None:
    with pytest.raises(RecipeError, match=r"is wrong: got Expected `array`, got `object` - at `\$.schemes") as caught:
        recipe.load(written(tmp_path, f"{_GOOD}{deep}\n"))
    assert len(str(caught.value)) < 1_000


def test_a_device_may_have_more_processors_than_this_machine(tmp_path: Path) -> None:
    found = recipe.load(
        written(tmp_path, _GOOD.replace("[search]", 'threads = 4096\n[device]\nuri = "adb:"\n[search]'))
    )
    assert found.compile.threads == 4096


def test_a_missing_recipe_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot read the recipe"):
        recipe.load(tmp_path / "none.toml")


def test_a_factory_beside_the_recipe_is_called(tmp_path: Path) -> None:
    (tmp_path / "beside_recipe.py").write_text("def build():\n    return 7\n")
    assert call_factory(tmp_path / "recipe.toml", "beside_recipe:build") == 7


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("nowhere_to_be_found:build", "cannot import the factory"),
        ("json:nothing", "has no 'nothing'"),
        ("json", "expected 'module:callable'"),
        ("json:__name__", "expected a callable"),
    ],
)
def test_a_wrong_factory_is_one_sentence(tmp_path: Path, reference: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        call_factory(tmp_path / "recipe.toml", reference)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('"size"', '"size"\ncaution = -1', "[search] caution in PATH is out of range: got -1.0, expected zero or more"),
        ('"size"', '"size"\nmax_fusion_passes = 0', "[search] max_fusion_passes in PATH is out of range: got 0, "),
        ('"size"', '"size"\nmax_latency_ms = 0', "[search] max_latency_ms in PATH is out of range: got 0.0, expected "),
        ("0.02", "-1", "[search] max_drop in PATH is out of range: got -1.0, expected zero or more."),
        (
            "[search]",
            "[ladder]\nratio = 1\n[search]",
            "[ladder] ratio in PATH is out of range: got 1.0, ",
        ),
        (
            "[search]",
            "[ladder]\nmax_drop = 0\n[search]",
            "[ladder] max_drop in PATH is out of range: got 0.0, ",
        ),
        (
            "[search]",
            "[ladder]\nratio = nan\n[search]",
            "[ladder] ratio in PATH is out of range: got nan, ",
        ),
        (
            "[search]",
            "[ladder]\ndown_to = 0.8\n[search]",
            "[ladder] down_to in PATH is out of range: got 0.8, ",
        ),
        ("0.02", "inf", "[search] max_drop in PATH is out of range: got inf, expected zero or more."),
        ("0.02", "true", "the recipe PATH is wrong: got Expected `float | str | object | null`, got `bool` - at "),
        ("[search]", "device = 'moon'\n[search]", "[compile] device in PATH is unknown: got 'moon', expected host or "),
        (
            '"tflite"]',
            '"coreml"]',
            "[compile] targets in PATH names an unknown target: got 'coreml', expected onnx or ",
        ),
        ('"tflite"]', '"onnx"]', "[compile] targets in PATH is empty or names a target twice: got ['onnx', 'onnx'], "),
        ("[search]", "[quantize]\nmin_snr_db = 0\n[search]", "[quantize] min_snr_db in PATH is out of range: got 0"),
        ("[search]", "[recover]\nsettled = 2\n[search]", "[recover] settled in PATH is out of range: got 2.0, "),
        ("[search]", "[recover]\nlearning_rate = 0\n[search]", "[recover] learning_rate in PATH is out of range: got "),
        (
            "[search]",
            "[recover]\npatience = 0\n[search]",
            "[recover] patience in PATH is out of range: got 0, expected ",
        ),
        (
            "[search]",
            '[[prune.variants]]\nstages = []\nsteps = [{ method = "structured", ratio = 0.5 }]\n[search]',
            "an entry of [[prune.variants]] in PATH is incomplete: got no stages or no steps, expected both.",
        ),
        (
            "[search]",
            '[[prune.variants]]\nstages = ["fusion"]\nsteps = [{ method = "magic", ratio = 0.5 }]\n[search]',
            "an entry of [[prune.variants]] in PATH names an unknown method: got 'magic', expected depth or ",
        ),
        (
            "[search]",
            '[[prune.variants]]\nstages = ["fusion"]\nsteps = [{ method = "structured", ratio = 1.5 }]\n[search]',
            "the ratio of 'structured' under [[prune.variants]] in PATH is out of range: got 1.5, expected ",
        ),
        (
            "[search]",
            '[[prune.variants]]\nstages = ["image"]\nsteps = [{ method = "structured", ratio = 0.12 }]\n'
            '[[prune.variants]]\nstages = ["text", "image"]\nsteps = [{ method = "structured", ratio = 0.125 }]\n'
            "[search]",
            "two prunings of 'image' under [[prune.variants]] in PATH have the same name 'structured12': "
            "got structured 0.12 and structured 0.125, expected steps that differ in the method, the options or the ",
        ),
        (
            "[search]",
            '[[prune.variants]]\nstages = ["image", "image"]\nsteps = [{ method = "depth", ratio = 0.5 }]\n[search]',
            "two prunings of 'image' under [[prune.variants]] in PATH have the same name 'depth50': got depth 0.5 twi",
        ),
        (
            "[search]",
            "[recover]\nseed = -1\n[search]",
            "[recover] seed in PATH is out of range: got -1, expected at least 0",
        ),
        (
            '"size"',
            f'"size"\nmax_size_bytes = {10**400}',
            "the integer 'search.max_size_bytes' in PATH is out of range: got 1000",
        ),
        (
            "[search]",
            f"[recover]\nseed = {2**63}\n[search]",
            "the integer 'recover.seed' in PATH is out of range: got 9223",
        ),
        (
            "[search]",
            '[[prune.variants]]\nstages = ["a"]\n'
            f'steps = [{{ method = "depth", ratio = 0.5, options = [["n", {2**64}]] }}]\n[search]',
            "the integer 'prune.variants.steps.options' in PATH is out of range: got 1844",
        ),
        ('"size"', f'"size"\nmax_size_bytes = {"1" * 5000}', "the recipe PATH is not TOML: got Exceeds the limit"),
    ],
)
def test_a_value_out_of_range_is_a_whole_sentence(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    path = written(tmp_path, _GOOD.replace(old, new))
    with pytest.raises(RecipeError) as caught:
        recipe.load(path)
    assert str(caught.value).startswith(sentence.replace("PATH", str(path)))


def test_a_ladder_is_asked_for_by_its_section_alone(tmp_path: Path) -> None:
    assert recipe.load(written(tmp_path, _GOOD)).ladder is None
    asked = recipe.load(written(tmp_path, f"{_GOOD}\n[ladder]\n")).ladder
    assert asked is not None
    assert asked.shares == pytest.approx((0.5**0.5, 0.5))  # two rungs, each 1.41 times faster
    deeper = recipe.load(written(tmp_path, f"{_GOOD}\n[ladder]\nratio = 2\ndown_to = 0.125\n")).ladder
    assert deeper is not None
    assert deeper.shares == pytest.approx((0.5, 0.25, 0.125))
    with pytest.raises(RecipeError, match=r"unknown key \[ladder\] 'rato'. Fix: did you mean 'ratio'?"):
        recipe.load(written(tmp_path, f"{_GOOD}\n[ladder]\nrato = 2\n"))
