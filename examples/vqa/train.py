"""Make the reference model `vqa`: `python examples/vqa/train.py`.

Pictures of things are real; composition, questions and answers are synthetic. The same machine and library versions
give the same weights.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

from edgefuse.datasets.scenes import SPLITS, Scenes, Settings, load_questions, question_items
from edgefuse.datasets.scenes.questions import WORDINGS, guessed, guesses
from edgefuse.models.reference.loop import make_deterministic
from edgefuse.models.reference.weights import save
from edgefuse.models.vqa import build
from edgefuse.models.vqa.training import Epoch, TrainSettings, accuracy, embed, fit, fit_encoder

HERE = Path(__file__).parent
SLICE = 50
GUESSED_FROM = 20_000


def report(epoch: Epoch) -> None:
    """Print one line about an epoch to stderr."""
    scores = "  ".join(f"{name} {value:.3f}" for name, value in epoch.accuracy.items())
    print(f"{epoch.epoch:3d} {epoch.seconds:6.0f} s  loss {epoch.loss:.3f}  {scores}", file=sys.stderr, flush=True)


def described(settings: Settings) -> dict[str, object]:
    """Return what the splits hold, and how well the most frequent answer to a question does on the test split."""
    asked = {split: list(question_items(split, settings).questions()) for split in SPLITS[1:]}
    train = Scenes("train", settings)
    guess = guesses(train.question(index) for index in range(GUESSED_FROM))
    return {
        "digest": load_questions(settings).digest,
        "settings": asdict(settings),
        "questions": {split: dict(Counter(question.about for question in part)) for split, part in asked.items()},
        "guess": {
            "all": guessed(guess, asked["test"]),
            **{kind: guessed(guess, [q for q in asked["test"] if q.about == kind]) for kind in WORDINGS},
        },
    }


def main() -> None:
    """Train, then write the weights and the curve with the scores on the test split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=TrainSettings.epochs, help="length of the schedule")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for vqa.safetensors and training.json")
    arguments = parser.parse_args()
    settings, chosen = replace(TrainSettings(), epochs=arguments.epochs), Settings()
    make_deterministic(settings.seed, settings.threads)
    model = build(dropout=settings.dropout)
    scenes = {split: Scenes(split, chosen) for split in ("train", "validation", "test")}
    curve = [fit_encoder(model, scenes["train"], scenes["validation"], settings)]
    report(curve[0])
    counts = dict(zip(scenes, (settings.scenes, *chosen.scenes[1:]), strict=True))
    maps = {split: embed(model, scenes[split], count) for split, count in counts.items()}
    asked = {split: list(question_items(split, chosen).questions()) for split in ("validation", "test")}

    def judge(split: str, count: int | None = None) -> dict[str, dict[str, float]]:
        some = asked[split][: None if count is None else count * chosen.questions]
        return accuracy(model, maps[split][:count], some)

    curve += fit(
        *(model, scenes["train"], maps["train"]),
        lambda: {name: scores["all"] for name, scores in judge("validation").items()},
        *(settings, report),
    )
    save(model.state_dict(), arguments.out / "vqa.safetensors")
    record = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "settings": asdict(settings),
        "data": described(chosen),
        "curve": [asdict(point) for point in curve],
        "validation": judge("validation"),
        "test": judge("test"),
        "first_of_test": {"scenes": SLICE, "scores": judge("test", SLICE)},
    }
    (arguments.out / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
