"""What each modality added to an answer: equal to a prediction without it, at the cost of fusion alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgefuse
from edgefuse.bundle.spec import (
    ArrayOutput,
    ClassOutput,
    EmbeddingOutput,
    LabelsOutput,
    Output,
    StageSpec,
    ValuesOutput,
)
from edgefuse.bundle.writer import write_bundle
from edgefuse.errors import InputError
from edgefuse.runtime.contributions import _difference, _pairs
from edgefuse.runtime.graph import Graph
from edgefuse.runtime.pipeline import Pipeline
from edgefuse.runtime.prediction import Contribution
from tests.runtime.second import _required
from tests.runtime.test_opened import towers

Load = Callable[..., Pipeline]
Raw = dict[str, Any]
NAMES = ("image", "text", "motion")


@pytest.fixture
def stages_run(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each stage is run from here on."""
    counts: Counter[str] = Counter()
    real = Graph._run_stage

    def counting(self: Graph, stage: StageSpec, feeds: Any, *sessions: Any) -> Any:
        counts[stage.name] += 1
        return real(self, stage, feeds, *sessions)

    monkeypatch.setattr(Graph, "_run_stage", counting)
    return counts


def odds(probability: float) -> float:
    return math.log(probability / (1 - probability))


@pytest.mark.parametrize("bundle", ["tiny_bundle", "tflite_bundle"])
@pytest.mark.parametrize("given", [NAMES, ("image", "motion"), ("text", "motion")])
def test_leaving_out_by_features_equals_a_prediction_without(
    request: pytest.FixtureRequest, bundle: str, given: tuple[str, ...], tiny_raw: Raw
) -> None:
    raw = {name: tiny_raw[name] for name in given}
    with edgefuse.load(request.getfixturevalue(bundle), cache=False) as pipeline:
        whole = pipeline(**raw)
        found = pipeline.explain(**raw)
        np.testing.assert_array_equal(np.asarray(found.outputs["logits"]), np.asarray(whole.outputs["logits"]))
        assert found.contributions is not None
        assert list(found.contributions.each) == list(given)
        for name, added in found.contributions.each.items():
            rest = pipeline(**{**raw, name: None})
            assert added.probability == {"logits": pytest.approx(whole.score - rest.scores[whole.label], abs=1e-12)}
            expected = odds(whole.score) - odds(rest.scores[whole.label])
            assert added.log_odds == {"logits": pytest.approx(expected, abs=1e-9)}
            assert (added.values, added.distance) == ({}, {})


def test_features_are_the_same_numbers(load_tiny: Load, tiny_raw: Raw) -> None:
    """What stands behind the equality above, to the bit."""
    with load_tiny(cache=False) as pipeline:
        inputs = pipeline.preprocess(**tiny_raw)
        with pipeline._calling() as graph:
            _, features = graph.run_with_features(inputs.values, inputs.present)
            pool = {**inputs.values, **features}
            for name in NAMES:
                left = tuple(one for one in NAMES if one != name)
                alone = graph.run({k: v for k, v in inputs.values.items() if not k.startswith(name)}, left)
                np.testing.assert_array_equal(graph.after_encoders.run(pool, left)["logits"], alone["logits"])


@pytest.mark.parametrize("given", [NAMES, ("image", "text"), ("motion",)])
def test_it_costs_no_more_than_two_fusions_for_each_modality(
    load_tiny: Load, tiny_raw: Raw, given: tuple[str, ...], stages_run: Counter[str]
) -> None:
    raw = {name: tiny_raw[name] for name in given}
    with load_tiny(cache=False) as pipeline:
        pipeline(**raw)
        once = stages_run.copy()
        stages_run.clear()
        pipeline.explain(**raw)
    more = stages_run - once
    assert set(more) == {"fusion"}, "encoders ran once"
    assert more["fusion"] <= 2 * len(given) * once["fusion"]
    assert more["fusion"] == (len(given) + 1 if len(given) > 1 else 1)


