"""Make the weights of the reference model `seq2seq`: `python examples/seq2seq/train.py`.

The digits are real handwriting, the clips that show them are synthetic, words and answers are drawn. Beside the model,
one that does not see and one that does not read are trained in the same way, to be compared with.
The same machine and library versions give the same weights.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from torchmetrics.functional.text import bleu_score

from edgefuse.datasets import sequence
from edgefuse.datasets.sequence.words import LABELS
from edgefuse.models.reference.batches import Preprocess
from edgefuse.models.reference.loop import make_deterministic
from edgefuse.models.reference.weights import save
from edgefuse.models.seq2seq import build
from edgefuse.models.seq2seq.layers import VideoEncoder
from edgefuse.models.seq2seq.training import (
    Answers,
    Point,
    TrainSettings,
    answered,
    encoded,
    fit,
    fit_frames,
)

HERE = Path(__file__).parent
SLICE = 100
IGNORED = {"model": "", "without_pictures": "video", "without_words": "text"}


def report(name: str, point: Point) -> None:
    """Print one line about an epoch to stderr."""
    told = f"loss {point.loss:.3f}  token accuracy {point.accuracy:.3f}"
    print(f"{name} {point.epoch:3d} {point.seconds:6.0f} s  {told}", file=sys.stderr, flush=True)


def scores(answers: Answers) -> dict[str, float]:
    """Return the accuracy of tokens, the share of whole answers that are right, and BLEU."""
    found, wanted = ([" ".join(LABELS[i] for i in row) for row in rows] for rows in (answers.ids, answers.wanted))
    return {
        "token_accuracy": answers.accuracy,
        "whole_answers": sum(one == other for one, other in zip(found, wanted, strict=True)) / len(wanted),
        "bleu": float(bleu_score(found, [[text] for text in wanted])),
    }


def main() -> None:
    """Train, then write the weights and the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=TrainSettings.epochs, help="in which it learns to answer")
    parser.add_argument("--clips", type=int, default=TrainSettings.clips, help="to learn from")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for seq2seq.safetensors and training.json")
    arguments = parser.parse_args()
    settings = replace(TrainSettings(), epochs=arguments.epochs, clips=arguments.clips)
    make_deterministic(settings.seed, settings.threads)
    model = build()
    seeing = model.encoders["video"]
    assert isinstance(seeing, VideoEncoder)
    train = sequence.items("train", count=settings.clips)
    print("learning digits", file=sys.stderr, flush=True)
    digits_right = fit_frames(seeing, train, settings)
    print(f"{100 * digits_right:.1f} % of the frames that it learned from are right", file=sys.stderr, flush=True)
    parts = {split: encoded(model, sequence.items(split), Preprocess(model)) for split in ("validation", "test")}
    parts["train"] = encoded(model, train, Preprocess(model))
    record: dict[str, object] = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "settings": asdict(settings),
        "data": {"digest": sequence.load().digest, "settings": asdict(sequence.Settings()), "slice": SLICE},
        "digits_right_in_training": round(digits_right, 3),
    }
    for name, ignored in IGNORED.items():
        torch.manual_seed(settings.seed)
        trained = build()
        trained.encoders["video"].load_state_dict(seeing.state_dict())
        given = {split: part.without(ignored) for split, part in parts.items()}
        curve = fit(trained, given["train"], given["validation"], settings, partial(report, name))
        record[name] = {
            "curve": [asdict(point) for point in curve],
            "validation": scores(answered(trained, given["validation"])),
            "test": scores(answered(trained, given["test"])),
            "first_of_test": scores(answered(trained, given["test"].rows(torch.arange(SLICE)))),
        }
        if not ignored:
            save(trained.state_dict(), arguments.out / "seq2seq.safetensors")
    (arguments.out / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
