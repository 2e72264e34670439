"""The verbs that look at a bundle: inspect, verify, prepare."""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgefuse import cli as command_line
from edgefuse.bundle.manifest import Manifest, Pruning, PruningStep
from edgefuse.bundle.writer import write_bundle
from edgefuse.commands import verify
from edgefuse.errors import MeasureError
from edgefuse.runtime import signals
from edgefuse.runtime.processor import Processor

Cli = Callable[..., Any]


def test_inspect_shows_what_is_in_a_bundle(cli: Cli, tiny_bundle: Path) -> None:
    done = cli("inspect", tiny_bundle)
    assert (done.returncode, done.stderr) == (0, "")
    for words in (
        "motion  tensor  values float32 [1, <=5, 3] + length",
        "3 classes: stop, go, wait",
        "dynamic_wi8_af32 (837 B)",
        "image+text+motion  50.0 (+0.0 to +1.0)",
        "not measured yet",
        "assets/tokenizer.json",
    ):
        assert words in done.stdout


def test_inspect_tells_how_a_stage_was_pruned(
    cli: Cli, tmp_path: Path, tiny_manifest: Manifest, tiny_contents: Mapping[str, bytes]
) -> None:
    steps = (
        PruningStep(method="depth", ratio=0.5),
        PruningStep(method="structured", ratio=0.25, importance="taylor"),
    )
    candidates = tuple(
        msgspec.structs.replace(c, pruning=Pruning(steps=steps)) if c.id == "image_encoder.dynamic_wi8_af32" else c
        for c in tiny_manifest.candidates
    )
    bundle = tmp_path / "pruned.edgefuse"
    write_bundle(bundle, msgspec.structs.replace(tiny_manifest, candidates=candidates), tiny_contents)
    shown = cli("inspect", bundle).stdout
    assert "dynamic_wi8_af32 depth50-structured25 (837 B)" in shown
    assert "depth 50 %, then structured 25 % by taylor  against the unpruned stage" in shown


def test_inspect_gives_machines_the_whole_manifest(cli: Cli, tiny_bundle: Path, tiny_manifest: Manifest) -> None:
    report = json.loads(cli("inspect", tiny_bundle, "--json").stdout)
    manifest = msgspec.convert(report["manifest"], Manifest)
    assert (manifest.model, manifest.stages, manifest.rungs) == (
        tiny_manifest.model,
        tiny_manifest.stages,
        tiny_manifest.rungs,
    )
    assert report["prepared"] == []
    assert cli("inspect", tiny_bundle, "--digest", report["digest"]).returncode == 0


@pytest.mark.parametrize("verb", ["inspect", "verify", "prepare", "run", "bench"])
def test_a_damaged_bundle_is_2_for_every_verb(cli: Cli, tiny_bundle: Path, verb: str) -> None:
    manifest = tiny_bundle / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"go"', b'"no"'))
    done = cli(verb, tiny_bundle)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("edgefuse: error: ")
    assert len(done.stderr.splitlines()) == 1


def test_verify_checks_every_file(cli: Cli, tiny_bundle: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_bundle.parent.rglob("*")}
    done = cli("verify", tiny_bundle)
    assert done.returncode == 0
    assert "18 files match their hashes" in done.stdout
    assert "6 of 6 candidates are within their tolerance" in done.stdout
    report = json.loads(cli("verify", tiny_bundle, "--json").stdout)
    assert report["ok"]
    assert {row["candidate"]: row["ok"] for row in report["golden"]}["image_encoder.dynamic_wi8_af32"]
    assert {path: path.stat().st_mtime_ns for path in tiny_bundle.parent.rglob("*")} == before


def test_verify_refuses_a_file_that_is_not_the_hashed_one(cli: Cli, tiny_bundle: Path) -> None:
    path = tiny_bundle / "stages" / "fusion.float.onnx"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    done = cli("verify", tiny_bundle)
    assert (done.returncode, done.stdout) == (2, "")
    assert "'stages/fusion.float.onnx' is damaged" in done.stderr


def test_verify_is_1_where_an_answer_is_off(
    cli: Cli, tmp_path: Path, tiny_manifest: Manifest, tiny_contents: Mapping[str, bytes]
) -> None:
    changed = dict(tiny_contents)
    wrong = np.frombuffer(changed["golden/fusion/logits.bin"], np.float32) + np.float32(0.5)
    changed["golden/fusion/logits.bin"] = wrong.tobytes()
    write_bundle(tmp_path / "off", tiny_manifest, changed)
    done = cli("verify", tmp_path / "off")
    assert done.returncode == 1
    assert "fusion.float fails: output 'logits' is off by 0.5, more than" in done.stdout
    assert "5 of 6 candidates" in done.stdout
    report = json.loads(cli("verify", tmp_path / "off", "--json").stdout)
    assert [row["candidate"] for row in report["golden"] if not row["ok"]] == ["fusion.float"]


