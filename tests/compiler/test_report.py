"""How a report is filled in: from a real compile of the two-input model, and from small cases of the rules."""

from __future__ import annotations

from typing import Any

import pytest

from edgefuse.bundle.manifest import Pruning, PruningStep
from edgefuse.bundle.scheme import Scheme
from edgefuse.compiler.recovery.forms import Recovery
from edgefuse.compiler.report.compiled import recovery, removed
from edgefuse.compiler.report.layers import reason_for
from edgefuse.compiler.report.modalities import judged_alone, worst_drop
from edgefuse.compiler.search import Judged, SubsetDrop
from edgefuse.export.cost_graph import CostGraph, Operation
from edgefuse.prune.recovery import Epoch

FLOATS = {"image": "image.float", "audio": "audio.float"}


def judged(drop: float = 0.0, p50_ms: float = 1.0, **changed: str) -> Judged:
    return Judged(
        candidates={**FLOATS, **{stage: f"{stage}.{scheme}" for stage, scheme in changed.items()}},
        p50=p50_ms,
        size_bytes=1,
        drops={"image": SubsetDrop(drop=drop, low=0.0, high=0.0), "audio": SubsetDrop(drop=-0.1, low=0.0, high=0.0)},
        excess=0.0,
    )


def test_what_a_modality_loses_alone_is_read_from_the_combination_that_compresses_nothing_else() -> None:
    chosen = {"image": "image.static", "audio": "audio.static"}
    alone, both = judged(0.004, image="static"), judged(0.02, image="static", audio="static")
    faster = judged(0.03, 0.5, image="dynamic")
    found = judged_alone([judged(), both, faster, alone], ("image",), FLOATS, chosen)
    assert found is alone
    assert worst_drop({name: drop.drop for name, drop in found.drops.items()}) == 0.004
    assert judged_alone([judged(), both, faster], ("image",), FLOATS, chosen) is faster
    assert judged_alone([judged(), both], ("image",), FLOATS, chosen) is None


def test_steps_of_pruning_multiply() -> None:
    half = PruningStep(method="structured", ratio=0.5)
    assert removed(None) is None
    assert removed(Pruning(steps=(half, half))) == 0.75


def test_a_recovery_keeps_its_curve() -> None:
    epochs = [Epoch(epoch=0, loss=2.0, accuracy={"image": 0.1, "audio": 0.3}, seconds=1.0)]
    found = recovery(Recovery("image", Pruning(steps=(PruningStep(method="depth", ratio=0.5),)), tuple(epochs)))
    assert (found.stages, found.pruning) == (("image",), "depth50")
    assert (found.points[0].epoch, found.points[0].loss) == (0, 2.0)
    assert found.points[0].accuracy == pytest.approx(0.2)


STATIC = Scheme(name="static_wi8_ai8", activation="u8")


@pytest.mark.parametrize(
    ("operation", "scheme", "reason"),
    [
        (Operation("MatMul", "scores", ("a", "b"), ("c",), mac=100), STATIC, "product of two activations"),
        (Operation("MatMul", "head", ("a", "small"), ("c",), mac=100), STATIC, "fewer than 4,096 weights"),
        (Operation("MatMul", "body", ("a", "large"), ("c",), mac=100), STATIC, "the quantizer has no 8-bit form"),
        (
            Operation("DEPTHWISE_CONV_2D", "deep", ("a", "large"), ("c",), mac=100, family="convolution"),
            Scheme(name="dynamic_wi8_af32"),
            "convolution: no fast kernel",
        ),
        (
            Operation("LayerNormalization", "norm", ("a", "small"), ("c",), family="norm"),
            STATIC,
            "normalization: no 8-bit kernel",
        ),
        (Operation("SOFTMAX", "softmax", ("a",), ("c",), family="softmax"), STATIC, "softmax: 8 bits cost accuracy"),
        (
            Operation("Conv", "stem/Conv", ("a", "large"), ("c",), mac=100),
            Scheme(name="static_wi8_ai8", activation="u8", exclude=("stem/*",)),
            "excluded by the scheme (stem/*)",
        ),
        (Operation("Transpose", "turn", ("a",), ("c",)), STATIC, None),
    ],
)
def test_a_float_layer_has_a_reason(operation: Operation, scheme: Scheme, reason: str | None) -> None:
    graph = CostGraph(
        sizes={"a": 4, "b": 4, "c": 4, "small": 4 * 100, "large": 4 * 100_000},
        constants=frozenset({"small", "large"}),
        inputs=("a",),
        outputs=("c",),
        operations=(operation,),
        weight_bytes=0,
    )
    found = reason_for(graph, operation, scheme)
    assert (found or "").startswith(reason or "")
    assert (found is None) == (reason is None)


@pytest.fixture(scope="module")
def report(compiled: Any) -> dict[str, Any]:
    found: dict[str, Any] = compiled.report()
    return found


def test_a_compile_reports_what_each_modality_costs(report: dict[str, Any]) -> None:
    lines = {line["modality"]: line for line in report["modalities"]}
    assert list(lines) == ["image", "sensor", ""]
    # Two convolutions and a linear layer on 16 by 16 pixels; two linear layers on 32 steps, then on their mean.
    assert lines["image"]["before"]["mac"] == 64 * 32 * 9 + 16 * 64 * 32 * 9 + 1024 * 32
    assert lines["sensor"]["before"]["mac"] == 32 * 8 * 256 + 256 * 32
    floats = [row for row in report["stages"] if row["scheme"] == "float"]
    assert sum(line["before"]["mac"] for line in lines.values()) == sum(row["mac"] for row in floats)
    rung, reference = report["bundles"][0]["rungs"][0], report["reference"]["accuracy"]
    assert lines["image"]["without"] == {"before": reference["sensor"], "after": rung["accuracy"]["sensor"]}
    assert lines["image"]["alone"] == {"before": reference["image"], "after": rung["accuracy"]["image"]}
    assert lines[""]["without"] is None
    assert all(line["uncounted"] == [] for line in lines.values())


def test_a_compile_reports_its_front_and_counters(report: dict[str, Any]) -> None:
    search = report["search"]
    assert 0 < search["fusion_passes"] <= search["cap"] == 10
    assert 0 < search["encoder_passes"] <= search["candidates"]
    front = search["front"]
    assert [point["p50_ms"] for point in front] == sorted(point["p50_ms"] for point in front)
    assert len(front) <= len(search["judged"])


def test_a_compile_says_what_stayed_float(report: dict[str, Any]) -> None:
    stages = {line["stage"] for line in report["float_layers"]}
    assert stages <= set(report["model"]["stages"])
    assert all(line["count"] > 0 and line["reason"] for line in report["float_layers"])


def test_a_compile_holds_its_rungs_to_the_budget(report: dict[str, Any]) -> None:
    (bundle,) = report["bundles"]
    names = [rung["name"] for rung in bundle["rungs"]]
    assert [constraint["rung"] for constraint in bundle["constraints"]] == names
    default = bundle["constraints"][0]
    assert default["what"] == "drop in image+sensor"
    assert (default["excess"] == 0) == bundle["within_budget"]
