"""The typed views of a prediction."""

from __future__ import annotations

import numpy as np
import pytest

from edgefuse.bundle.spec import ClassOutput, EmbeddingOutput, ValuesOutput
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


@pytest.mark.parametrize("view", ["embedding", "values"])
def test_a_view_that_does_not_fit_is_refused(view: str) -> None:
    with pytest.raises(InputError) as caught:
        getattr(CLASSES, view)
    assert str(caught.value) == (
        f"this model does not predict {view}: got 'logits' (class). "
        "Fix: read prediction.outputs, or the view that fits."
    )
