"""`edgefuse models`: list the reference models, as the examples of a source checkout describe themselves."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edgefuse.bundle.spec import Record
from edgefuse.commands import console
from edgefuse.errors import DataError, cited
from edgefuse.typed_json import decode

EXAMPLES = Path(__file__).parents[2] / "examples"
FILE = "models.json"
"""What lies in the folder of every example: a list of its models."""


class ReferenceData(Record, frozen=True, kw_only=True):
    """What a model was trained and judged on, in a sentence, and the modalities of it that a program made."""

    source: str
    synthetic: tuple[str, ...]


class Compiled(Record, frozen=True, kw_only=True):
    """The default rung for a target.

    Attributes:
        value: of the model's metric, all modalities present; None where the model makes no claim.
        speedup_over_float: over the float files in the same runtime; None where no quiet machine timed it.
    """

    value: float | None
    speedup_over_float: float | None


class ReferenceModel(Record, frozen=True, kw_only=True):
    """A model of the source checkout.

    Attributes:
        name: as in its spec.
        task: what it tells, in a sentence.
        modalities: that it takes.
        factory: builds it: `module:callable`.
        parameters: how many numbers it has that training can change.
        data: what it was trained and judged on.
        metric: by its name in edgefuse; None where the weights are random, and no claim is made.
        reference: its value for the full-precision model on the test split, all modalities present.
        compiled: by target, the same after compression as the committed recipe says, nothing pruned.
        measured: on which machine, when, and on how many test items.
    """

    name: str
    task: str
    modalities: tuple[str, ...]
    factory: str
    parameters: int
    data: ReferenceData
    metric: str | None
    reference: float | None
    compiled: dict[str, Compiled]
    measured: str


def reference_models() -> list[ReferenceModel]:
    """Read what the examples say of themselves, by name; nothing where there is no checkout.

    Raises:
        DataError: a file cannot be read, or is no list of models.
    """
    return sorted((model for models in models_of(EXAMPLES).values() for model in models), key=lambda model: model.name)


def models_of(examples: Path) -> dict[Path, list[ReferenceModel]]:
    """Read what examples say of their models, by their folders.

    Args:
        examples: the folder that holds these.

    Raises:
        DataError: a file cannot be read, or is no list of models.
    """
    found = {}
    for path in sorted(examples.glob(f"*/{FILE}")):
        try:
            found[path.parent] = decode(path.read_bytes(), list[ReferenceModel])
        except (OSError, msgspec.MsgspecError) as error:
            raise DataError(f"cannot read the reference models in {path}", got=cited(error)) from error
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="write JSON")


def run(arguments: argparse.Namespace, extra: Sequence[str]) -> int:
    """List what each takes, tells and was measured to reach."""
    models = reference_models()
    if arguments.json:
        console.write_json(models)
        return 0
    if not models:
        console.write("The reference models are not part of an installed edgefuse: clone the repository to run them.")
        return 0
    header = ("name", "modalities", "parameters", "metric", "reference", "compiled")
    console.write(console.table(header, map(_row, models)))
    for model in models:
        made = f"synthetic: {', '.join(model.data.synthetic)}" if model.data.synthetic else "nothing synthetic"
        console.write("", f"{model.name}: {model.task}")
        console.write(console.pairs([("data", f"{model.data.source} ({made})"), ("measured", model.measured)]))
    return 0


def _row(model: ReferenceModel) -> tuple[str, ...]:
    compiled = [f"{target} {_value(one.value)}{_ratio(one)}" for target, one in model.compiled.items()]
    return (
        model.name,
        " + ".join(model.modalities),
        f"{model.parameters:,}",
        model.metric or "-",
        _value(model.reference).rstrip(", ") or "-",
        "; ".join(compiled),
    )


def _value(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}, "


def _ratio(one: Compiled) -> str:
    return "not timed" if one.speedup_over_float is None else f"{one.speedup_over_float:.2f} ×"
