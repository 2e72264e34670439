"""`edgefuse compile`: from a recipe to bundles and a report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from edgefuse.commands import console, ending
from edgefuse.commands.arguments import add_targets, whole
from edgefuse.errors import needing
from edgefuse.runtime import pressure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("recipe", type=Path, metavar="RECIPE.toml")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="folder for bundles and report")
    add_targets(parser)
    parser.add_argument(
        "-j",
        "--jobs",
        type=whole(1, 1024),
        default=1,
        metavar="N",
        help="number of jobs at the same time, one thread each (default: 1)",
    )
    parser.add_argument(
        "--engine", default="local", metavar="NAME", help="where jobs run: local, or ray (RAY_ADDRESS names a cluster)"
    )
    console.add_strict(parser)
    parser.add_argument("--json", action="store_true", help="write the paths of bundles and report as JSON")


@ending.as_interrupted()
def run(arguments: argparse.Namespace, extra: Sequence[str]) -> int:
    """Compile; 1 if no combination holds the budget, a target failed or, with `--strict`, timings cannot be trusted.

    The best that was found is written all the same.
    """
    with needing("compiling", extra="compile"):
        if arguments.jobs > 1:
            from edgefuse.compiler import forkserver

            forkserver.start()  # it imports what this process imports at the same time
        from edgefuse.compiler import compile
    targets = tuple(arguments.target) if arguments.target else None
    with console.drawn_progress() as progress:
        result = compile(
            arguments.recipe,
            arguments.out,
            targets=targets,
            cache=arguments.cache,
            progress=progress,
            jobs=arguments.jobs,
            engine=arguments.engine,
        )
    if arguments.json:
        console.write_json(
            {
                "bundles": [str(path) for path in result.bundles],
                "within_budget": result.within_budget,
                "busy": result.busy,
                "failed": dict(result.failed),
                "report_json": str(result.report_json),
                "report_html": str(result.report_html),
            }
        )
    else:
        console.write(result.summary.split("\n"))
    if arguments.strict:
        pressure.require("candidates or rungs were", result.busy)
    return 0 if result.within_budget and not result.failed else 1
