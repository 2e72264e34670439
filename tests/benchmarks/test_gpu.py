"""The GPU reference, with the CPU in the card's place: nothing here says how fast a GPU is."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from benchmarks import gpu
from benchmarks.gpu_reference import __main__ as child
from benchmarks.gpu_reference import measuring, models, page, parts, variants
from benchmarks.gpu_reference.card import Card, Place
from benchmarks.gpu_reference.models import DISTINCT, Subject
from edgefuse.compiler.recipe.gpu import parse, read
from edgefuse.errors import RecipeError
from edgefuse.models.assistant.model import assemble
from edgefuse.models.digits import build

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "benchmarks" / "gpu.py")
RECORD = ROOT / "examples" / "gpu.json"
CARD = Card("cpu")
BARE = ("msgspec", "safetensors", "filelock", "tokenizers", "jinja2", "soundfile", "soxr", "PIL", "onnx", "onnxscript")


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (2 * x,)


def toy() -> Subject:
    x = torch.arange(3.0 * DISTINCT).reshape(DISTINCT, 3)
    return Subject("toy", cast(models.Network, Doubled()), "none", (x,))


def budget(**changes: Any) -> measuring.Budget:
    return measuring.Budget(
        **({"rounds": 2, "seconds": 5.0, "max_batch": 64, "ends": time.monotonic() + 600} | changes)
    )


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, **options)


def test_the_plan_needs_nothing_but_python() -> None:
    done = run("-I", "-S", SCRIPT, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    found = re.search(r"^travels: (\d+) bytes", done.stdout, re.MULTILINE)
    assert found is not None
    assert int(found[1]) <= 60_000_000
    assert all(part.title in done.stdout for part in gpu.PARTS)
    assert f"at most {gpu.LIMIT_S:.0f} s all together" in done.stdout
    assert gpu.LIMIT_S <= 480


def test_everything_that_travels_is_tracked() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    tracked = {name for name in listed.stdout.split("\0") if (ROOT / name).is_file()}
    needed = {"benchmarks/gpu.py", "examples/digits/digits.safetensors"}
    assert needed <= tracked
    assert all(any(name.startswith(place) for name in tracked) for place in gpu._TRAVELS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_nothing_is_measured(tmp_path: Path) -> None:
    done = run(SCRIPT, "--out", str(tmp_path / "gpu.json"))
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "sees no GPU on this machine, and nothing was measured. Fix: " in done.stderr
    assert not list(tmp_path.iterdir())


def test_without_torch_it_says_so(tmp_path: Path) -> None:
    done = run("-I", "-S", SCRIPT, "--out", str(tmp_path / "gpu.json"), env={"PYTHONNOUSERSITE": "1"})
    if done.returncode != 2:
        pytest.skip("a Python without site-packages has torch here")
    assert "torch" in done.stderr
    assert "Fix: " in done.stderr


@pytest.mark.parametrize("option", ["--rounds", "--max-batch", "--limit"])
def test_a_number_that_is_none_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([option, "0"]) == 2
    assert capsys.readouterr().err == "gpu.py: --rounds, --max-batch and --limit must be more than 0.\n"


def test_what_is_no_record_is_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in ("{", "[]", '{"models": 3}'):
        (tmp_path / "gpu.json").write_text(content, encoding="utf-8")
        assert gpu.main(["--show", str(tmp_path / "gpu.json")]) == 2
        assert "is no record of this program" in capsys.readouterr().err
    assert gpu.main(["--show", str(tmp_path / "none.json")]) == 2


def test_a_record_that_cannot_be_written_is_known_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = {"available": True, "versions": {}, "clocks": None, "device": {"name": "x"}}
    monkeypatch.setattr(gpu.Run, "child", lambda *_, **__: (facts, ""))
    monkeypatch.setattr(gpu.Run, "all", lambda *_: pytest.fail("it began"))
    assert gpu.main(["--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"gpu.py: {tmp_path} cannot be written: Is a directory.\n"


@pytest.mark.exhaustive
def test_a_bare_machine_measures_and_a_report_refuses_its_cpu(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({BARE!r}))\n")
    out = tmp_path / "gpu.json"
    small = ("--device", "cpu", "--rounds", "1", "--max-batch", "2", "--without", "not in tests", "--skip", "tests/gpu")
    environment = {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1", "PATH": ""}
    done = run(SCRIPT, *small, "--out", str(out), env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = parse(out.read_bytes(), "it")
    assert not record.is_gpu
    assert record.clocks.before is None
    assert "NO GPU, a CPU in its place" in done.stdout
    for model in record.models:
        rows = {(row.batch, row.system): row for row in model.rows}
        for variant in variants.WANTED[model.name]:
            row = rows[1, variant.name]
            assert row.error == ("RuntimeError: not in tests" if variant.risky else None)
            assert variant.risky or (row.whole and row.compute and row.to_device and row.to_host and row.agrees)
        assert model.filled is not None
        assert len(model.filled.curve) == 2
    reasons = [row.error or "" for row in record.models[0].rows]
    assert "RuntimeError: tensorrt runs on a GPU only" in reasons
    assert "RuntimeError: onnxruntime runs on a GPU only" in reasons
    assert [model.weights.split()[0] for model in record.models] == ["trained", "seeded,"]
    with pytest.raises(RecipeError, match="was measured on no GPU"):
        read(tmp_path / "recipe.toml", "gpu.json", "digits")


@torch.inference_mode()
def test_the_plain_network_answers_as_the_model_does() -> None:
    subject = models.digits()
    model = build(ROOT / "examples" / "digits" / "digits.safetensors")
    names = ("image.pixels", "audio.samples", "text.ids", "text.length")
    for present in (torch.ones(2, 3), torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])):
        inputs = subject.batch(2)[:4]
        expected = model(dict(zip(names, inputs, strict=True)), present)
        assert torch.equal(subject.network(*inputs, present)[0], expected)


def test_seeded_weights_have_the_shapes_of_the_trained_ones() -> None:
    shapes = {name: value.shape for name, value in assemble().state_dict().items()}
    subject = models.assistant()
    assert {name: value.shape for name, value in subject.network.state_dict().items()} == shapes
    with torch.inference_mode():
        logits, embedding = subject.network(*subject.inputs)
    assert logits.isfinite().all()
    assert float(embedding.std(dim=0).mean()) > 1e-3  # inputs are told apart: nothing has vanished


@torch.inference_mode()
def test_float16_keeps_frontends_and_answers() -> None:
    subject = models.digits()
    half = models.Half(subject.network)
    types = {name: value.dtype for name, value in half.named_buffers()}
    assert types["network.encoders.audio.frontend.basis"] is torch.float32
    assert types["network.encoders.audio.mask"] is torch.float16
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float16}
    assert {parameter.dtype for parameter in subject.network.parameters()} == {torch.float32}
    absolute, relative = variants.TOLERANCES["float16"]
    expected = subject.network(*subject.batch(2))[0]
    assert float((half(*subject.batch(2))[0] - expected).abs().max()) <= absolute + relative * float(
        expected.abs().max()
    )


def test_one_variant_that_fails_leaves_its_reason_and_the_others() -> None:
    def broken(_: Place) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 GiB")

    def nan(_: Place) -> Any:
        return lambda x: (x / 0 * 0,)

    def off(_: Place) -> Any:
        return lambda x: (2 * x + 1,)

    subject = toy()
    wanted: dict[str, Any] = {
        "eager float32": ("float32", lambda place: variants.forward(variants.BASE, subject, place)),
        "broken": ("float32", broken),
        "nan": ("tf32", nan),
        "off": ("tf32", off),
    }
    for batch in (1, 5, 40):
        rows = measuring.measure(Place(CARD, subject, batch), subject, wanted, budget(), (2 * subject.inputs[0],))
        good, memory, bad, wrong = rows
        assert (good["error"], good["max_abs_error"], good["agrees"], good["speedup"]) == (None, 0.0, True, None)
        assert memory["error"] == "OutOfMemoryError: CUDA out of memory."
        assert bad["error"] == "ValueError: its answers are not finite"
        assert (memory["whole"], bad["whole"]) == (None, None)
        assert (wrong["max_abs_error"], wrong["agrees"]) == (1.0, False)
        assert wrong["speedup"]["ratio"] > 0
        assert wrong["items_per_s"] == pytest.approx(1e3 * batch / wrong["whole"]["p50_ms"])


@pytest.mark.parametrize(
    ("seconds", "changes", "batch", "why"),
    [
        (lambda batch: 1.0 if batch <= 8 else batch / 8, {}, 8, "throughput had stopped rising"),
        (lambda batch: 1.0 if batch <= 16 else None, {}, 16, "memory was short at 32"),
        (lambda _: 1.0, {}, 64, "the largest batch to try, 64, was reached"),
        (lambda _: 1.0, {"ends": 0.0}, 1, "the time was up"),
    ],
)
def test_a_batch_is_doubled_until_it_is_of_no_use(
    seconds: Any, changes: dict[str, Any], batch: int, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def probed(card: Card, subject: Subject, size: int) -> float:
        took: float | None = seconds(size)
        if took is None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return took

    monkeypatch.setattr(measuring, "_seconds", probed)
    found = measuring.fill(CARD, toy(), budget(**changes))
    assert (found["batch"], found["why"]) == (batch, why)


@pytest.mark.parametrize(
    ("code", "seconds", "why"),
    [
        ("pass", 60.0, ""),
        ("raise SystemError('oh')", 60.0, "its process ended with 1: SystemError: oh"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 60.0, "its process ended with SIGSEGV"),
        ("import time; time.sleep(600)", 0.5, "its process was stopped after 0 s"),
    ],
)
def test_a_process_that_dies_is_a_reason(code: str, seconds: float, why: str) -> None:
    assert gpu._ended([sys.executable, "-S", "-c", code], "{}", seconds) == why


def test_what_a_part_had_before_it_failed_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def part(_: parts.Request, keep: parts.Keep) -> dict[str, Any]:
        keep({"rows": [1]})
        raise torch.OutOfMemoryError("CUDA out of memory")

    asked = {"part": "torch", "model": "digits", "device": "cpu", "seconds": 1, "rounds": 1, "max_batch": 1}
    monkeypatch.setitem(parts.PARTS, "torch", part)
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "found.json")])
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(asked)))
    threads = torch.get_num_threads()
    child.main()
    torch.set_num_threads(threads)
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert found == {"rows": [1], "error": "OutOfMemoryError: CUDA out of memory"}


def test_what_took_its_process_along_is_left_out_and_the_rest_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answered(
        self: gpu.Run, part: gpu.Part, batch: int | None = None, without: str = ""
    ) -> tuple[dict[str, Any], str]:
        asked.append(without)
        row = {"batch": 1, "system": "eager float32"}
        if not without:
            return {"filled": None, "rows": [row | {"first": True}]}, "its process ended with SIGSEGV"
        return {"filled": {"batch": 8}, "rows": [row, {"batch": 8, "system": "eager float32"}]}, ""

    monkeypatch.setattr(gpu.Run, "child", answered)
    entry = gpu.Run(gpu.parser().parse_args([])).torch(gpu.PARTS[0])
    assert asked == ["", "left out: with it, its process ended with SIGSEGV"]
    assert [(row["batch"], row.get("first")) for row in entry["rows"]] == [(1, True), (8, None)]
    assert entry["filled"] == {"batch": 8}


@pytest.mark.parametrize(
    ("printed", "code", "ok", "outcome"),
    [
        ("10 passed in 3.0s", 0, True, "10 passed in 3.0s"),
        (
            "SKIPPED [10] a.py:9: no GPU\n10 skipped in 0.1s",
            0,
            False,
            "10 skipped in 0.1s: SKIPPED [10] a.py:9: no GPU",
        ),
        (
            "E  ModuleNotFoundError: No module named 'a'\n1 error",
            2,
            False,
            "1 error: E  ModuleNotFoundError: No module named 'a'",
        ),
        ("", 1, False, "nothing was said"),
    ],
)
def test_the_tests_that_need_a_gpu_pass_only_if_they_ran(
    printed: str, code: int, ok: bool, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.CompletedProcess[str]([], code, printed, "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    found = gpu.Run(gpu.parser().parse_args([])).tests(gpu.PARTS[-1])
    assert found == {"name": "tests/gpu", "ok": ok, "outcome": outcome}


def test_the_readme_shows_the_record_that_is_committed_or_says_that_there_is_none() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"<!-- gpu: begin [^\n]*-->\n(.*?)\n<!-- gpu: end -->", readme, re.DOTALL)
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else None
    assert shown == page.markdown(record)
    assert record is None or parse(RECORD.read_bytes(), "it").is_gpu
    (line,) = [line for line in readme.splitlines() if line.startswith("| torch fp32 on a GPU")]
    assert ("| not run |" in line) == (record is None)


def test_the_table_names_every_variant() -> None:
    assert {model: tuple(one.name for one in wanted) for model, wanted in variants.WANTED.items()} == page.SYSTEMS
