"""Make the trained part of the reference model `retrieval`: `python examples/retrieval/train.py`.

Pictures, captions and voices are real (Tux Paint's stamps), the encoders are pretrained and stay as they are. The same
machine and library versions give the same weights.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgefuse.datasets import stamps
from edgefuse.datasets.stamps.pairs import Pairs, pairs
from edgefuse.models import assistant
from edgefuse.models.assistant.model import MAX_LENGTH
from edgefuse.models.assistant.training import Embeddings, embed
from edgefuse.models.reference.loop import make_deterministic
from edgefuse.models.reference.weights import save
from edgefuse.models.retrieval import build
from edgefuse.models.retrieval.model import Retrieval, trained_state
from edgefuse.models.retrieval.names import class_names
from edgefuse.models.retrieval.ranking import chance, figures, interval, ranks
from edgefuse.models.retrieval.training import TrainSettings, begin, fit, points
from edgefuse.runtime.preprocess import Preprocessor

HERE = Path(__file__).parent


def report(step: int, loss: float) -> None:
    """Print a line to stderr now and then."""
    if step % 25 == 0:
        print(f"{step:4d}  loss {loss:.3f}", file=sys.stderr, flush=True)


@torch.inference_mode()
def embed_names(model: Retrieval) -> Tensor:
    """Return what the pretrained text encoder gives for the names of ImageNet's classes, [1000, 384]."""
    read = Preprocessor(model.spec.modality("text"), lambda asset: model.assets[asset])
    found = []
    for name in class_names():
        given = read(f"{name}.")
        ids, length = (torch.from_numpy(given[key]) for key in ("text.ids", "text.length"))
        assert ids.shape == (1, MAX_LENGTH)
        found.append(model.texts.embed(ids, length))
    return torch.cat(found).clone()


def judged(model: Retrieval, data: Embeddings, chosen: Pairs) -> dict[str, object]:
    """Return how captions and spoken names find pictures and pictures captions, with intervals at ten.

    Args:
        model: trained.
        data: of all items of a split.
        chosen: one item of each caption; of these stamps, every recording is a query.
    """
    found = {name: value.numpy() for name, value in points(model, data).items()}
    every = [str(stamp) for stamp in data.stamps.tolist()]
    rows = list(chosen.chosen)
    things = [every[row] for row in rows]
    spoken = [row for row, thing in enumerate(every) if thing in set(things)]
    pictures, captions = found["image"][rows], found["text"][rows]
    said = [every[row] for row in spoken]
    results = {
        "caption to picture": (ranks(captions, things, pictures, things), things),
        "picture to caption": (ranks(pictures, things, captions, things), things),
        "speech to picture": (ranks(found["audio"][spoken], said, pictures, things), said),
    }
    told = {
        name: {"queries": len(asked), **figures(rank), "recall@10 ci95": interval(rank, asked, 10)}
        for name, (rank, asked) in results.items()
    }
    return {"gallery": len(things), "chance": chance(len(things)), **told}


def main() -> None:
    """Train, then write the weights and how well they find."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=TrainSettings.steps, help="length of the schedule")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for retrieval.safetensors and training.json")
    arguments = parser.parse_args()
    settings = replace(TrainSettings(), steps=arguments.steps)
    make_deterministic(settings.seed, settings.threads)
    print("encoding the data", file=sys.stderr, flush=True)
    encoders, items = assistant.build(), stamps.items("train")
    data = embed(encoders, stamps.items("train", count=settings.turns * len(items)))
    parts = {split: embed(encoders, stamps.items(split)) for split in ("validation", "test", "known")}
    torch.manual_seed(settings.seed)  # whatever the encoders have drawn
    model = build()
    names = embed_names(model)
    captions = np.array([stamp.caption for stamp in stamps.material().stamps])[data.stamps.numpy()]
    same = torch.from_numpy(np.unique(captions, return_inverse=True)[1].reshape(-1))
    begin(model, names)
    before = {split: judged(model, parts[split], pairs(split)) for split in parts}
    losses = fit(model, _plain(data), same, names, settings, report)
    save(trained_state(model), arguments.out / "retrieval.safetensors")
    record = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained_parameters": sum(value.numel() for value in trained_state(model).values()),
        "settings": asdict(settings),
        "data": {"digest": stamps.load().digest, "stamps": len(set(data.stamps.tolist()))},
        "losses": [round(loss, 4) for loss in losses[24::25]],
        "names alone": before,
        "trained": {split: judged(model, parts[split], pairs(split)) for split in parts},
    }
    (arguments.out / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _plain(data: Embeddings) -> Embeddings:
    """Return embeddings that a gradient may be taken through: those of inference mode may not."""
    return replace(
        data, inputs={name: value.clone() for name, value in data.inputs.items()}, stamps=data.stamps.clone()
    )


if __name__ == "__main__":
    main()
