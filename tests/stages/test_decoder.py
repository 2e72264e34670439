"""A model that makes tokens, taken apart: once per input, and once per token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from edgefuse.bundle.decoders import check_decoders
from edgefuse.bundle.spec import ModelSpec, StageSpec, tensor
from edgefuse.bundle.wiring import check_model, check_stages
from edgefuse.errors import BundleError, ModelError
from edgefuse.graph import StageGraph
from edgefuse.models import Decoder, FusionModel
from edgefuse.runtime.decoding import DecoderSession
from edgefuse.runtime.graph import Graph
from edgefuse.stages.examples import chained_feeds
from edgefuse.stages.explicit import split
from edgefuse.stages.found.generating import find_generating
from edgefuse.stages.running import run_torch
from edgefuse.stages.stage import TorchStage
from tests.decoders import STEPS, WORDS, CachedDecoder, LstmDecoder, answer_of, generating, inputs_of

KINDS = [LstmDecoder, CachedDecoder]


class _InTorch:
    def __init__(self, stage: TorchStage) -> None:
        self._stage = stage

    def run(self, feeds: Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]):  # type: ignore[no-untyped-def]
        return run_torch(self._stage, feeds)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_computed_once_is_a_stage_of_its_own(kind: type[LstmDecoder] | type[CachedDecoder]) -> None:
    model = generating(kind)
    stages = split(model)
    assert [stage.spec.role for stage in stages] == ["encoder", "encoder", "fusion", "decoder"]
    check_stages(model.spec, [stage.spec for stage in stages])
    check_decoders(model.spec, [stage.spec for stage in stages])
    once, step = ({id(parameter) for parameter in stage.module.parameters()} for stage in (stages[2], stages[3]))
    assert not once & step
    assert model.decoder is not None
    assert {id(parameter) for parameter in (*model.fusion.parameters(), *model.decoder.parameters())} == once | step


@pytest.mark.parametrize("kind", KINDS)
def test_the_stages_one_after_the_other_say_what_the_model_says(
    kind: type[LstmDecoder] | type[CachedDecoder],
) -> None:
    model = generating(kind)
    stages = split(model)
    sessions = {stage.spec.name: _InTorch(stage) for stage in stages}
    sessions["decoder"] = DecoderSession(sessions["decoder"], stages[-1].spec, model.spec.outputs[0])  # type: ignore[assignment,arg-type]
    graph = Graph(StageGraph(tuple(stage.spec for stage in stages), model.spec.modalities), sessions)
    for seed in range(8):
        inputs = inputs_of(seed)
        inputs = inputs if seed % 2 else {"left": inputs["left"]}
        told = graph.run({f"{name}.values": value for name, value in inputs.items()}, tuple(inputs))["tokens"]
        assert told.shape == (1, STEPS, len(WORDS))
        expected = answer_of(model, inputs)
        assert told[0, : len(expected)].argmax(axis=1).tolist() == expected
        assert not told[0, len(expected) :].any()


class Whole(nn.Module):
    """A model that nobody took apart, and that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.layer, self.decoder = nn.Linear(8, 16), LstmDecoder(16)

    def forward(self, left: Tensor) -> Tensor:
        self.calls += 1
        return torch.as_tensor(self.layer(left))


def test_what_a_decoder_prepares_is_seen_in_one_call() -> None:
    class Seen(Exception):  # noqa: N818 - no error
        """Ends it where stages are looked for."""

    def find(*_: object) -> Any:
        raise Seen

    module = Whole().eval()
    spec = replace(generating().spec, modalities=(tensor("left", shape=(1, 8)),))
    with pytest.raises(Seen):
        find_generating(module, spec, (), find)
    assert module.calls == 1