def test_together_is_all_of_them_and_no_sum(load_tiny: Load, tiny_raw: Raw) -> None:
    with load_tiny() as pipeline:
        found = pipeline.explain(**tiny_raw)
        inputs = pipeline.preprocess(**tiny_raw)
        with pipeline._calling() as graph:
            nothing = np.asarray(graph.run(inputs.values, ())["logits"], np.float64)[0]
        bias = np.exp(nothing) / np.exp(nothing).sum()
        label = list(found.scores).index(found.label)
        assert found.contributions is not None
        together = found.contributions.together.log_odds["logits"]
        assert together == pytest.approx(odds(found.score) - odds(bias[label]), abs=1e-9)
        # The tiny fusion is linear: what the modalities add to a logit sums up; to log-odds, it does not.
        assert sum(one.log_odds["logits"] for one in found.contributions.each.values()) != pytest.approx(together)
        (alone,) = (explained := pipeline.explain(text="go").contributions).each.values()  # type: ignore[union-attr]
        assert alone == explained.together  # type: ignore[union-attr]


def test_a_required_modality_has_none(tmp_path: Path, tiny_raw: Raw) -> None:
    with edgefuse.load(_required(tmp_path / "required.edgefuse")) as pipeline:
        found = pipeline.explain(**tiny_raw).contributions
        assert found is not None
        assert list(found.each) == ["text", "motion"]
        whole, rest = pipeline(**tiny_raw), pipeline(image=tiny_raw["image"])
        assert found.together.probability["logits"] == pytest.approx(whole.score - rest.scores[whole.label])
    write_bundle(tmp_path / "towers", *towers())
    with edgefuse.load(tmp_path / "towers") as pipeline:
        two = {"a": np.ones((1, 4), np.float32), "b": np.zeros((1, 4), np.float32)}
        found = pipeline.explain(**two).contributions
        assert found is not None
        assert found.each == {}
        assert found.together.probability == {"logits": 0.0}


def test_a_call_explains_nothing(load_tiny: Load, tiny_raw: Raw) -> None:
    with load_tiny() as pipeline:
        assert pipeline(**tiny_raw).contributions is None
        with pytest.raises(InputError, match="no modality 'txt'"):
            pipeline.explain(txt="go")
    with pytest.raises(InputError, match="this pipeline is closed"):
        pipeline.explain(text="go")


def told(output: Output, whole: Any, rest: Any) -> Contribution:
    answers = ({output.name: np.array([numbers], np.float32)} for numbers in (whole, rest))
    return _difference(list(_pairs((output,), *answers)))


def test_each_kind_of_output_has_a_difference_of_its_own() -> None:
    assert told(ValuesOutput(labels=("x", "y")), [3, 1], [1, 1.5]).values == {"values": {"x": 2.0, "y": -0.5}}
    labels = told(LabelsOutput(labels=("a", "b")), [0, 100], [0, -100]).values["logits"]
    assert labels == {"a": 0.0, "b": pytest.approx(1)}
    assert told(EmbeddingOutput(size=2), [3, 4], [0, 0]).distance == {"embedding": 5.0}
    assert told(ArrayOutput(shape=(2, 2)), [[1, 2], [3, 4]], [[1, 2], [3, 0]]).distance == {"array": 4.0}


def test_what_is_no_number_has_no_entry() -> None:
    empty = Contribution({}, {}, {}, {})
    classes = ClassOutput(labels=("a", "b", "c"))
    for output, whole, rest in (
        (classes, [1, 2, math.nan], [1, 2, 3]),
        (classes, [1, 2, 3], [1, math.inf, 3]),
        (ValuesOutput(labels=("x",)), [math.inf], [1]),
        (ArrayOutput(shape=(3,)), [1, 2, 3], [1, 2]),
    ):
        assert told(output, whole, rest) == empty
    ruled_out = told(classes, [5, 1, -math.inf], [-math.inf, 1, 0])
    assert ruled_out.probability["logits"] == pytest.approx(1 / (1 + math.exp(-4)))
    assert ruled_out.log_odds == {}
    assert told(ClassOutput(labels=("a",)), [1], [2]).probability == {"logits": 0.0}
    assert told(classes, [2000, -2000, 0], [-2000, 2000, 0]).probability == {"logits": 1.0}
