"""The record of `benchmarks/gpu.py`: a reference model in full precision on a GPU, for the report to show.

Times are in milliseconds. What is not there was not measured; `error` says why.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec

from edgefuse.bundle.spec import Record
from edgefuse.errors import RecipeError
from edgefuse.files import read_regular, reason
from edgefuse.typed_json import decode

SCHEMA = 1
_MAX_BYTES = 1 << 20
_FIX = "name a file that `make gpu` wrote on a machine with a GPU, or leave the key out"

Positive: TypeAlias = Annotated[float, msgspec.Meta(gt=0)]
Share: TypeAlias = Annotated[float, msgspec.Meta(ge=0)]


class GpuFigure(Record, frozen=True, kw_only=True):
    """A median with its 95 % interval; `marked` if the machine was busy."""

    p50_ms: Positive
    ci95: tuple[Positive, Positive]
    marked: bool


class GpuGain(Record, frozen=True, kw_only=True):
    """How many times faster than eager float32 of the same process."""

    ratio: Positive
    ci95: tuple[Positive, Positive]
    marked: bool


class GpuTolerance(Record, frozen=True, kw_only=True):
    """The error that is allowed: `absolute` + `relative` of the largest answer."""

    absolute: Share
    relative: Share


class GpuRow(Record, frozen=True, kw_only=True):
    """A variant at a batch.

    Attributes:
        batch: items of a call.
        system: the way it ran, and its precision.
        precision: `float32`, `tf32` or `float16`.
        whole: to the device, computing, and back.
        items_per_s: of `whole`.
        max_abs_error: the largest, against float32 on the CPU of the same machine.
        agrees: whether it is within the tolerance.
        error: why there are no figures.
    """

    batch: Annotated[int, msgspec.Meta(ge=1)]
    system: str
    precision: str
    tolerance: GpuTolerance | None
    whole: GpuFigure | None
    compute: GpuFigure | None
    to_device: GpuFigure | None
    to_host: GpuFigure | None
    items_per_s: Positive | None
    speedup: GpuGain | None
    max_abs_error: Share | None
    agrees: bool | None
    error: str | None


class GpuPoint(Record, frozen=True, kw_only=True):
    """The throughput of a batch that was tried."""

    batch: int
    items_per_s: Positive


class GpuFilled(Record, frozen=True, kw_only=True):
    """The batch that fills the card, and why the search for it ended."""

    batch: int
    why: str
    curve: tuple[GpuPoint, ...]


class GpuModel(Record, frozen=True, kw_only=True):
    """A model; `weights` says where its weights came from."""

    name: str
    weights: str
    parameters: int | None
    filled: GpuFilled | None
    rows: tuple[GpuRow, ...]


class GpuDevice(Record, frozen=True, kw_only=True):
    """The card."""

    name: str
    memory_bytes: int | None
    capability: str | None


class GpuClocks(Record, frozen=True, kw_only=True):
    """What nvidia-smi told, by its own names; None if it told nothing."""

    before: dict[str, str] | None
    after: dict[str, str] | None


class GpuPart(Record, frozen=True, kw_only=True):
    """What else ran."""

    name: str
    ok: bool
    outcome: str


class GpuRecord(Record, frozen=True, kw_only=True):
    """The whole file; `is_gpu` is false where a CPU stood in, in a test."""

    schema: int
    is_gpu: bool
    made: str
    command: str
    seconds: float
    device: GpuDevice
    clocks: GpuClocks
    versions: dict[str, str]
    method: tuple[str, ...]
    models: tuple[GpuModel, ...]
    parts: tuple[GpuPart, ...]

    @property
    def where(self) -> str:
        """The card, its driver and the libraries, in words."""
        driver = (self.clocks.before or {}).get("driver_version", "unknown")
        libraries = (f"{name} {self.versions[name]}" for name in ("torch", "cuda") if name in self.versions)
        return ", ".join((self.device.name, f"driver {driver}", *libraries))


class GpuReference(Record, frozen=True, kw_only=True):
    """One model of a record, and where, when and how it was measured."""

    where: str
    made: str
    command: str
    method: tuple[str, ...]
    model: GpuModel


def parse(data: bytes, shown: str) -> GpuRecord:
    """Return a record as read from a file that is called `shown`; `RecipeError` if it is none."""
    try:
        record = decode(data, GpuRecord)
    except (msgspec.DecodeError, RecursionError) as error:
        raise RecipeError(f"{shown} is no record of `make gpu`", got=str(error), fix=_FIX) from error
    if record.schema != SCHEMA:
        raise RecipeError(
            f"{shown} is of another version", got=f"schema {record.schema}", expected=f"schema {SCHEMA}", fix=_FIX
        )
    return record


def read(recipe: Path, named: str | None, model: str) -> GpuReference | None:
    """Return what a recipe's `[report] gpu` holds of its model, or None if it names no file.

    Args:
        recipe: the path of the recipe.
        named: the file, beside it.
        model: the name in the model's spec.

    Raises:
        RecipeError: the file cannot be read, is no such record, was measured on no GPU, or lacks the model.
    """
    if named is None:
        return None
    shown = f"[report] gpu in {recipe}, '{named}',"
    try:
        data = read_regular(recipe.parent / named, _MAX_BYTES)
    except (OSError, ValueError) as error:
        raise RecipeError(f"{shown} cannot be read", got=reason(error), fix=_FIX) from error
    record = parse(data, shown)
    if not record.is_gpu:
        raise RecipeError(f"{shown} was measured on no GPU", got=record.device.name, fix=_FIX)
    for one in record.models:
        if one.name == model:
            return GpuReference(
                where=record.where, made=record.made, command=record.command, method=record.method, model=one
            )
    names = ", ".join(one.name for one in record.models) or "no models"
    raise RecipeError(f"{shown} does not hold the model '{model}'", got=names, fix=_FIX)
