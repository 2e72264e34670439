"""Make the trained part of the reference model `captioning`: `python examples/captioning/train.py`.

Pictures of things are real; composition and sentences are synthetic; the CNN is pretrained and stays as it is. The same
machine and library versions give the same weights.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from edgefuse.datasets.scenes import Scenes, Settings, load_captions
from edgefuse.datasets.scenes.captions import Caption, Guess, spelled
from edgefuse.models.captioning import build
from edgefuse.models.captioning.model import trained_state
from edgefuse.models.captioning.training import Epoch, TrainSettings, embed, fit, judged, scores_by_subset
from edgefuse.models.reference.loop import make_deterministic
from edgefuse.models.reference.weights import save

HERE = Path(__file__).parent
SLICE = 100
GUESSED_FROM = 20_000


def report(epoch: Epoch) -> None:
    """Print one line about an epoch to stderr."""
    scores = "  ".join(f"{name} {value:.3f}" for name, value in epoch.token_accuracy.items())
    print(f"{epoch.epoch:3d} {epoch.seconds:6.0f} s  loss {epoch.loss:.3f}  {scores}", file=sys.stderr, flush=True)


def guessed(seen: list[Caption], scenes: Scenes, count: int) -> dict[str, dict[str, float]]:
    """Return what the most frequent words score without the picture, with the prefix and without it."""
    captions = [scenes.caption(index) for index in range(count)]
    found: dict[str, dict[str, float]] = {}
    for name, prefixed in (("prefix", True), ("nothing", False)):
        guess = Guess(seen, prefixed)
        right = [one == other for c in captions for one, other in zip(guess.tokens(c), c.ids, strict=True)]
        told = [spelled(guess.sentence(caption)) for caption in captions]
        found[name] = {"token_accuracy": sum(right) / len(right), **judged(told, captions, scenes)}
    return found


def main() -> None:
    """Train, then write the weights and the curve with the scores on the test split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=TrainSettings.epochs, help="length of the schedule")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for captioning.safetensors and training.json")
    arguments = parser.parse_args()
    settings, chosen = replace(TrainSettings(), epochs=arguments.epochs), Settings()
    make_deterministic(settings.seed, settings.threads)
    model = build(dropout=settings.dropout)
    print("encoding the scenes", file=sys.stderr, flush=True)
    scenes = {split: Scenes(split, chosen) for split in ("train", "validation", "test")}
    counts = dict(zip(scenes, (settings.scenes, *chosen.scenes[1:]), strict=True))
    maps = {split: embed(model, scenes[split], count) for split, count in counts.items()}
    judge = partial(scores_by_subset, model, maps["validation"], scenes["validation"])
    curve = fit(
        *(model, scenes["train"], maps["train"]),
        lambda: {name: found["token_accuracy"] for name, found in judge(sentences=False).items()},
        *(settings, report),
    )
    save(trained_state(model), arguments.out / "captioning.safetensors")
    seen = [scenes["train"].caption(index) for index in range(GUESSED_FROM)]
    record = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "settings": asdict(settings),
        "data": {"digest": load_captions(chosen).digest, "settings": asdict(chosen)},
        "curve": [asdict(point) for point in curve],
        "validation": judge(),
        "test": scores_by_subset(model, maps["test"], scenes["test"]),
        "guessed": guessed(seen, scenes["test"], counts["test"]),
        "first_of_test": {
            "scenes": SLICE,
            "scores": scores_by_subset(model, maps["test"][:SLICE], scenes["test"]),
        },
    }
    (arguments.out / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
