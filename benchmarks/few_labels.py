"""How well drops on few labelled items foretell those on the test split: `python -m benchmarks.few_labels RECIPE.toml`.

Combinations of a recipe's candidates are judged on the validation set (those that the search judges, costs counted,
and some drawn at random), and each is judged again on the test split, which stands for the truth as far as it goes.
Three estimates from the validation set are compared in every subset of the modalities:

- labelled: the paired difference, which counts items that belong together as one draw;
- powered: prediction-powered inference (PPI++, Angelopoulos, Duchi and Zrnic 2023, arXiv 2311.01453) with the losses
  that the reference's posterior expects as predictions, and clustered variances;
- corrected: what the search uses, `edgefuse.compiler.evaluation.expected_drop`.

A combination holds the budget if it does with one standard error to spare, less the least of the subset, as in the
search. Covered is a test drop within 1.96 standard errors of the difference: those of estimate and test drop together.
Combinations share items and candidates: they are many looks at the same two samples, not independent trials.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgefuse.compiler import workers
from edgefuse.compiler.candidates.build import Builder
from edgefuse.compiler.candidates.golden import golden_inputs
from edgefuse.compiler.candidates.target_data import Material, TargetData
from edgefuse.compiler.evaluation.correction import unlabelled_groups
from edgefuse.compiler.evaluation.drops import Judgement, judgements
from edgefuse.compiler.evaluation.evaluator import Answers
from edgefuse.compiler.evaluation.expected_drop import Posterior, corrected, expected_drop
from edgefuse.compiler.evaluation.runners import in_torch
from edgefuse.compiler.model.opening import take_apart
from edgefuse.compiler.model.preparation import prepare
from edgefuse.compiler.model.splits import UNLABELLED
from edgefuse.compiler.recipe.wanted import recipe_for
from edgefuse.compiler.recovery.forms import recovered
from edgefuse.compiler.rungs.result import searched
from edgefuse.compiler.timing.proxy import ARM_CORE, Proxy
from edgefuse.compiler.workers import in_one_thread
from edgefuse.datasets.cache import cache_folder, open_cache
from edgefuse.measure.statistics import Z95, Drop, clustered_error
from edgefuse.progress import silent

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Judged:
    """What a combination loses in a subset: three estimates from the validation set, and what the test split says.

    Each is a drop with its standard error; `expected` is the expectation alone.
    """

    target: str
    combination: str
    subset: str
    flips: float
    test: tuple[float, float]
    labelled: tuple[float, float]
    powered: tuple[float, float]
    expected: tuple[float, float]
    corrected: tuple[float, float]


def powered(losses: Array, labelled: Array, groups: Array) -> tuple[float, float]:
    """Return the prediction-powered drop, with the weight of the predictions that is best (PPI++), and its error.

    Args:
        losses: expected, [items], the labelled ones first.
        labelled: the labelled differences, [labelled items].
        groups: int [items].
    """
    n, more = len(labelled), len(losses) - len(labelled)
    own, others = losses[:n], losses[n:] if more else losses[:n]
    sums = [np.bincount(np.unique(groups[:n], return_inverse=True)[1], x - x.mean()) / n for x in (labelled, own)]
    variance = float(sums[1] @ sums[1])
    spread = clustered_error((others - others.mean()) / len(others), groups[n:]) ** 2 if more else 0.0
    weight = float(sums[0] @ sums[1]) / (variance + spread) if variance > 0 and more else 0.0
    rest = labelled - weight * own
    error = math.hypot(clustered_error((rest - rest.mean()) / n, groups[:n]), weight * math.sqrt(spread))
    return weight * float(others.mean()) + float(rest.mean()), error


def judged(
    validation: Judgement, test: Judgement, answers: Mapping[str, tuple[Answers, Answers]], groups: Array
) -> dict[str, Any]:
    """Return the figures of one combination in one subset, but for its name.

    Args:
        validation: what judges there.
        test: the same of the test split.
        answers: of the reference and of the combination, by split.
        groups: of the unlabelled items that have the subset.
    """
    drops = {
        split: one.metric.drop(
            one.rows(answers[split][0], answers[split][0]), one.rows(answers[split][1], answers[split][0]), one.groups
        )
        for split, one in (("validation", validation), ("test", test))
    }
    reference, candidate = (_all(validation, answers, which) for which in (0, 1))
    whole = np.concatenate([validation.groups, groups])
    targets = np.asarray(validation.targets)
    posterior = Posterior.fitted(reference[: len(targets)], targets)
    right = [(found[: len(targets)].argmax(1) == targets).astype(float) for found in (reference, candidate)]
    expected = expected_drop(posterior, reference, candidate, whole, len(targets))
    return {
        "flips": float((reference.argmax(1) != candidate.argmax(1)).mean()),
        "test": _with_error(drops["test"]),
        "labelled": _with_error(drops["validation"]),
        "powered": powered(posterior.losses(reference, candidate)[0], right[0] - right[1], whole),
        "expected": expected,
        "corrected": _with_error(corrected(drops["validation"], *expected)),
    }


def _all(one: Judgement, answers: Mapping[str, tuple[Answers, Answers]], which: int) -> Array:
    found = [answers["validation"][which][one.output.name][one.subset][one.places]]
    more = answers[UNLABELLED][which][one.output.name].get(one.subset) if UNLABELLED in answers else None
    return np.concatenate([*found, *([] if more is None else [more])])


def _with_error(drop: Drop) -> tuple[float, float]:
    return drop.drop, (drop.high - drop.low) / (2 * Z95)


def table(rows: Sequence[Judged], max_drop: float) -> str:
    """Return how near each estimate is to the test drops, in points, and what a decision by it comes to."""
    test, found = np.array([row.test for row in rows]), []
    keys = [(row.target, row.combination) for row in rows]
    worst = {key: max(row.test[0] for row in rows if (row.target, row.combination) == key) for key in set(keys)}
    for name in ("labelled", "powered", "expected", "corrected"):
        one = np.array([getattr(row, name) for row in rows])
        off = one[:, 0] - test[:, 0]
        inside = np.abs(off) <= Z95 * np.hypot(one[:, 1], test[:, 1])
        floor: dict[str, float] = {}  # what float files have
        for row, error in zip(rows, one[:, 1], strict=True):
            floor[row.subset] = min(floor.get(row.subset, math.inf), float(error))
        cautious = [drop + error - floor[row.subset] for row, (drop, error) in zip(rows, one, strict=True)]
        beyond = {key for key, drop in zip(keys, cautious, strict=True) if drop > max_drop}
        taken = [loss for key, loss in worst.items() if key not in beyond]
        cells = (
            f"{100 * off.mean():+.2f}",
            f"{100 * math.sqrt((off**2).mean()):.2f}",
            f"{100 * one[:, 1].mean():.2f}",
            f"{100 * inside.mean():.1f} %",
            f"{len(taken)} of {len(worst)}",
            f"{100 * np.mean(taken) if taken else math.nan:.2f}",
        )
        found.append(f"| {name} | {' | '.join(cells)} |")
    flips = 100 * np.mean([row.flips for row in rows])
    return "\n".join(
        [
            f"{len(worst)} combinations, {len(rows)} with subsets; {flips:.1f} % of the answers flip; on test they "
            f"lose {100 * test[:, 0].mean():.2f} points, with a standard error of {100 * test[:, 1].mean():.2f}",
            "",
            "| estimate | mean off | rms off | standard error | covered | hold the budget | their worst on test |",
            "|---|--:|--:|--:|--:|--:|--:|",
            *found,
        ]
    )


@in_one_thread()
def run(path: Path, targets: Sequence[str] | None, cache: Path, drawn: int) -> list[Judged]:
    """Judge combinations of a recipe on all splits.

    Args:
        path: of the recipe.
        targets: in place of the recipe's.
        cache: folder of the cache.
        drawn: how many combinations are drawn at random, by target.
    """
    recipe, store = recipe_for(path, targets), open_cache(cache)
    settings = workers.Settings(shared=store.folder, paths=(str(path.resolve().parent),), progress=silent)
    with workers.create("local", settings) as pool:
        model = take_apart(path, recipe)
        builder = Builder(recipe.compile.members, store, pool)
        builder.lower(model.stages, golden_inputs(model.stages, model.spec))
        subject = prepare(model, store, silent)
        forms = recovered(subject, store, pool)
        golden = golden_inputs(subject.stages, subject.spec, forms.all_pruned)
        material = Material(subject, forms.without(golden.refused), golden, store)
        builder.build(material)
    return [row for made in builder.live.values() for row in _rows(TargetData(material, made), drawn)]


def _rows(data: TargetData, drawn: int) -> Iterator[Judged]:
    """Yield the figures of a target's combinations."""
    subject, target, timer = data.material.subject, data.candidates.target, Proxy(ARM_CORE)
    note = partial(print, file=sys.stderr, flush=True)
    result = searched(data, timer, timer.describe(data.toolchains.backends, 1), note)
    by_stage: dict[str, list[str]] = {}
    for figure in result.figures:
        by_stage.setdefault(figure.stage, []).append(figure.candidate)
    rng = np.random.default_rng(0)
    combinations = [dict(one.candidates) for one in result.search.judged]
    combinations += [{stage: str(rng.choice(names)) for stage, names in by_stage.items()} for _ in range(drawn)]
    parts = {split: data.evaluator(split) for split in ("validation", "test", UNLABELLED) if split in subject.splits}
    references = {split: part.answers(in_torch(subject)) for split, part in parts.items()}
    on_validation, on_test = judgements(subject, "validation"), judgements(subject, "test")
    for combination in {tuple(sorted(one.items())): one for one in combinations}.values():
        runners, name = result.runners(combination), " ".join(sorted(combination.values()))
        note(f"{target}: {name}")
        answers = {split: (references[split], part.answers(runners)) for split, part in parts.items()}
        for key, one in on_validation.items():
            if one.metric.tells_right_from_wrong:
                groups = unlabelled_groups(subject, one.subset)
                yield Judged(target, name, key, **judged(one, on_test[key], answers, groups))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--target", action="append", help="in place of the recipe's; may be repeated")
    parser.add_argument("--cache", type=Path, default=cache_folder(), help="folder of the cache")
    parser.add_argument("--drawn", type=int, default=40, help="combinations drawn at random, by target")
    parser.add_argument("--max-drop", type=float, default=0.01, help="the budget")
    parser.add_argument("--out", type=Path, help="a JSON file for all figures")
    asked = parser.parse_args()
    rows = run(asked.recipe, asked.target, asked.cache, asked.drawn)
    if asked.out:
        asked.out.write_text(json.dumps([asdict(row) for row in rows]), encoding="utf-8")
    print(table(rows, asked.max_drop))


if __name__ == "__main__":
    main()
