"""What a model that makes tokens says by itself, greedily, against what the reference says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from edgefuse.bundle.spec import Record, TokensOutput
from edgefuse.compiler.evaluation.evaluator import Evaluator
from edgefuse.compiler.evaluation.runners import Runner
from edgefuse.compiler.metrics.metric import Asked
from edgefuse.compiler.metrics.tokens import FILLING, METRICS
from edgefuse.compiler.model.splits import SplitData
from edgefuse.compiler.model.subject import Subject
from edgefuse.stages.stage import Array


class Sentences(Record, frozen=True, kw_only=True):
    """Sentences of a rung, each made token by token from its own tokens, over the items that have every modality.

    Attributes:
        items: how many there are.
        tokens_equal: the share of the reference's tokens that stand at the same place.
        sentences_equal: the share of sentences that are the reference's to the last token.
        bleu: of the sentences against the targets (one each, up to four words); None where no item has a target.
        reference_bleu: the same of the reference.
    """

    items: int
    tokens_equal: float
    sentences_equal: float
    bleu: float | None = None
    reference_bleu: float | None = None


def sentences(
    subject: Subject, data: SplitData, evaluator: Evaluator, reference: Mapping[str, Runner], rung: Mapping[str, Runner]
) -> Sentences:
    """Let the reference and a rung speak, and compare.

    Args:
        subject: a model that makes tokens.
        data: the split.
        evaluator: of it.
        reference: runners of torch by stage.
        rung: runners of the rung's files by stage.
    """
    output: TokensOutput = subject.spec.outputs[0]  # type: ignore[assignment] # `bundle.decoders` says so
    theirs, ours = (np.asarray(evaluator.spoken(runners)) for runners in (reference, rung))
    told = [output.sentence(ids) for ids in theirs.argmax(axis=2).tolist()]
    found = [output.sentence(ids) for ids in ours.argmax(axis=2).tolist()]
    same = [sum(one == other for one, other in zip(*pair, strict=False)) for pair in zip(told, found, strict=True)]
    return Sentences(
        items=len(told),
        tokens_equal=sum(same) / max(sum(map(len, told)), 1),
        sentences_equal=float(np.mean([one == other for one, other in zip(told, found, strict=True)])),
        bleu=_bleu(subject, data, output, ours),
        reference_bleu=_bleu(subject, data, output, theirs),
    )


def _bleu(subject: Subject, data: SplitData, output: TokensOutput, logits: Array) -> float | None:
    """Return the BLEU score of what was said, of the items whose target is known."""
    targets = data.targets.get(output.name)
    if targets is None:
        return None
    places, wanted = targets.of(data.with_subset(range(len(subject.spec.modalities))))
    if not len(places):
        return None
    if wanted.dtype.kind in "iu":
        wanted = np.array([output.text(ids[ids != FILLING].tolist()) for ids in wanted])
    return replace(METRICS["bleu"], asked=Asked(output)).aggregate(logits[places], wanted)
