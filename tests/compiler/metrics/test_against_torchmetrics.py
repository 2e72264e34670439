"""Every metric is torchmetrics' to rounding, whichever of both computes it; each tells a worse candidate."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics.functional import classification, regression, retrieval, text

from edgefuse.bundle.spec import (
    ArrayOutput,
    ClassOutput,
    EmbeddingOutput,
    LabelsOutput,
    Output,
    TokensOutput,
    ValuesOutput,
)
from edgefuse.compiler.metrics.metric import Array
from edgefuse.compiler.metrics.named import KINDS, metric_of
from edgefuse.measure.metrics import is_share

ITEMS, CLASSES = 300, 5
RNG = np.random.default_rng(0)
CLASS = ClassOutput(labels=tuple("abcde"))
LABELS = LabelsOutput(labels=tuple("abcde"), threshold=0.3)
VALUES = ValuesOutput(labels=tuple("abcde"))
EMBEDDING = EmbeddingOutput(size=8)
WORDS = TokensOutput(steps=6, labels=tuple("abcdef"), separator=" ")

INDICES = RNG.integers(0, CLASSES, ITEMS)
LOGITS = (2.0 * np.eye(CLASSES)[INDICES] + RNG.normal(0, 1, (ITEMS, CLASSES))).astype(np.float32)
TRUTHS = RNG.integers(0, 2, (ITEMS, CLASSES)).astype(np.uint8)
CHANCES = (3.0 * TRUTHS - 1.5 + RNG.normal(0, 1, TRUTHS.shape)).astype(np.float32)
NUMBERS = RNG.normal(0, 3, (ITEMS, CLASSES))
FOUND = (NUMBERS + RNG.normal(0, 1, NUMBERS.shape)).astype(np.float32)
GROUPS = np.arange(ITEMS) // 3
POINTS = (RNG.normal(0, 1, (ITEMS // 3, 8))[GROUPS] + RNG.normal(0, 0.7, (ITEMS, 8))).astype(np.float32)
IDS = RNG.integers(0, 6, (ITEMS, 6))
IDS[::3, 4:] = -100
STEPS = (2.0 * np.eye(6)[np.maximum(IDS, 0)] + RNG.normal(0, 1, (ITEMS, 6, 6))).astype(np.float32)
SPELLED = np.array([WORDS.text(ids[ids >= 0].tolist()) for ids in IDS])
DATA: dict[type[Output], tuple[Output, Array, Array]] = {
    ClassOutput: (CLASS, LOGITS, INDICES),
    LabelsOutput: (LABELS, CHANCES, TRUTHS),
    ValuesOutput: (VALUES, FOUND, NUMBERS),
    EmbeddingOutput: (EMBEDDING, POINTS, GROUPS),
    TokensOutput: (WORDS, STEPS, IDS),
    ArrayOutput: (ArrayOutput(shape=(5,)), FOUND, NUMBERS),
}


def tensors(function: Callable[..., Any], **settings: Any) -> Callable[[Array, Array], float]:
    """Give a function of torchmetrics arrays."""
    return lambda outputs, targets: float(function(torch.tensor(outputs), torch.tensor(targets), **settings))


def texts(function: Callable[..., Any]) -> Callable[[Array, Array], float]:
    """Give a function of torchmetrics what tokens spell."""
    return lambda outputs, targets: float(
        function([WORDS.text(ids) for ids in outputs.argmax(axis=2).tolist()], targets.tolist())
    )


def several(function: Callable[..., Any], average: str) -> Callable[[Array, Array], float]:
    return tensors(function, num_labels=CLASSES, threshold=LABELS.threshold, average=average)


def hits(outputs: Array, targets: Array, k: int) -> float:
    """Return torchmetrics' hit rate, query by query."""
    length = np.linalg.norm(outputs, axis=1)
    near = torch.tensor(outputs @ outputs.T / np.outer(length, length))
    found = []
    for item in range(len(outputs)):
        others = np.arange(len(outputs)) != item
        like = torch.tensor(targets[others] == targets[item])
        found.append(float(retrieval.retrieval_hit_rate(near[item][others], like, top_k=k)))
    return float(np.mean(found))


