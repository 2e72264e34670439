"""The GPU reference in a report: shown as it was recorded, or said not to have run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgefuse.compiler.recipe import recipe
from edgefuse.compiler.recipe.gpu import read
from edgefuse.compiler.report.encoding import parse, spell
from edgefuse.errors import RecipeError

Shown = Callable[[dict[str, Any]], Any]


def figure(p50_ms: float) -> dict[str, Any]:
    return {"p50_ms": p50_ms, "ci95": [p50_ms * 0.9, p50_ms * 1.1], "marked": False}


def row(batch: int, system: str, **changes: Any) -> dict[str, Any]:
    """Return TEST DATA, no measurement."""
    about = {"batch": batch, "system": system, "precision": "float32"}
    figures = {"whole": figure(2.5), "compute": figure(2.0), "to_device": figure(0.25), "to_host": figure(0.125)}
    rest = {"items_per_s": 4321.0, "speedup": None, "max_abs_error": 3e-6, "agrees": True, "error": None}
    return about | {"tolerance": {"absolute": 1e-4, "relative": 1e-4}} | figures | rest | changes


def record() -> dict[str, Any]:
    """Return TEST DATA, no measurement."""
    empty = dict.fromkeys(("whole", "compute", "to_device", "to_host", "items_per_s", "max_abs_error", "agrees"))
    rows = [
        row(1, "eager float32"),
        row(64, "eager tf32", agrees=False),
        row(1, "CUDA graph float32", **empty, error="RuntimeError: no <graphs> today"),
    ]
    filled = {"batch": 64, "why": "memory was short at 128", "curve": [{"batch": 1, "items_per_s": 400.0}]}
    model = {"name": "digits", "weights": "invented", "parameters": 7, "filled": filled, "rows": rows}
    return {
        "schema": 1,
        "is_gpu": True,
        "made": "a day that never was",
        "command": "python benchmarks/gpu.py",
        "seconds": 1.0,
        "device": {"name": "Invented Card 9", "memory_bytes": 1, "capability": "9.9"},
        "clocks": {"before": {"driver_version": "1.2"}, "after": None},
        "versions": {"torch": "9.9"},
        "method": ["All of it is invented."],
        "models": [model],
        "parts": [{"name": "tests/gpu", "ok": True, "outcome": "9 passed"}],
    }


def kept(folder: Path, content: object) -> Path:
    """Write a record beside a recipe and return the recipe's path."""
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "gpu.json").write_text(text, encoding="utf-8")
    return folder / "recipe.toml"


def shown_part(folder: Path) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(read(kept(folder, record()), "gpu.json", "digits"))
    return built


def test_without_a_record_the_page_says_that_it_was_not_run(
    full: dict[str, Any], core: dict[str, Any], shown: Shown
) -> None:
    for report in (full, core):
        assert "full-precision GPU reference: not run" in shown(report).text


def test_a_record_is_shown_with_its_card_its_errors_and_its_reasons(
    full: dict[str, Any], shown: Shown, tmp_path: Path
) -> None:
    text = shown(full | {"gpu": shown_part(tmp_path)}).text
    assert "not run" not in text.partition("Full precision on a GPU")[2].partition("Latency")[0]
    assert "Invented Card 9, driver 1.2, torch 9.9" in text
    assert "Weights: invented." in text
    assert "The card is full at batch 64: memory was short at 128." in text
    assert "eager float32 1 2.50 [2.25, 2.75]" in text
    assert "4,321 3.0e-06 ✗ off" in text
    assert "CUDA graph float32 1 – – – – – – RuntimeError: no <graphs> today" in text
    assert "All of it is invented." in text


def test_milliseconds_of_a_gpu_stay_such_in_a_report_of_costs(full: dict[str, Any], tmp_path: Path) -> None:
    costs = spell(parse(full | {"unit": "ms", "gpu": shown_part(tmp_path)}))
    assert costs["gpu"]["model"]["rows"][0]["whole"]["p50_ms"] == 2.5
    spelled = spell(msgspec.structs.replace(parse(costs), unit="cost"))
    assert spelled["gpu"]["model"]["rows"][0]["whole"]["p50_ms"] == 2.5
    again = parse(spelled)
    assert again.gpu is not None
    assert again.gpu.model.rows[0].batch == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("{", "is no record of `make gpu`: got Input data was truncated"),
        ("[" * 100_000, "is no record of `make gpu`"),
        ({"schema": 2}, "is of another version: got schema 2, expected schema 1"),
        ({"is_gpu": False}, "was measured on no GPU: got Invented Card 9"),
        ({"models": []}, "does not hold the model 'digits': got no models"),
        ({"more": 1}, "is no record of `make gpu`: got Object contains unknown field `more`"),
        ({"models": [{"name": "digits"}]}, "missing required field `weights`"),
    ],
)
def test_a_wrong_record_is_one_sentence(changes: Any, message: str, tmp_path: Path) -> None:
    content = changes if isinstance(changes, str) else record() | changes
    with pytest.raises(RecipeError) as raised:
        read(kept(tmp_path, content), "gpu.json", "digits")
    sentence = str(raised.value)
    assert message in sentence
    assert sentence.startswith("[report] gpu in ")
    assert sentence.endswith("or leave the key out.")


def test_a_record_that_is_not_utf_8_is_one_sentence(tmp_path: Path) -> None:
    path = kept(tmp_path, record())
    data = (tmp_path / "gpu.json").read_bytes()
    (tmp_path / "gpu.json").write_bytes(data.replace(b"benchmarks", b"benchmar\xff", 1))
    with pytest.raises(RecipeError, match="is no record of `make gpu`: got 'utf-8' codec can't decode byte 0xff"):
        read(path, "gpu.json", "digits")


@pytest.mark.parametrize("value", [0, -1.5, "3"])
def test_a_time_that_is_none_is_refused(value: object, tmp_path: Path) -> None:
    content = record()
    content["models"][0]["rows"][0]["whole"]["p50_ms"] = value
    with pytest.raises(RecipeError, match="is no record of `make gpu`"):
        read(kept(tmp_path, content), "gpu.json", "digits")


@pytest.mark.parametrize("named", ["none.json", ".", "a\0b"])
def test_a_record_that_cannot_be_read_is_one_sentence(named: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read: got "):
        read(tmp_path / "recipe.toml", named, "digits")


def test_a_recipe_names_its_record(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    given = '[model]\nfactory = "a:b"\n[data]\nfactory = "a:c"\n'
    path.write_text(given, encoding="utf-8")
    assert read(path, recipe.load(path).report.gpu, "digits") is None
    path.write_text(given + '[report]\ngpu = "gpu.json"\n', encoding="utf-8")
    kept(tmp_path, record())
    assert read(path, recipe.load(path).report.gpu, "digits") is not None
    path.write_text(given + "[report]\ncpu = 1\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"unknown key \[report\] 'cpu'. Fix: did you mean 'gpu'"):
        recipe.load(path)
