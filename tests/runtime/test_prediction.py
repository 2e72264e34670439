"""The typed views of a prediction."""

from __future__ import annotations

import numpy as np
import pytest

from edgefuse.bundle.spec import ClassOutput, EmbeddingOutput, LabelsOutput, TokensOutput, ValuesOutput
from edgefuse.errors import InputError
from edgefuse.runtime.prediction import Prediction

CLASSES = Prediction(
    outputs={"logits": np.log(np.array([[1, 6, 3]], np.float32))},
    spec=(ClassOutput(labels=("stop", "go", "wait")),),
)


def test_classes() -> None:
    assert CLASSES.label == "go"
    assert CLASSES.score == pytest.approx(0.6)
    assert CLASSES.scores == pytest.approx({"stop": 0.1, "go": 0.6, "wait": 0.3})
    assert [label for label, _ in CLASSES.top(2)] == ["go", "wait"]
    assert [score for _, score in CLASSES.top(2)] == pytest.approx([0.6, 0.3])
    assert len(CLASSES.top(9)) == 3


def test_huge_logits_do_not_overflow() -> None:
    prediction = Prediction({"logits": np.array([[3e38, 0]], np.float32)}, (ClassOutput(labels=("a", "b")),))
    assert prediction.scores == {"a": 1.0, "b": 0.0}


def test_top_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match=r"top\(k\) needs a positive number of classes: got 0, expected 1 or more"):
        CLASSES.top(0)


def test_embedding_and_values() -> None:
    prediction = Prediction(
        outputs={"embedding": np.ones((1, 4), np.float32), "values": np.array([[0.5, 2]], np.float32)},
        spec=(EmbeddingOutput(size=4), ValuesOutput(labels=("valence", "arousal"))),
    )
    assert prediction.embedding.shape == (4,)
    assert prediction.values == {"valence": 0.5, "arousal": 2.0}
    with pytest.raises(InputError, match=r"predict classes: got 'embedding' \(embedding\), 'values' \(values\)"):
        _ = prediction.label


def test_several_labels_are_those_above_the_threshold() -> None:
    output = LabelsOutput(labels=("dog", "cat", "car"), threshold=0.4)
    prediction = Prediction({"logits": np.array([[2, -0.1, -1e4]], np.float32)}, (output,))
    assert prediction.labels == pytest.approx({"dog": 1 / (1 + np.exp(-2)), "cat": 1 / (1 + np.exp(0.1))})
    with pytest.raises(InputError, match=r"does not predict several labels: got 'logits' \(class\)"):
        _ = CLASSES.labels


def test_tokens_are_text() -> None:
    output = TokensOutput(steps=3, labels=("", "h", "i"), blank=0)
    logits = np.eye(3, dtype=np.float32)[[1, 0, 2]][None]
    assert Prediction({"tokens": logits}, (output,)).text == "hi"
    with pytest.raises(InputError, match=r"not that of one item: got the shape \[3, 3\], expected \[1, 3, 3\]"):
        _ = Prediction({"tokens": logits[0]}, (output,)).text


@pytest.mark.parametrize("view", ["embedding", "values"])
def test_a_view_that_does_not_fit_is_refused(view: str) -> None:
    with pytest.raises(InputError) as caught:
        getattr(CLASSES, view)
    assert str(caught.value) == (
        f"this model does not predict {view}: got 'logits' (class). "
        "Fix: read prediction.outputs, or the view that fits."
    )


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("numbers", [[NAN, 1, 2], [1, INF, 2], [INF, -INF, 0], [-INF, -INF, -INF], [NAN, NAN, NAN]])
def test_what_is_not_finite_has_no_label(numbers: list[float]) -> None:
    prediction = Prediction({"logits": np.array([numbers], np.float32)}, CLASSES.spec)
    assert not prediction.finite
    bad = sum(not np.isfinite(number) for number in numbers)
    for view in (
        lambda: prediction.label,
        lambda: prediction.score,
        lambda: prediction.scores,
        lambda: prediction.top(2),
    ):
        with pytest.raises(InputError) as caught:
            view()
        assert str(caught.value) == (
            f"the answer 'logits' is not finite: got {bad} of 3 numbers NaN or infinite, expected numbers. "
            "Fix: scale the inputs as in training: what is too large overflows inside the model."
        )
    assert prediction.outputs["logits"].shape == (1, 3)  # still to be looked at


def test_a_class_that_is_ruled_out_is_finite() -> None:
    prediction = Prediction({"logits": np.array([[-INF, 1, 1]], np.float32)}, CLASSES.spec)
    assert prediction.finite
    assert prediction.scores == {"stop": 0, "go": 0.5, "wait": 0.5}


@pytest.mark.parametrize("number", [NAN, INF, -INF])
def test_embeddings_and_values_that_are_not_finite_are_not_given(number: float) -> None:
    given = np.array([[1, number]], np.float32)
    embedding = Prediction({"embedding": given}, (EmbeddingOutput(size=2),))
    values = Prediction({"values": given}, (ValuesOutput(labels=("a", "b")),))
    assert not embedding.finite
    assert not values.finite
    with pytest.raises(InputError, match="'embedding' is not finite: got 1 of 2 numbers"):
        _ = embedding.embedding
    with pytest.raises(InputError, match="'values' is not finite: got 1 of 2 numbers"):
        _ = values.values


def test_finite_is_of_all_outputs() -> None:
    good, bad = np.ones((1, 2), np.float32), np.array([[1, NAN]], np.float32)
    spec = (ValuesOutput(labels=("a", "b")), EmbeddingOutput(size=2))
    assert Prediction({"values": good, "embedding": good}, spec).finite
    assert Prediction({"values": good}, spec).finite  # of what the model gave
    prediction = Prediction({"values": good, "embedding": bad}, spec)
    assert not prediction.finite
    assert prediction.values == {"a": 1, "b": 1}


def test_a_batch_is_not_flattened_into_one_item() -> None:
    good, bad = [[0, 1, 2], [2, 1, 0]], [[0, 1, 2], [NAN, 1, 0]]
    both = Prediction({"logits": np.array(good, np.float32)}, CLASSES.spec)
    assert both.finite
    assert not Prediction({"logits": np.array(bad, np.float32)}, CLASSES.spec).finite
    with pytest.raises(InputError) as caught:
        _ = both.label
    assert str(caught.value) == (
        "the answer 'logits' is not that of one item: got the shape [2, 3], expected [1, size]. "
        "Fix: make one prediction of each item, as pipeline.batch does."
    )
