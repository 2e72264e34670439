"""Metrics of tokens: logits over a vocabulary at each step, [n, steps, tokens], against ids or text.

Ids, int [n, steps], are filled up with -100, which counts for nothing. Text is what the ids spell: see `TokensOutput`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType

import numpy as np

from edgefuse.bundle.spec import TokensOutput
from edgefuse.compiler.metrics.metric import Array, Asked, Metric, Rows
from edgefuse.errors import MeasureError

FILLING = -100
"""What fills up a shorter row of ids: torch's losses leave it out, too."""


def _right_steps(outputs: Array, targets: Array, asked: Asked) -> Rows:
    """Return how many steps of each item have the right token, and how many have a target."""
    told = _told(outputs, targets)
    return ((outputs.argmax(axis=2) == targets) & told).sum(axis=1), told.sum(axis=1)


def _surprise(outputs: Array, targets: Array, asked: Asked) -> Rows:
    """Return the negative log-likelihood of each item's targets, summed, and how many there are."""
    told = _told(outputs, targets)
    exact = outputs.astype(np.float64)
    top = exact.max(axis=2, keepdims=True)
    logs = exact - top - np.log(np.exp(exact - top).sum(axis=2, keepdims=True))
    own = np.take_along_axis(logs, np.where(told, targets, 0)[:, :, None], axis=2)[:, :, 0]
    return -np.where(told, own, 0.0).sum(axis=1), told.sum(axis=1)


def _edits(outputs: Array, targets: Array, asked: Asked, *, words: bool) -> Rows:
    """Return the edits from each item's text to its target, and the length of the target, in words or characters."""
    from torchmetrics.functional.text import char_error_rate, word_error_rate

    rate = word_error_rate if words else char_error_rate
    lengths = [len(text.split()) if words else len(text) for text in targets.tolist()]
    # A target of nothing has no rate: each word there is one edit.
    mistakes = [
        round(float(rate([found], [wanted])) * length) if length else len(found.split() if words else found)
        for found, wanted, length in zip(texts(outputs, asked), targets.tolist(), lengths, strict=True)
    ]
    return np.array(mistakes), np.array(lengths)


def _n_grams(outputs: Array, targets: Array, asked: Asked) -> Rows:
    """Return of each text its n-grams of one to four words that the target has, all of them, and both lengths."""
    matches, totals, lengths = [], [], []
    for found, wanted in zip(texts(outputs, asked), targets.tolist(), strict=True):
        counts = [(_counted(found.split(), n), _counted(wanted.split(), n)) for n in range(1, 5)]
        matches.append([(one & other).total() for one, other in counts])
        totals.append([one.total() for one, _ in counts])
        lengths.append([len(found.split()), len(wanted.split())])
    return np.array(matches), np.array(totals), np.array(lengths)


def _counted(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(n)), strict=False))


def bleu(matches: Array, totals: Array, lengths: Array) -> float:
    """Return the BLEU score of a corpus, from 0 to 1 (Papineni et al., ACL 2002), without smoothing.

    Args:
        matches: how many n-grams of each text its target has, int [n, 4], of one to four words.
        totals: how many n-grams there are, int [n, 4].
        lengths: words of each text and of its target, int [n, 2].
    """
    right, all_of_them = matches.sum(axis=0), totals.sum(axis=0)
    if not right.all():
        return 0.0
    found, wanted = lengths.sum(axis=0)
    return float(np.exp(np.log(right / all_of_them).mean() + min(0.0, 1 - wanted / found)))


def texts(outputs: Array, asked: Asked) -> list[str]:
    """Return what the likeliest tokens spell."""
    if not isinstance(asked.output, TokensOutput) or outputs.ndim != 3:
        raise MeasureError(
            "a metric of text needs tokens", got=f"outputs {outputs.shape}", expected="[n, steps, tokens]"
        )
    return [asked.output.text(ids) for ids in outputs.argmax(axis=2).tolist()]


def ratio(part: Array, whole: Array) -> float:
    """Return the share that a part makes up over all items."""
    return float(part.sum() / max(whole.sum(), 1))


def perplexity(surprises: Array, counts: Array) -> float:
    """Return the exponential of the mean negative log-likelihood."""
    return float(np.exp(surprises.sum() / max(counts.sum(), 1)))


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "token_accuracy": Metric(_right_steps, ratio),
        "perplexity": Metric(_surprise, perplexity, lower_is_better=True),
        "bleu": Metric(_n_grams, bleu, against="text"),
        "character_error_rate": Metric(partial(_edits, words=False), ratio, lower_is_better=True, against="text"),
        "word_error_rate": Metric(partial(_edits, words=True), ratio, lower_is_better=True, against="text"),
    }
)


def _told(outputs: Array, targets: Array) -> Array:
    """Return at which steps there is a target, bool [n, steps]."""
    if outputs.ndim != 3 or targets.shape != outputs.shape[:2] or not np.issubdtype(targets.dtype, np.integer):
        raise MeasureError(
            "a metric of tokens needs logits at each step and ids",
            got=f"outputs {outputs.shape} and targets {targets.dtype} {targets.shape}",
            expected="[n, steps, tokens] and integers [n, steps]",
        )
    told: Array = targets != FILLING
    if told.any() and (targets[told].min() < 0 or targets[told].max() >= outputs.shape[2]):
        raise MeasureError(
            "a target is not a token", got=f"up to {targets.max()}", expected=f"0 to {outputs.shape[2] - 1}"
        )
    return told
