"""The executor of the wiring, with sessions that write down what they were asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from edgefuse.bundle.manifest import Binding
from edgefuse.bundle.spec import ModelSpec, Source, StageInput, StageOutput, StageSpec, TensorSpec, tensor
from edgefuse.errors import InputError
from edgefuse.graph import StageGraph
from edgefuse.runtime.backends.backend import InputPorts, Session
from edgefuse.runtime.graph import Graph

Array = npt.NDArray[np.generic]


class Recorder:
    """A session that answers ones and keeps what it was fed."""

    def __init__(self, stage: StageSpec) -> None:
        self.outputs = stage.outputs
        self.feeds: list[Mapping[str, Array]] = []

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self.feeds.append(feeds)
        return {port.tensor.name: np.ones(port.tensor.max_shape, np.float32) for port in self.outputs}


@pytest.fixture
def sessions(tiny_stages: tuple[StageSpec, ...]) -> dict[str, Recorder]:
    return {stage.name: Recorder(stage) for stage in tiny_stages}


@pytest.fixture
def values() -> dict[str, Array]:
    return {
        "image.pixels": np.zeros((1, 8, 8, 1), np.uint8),
        "text.ids": np.zeros((1, 6), np.int32),
        "text.length": np.array([2], np.int32),
        "motion.values": np.zeros((1, 2, 3), np.float32),
        "motion.length": np.array([2], np.int32),
    }


def graph_of(spec: ModelSpec, stages: tuple[StageSpec, ...], sessions: Mapping[str, Session]) -> Graph:
    return Graph(StageGraph(stages, spec.modalities), sessions)


def test_every_stage_runs_once_on_what_its_wiring_names(
    tiny_spec: ModelSpec,
    tiny_stages: tuple[StageSpec, ...],
    sessions: dict[str, Recorder],
    values: dict[str, Array],
) -> None:
    results = graph_of(tiny_spec, tiny_stages, sessions).run(values, ("image", "text", "motion"))
    assert list(results) == ["logits"]
    assert all(len(session.feeds) == 1 for session in sessions.values())
    assert sessions["image_frontend"].feeds[0]["pixels"] is values["image.pixels"]
    assert sessions["motion_encoder"].feeds[0]["length"] is values["motion.length"]
    assert sessions["fusion"].feeds[0]["present"].tolist() == [[1, 1, 1]]


def test_the_stages_of_an_absent_modality_are_skipped(
    tiny_spec: ModelSpec, tiny_stages: tuple[StageSpec, ...], sessions: dict[str, Recorder], values: dict[str, Array]
) -> None:
    graph_of(tiny_spec, tiny_stages, sessions).run(values, ("text",))
    assert {name for name, session in sessions.items() if session.feeds} == {"text_encoder", "fusion"}
    feeds = sessions["fusion"].feeds[0]
    assert feeds["present"].tolist() == [[0, 1, 0]]
    assert feeds["present"].dtype == np.float32
    assert feeds["image"].tolist() == [[0] * 8]
    assert feeds["image"].dtype == np.float32
    assert feeds["text"].tolist() == [[1] * 8]


def test_only_the_stages_with_a_session_run_and_kept_features_replace_the_others(
    tiny_spec: ModelSpec, tiny_stages: tuple[StageSpec, ...], sessions: dict[str, Recorder]
) -> None:
    features = {f"/{name}_encoder.feature": np.full((1, 8), 7, np.float32) for name in ("image", "text", "motion")}
    fusion = graph_of(tiny_spec, tiny_stages, {"fusion": sessions["fusion"]})
    assert list(fusion.run(features, ("image", "motion"))) == ["logits"]
    feeds = sessions["fusion"].feeds[0]
    assert feeds["image"].tolist() == [[7] * 8]
    assert not feeds["text"].any()  # absent, whatever was kept


def test_a_whole_model_gets_zeros_for_what_is_absent(tiny_spec: ModelSpec, values: dict[str, Array]) -> None:
    def raw(owner: str) -> StageInput:
        delivered = tiny_spec.modality(owner).tensors[0]
        source = Source(kind="modality", owner=owner, tensor=delivered.name)
        return StageInput(tensor=msgspec.structs.replace(delivered, name=owner), source=source)

    length = TensorSpec(name="steps", dtype="int32", shape=(1,))
    model = StageSpec(
        name="model",
        role="model",
        inputs=(
            raw("image"),
            raw("motion"),
            StageInput(tensor=length, source=Source(kind="length", owner="motion")),
        ),
        outputs=(StageOutput(tensor=TensorSpec(name="logits", shape=(1, 3)), kind="result"),),
    )
    session = Recorder(model)
    Graph(StageGraph((model,), tiny_spec.modalities), {"model": session}).run(values, ("image",))
    feeds = session.feeds[0]
    assert feeds["motion"].shape == (1, 5, 3)
    assert not feeds["motion"].any()
    assert feeds["steps"].tolist() == [0]


def test_constants_cannot_be_changed_by_a_stage(
    tiny_spec: ModelSpec, tiny_stages: tuple[StageSpec, ...], sessions: dict[str, Recorder], values: dict[str, Array]
) -> None:
    graph_of(tiny_spec, tiny_stages, sessions).run(values, ("text",))
    with pytest.raises(ValueError, match="read-only"):
        sessions["fusion"].feeds[0]["image"][0, 0] = np.float32(1)


def test_a_missing_value_is_named(
    tiny_spec: ModelSpec, tiny_stages: tuple[StageSpec, ...], sessions: dict[str, Recorder], values: dict[str, Array]
) -> None:
    del values["text.length"]
    with pytest.raises(InputError, match=r"the value 'text\.length', which the stage 'text_encoder' needs, is missing"):
        graph_of(tiny_spec, tiny_stages, sessions).run(values, ("image", "text"))


def test_an_unknown_modality_is_named(
    tiny_spec: ModelSpec, tiny_stages: tuple[StageSpec, ...], sessions: dict[str, Recorder], values: dict[str, Array]
) -> None:
    with pytest.raises(InputError, match="unknown modalities: got smell, expected image or text or motion"):
        graph_of(tiny_spec, tiny_stages, sessions).run(values, ("image", "smell"))


class OnDevice:
    """A state that lies on a device until somebody reads it as an array."""

    def __init__(self, total: float) -> None:
        self.total = total
        self.read = 0

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        self.read += 1
        return np.array([[self.total]], dtype or np.float32)


class Summing:
    """A session that adds up its inputs and leaves the sum on its device."""

    def __init__(self, inputs: tuple[Binding, ...]) -> None:
        self._ports = InputPorts(inputs)

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        total = feeds["total"]
        if not isinstance(total, OnDevice):
            total = OnDevice(self._ports.arrange(feeds)["total"].item())
        summed = total.total + feeds["value"].item()
        return {"sum": np.array([[summed]], np.float32), "total": OnDevice(summed)}


class Reading:
    """A session of another runtime, which takes arrays alone."""

    def __init__(self, inputs: tuple[Binding, ...]) -> None:
        self._ports = InputPorts(inputs)

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        arranged = self._ports.arrange(feeds)
        summed = np.add(arranged["total"], arranged["value"])
        return {"sum": summed, "total": summed}


def test_a_state_stays_on_its_device_and_another_session_reads_it() -> None:
    number = TensorSpec(name="value", shape=(1, 1))
    total = msgspec.structs.replace(number, name="total")
    stage = StageSpec(
        name="sum",
        role="model",
        inputs=(
            StageInput(tensor=number, source=Source(kind="modality", owner="sensor", tensor="value")),
            StageInput(tensor=total, source=Source(kind="state", owner="sum", tensor="total")),
        ),
        outputs=(
            StageOutput(tensor=msgspec.structs.replace(number, name="sum"), kind="result"),
            StageOutput(tensor=total, kind="state"),
        ),
    )
    inputs = tuple(Binding(port=n, tensor=n, dtype="float32", shape=(1, 1)) for n in ("value", "total"))
    stages = StageGraph((stage,), (tensor("sensor", shape=(1, 1)),))
    first, second = (Graph(stages, {"sum": session}) for session in (Summing(inputs), Reading(inputs)))
    state: Mapping[str, Any] = first.initial_state()
    for expected in (1, 2, 3):
        results, state = first.step({"sensor.value": np.ones((1, 1), np.float32)}, ("sensor",), state)
        assert results["sum"].item() == expected
    left: Any = state["~sum.total"]
    assert left.read == 0
    results, _ = second.step({"sensor.value": np.ones((1, 1), np.float32)}, ("sensor",), state)
    assert results["sum"].item() == 4
    assert left.read == 1
