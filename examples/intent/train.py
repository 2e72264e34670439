"""Make the weights of the reference model `intent`: `python examples/intent/train.py`.

Requests are those of `home-assistant-intents`; speech (eSpeak NG), typing errors and pictures are synthetic. The same
machine and library versions give the same weights.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

from edgefuse.datasets import intent
from edgefuse.datasets.intent.requests import SLOTS
from edgefuse.models.intent import build
from edgefuse.models.intent.training import Batch, Settings, begin, collate, fit, scores_by_subset
from edgefuse.models.reference.batches import Prepare, Preprocess
from edgefuse.models.reference.loop import make_deterministic
from edgefuse.models.reference.weights import save

HERE = Path(__file__).parent


def batches(items: intent.IntentItems, prepare: Prepare, size: int = 100) -> list[Batch]:
    """Return all items of a split as prepared batches."""
    chosen = [items[start : start + size] for start in range(0, len(items), size)]
    return [collate(samples, prepare) for samples in chosen]


def guessed(train: intent.IntentItems, test: intent.IntentItems) -> dict[str, float]:
    """Return the accuracy of each output without any input: its most frequent label is told."""
    found = {}
    for slot in SLOTS:
        best = Counter(train.labels(index)[slot] for index in range(len(train))).most_common(1)[0][0]
        found[slot] = sum(test.labels(index)[slot] == best for index in range(len(test))) / len(test)
    return found


def report(epoch: int, loss: float, seconds: float) -> None:
    """Print one line about an epoch to stderr."""
    print(f"{epoch:3d} {seconds:6.0f} s  loss {loss:.3f}", file=sys.stderr, flush=True)


def main() -> None:
    """Train, then write the weights and what they reach."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=Settings().epochs, help="length of the schedule")
    parser.add_argument("--items", type=int, help="of each epoch and of the test split; all by default")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for intent.safetensors and training.json")
    arguments = parser.parse_args()
    settings = replace(Settings(), epochs=arguments.epochs)
    make_deterministic(settings.seed, threads=1)
    model = build()
    begin(model, HERE.parent / "dialogue" / "dialogue.safetensors")
    prepare = Preprocess(model)
    per_epoch = arguments.items or intent.Settings().requests[0]
    fit(model, intent.items("train", count=settings.epochs * per_epoch), prepare, settings, report)
    save(model.state_dict(), arguments.out / "intent.safetensors")
    train, test = intent.items("train"), intent.items("test", count=arguments.items)
    scores = scores_by_subset(model, batches(test, prepare))
    record = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "settings": asdict(settings),
        "data": {"digest": intent.load().digest, "settings": asdict(intent.Settings())},
        "test": {subset: asdict(score) for subset, score in scores.items()},
        "without_inputs": guessed(train, test),
    }
    (arguments.out / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if "MALLOC_TRIM_THRESHOLD_" not in os.environ:  # keeps glibc from giving memory back at every step: 1.4 × faster
        tuned = {"MALLOC_MMAP_THRESHOLD_": "2000000000", "MALLOC_TRIM_THRESHOLD_": "4000000000"}
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **tuned})
    main()
