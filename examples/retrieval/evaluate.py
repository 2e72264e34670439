"""How well bundles of `retrieval` find: `python examples/retrieval/evaluate.py BUNDLE…`.

Every rung of every bundle embeds the test split: a picture and a caption of each stamp, and all of its recordings.
Recall is counted as in training; beside it stands what is lost against the first rung, paired, with its 95 % interval
over the stamps.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

import edgefuse
from edgefuse.datasets.stamps.pairs import pairs
from edgefuse.measure.statistics import paired_drop
from edgefuse.models.retrieval.ranking import DEPTHS, chance, figures, interval, ranks

Floats = npt.NDArray[np.float64]


def ranked(pipeline: edgefuse.Pipeline, split: str) -> tuple[dict[str, npt.NDArray[np.int64]], dict[str, list[str]]]:
    """Return the ranks of what each kind of query is for, and the stamps that they are for."""
    chosen = pairs(split)
    of, rows = chosen.of, list(chosen.chosen)
    things = [str(of.stamp_index(row)) for row in rows]
    spoken = [row for row in range(len(of)) if str(of.stamp_index(row)) in set(things)]
    said = [str(of.stamp_index(row)) for row in spoken]
    pictures = np.stack([pipeline(image=of.image(row)).embedding for row in rows])
    captions = np.stack([pipeline(text=of.text(row)).embedding for row in rows])
    speech = np.stack([pipeline(audio=of.audio(row)).embedding for row in spoken])
    found = {
        "caption to picture": ranks(captions, things, pictures, things),
        "picture to caption": ranks(pictures, things, captions, things),
        "speech to picture": ranks(speech, said, pictures, things),
    }
    return found, {"caption to picture": things, "picture to caption": things, "speech to picture": said}


def lost(reference: npt.NDArray[np.int64], found: npt.NDArray[np.int64], things: Sequence[str]) -> dict[str, Floats]:
    """Return what is lost of recall at each depth, with its 95 % interval."""
    _, groups = np.unique(np.asarray(things), return_inverse=True)
    drops = {k: paired_drop((reference <= k).astype(float), (found <= k).astype(float), groups) for k in DEPTHS}
    return {f"recall@{k}": np.array([drop.drop, drop.low, drop.high]) for k, drop in drops.items()}


def main() -> None:
    """Print a JSON object by bundle and rung."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--split", default="test")
    arguments = parser.parse_args()
    first: dict[str, npt.NDArray[np.int64]] = {}
    told: dict[str, object] = {"chance": chance(len(pairs(arguments.split)))}
    for path in arguments.bundles:
        with edgefuse.load(path) as pipeline:
            for rung in pipeline.manifest.rungs:
                found, things = ranked(pipeline.at(rung.name), arguments.split)
                first = first or found
                told[f"{path.name} {rung.name}"] = {
                    "size_bytes": rung.size_bytes,
                    **{
                        name: figures(rank)
                        | {f"recall@{k} ci95": interval(rank, things[name], k) for k in DEPTHS}
                        | {"lost": {k: v.tolist() for k, v in lost(first[name], rank, things[name]).items()}}
                        for name, rank in found.items()
                    },
                }
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
