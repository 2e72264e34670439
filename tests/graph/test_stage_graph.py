"""Plans and the executor, over values that are no arrays at all: plain strings."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from edgefuse.bundle.spec import ModelSpec, Source, StageInput, StageOutput, StageSpec, TensorSpec
from edgefuse.errors import InputError
from edgefuse.graph import StageGraph

COUNT = TensorSpec(name="count", shape=(1, 1))


class Spoken:
    """Runs a stage by writing down what it was given."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def __call__(self, stage: StageSpec, feeds: dict[str, str]) -> dict[str, str]:
        self.ran.append(stage.name)
        return {port.tensor.name: f"{stage.name}({','.join(feeds.values())})" for port in stage.outputs}


@pytest.fixture
def graph(tiny_spec: ModelSpec, tiny_stages: tuple[StageSpec, ...]) -> StageGraph:
    return StageGraph(tiny_stages, tiny_spec.modalities)


VALUES = {
    "image.pixels": "pixels",
    "text.ids": "ids",
    "text.length": "2",
    "motion.values": "motion",
    "motion.length": "3",
    "present": "mask",
}


def test_all_fresh_runs_every_stage_in_order(graph: StageGraph) -> None:
    run_stage = Spoken()
    plan = graph.plan(["image", "text", "motion"])
    results, state = graph.run(plan, run_stage, VALUES)
    assert run_stage.ran == [stage.name for stage in graph.stages]
    assert plan.present == (True, True, True)
    assert set(plan.given) == set(VALUES)
    assert results["logits"].startswith("fusion(image_encoder(image_frontend(pixels)),text_encoder(ids,2),")
    assert state == {}


def test_what_is_kept_is_found_among_the_values(graph: StageGraph) -> None:
    run_stage = Spoken()
    plan = graph.plan(["text"], kept=["image", "motion"])
    kept = {"/image_encoder.feature": "old image", "/motion_encoder.feature": "old motion"}
    results, _ = graph.run(plan, run_stage, {**VALUES, **kept})
    assert run_stage.ran == ["text_encoder", "fusion"]
    assert results == {"logits": "fusion(old image,text_encoder(ids,2),old motion,mask)"}
    assert plan.given == ("text.ids", "text.length", "/image_encoder.feature", "/motion_encoder.feature", "present")


def test_absent_modalities_are_zeros_of_the_largest_shape(graph: StageGraph) -> None:
    plan = graph.plan(["text"])
    zeros = {zero.key: zero.tensor.max_shape for zero in plan.zeros}
    assert plan.present == (False, True, False)
    assert zeros["/image_encoder.feature"] == (1, 8)
    assert zeros["motion.values"] == (1, 5, 3)
    assert zeros["motion.length"] == (1,)
    assert [step.stage.name for step in plan.steps] == ["text_encoder", "fusion"]


def test_only_what_is_wanted_runs(graph: StageGraph) -> None:
    run_stage = Spoken()
    plan = graph.plan(["image"], wanted=["image_encoder"])
    results, _ = graph.run(plan, run_stage, VALUES)
    assert run_stage.ran == ["image_frontend", "image_encoder"]
    assert results == {"/image_encoder.feature": "image_encoder(image_frontend(pixels))"}
    alone = graph.plan(["image"], given=["image_frontend"], wanted=["image_encoder"])
    assert alone.given == ("/image_frontend.normalised",)


def test_a_missing_value_is_named_with_its_stage(graph: StageGraph) -> None:
    values = {key: value for key, value in VALUES.items() if key != "text.length"}
    with pytest.raises(InputError, match=r"the value 'text\.length', which the stage 'text_encoder' needs, is missing"):
        graph.run(graph.plan(["text"]), Spoken(), values)


def test_names_must_be_known_and_named_once(graph: StageGraph) -> None:
    with pytest.raises(InputError, match="unknown modalities: got smell, expected image or text or motion"):
        graph.plan(["image", "smell"])
    with pytest.raises(InputError, match="the modality 'image' is more than one of fresh, kept and absent"):
        graph.plan(["image"], kept=["image"])


def counter() -> StageGraph:
    """Return a graph of one stage that reads its own last count."""
    source = Source(kind="state", owner="counter", tensor="count")
    ports = (StageInput(tensor=COUNT, source=source),)
    outputs = (StageOutput(tensor=COUNT, kind="state"),)
    return StageGraph((StageSpec(name="counter", role="model", inputs=ports, outputs=outputs),), ())


def test_a_state_comes_back_in_the_next_run() -> None:
    graph = counter()
    state: Mapping[str, float] = graph.initial(lambda tensor: 7.0)
    assert state == {"~counter.count": 7.0}
    for expected in (8.0, 9.0, 10.0):
        _, state = graph.run(graph.plan(()), lambda stage, feeds: {"count": feeds["count"] + 1}, {}, state)
        assert state == {"~counter.count": expected}


def test_the_state_of_a_stage_that_does_not_run_stays() -> None:
    graph = counter()
    plan = graph.plan((), wanted=[])
    assert graph.run(plan, Spoken(), {}, {"~counter.count": "old"})[1] == {"~counter.count": "old"}