class InPlaceDecoder(CachedDecoder):
    """Writes into the caches that it is handed, as code for one machine does."""

    def forward(
        self, token: Tensor, position: Tensor, values: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits, made = super().forward(token, position, values)
        return logits, {name: values[name].copy_(value) for name, value in made.items()}


def test_a_step_that_changes_its_inputs_leaves_feeds_as_they_are() -> None:
    stages = split(generating(InPlaceDecoder))
    for feeds in chained_feeds(stages, count=2):
        before = {name: value.copy() for name, value in feeds["decoder"].items()}
        first = run_torch(stages[-1], feeds["decoder"])
        again = run_torch(stages[-1], feeds["decoder"])
        for name, value in before.items():
            np.testing.assert_array_equal(feeds["decoder"][name], value)
        for name, value in first.items():
            np.testing.assert_array_equal(again[name], value)


def test_generated_feeds_of_a_step_come_from_steps_before_it() -> None:
    stages = split(generating(CachedDecoder))
    seen = [feeds["decoder"] for feeds in chained_feeds(stages, count=6)]
    positions = [int(feeds["position"][0]) for feeds in seen]
    assert positions[0] == 0
    assert len(set(positions)) > 2
    for feeds, position in zip(seen, positions, strict=True):
        filled = np.abs(feeds["keys"]).sum(axis=(0, 1, 3)) > 0
        assert filled.tolist() == [place < position for place in range(STEPS)]
        assert 0 <= int(feeds["token"][0]) < len(WORDS)


def _lies() -> dict[str, tuple[list[StageSpec], ModelSpec, str]]:
    model = generating()
    specs, spec = [stage.spec for stage in split(model)], model.spec
    step, tokens = specs[-1], spec.outputs[0]

    def stages(**fields: object) -> list[StageSpec]:
        return [*specs[:-1], replace(step, **fields)]

    def model_of(**fields: object) -> ModelSpec:
        return replace(spec, outputs=(replace(tokens, **fields),))

    token = step.inputs[0]
    again = replace(token, tensor=replace(token.tensor, name="again"))
    wide = replace(token, tensor=replace(token.tensor, shape=(2,)))
    outputs = [replace(o, tensor=replace(o.tensor, shape=(1, 17))) if o.kind == "state" else o for o in step.outputs]
    inputs = [
        replace(i, tensor=replace(i.tensor, shape=(1, 17))) if i.source.kind == "state" else i for i in step.inputs
    ]
    lost = [replace(o, initial=o.initial and replace(o.initial, tensor="none")) for o in step.outputs]
    begins = "begins with what is not of its type and shape"
    return {
        "two tokens": (stages(inputs=(*step.inputs, again)), spec, "does not take one token"),
        "a wide token": (stages(inputs=(wide, *step.inputs[1:])), spec, "is no number"),
        "no decoder": (stages(role="fusion"), spec, "starts with a token, and no stage is a decoder"),
        "another takes tokens": ([replace(specs[0], inputs=(token,)), *specs[1:]], spec, "is no decoder: got encoder"),
        "not the last": ([step, *specs[:-1]], spec, "is a decoder, and not the last stage"),
        "another shape": (stages(inputs=tuple(inputs), outputs=tuple(outputs)), spec, begins),
        "from nowhere": (stages(outputs=tuple(lost)), spec, begins),
        "an end beyond the words": (specs, model_of(end=len(WORDS)), "the end of what"),
        "no start": (specs, model_of(start=None), "the start of what"),
        "two outputs": (specs, replace(spec, outputs=(tokens, tokens)), "does not give tokens, and nothing else"),
    }


@pytest.mark.parametrize("lie", _lies())
def test_wiring_that_lies_about_a_decoder_is_refused(lie: str) -> None:
    stages, spec, message = _lies()[lie]
    with pytest.raises(BundleError, match=message):
        check_decoders(spec, stages)


class _Nothing(LstmDecoder):
    def prepare(self, *fused: Tensor) -> dict[str, Tensor]:
        return {}


class _Reserved(LstmDecoder):
    def prepare(self, *fused: Tensor) -> dict[str, Tensor]:
        return {"token": fused[0]}


class _Wide(LstmDecoder):
    def prepare(self, *fused: Tensor) -> dict[str, Tensor]:
        return {"h": torch.cat([fused[0], fused[0]], dim=1), "context": fused[0]}


class _Short(LstmDecoder):
    def forward(
        self, token: Tensor, position: Tensor, values: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits, state = super().forward(token, position, values)
        return logits[:, :-1], state


class _Forgetful(LstmDecoder):
    def forward(
        self, token: Tensor, position: Tensor, values: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits, state = super().forward(token, position, values)
        return logits, {"h": state["h"]}


class _Shapeless(LstmDecoder):
    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.states = {"h": size, "c": (size,)}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (_Forgetful, r"does not return what it should: got h, expected .* the next value of every state \(h, c\)"),
        (_Shapeless, "the state 'h' of _Shapeless has no shape: got 16"),
        (_Nothing, "prepare gives nothing that a step could read: got an empty dict"),
        (_Reserved, "has an unusable name: got token"),
        (
            _Wide,
            r"the first value of the state 'h' has another shape than the state: got \[1, 32\], expected \[1, 16\]",
        ),
        (_Short, r"'tokens' of a step of .* has the wrong shape: got \[1, 11\], expected \[1, 12\]"),
    ],
)
def test_a_decoder_that_breaks_its_contract(kind: type[LstmDecoder], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        split(generating(kind))


def test_a_decoder_needs_an_output_that_starts_and_ends() -> None:
    model = generating()
    tokens = replace(model.spec.outputs[0], end=None)
    spec = replace(model.spec, outputs=(tokens,))
    encoders = {name: model.encoders[name] for name in ("left", "right")}
    with pytest.raises(ModelError, match="one TokensOutput with a `start` and an `end`"):
        FusionModel(spec, encoders, model.fusion, decoder=model.decoder)
    with pytest.raises(ModelError, match=r"expected a subclass of edgefuse\.Decoder"):
        FusionModel(model.spec, encoders, model.fusion, decoder=nn.Linear(1, 1))  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError):
        Decoder().prepare()


@pytest.mark.parametrize("name", ["blank", "start", "end"])
@pytest.mark.parametrize("token", [-1, len(WORDS)])
def test_a_token_of_an_output_is_one_of_its_words(name: str, token: int) -> None:
    spec = generating().spec
    with pytest.raises(BundleError, match=f"the {name} of the output 'tokens' is no token: got {token}"):
        check_model(replace(spec, outputs=(replace(spec.outputs[0], **{name: token}),)))
