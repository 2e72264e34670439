"""Make the trained part of the reference model `sentiment`: `python examples/sentiment/train.py`.

Sentences and ratings are real, the speech is synthetic (eSpeak NG), the encoders are pretrained and stay as they are.
The same machine and library versions give the same weights.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

from edgefuse.datasets import sentiment as data
from edgefuse.models.reference.loop import make_deterministic
from edgefuse.models.reference.weights import save
from edgefuse.models.sentiment import build
from edgefuse.models.sentiment.model import trained_state
from edgefuse.models.sentiment.training import Epoch, TrainSettings, embed, fit, scores_by_subset

HERE = Path(__file__).parent
SLICE = 100


def report(epoch: Epoch) -> None:
    """Print one line about an epoch to stderr."""
    scores = "  ".join(f"{name} {value:.3f}" for name, value in epoch.accuracy.items())
    print(f"{epoch.epoch:3d} {epoch.seconds:6.0f} s  loss {epoch.loss:.3f}  {scores}", file=sys.stderr, flush=True)


def described(settings: data.Settings) -> dict[str, object]:
    """Return how many sentences of each kind and label the splits have, and how many are in the neutral band."""
    return {
        "digest": data.load(settings).digest,
        "settings": asdict(settings),
        "sentences": len(data.sentences()),
        "in_neutral_band": dict(Counter(s.kind for s in data.sentences() if abs(s.rating) < settings.neutral_band)),
        "splits": {
            split: {
                "sentences": len(part),
                "said": min(len(part), settings.spoken) if split == "train" else len(part),
                **Counter(sentence.kind for sentence in part),
                **Counter(data.LABELS[sentence.label] for sentence in part),
            }
            for split, part in data.dealt(settings).items()
        },
    }


def main() -> None:
    """Train, then write the weights and the curve with the scores on the test split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=TrainSettings.epochs, help="length of the schedule")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for sentiment.safetensors and training.json")
    arguments = parser.parse_args()
    settings = replace(TrainSettings(), epochs=arguments.epochs)
    make_deterministic(settings.seed, settings.threads)
    model = build(dropout=settings.fusion_dropout)
    print("encoding the data", file=sys.stderr, flush=True)
    chosen = data.Settings()
    parts = {split: embed(model, data.items(split, chosen)) for split in ("train", "validation", "test")}
    curve = fit(model, parts["train"], parts["validation"], settings, report)
    save(trained_state(model), arguments.out / "sentiment.safetensors")
    record = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "settings": asdict(settings),
        "data": described(chosen),
        "curve": [asdict(point) for point in curve],
        "validation": scores_by_subset(model, parts["validation"]),
        "test": scores_by_subset(model, parts["test"]),
        "first_of_test": {"items": SLICE, "scores": scores_by_subset(model, parts["test"].rows(range(SLICE)))},
    }
    (arguments.out / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
