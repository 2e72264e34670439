"""`make soak`, on made-up lines: each runs by itself, and none stops another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.soak import __main__ as command
from benchmarks.soak import registry
from benchmarks.soak.line import Setting
from benchmarks.swaps import MAX_GROWTH_BYTES
from edgefuse.bundle.manifest import Manifest
from edgefuse.bundle.writer import write_bundle
from edgefuse.errors import DataError

ROOT = Path(__file__).parents[2]
LINES = {
    "crashes": "import os\nRECIPES = ()\ndef run(setting): os._exit(7)",
    "fails": "RECIPES = ()\ndef run(setting): raise ValueError('no such thing')",
    "hangs": "import time\nRECIPES = ()\ndef run(setting): time.sleep(600)",
    "misses": "from benchmarks.soak.line import Line\nRECIPES = ()\n"
    "def run(setting): return Line(line='misses', figures={'lost': 1}, ok=False)",
    "takes": "from benchmarks.soak.line import Line\nEXPORTS = ('door/recipe.toml',)\ndef run(setting):\n"
    "    return Line(line='takes', figures={'bundle': setting.bundle('door/recipe.toml').name}, ok=True)",
    "shows": "from benchmarks.soak.line import Line\nRECIPES = ('door/recipe.toml',)\ndef run(setting):\n"
    "    found = [setting.bundle('door/recipe.toml', target).name for target in ('onnx', 'tflite')]\n"
    "    return Line(line='shows', figures={'bundles': found, 'minutes': setting.minutes}, ok=True)",
}


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the figures of the made-up lines go."""
    (tmp_path / "made_up").mkdir()
    (tmp_path / "made_up" / "__init__.py").touch()
    for name, text in LINES.items():
        (tmp_path / "made_up" / f"{name}.py").write_text(f'"""Show {name}."""\n{text}\n', encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    command.compile_once.cache_clear()
    command.export_once.cache_clear()
    return tmp_path / "out" / "soak.json"


def told(out: Path) -> dict[str, Any]:
    return {one["line"]: (one["ok"], one["figures"]) for one in json.loads(out.read_bytes())}


def words(out: Path, *more: str) -> list[str]:
    return [
        "--lines",
        "made_up",
        "--out",
        str(out),
        "--work",
        str(out.parent / "work"),
        "--examples",
        str(out.parent),
        *more,
    ]


def test_a_line_that_fails_stops_no_other(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def compiled(named: str, recipe: Path, folder: Path, *, jobs: int, targets: tuple[str, ...]) -> None:
        assert (named, recipe) == ("door/recipe.toml", out.parent / "door" / "recipe.toml")
        folder.mkdir(parents=True)
        for target in targets:
            (folder / f"door-{target}.edgefuse").touch()

    monkeypatch.setattr(command, "compiled", compiled)
    asked = [word for name in ("crashes", "fails", "misses", "shows") for word in ("--only", name)]
    assert command.main(words(out, *asked, "--minutes", "0.5")) == 1
    assert told(out) == {
        "crashes": (False, {"failed": "the process of 'crashes' ended without a result (code 7)"}),
        "fails": (False, {"failed": "ValueError: no such thing"}),
        "misses": (False, {"lost": 1}),
        "shows": (True, {"bundles": ["door-onnx.edgefuse", "door-tflite.edgefuse"], "minutes": 0.5}),
    }
    assert "not ok  misses: lost 1\n" in capsys.readouterr().out


def test_one_that_hangs_is_ended_and_the_others_keep_their_place(out: Path) -> None:
    out.parent.mkdir()
    out.write_text('[{"line": "shows", "figures": {}, "ok": true}, {"line": "gone", "figures": {}, "ok": false}]')
    assert command.main(words(out, "--only", "hangs", "--limit", "0.005")) == 1
    assert told(out) == {
        "hangs": (False, {"failed": "'hangs' had not ended after 0.005 minutes"}),
        "shows": (True, {}),
    }


def test_what_shows_what_it_must_ends_with_0(out: Path) -> None:
    for target in ("onnx", "tflite"):
        path = out.parent / "work" / "door-recipe" / f"door-{target}.edgefuse"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert command.main(words(out, "--only", "shows", "--as-compiled")) == 0


def test_a_compile_that_fails_is_the_lines_failure(out: Path) -> None:
    assert command.main(words(out, "--only", "shows")) == 1
    assert "the compile of 'door/recipe.toml' failed" in told(out)["shows"][1]["failed"]


def test_there_is_no_such_line(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(words(out, "--only", "roof")) == 2
    assert "there is no such line: got 'roof', expected crashes or fails or hangs" in capsys.readouterr().err


def test_a_bundle_may_be_exported(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exported(named: str, recipe: Path, bundle: Path, target: str) -> None:
        assert (named, recipe, target) == ("door/recipe.toml", out.parent / "door" / "recipe.toml", "onnx")
        bundle.parent.mkdir(parents=True)
        bundle.touch()

    monkeypatch.setattr(command, "exported", exported)
    assert command.main(words(out, "--only", "takes")) == 0
    assert told(out)["takes"] == (True, {"bundle": "exported-onnx.edgefuse"})


def test_there_is_no_such_package_of_lines(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--lines", "benchmarks.walls", "--out", str(out)]) == 2
    assert "there is no such package of lines: got 'benchmarks.walls'" in capsys.readouterr().err


def test_a_bundle_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is not one bundle of 'a/b\.toml' for onnx in .*a-b: got none"):
        Setting(folder=str(tmp_path)).bundle("a/b.toml")


def test_minutes_end_a_repetition_after_the_first() -> None:
    assert len(list(Setting(folder="").repeated(5))) == 5
    assert len(list(Setting(folder="", minutes=0).repeated(5))) == 1


def test_every_line_says_what_it_must_show() -> None:
    packages = (registry.PACKAGE, "benchmarks.soak_services.lines")
    for module in (registry.module(name, package) for package in packages for name in registry.names(package)):
        assert (module.__doc__ or "").splitlines()[0].endswith((".", "?", ":")), module
        taken = (*getattr(module, "RECIPES", ()), *getattr(module, "EXPORTS", ()))
        assert all((ROOT / "examples" / recipe).is_file() for recipe in taken), module
        assert callable(module.run), module


def test_swaps_run_on_the_tiny_model(
    tmp_path: Path, tiny_manifest: Manifest, tiny_contents: dict[str, bytes], tflite_bundle: Path
) -> None:
    folder = tmp_path / "digits-recipe"
    folder.mkdir()
    write_bundle(folder / "tiny-onnx.edgefuse", tiny_manifest, tiny_contents)
    tflite_bundle.replace(folder / "tiny-tflite.edgefuse")
    out = tmp_path / "soak.json"
    asked = ["--only", "swaps", "--minutes", "0.02", "--as-compiled", "--work", str(tmp_path), "--out", str(out)]
    command.main(asked)
    ok, figures = told(out)["swaps"]
    assert ok or figures["growth_bytes"] > MAX_GROWTH_BYTES  # where there was time for a few, memory may still settle
    assert figures["swaps"] + figures["rung_changes"] >= 2
    assert (figures["lost"], figures["wrongly_taken"]) == (0, 0)
    assert min(figures["answered"], figures["refused"]) > 0