def test_verify_fails_int8_that_this_cpu_clips(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = Processor("Old Xeon", "x86_64", 4, 8, ("avx2",))
    monkeypatch.setattr(verify, "processor", lambda: old)
    assert command_line.main(["verify", str(tiny_bundle)]) == 1
    assert (
        "image_encoder.dynamic_wi8_af32 fails: sums of uint8 x int8 are clipped to 16 bits" in capsys.readouterr().out
    )
    assert command_line.main(["verify", str(tiny_bundle), "--allow-saturation"]) == 0


def test_verify_checks_where_operators_run(cli: Cli, tiny_bundle: Path, unfused_bundle: Path) -> None:
    assert cli("verify", tiny_bundle, "--min-placement", "1").returncode == 0
    assert cli("verify", unfused_bundle, "--min-placement", "0.5").returncode == 0
    done = cli("verify", unfused_bundle, "--min-placement", "0.95", "--json")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "stage 'image_encoder' (image_encoder.dynamic_wi8_af32) is too low: got 0.750 of 4 operators" in last
    assert "1 x Conv (float after DequantizeLinear)" in last
    shares = {row["candidate"]: row["share"] for row in json.loads(done.stdout)["placement"]}
    assert (shares["fusion.float"], shares["image_encoder.dynamic_wi8_af32"]) == (1.0, 0.75)


def test_a_share_is_a_fraction(cli: Cli, tiny_bundle: Path) -> None:
    refused = cli("verify", tiny_bundle, "--min-placement", "95")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "'95' is not a share from 0 to 1" in refused.stderr


def test_inspect_opens_files_only_to_see_what_runs_where(cli: Cli, unfused_bundle: Path) -> None:
    assert "placement" not in json.loads(cli("inspect", unfused_bundle, "--json").stdout)
    report = json.loads(cli("inspect", unfused_bundle, "--placement", "--json").stdout)
    assert len(report["placement"]) == 6
    assert "1 x Conv (float after DequantizeLinear)" in cli("inspect", unfused_bundle, "--placement").stdout


def test_prepare_measures_once_and_inspect_shows_it(cli: Cli, tiny_bundle: Path) -> None:
    first = json.loads(cli("prepare", tiny_bundle, "--json").stdout)
    assert first["measured_now"]
    assert set(first["figures"]) == {"float", "small"}
    figure = first["figures"]["small"]
    assert figure["runs"] >= 11
    assert figure["peak_rss_bytes"] > 10_000_000
    assert Path(first["path"]) == tiny_bundle.parent / "tiny.prepared.json"
    again = json.loads(cli("prepare", tiny_bundle, "--json").stdout)
    assert again == first | {"measured_now": False}
    shown = cli("inspect", tiny_bundle).stdout
    assert shown.count(" prepare ") == 2
    assert cli("verify", tiny_bundle).returncode == 0, "the bundle itself is as it was"


def test_figures_of_another_content_are_not_this_bundles(tiny_bundle: Path, tiny_figures: signals.Entry) -> None:
    signals.write_prepared(tiny_bundle, "old", tiny_figures.machine, tiny_figures.figures)
    assert signals.read_prepared(tiny_bundle, "new") == ()
    signals.write_prepared(tiny_bundle, "new", tiny_figures.machine, tiny_figures.figures)
    assert signals.read_prepared(tiny_bundle, "old") == ()
    assert len(signals.read_prepared(tiny_bundle, "new")) == 1


def test_machines_that_share_a_folder_keep_their_own_figures(tiny_bundle: Path, tiny_figures: signals.Entry) -> None:
    machine = tiny_figures.machine
    for threads in (1, 2, 1):
        other = msgspec.structs.replace(machine, threads=threads)
        signals.write_prepared(tiny_bundle, "d", other, tiny_figures.figures)
    assert sorted(entry.machine.threads for entry in signals.read_prepared(tiny_bundle, "d")) == [1, 2]


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b'{"schema":1,"entries":[1]}'])
def test_damaged_figures_are_told_and_not_used(
    content: bytes, tiny_bundle: Path, tiny_figures: signals.Entry, caplog: pytest.LogCaptureFixture
) -> None:
    signals.prepared_path(tiny_bundle).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert signals.read_prepared(tiny_bundle, "d") == ()
    assert caplog.messages[0].startswith(
        f"the figures in {signals.prepared_path(tiny_bundle)} are damaged and not used: "
    )
    signals.write_prepared(tiny_bundle, "d", tiny_figures.machine, tiny_figures.figures)
    assert len(signals.read_prepared(tiny_bundle, "d")) == 1


def test_a_digit_that_changed_is_noticed(
    cli: Cli, tiny_bundle: Path, tiny_figures: signals.Entry, caplog: pytest.LogCaptureFixture
) -> None:
    path = signals.write_prepared(tiny_bundle, "d", tiny_figures.machine, tiny_figures.figures)
    text = path.read_text(encoding="utf-8")
    name, _, value = next(line for line in text.splitlines() if "p50_ms" in line).partition(": ")
    path.write_text(text.replace(f"{name}: {value}", f"{name}: 1{value}", 1), encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert signals.read_prepared(tiny_bundle, "d") == ()
    assert caplog.messages == [f"the figures in {path} are damaged and not used: they do not fit their SHA-256"]
    done = cli("inspect", tiny_bundle)
    assert (done.returncode, done.stderr.count(caplog.messages[0])) == (0, 1)


def test_figures_that_cannot_be_read_are_one_sentence(cli: Cli, tiny_bundle: Path) -> None:
    signals.prepared_path(tiny_bundle).mkdir()
    done = cli("inspect", tiny_bundle)
    assert done.returncode == 2
    assert "tiny.prepared.json cannot be read: got [Errno 21] Is a directory" in done.stderr
    assert done.stderr.endswith("Fix: delete that file.\n")


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    tiny_bundle: Path, tiny_figures: signals.Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(MeasureError, match=r"tiny\.prepared\.json: got No space left on device\. Fix: make the folder"):
        signals.write_prepared(tiny_bundle, "d", tiny_figures.machine, tiny_figures.figures)
    assert [path.name for path in tiny_bundle.parent.iterdir()] == ["tiny"]


@pytest.fixture
def tiny_figures() -> signals.Entry:
    """Figures of some machine."""
    figure = {"runs": 64, "p50_ms": 1.5}
    machine = {"architecture": "a", "cpu": "c", "cores": 1, "features": [], "runtimes": {}, "threads": 1}
    entry = {"digest": "d", "machine": machine, "figures": {"float": figure | {"machine": machine}}}
    return msgspec.convert(entry, signals.Entry)
