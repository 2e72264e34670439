"""Make the weights of the reference model `classifier`: `python examples/classifier/train.py`.

Pictures are real (Fashion-MNIST), speech is synthetic (eSpeak NG), texts are made up. The training data have a long
tail. The same machine and library versions give the same weights.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

from edgefuse.datasets import clothing
from edgefuse.models.classifier import build
from edgefuse.models.classifier.training import (
    FocalLoss,
    Settings,
    balanced_weights,
    logits_by_subset,
    recall_by_label,
)
from edgefuse.models.digits.training import Epoch, accuracy_by_subset, fit
from edgefuse.models.reference.batches import Batch, Prepare, Preprocess, collate
from edgefuse.models.reference.loop import make_deterministic
from edgefuse.models.reference.weights import save

HERE = Path(__file__).parent
CURVE_ITEMS = 500


def batches(items: clothing.ClothingItems, prepare: Prepare, size: int = 100) -> list[Batch]:
    """Return all items of a split as prepared batches."""
    return [collate(items[start : start + size], prepare) for start in range(0, len(items), size)]


def report(epoch: Epoch) -> None:
    """Print one line about an epoch to stderr."""
    scores = "  ".join(f"{name} {value:.3f}" for name, value in epoch.accuracy.items())
    print(f"{epoch.epoch:3d} {epoch.seconds:6.0f} s  loss {epoch.loss:.3f}  {scores}", file=sys.stderr, flush=True)


def main() -> None:
    """Train, then write the weights and the curve with the test table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=Settings().schedule.epochs, help="length of the schedule")
    parser.add_argument("--items", type=int, help="of the training pictures and of the test split; all by default")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for classifier.safetensors and training.json")
    arguments = parser.parse_args()
    settings = Settings()
    pictures = arguments.items or settings.schedule.epoch_items
    schedule = replace(settings.schedule, epochs=arguments.epochs, max_epochs=arguments.epochs, epoch_items=pictures)
    settings = replace(settings, schedule=schedule)
    make_deterministic(schedule.seed, schedule.threads)
    model = build()
    prepare = Preprocess(model)
    samples = clothing.items("train", count=schedule.epochs * pictures)
    validation = batches(clothing.items("validation", count=min(CURVE_ITEMS, pictures)), prepare)
    loss = FocalLoss(balanced_weights(clothing.Settings().counts(), settings.balance), settings.focus)
    curve = fit(model, samples, validation, prepare, schedule, report, forward=logits_by_subset, loss=loss)
    save(model.state_dict(), arguments.out / "classifier.safetensors")
    test = batches(clothing.items("test", count=arguments.items), prepare)
    record = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "settings": asdict(settings),
        "data": {
            "digest": clothing.load().digest,
            "settings": asdict(clothing.Settings()),
            "train": clothing.Settings().counts(),
        },
        "curve": [asdict(point) for point in curve],
        "test": accuracy_by_subset(model, test, logits_by_subset),
        "recall": recall_by_label(model, test),
    }
    (arguments.out / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if "MALLOC_TRIM_THRESHOLD_" not in os.environ:  # keeps glibc from giving memory back at every step: 1.4 × faster
        tuned = {"MALLOC_MMAP_THRESHOLD_": "2000000000", "MALLOC_TRIM_THRESHOLD_": "4000000000"}
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **tuned})
    main()
