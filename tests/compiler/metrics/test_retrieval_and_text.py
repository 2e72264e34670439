from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgefuse.bundle.spec import ClassOutput, EmbeddingOutput, ModelSpec, TokensOutput, tensor
from edgefuse.compiler.metrics.named import metric_of, metrics_of
from edgefuse.errors import MeasureError, ModelError

PICTURES = EmbeddingOutput(name="picture", size=2, pair="text")
TEXTS = EmbeddingOutput(name="text", size=2)


def test_pictures_find_their_texts() -> None:
    pictures = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    texts = np.array([[2, 0.1], [1, 0.9], [0, 3]], np.float32)  # the others are nearer to the second and third
    assert metric_of(PICTURES, "mean_rank").rows(pictures, texts)[0].tolist() == [1, 2, 3]
    assert metric_of(PICTURES, "mean_rank").aggregate(pictures, texts) == 2
    assert metric_of(PICTURES, "recall@1").aggregate(pictures, texts) == pytest.approx(1 / 3)
    assert metric_of(PICTURES, "recall@2").aggregate(pictures, texts) == pytest.approx(2 / 3)
    assert metric_of(PICTURES).name == "recall@10"


def test_a_model_that_embeds_all_alike_finds_nothing() -> None:
    alike = np.ones((20, 2), np.float32)
    assert metric_of(PICTURES, "recall@10").aggregate(alike, alike) == 0
    assert metric_of(TEXTS, "recall@10").aggregate(alike, np.arange(20) // 2) == 0


def test_what_has_no_like_is_left_out() -> None:
    points = np.array([[1, 0], [1, 0.1], [0, 1]], np.float32)
    assert metric_of(TEXTS, "recall@1").rows(points, np.array([4, 4, 5]))[0].tolist() == [1, 1]
    with pytest.raises(MeasureError, match="there is nothing to find: no two items are of one group"):
        metric_of(TEXTS, "recall@1").rows(points, np.array([1, 2, 3]))


def test_tokens_spell_text() -> None:
    letters = TokensOutput(steps=9, labels=("", "h", "e", "l", "o"), blank=0)
    assert letters.text([1, 1, 2, 0, 3, 3, 0, 3, 4]) == "hello"
    words = TokensOutput(steps=4, labels=("<end>", "good", "morning"), separator=" ", end=0)
    assert words.text([1, 2, 0, 1]) == "good morning"
    wanted = np.array(["good morning", ""])
    logits = np.eye(3, dtype=np.float32)[np.array([[1, 2, 0, 0], [1, 0, 0, 0]])]
    assert metric_of(words, "word_error_rate").aggregate(logits, wanted) == 0.5  # one word too many, of two


@pytest.mark.parametrize(
    ("outputs", "metric", "message"),
    [
        ((PICTURES,), "", "the output 'picture' is to find one that is no embedding of the model: got 'text'"),
        (
            (PICTURES, TEXTS),
            "mae",
            "the output 'picture' is to find 'text', which its metric does not judge: got 'mae'",
        ),
        (
            (ClassOutput(labels=("a", "b"), metric="auroc"),),
            "accuracy",
            "the model 'm' names two metrics for its first output: got metric='accuracy' of the model, 'auroc' of the",
        ),
    ],
)
def test_what_cannot_judge_is_a_sentence(
    outputs: tuple[EmbeddingOutput | ClassOutput, ...], metric: str, message: str
) -> None:
    described = ModelSpec(name="m", modalities=(tensor("x", shape=(1, 2)),), outputs=outputs, metric=metric)
    with pytest.raises(ModelError) as caught:
        metrics_of(described, Path())
    assert str(caught.value).startswith(message)
