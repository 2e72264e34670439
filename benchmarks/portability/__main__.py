"""Verify and run bundles on every processor, Python and runtime that can be had here; see `docs/portability.md`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.portability import judge, machines, page, runtimes
from benchmarks.portability.judge import Answers, Question, Row
from benchmarks.portability.runtimes import PACKAGES, Placement
from edgefuse.bundle.reader import open_bundle
from edgefuse.compiler.recipe.factory import call_factory
from edgefuse.compiler.recipe.recipe import load
from edgefuse.datasets.packages import cache_folder
from edgefuse.datasets.sample import Sample, Splits
from edgefuse.errors import DataError, EdgefuseError, MeasureError

_RECIPE = Path(__file__).parents[2] / "examples" / "digits" / "recipe.toml"


class Survey:
    """All placements of one bundle. The first is what the others are compared with."""

    def __init__(self, question: Question, folder: Path, cache: Path) -> None:
        self._question = question
        self._folder = folder
        self._cache = cache
        self._reference: Answers | None = None

    def row(self, number: int, placement: Placement) -> Row:
        """Return the row of a placement; one that fails holds `verified: false` and an `error` besides."""
        backend = self._question.manifest.backend
        row: Row = {
            "bundle": self._question.name,
            "machine": placement.machine.name,
            "python": placement.machine.python,
            "backend": backend,
            "version": placement.provides(backend),
            "verified": False,
            "max_abs_error": None,
            "label_agreement": None,
            "accuracy": None,
        }
        try:
            device = placement.device(self._folder / "project", self._cache)
            row["version"] = judge.runtime(device, backend)
            judge.verify(device, self._question.bundle)
            answers = judge.answer(device, self._question, self._folder / f"{self._question.name}-{number}")
        except (DataError, MeasureError) as error:
            row["error"] = str(error)
        else:
            self._reference = self._reference or answers
            row |= judge.compare(self._question, answers, self._reference) | {"verified": True}
        print(_told(row), file=sys.stderr, flush=True)
        return row

    def rows(self, placements: Sequence[Placement], jobs: int) -> list[Row]:
        """Return the rows of all placements that have a runtime for this bundle.

        Raises:
            MeasureError: if the first one fails, so that nothing can be compared.
        """
        fitting = [one for one in placements if one.provides(self._question.manifest.backend)]
        first = self.row(0, fitting[0])
        if "error" in first:
            raise MeasureError(f"the bundle {self._question.name} does not even run here", got=first["error"])
        with ThreadPoolExecutor(jobs) as pool:
            return [first, *pool.map(self.row, range(1, len(fitting)), fitting[1:])]


def survey(
    bundles: Sequence[Path], recipe: Path, items: int, jobs: int, *, here: bool = False
) -> tuple[list[Row], list[str]]:
    """Return the rows of all bundles, here or everywhere, and what could not be put together.

    Raises:
        EdgefuseError: if a bundle or the recipe cannot be read, or a bundle does not run on this machine.
    """
    cache, problems = cache_folder(), list[str]()
    placements = runtimes.own() if here else runtimes.placements(cache, problems)
    samples = _samples(recipe, items)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        machines.install(folder / "project")
        for bundle in bundles:
            with open_bundle(bundle) as opened:
                backend = opened.manifest.backend
            if backend not in PACKAGES:
                problems.append(f"{bundle.name} is for the backend '{backend}', which has no package to install.")
                continue
            rows += Survey(judge.ask(bundle, samples, folder), folder, cache).rows(placements, jobs)
    return rows, problems


def _samples(recipe: Path, items: int) -> list[Sample]:
    """Return the first items of a recipe's test data that have every modality."""
    splits = call_factory(recipe, load(recipe).data.factory)
    if not isinstance(splits, Splits):
        raise DataError(f"the data of {recipe}", got=type(splits).__name__, expected="Splits")
    names = set(splits.test[0].inputs)
    found: list[Sample] = []
    for number in range(len(splits.test)):
        sample = splits.test[number]
        if len(sample.inputs) > len(names):
            names, found = set(sample.inputs), []
        if set(sample.inputs) == names:
            found.append(sample)
        if len(found) == items:
            break
    return found


def _told(row: Row) -> str:
    place = ", ".join((row["bundle"], row["machine"], f"Python {row['python']}", row["version"]))
    if "error" in row:
        return f"{place}: {row['error']}"
    return f"{place}: verified, labels {row['label_agreement']:.3f}, accuracy {row['accuracy']:.3f}"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.portability", description=__doc__)
    add = made.add_argument
    # Devices stand in folders of their own: paths are absolute from here on.
    add("--bundle", type=_place, action="append", required=True, help="a bundle (again for more)")
    add("--recipe", type=_place, default=str(_RECIPE), help="whose test data is answered")
    add("--items", type=int, default=200, help="how many items of the test data")
    add("--out", type=_place, default="out/portability.json", help="the rows as JSON")
    add("--docs", type=_place, help="the rows as a page")
    add("--jobs", type=int, default=2, help="machines at a time; nothing is timed")
    add("--here", action="store_true", help="only this processor and this Python, with the newest and oldest runtimes")
    return made


def _place(given: str) -> Path:
    return Path(given).absolute()


def main() -> None:
    """Survey, write and print. A row that fails is a result like any other."""
    arguments = parser().parse_args()
    try:
        rows, problems = survey(
            arguments.bundle, arguments.recipe, arguments.items, arguments.jobs, here=arguments.here
        )
    except EdgefuseError as error:
        sys.exit(f"edgefuse: {error}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    text = page.markdown(rows, arguments.items, problems)
    if arguments.docs:
        arguments.docs.parent.mkdir(parents=True, exist_ok=True)
        arguments.docs.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
