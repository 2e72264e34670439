"""Make the trained part of the reference model `assistant`: `python examples/assistant/train.py`.

Pictures, captions and voices are real (Tux Paint's stamps), the encoders are pretrained and stay as they are. The same
machine and library versions give the same weights.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

from edgefuse.datasets import stamps
from edgefuse.models.assistant import build
from edgefuse.models.assistant.model import trained_state
from edgefuse.models.assistant.training import Epoch, TrainSettings, accuracy_by_subset, embed, fit, matching
from edgefuse.models.reference.loop import make_deterministic
from edgefuse.models.reference.weights import save

HERE = Path(__file__).parent


def report(epoch: Epoch) -> None:
    """Print one line about an epoch to stderr."""
    scores = "  ".join(f"{name} {value:.3f}" for name, value in epoch.accuracy.items())
    found = "  ".join(f"{name} {value:.3f}" for name, value in epoch.recall.items())
    line = f"{epoch.epoch:3d} {epoch.seconds:6.0f} s  loss {epoch.loss:.3f}  {scores}  found {found}"
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Train, then write the weights and the curve with the test table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=TrainSettings.epochs, help="length of the schedule")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for assistant.safetensors and training.json")
    arguments = parser.parse_args()
    settings = replace(TrainSettings(), epochs=arguments.epochs)
    make_deterministic(settings.seed, settings.threads)
    model = build(dropout=settings.fusion_dropout)
    recordings = len(stamps.items("train"))
    print("encoding the data", file=sys.stderr, flush=True)
    data = embed(model, stamps.items("train", count=settings.turns * recordings))
    parts = {split: embed(model, stamps.items(split)) for split in ("validation", "test", "known")}
    curve = fit(model, data, parts["validation"], settings, report)
    save(trained_state(model), arguments.out / "assistant.safetensors")
    record = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "settings": asdict(settings),
        "data": {
            "digest": stamps.load().digest,
            "settings": asdict(stamps.Settings()),
            "items": {"train": recordings, **{split: len(part.stamps) for split, part in parts.items()}},
            "stamps": {split: len(set(part.stamps.tolist())) for split, part in {"train": data, **parts}.items()},
        },
        "curve": [asdict(point) for point in curve],
        "test": accuracy_by_subset(model, parts["test"]),
        "matching": {split: matching(model, parts[split]) for split in ("validation", "test", "known")},
    }
    (arguments.out / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