many = partial(tensors, num_classes=CLASSES)
THEIRS: dict[tuple[type[Output], str], Callable[[Array, Array], float]] = {
    (ClassOutput, "accuracy"): many(classification.multiclass_accuracy, average="micro"),
    (ClassOutput, "accuracy@2"): many(classification.multiclass_accuracy, average="micro", top_k=2),
    (ClassOutput, "balanced_accuracy"): many(classification.multiclass_accuracy, average="macro"),
    (ClassOutput, "macro_precision"): many(classification.multiclass_precision),
    (ClassOutput, "macro_recall"): many(classification.multiclass_recall),
    (ClassOutput, "macro_f1"): many(classification.multiclass_f1_score),
    (ClassOutput, "average_precision"): many(classification.multiclass_average_precision),
    (ClassOutput, "auroc"): many(classification.multiclass_auroc),
    (LabelsOutput, "accuracy"): several(classification.multilabel_accuracy, "micro"),
    (LabelsOutput, "exact_match"): tensors(
        classification.multilabel_exact_match, num_labels=CLASSES, threshold=LABELS.threshold
    ),
    (LabelsOutput, "average_precision"): tensors(classification.multilabel_average_precision, num_labels=CLASSES),
    (LabelsOutput, "auroc"): tensors(classification.multilabel_auroc, num_labels=CLASSES),
    (LabelsOutput, "macro_precision"): several(classification.multilabel_precision, "macro"),
    (LabelsOutput, "macro_recall"): several(classification.multilabel_recall, "macro"),
    (LabelsOutput, "macro_f1"): several(classification.multilabel_f1_score, "macro"),
    (LabelsOutput, "micro_precision"): several(classification.multilabel_precision, "micro"),
    (LabelsOutput, "micro_recall"): several(classification.multilabel_recall, "micro"),
    (LabelsOutput, "micro_f1"): several(classification.multilabel_f1_score, "micro"),
    (ValuesOutput, "mae"): tensors(regression.mean_absolute_error),
    (ValuesOutput, "mse"): tensors(regression.mean_squared_error),
    (ValuesOutput, "rmse"): tensors(regression.mean_squared_error, squared=False),
    (ValuesOutput, "concordance"): lambda outputs, targets: float(
        regression.concordance_corrcoef(torch.tensor(outputs).double(), torch.tensor(targets)).mean()
    ),
    (EmbeddingOutput, "recall@1"): partial(hits, k=1),
    (EmbeddingOutput, "recall@10"): partial(hits, k=10),
    (TokensOutput, "token_accuracy"): lambda outputs, targets: float(
        classification.multiclass_accuracy(
            torch.tensor(outputs).flatten(0, 1), torch.tensor(targets).flatten(), 6, average="micro", ignore_index=-100
        )
    ),
    (TokensOutput, "perplexity"): lambda outputs, targets: float(
        text.perplexity(torch.tensor(outputs), torch.tensor(targets), ignore_index=-100)
    ),
    (TokensOutput, "bleu"): lambda outputs, targets: texts(text.bleu_score)(outputs, targets[:, None]),
    (TokensOutput, "character_error_rate"): texts(text.char_error_rate),
    (TokensOutput, "word_error_rate"): texts(text.word_error_rate),
}
ALL = [(kind, name.replace("@k", "@3")) for kind, (_, known) in KINDS.items() for name in known]


def given(kind: type[Output], name: str) -> tuple[Output, Array, Array]:
    output, outputs, targets = DATA[kind]
    if metric_of(output, name).against == "reference":
        targets = outputs
    elif metric_of(output, name).against == "text":
        targets = SPELLED
    elif kind is EmbeddingOutput and metric_of(output, name).against == "targets":
        targets = POINTS.astype(np.float64) + 0.1
    return output, outputs, targets


@pytest.mark.parametrize(("kind", "name"), list(THEIRS), ids=lambda value: getattr(value, "__name__", value))
def test_it_is_theirs(kind: type[Output], name: str) -> None:
    output, outputs, targets = given(kind, name)
    assert metric_of(output, name).aggregate(outputs, targets) == pytest.approx(
        THEIRS[kind, name](outputs, targets), abs=1e-5
    )


@pytest.mark.parametrize(("kind", "name"), ALL, ids=lambda value: getattr(value, "__name__", value))
def test_a_worse_candidate_has_lost(kind: type[Output], name: str) -> None:
    output, outputs, targets = given(kind, name)
    metric = metric_of(output, name)
    worse = (outputs + np.random.default_rng(1).normal(0, 4, outputs.shape)).astype(np.float32)
    reference = metric.rows(outputs, targets)
    drop = metric.drop(reference, metric.rows(worse, targets))
    assert 0 < drop.low <= drop.drop <= drop.high
    assert drop.drop == pytest.approx(
        metric.lost(metric.aggregate(outputs, targets), metric.aggregate(worse, targets)), abs=1e-9
    )
    assert metric.drop(reference, reference).drop == 0
    assert metric.share == is_share(name)
    if metric.share:
        assert 0 <= metric.figure(reference) <= 1


def test_the_bootstrap_is_as_wide_as_the_interval_of_a_mean() -> None:
    one, other = ((np.random.default_rng(seed).normal(3, 1, 400) ** 2,) for seed in (0, 1))
    mean = metric_of(VALUES, "mse")
    by_draws = metric_of(VALUES, "rmse")  # of the same rows: its derivative turns one interval into the other
    slope = 1 / (2 * by_draws.figure(one))
    exact, drawn = mean.drop(one, other), by_draws.drop(one, other)
    assert drawn.high - drawn.low == pytest.approx(slope * (exact.high - exact.low), rel=0.15)


def test_classes_that_never_occur_count_for_nothing() -> None:
    few = INDICES < 2
    for name in ("auroc", "average_precision"):
        assert 0.5 < metric_of(CLASS, name).aggregate(LOGITS[few], INDICES[few]) <= 1
    assert np.isnan(metric_of(CLASS, "auroc").aggregate(LOGITS[:1], INDICES[:1]))
