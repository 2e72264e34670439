"""The recipe: a TOML file that says what to compile, for which targets, within which budget."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import tomllib

from edgefuse import registry
from edgefuse.bundle.manifest import PruningStep, members
from edgefuse.bundle.spec import Record
from edgefuse.compiler.recipe import max_drop
from edgefuse.compiler.recipe.described import ModelSection, check_source
from edgefuse.compiler.recipe.steps import LadderSection, check_ladder
from edgefuse.compiler.recipe.variants import check_variants
from edgefuse.compiler.search.figures import Limits, Objective
from edgefuse.device.device import TIMEOUT_SECONDS, checked_timeout, device_of
from edgefuse.device.session import PYTHON
from edgefuse.errors import MAX_SHOWN, InputError, RecipeError
from edgefuse.files import read_regular
from edgefuse.prune.training import Keep, Precision, RecoverySettings
from edgefuse.runtime.processor import checked_threads

DEVICES = ("host", "arm64")

_MAX_BYTES = 1 << 20
"""Of a recipe."""


class DataSection(Record, frozen=True, kw_only=True):
    """Where the data comes from: `module:callable` that returns `Splits`."""

    factory: str


class CompileSection(Record, frozen=True, kw_only=True):
    """The section `[compile]`: targets and machine.

    Attributes:
        targets: one bundle each. Targets joined by `+` give one bundle whose stages may run in different runtimes.
        threads: that latency is measured and judged with.
        device: what the bundles are for: this `host`, or `arm64`. For another architecture than this machine's there
            are schemes of its own, and a cost stands in for latency unless a device of that kind measures.
    """

    targets: tuple[str, ...] = ("onnx",)
    threads: int = 1
    device: str = "host"

    @property
    def members(self) -> tuple[str, ...]:
        """All targets whose files are made: those named, and those that joined ones join."""
        return tuple(dict.fromkeys(member for target in self.targets for member in members(target)))


class DeviceSection(Record, frozen=True, kw_only=True):
    """The device that latency and memory are measured on, instead of this machine.

    Attributes:
        uri: `ssh://user@host[:port]` or `adb://serial`.
        python: its Python: a name or an absolute path.
        timeout_seconds: how long it may take to greet, and be silent after that.
    """

    uri: str | None = None
    python: str = PYTHON
    timeout_seconds: float = TIMEOUT_SECONDS


class SearchSection(Record, frozen=True, kw_only=True):
    """The section `[search]`: objective and limits.

    Attributes:
        objective: what the default rung minimises.
        caution: standard errors that a drop on the validation set must hold `max_drop` by; 0 takes it at its word.
        max_latency_ms: of all stages together, one after the other.
        max_latency_share: the same as a share of the float stages'.
        max_size_bytes: of the stage files, frontends apart.
        max_memory_bytes: of weights and activations, as estimated from the files.
        max_drop: how much of the metric may be lost in each subset: a number in its own unit (0.01 is one point of
            accuracy), or a share of what the reference reaches there, as `"2 %"`. If left out, it is a point of
            accuracy, or `"1 %"` for a metric with a unit of its own. It is the first output's, or a table by output.
        subsets: the subsets that the budget binds (`image+audio`). If empty, all admissible ones but those in which the
            reference is right no more often than one answer for all would be: what is lost there is chance.
        max_fusion_passes: how many combinations are judged per target, at the most.
    """

    objective: Objective = "latency"
    max_drop: float | str | dict[str, float | str] | None = None
    subsets: tuple[str, ...] = ()
    max_fusion_passes: int = 24
    caution: float = 1.0
    max_latency_ms: float | None = None
    max_latency_share: float | None = None
    max_size_bytes: int | None = None
    max_memory_bytes: int | None = None

    @property
    def limits(self) -> Limits:
        """The limits of a combination besides its drops."""
        return Limits(self.max_latency_ms, self.max_latency_share, self.max_size_bytes, self.max_memory_bytes)

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The objectives to find winners for, the recipe's own first."""
        others: tuple[Objective, ...] = ("latency", "size")
        return (self.objective, *(other for other in others if other != self.objective))


class QuantizeSection(Record, frozen=True, kw_only=True):
    """How to quantize, beyond the schemes.

    Attributes:
        min_snr_db: a static scheme that leaves less than this signal-to-noise ratio at a stage's output gets further
            candidates: one with fitted weights, on a balanced stage if need be, and one per ratio with layers in float.
    """

    min_snr_db: float | tuple[float, ...] = ()

    @property
    def goals_db(self) -> tuple[float, ...]:
        """The ratios, ascending."""
        return tuple(sorted(self.min_snr_db)) if isinstance(self.min_snr_db, tuple) else (self.min_snr_db,)


class VariantsSection(Record, frozen=True, kw_only=True):
    """One pruning, tried on each of some stages: the steps in the order in which they are taken."""

    stages: tuple[str, ...]
    steps: tuple[PruningStep, ...]


class PruneSection(Record, frozen=True, kw_only=True):
    """The section `[prune]`: `variants` are the prunings to try, besides the unpruned stages."""

    variants: tuple[VariantsSection, ...] = ()

    @property
    def wanted(self) -> bool:
        """Whether anything is to be pruned."""
        return bool(self.variants)


class RecoverSection(Record, frozen=True, kw_only=True):
    """How pruned stages recover, by distillation from the unpruned ones, on the `train` part of the data.

    Attributes:
        epochs: at the most, over all training samples; 0 leaves pruned stages as they are.
        batch: samples per step.
        learning_rate: the peak.
        patience: epochs without a better one, after which a stage's recovery ends.
        settled: the last share of the epochs, in which batch norms keep their statistics, as when deployed.
        threads: of torch; another number rounds differently.
        seed: of the order of samples.
        keep: the epoch with the best `accuracy`, or the least `loss` where validation items are too few to tell.
        precision: of the products in training; `bfloat16` is faster on processors that have units for it.
    """

    epochs: int = 12
    batch: int = 64
    learning_rate: float = 2e-3
    patience: int = 3
    settled: float = 0.2
    threads: int = 1
    seed: int = 0
    keep: Keep = "accuracy"
    precision: Precision = "float32"

    @property
    def settings(self) -> RecoverySettings:
        """The settings as the recovery code takes them."""
        return RecoverySettings(**{**msgspec.structs.asdict(self), "epochs": max(1, self.epochs)})


class ReportSection(Record, frozen=True, kw_only=True):
    """What the report shows besides: `gpu` is a record of `make gpu`, a file beside the recipe."""

    gpu: str | None = None


class Recipe(Record, frozen=True, kw_only=True):
    """A whole recipe. `schemes` narrows the schemes tried on a stage to those ids; no `ladder` asks for none."""

    model: ModelSection
    data: DataSection
    compile: CompileSection = CompileSection()
    device: DeviceSection = DeviceSection()
    search: SearchSection = SearchSection()
    ladder: LadderSection | None = None
    prune: PruneSection = PruneSection()
    recover: RecoverSection = RecoverSection()
    quantize: QuantizeSection = QuantizeSection()
    report: ReportSection = ReportSection()
    schemes: dict[str, tuple[str, ...]] = {}  # noqa: RUF012 - msgspec copies empty defaults


def load(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        RecipeError: if the file cannot be read, is not TOML, has unknown keys or values out of range.
    """
    try:
        table = tomllib.loads(read_regular(path, _MAX_BYTES).decode("utf-8"))
    except OSError as error:
        raise RecipeError(
            f"cannot read the recipe {path}", got=error.strerror, fix="give the path of a TOML file"
        ) from error
    except (ValueError, RecursionError) as error:  # of TOML, of UTF-8, of numbers too long to be read
        raise RecipeError(f"the recipe {path} is not TOML", got=str(error)) from error
    return read(path, table)


def read(path: Path, table: Mapping[str, Any]) -> Recipe:
    """Read the table that a recipe is.

    Args:
        path: of its file; what stands for it in errors where there is none.
        table: its sections by name.

    Raises:
        RecipeError: if it has unknown keys, or values out of range.
        DeviceError: errors of `check`.
    """
    _refuse_unknown_keys(path, table)
    _refuse_large_integers(path, table)
    try:
        recipe = msgspec.convert(table, Recipe)
    except msgspec.ValidationError as error:
        raise RecipeError(f"the recipe {path} is wrong", got=str(error)) from error
    check(path, recipe)
    return recipe


def _refuse_large_integers(path: Path, table: Mapping[str, object]) -> None:
    """Refuse an integer that TOML does not have: Python reads any, and neither reports nor keys of the cache can."""
    left: list[tuple[str, object]] = list(table.items())
    while left:  # without recursion: a key of many dots is a table in a table in a table
        key, value = left.pop()
        if isinstance(value, Mapping):
            left += [(f"{key[:MAX_SHOWN]}.{name}", held) for name, held in value.items()]
        elif isinstance(value, list):
            left += [(key, held) for held in value]
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            what = f"the integer '{key}' in {path} is out of range"
            raise RecipeError(what, got=value, expected="64 bits, as TOML has")


def _refuse_unknown_keys(path: Path, table: Mapping[str, Any]) -> None:
    sections: dict[str, type[Record]] = {
        "model": ModelSection,
        "data": DataSection,
        "compile": CompileSection,
        "device": DeviceSection,
        "search": SearchSection,
        "ladder": LadderSection,
        "prune": PruneSection,
        "recover": RecoverSection,
        "quantize": QuantizeSection,
        "report": ReportSection,
    }
    _refuse(path, "", table, (*sections, "schemes"))
    for name, section in sections.items():
        if isinstance(content := table.get(name), Mapping):
            _refuse(path, f"[{name}] ", content, section.__struct_fields__)
    where = "[[prune.variants]] "
    for variant in _tables(table.get("prune"), "variants"):
        _refuse(path, where, variant, VariantsSection.__struct_fields__)
        for step in _tables(variant, "steps"):
            _refuse(path, f"{where}steps ", step, PruningStep.__struct_fields__)


def _tables(table: object, key: str) -> list[Mapping[str, Any]]:
    """Return the tables of an array under a key; what is neither is left to the check of types."""
    content = table.get(key) if isinstance(table, Mapping) else None
    return [entry for entry in content if isinstance(entry, Mapping)] if isinstance(content, list) else []


def _refuse(path: Path, where: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            fix = f"did you mean '{close[0]}'?" if close else f"remove it; known keys: {', '.join(known)}"
            raise RecipeError(f"the recipe {path} has an unknown key {where}'{key}'", fix=fix)


def check(path: Path, recipe: Recipe) -> None:
    """Check the values of a recipe, beyond their types.

    Raises:
        RecipeError: if a value is out of range or a target is unknown.
        DeviceError: if the URI of the device is none, or its time limit is no such.
    """
    wanted = recipe.compile
    check_source(path, recipe.model, prunes=recipe.prune.wanted)
    _check_search(path, recipe.search)
    check_ladder(path, recipe.ladder)
    for goal_db in recipe.quantize.goals_db:
        if not (math.isfinite(goal_db) and goal_db > 0):
            raise RecipeError(f"[quantize] min_snr_db in {path} is out of range", got=goal_db, expected="more than 0")
    if recipe.device.uri is None or wanted.threads < 1:  # a device knows how many it has
        _check_threads(f"[compile] threads in {path}", wanted.threads)
    if wanted.device not in DEVICES:
        raise RecipeError(
            f"[compile] device in {path} is unknown", got=repr(wanted.device), expected=" or ".join(DEVICES)
        )
    if recipe.device.uri is not None:
        device_of(recipe.device.uri)
    checked_timeout(recipe.device.timeout_seconds)
    known = registry.names("targets")
    check_variants(path, [(variant.stages, variant.steps) for variant in recipe.prune.variants])
    _check_recovery(path, recipe.recover)
    for target in wanted.targets:
        if unknown := [name for name in members(target) if name not in known]:
            raise RecipeError(
                f"[compile] targets in {path} names an unknown target",
                got=repr(unknown[0]),
                expected=f"{' or '.join(known)}, or several of them joined by '+'",
            )
        if target != (spelled := "+".join(sorted(set(members(target))))):
            raise RecipeError(
                f"[compile] targets in {path} joins targets in another way than one",
                got=repr(target),
                expected=repr(spelled),
                fix="name each once, in alphabetical order",
            )
    if not wanted.targets or len(set(wanted.targets)) != len(wanted.targets):
        raise RecipeError(
            f"[compile] targets in {path} is empty or names a target twice",
            got=list(wanted.targets),
            expected="each target once",
        )


def _check_threads(where: str, threads: int) -> None:
    try:
        checked_threads(threads)
    except InputError as error:
        raise RecipeError(f"{where}: {str(error).rstrip('.')}") from error


def _check_search(path: Path, search: SearchSection) -> None:
    given = search.max_drop
    for written in given.values() if isinstance(given, dict) else (given,):
        if written is not None:
            max_drop.read(path, written)  # what the metric says of it is known with the model
    for name in ("max_latency_ms", "max_latency_share", "max_size_bytes", "max_memory_bytes"):
        limit = getattr(search, name)
        if limit is not None and not (math.isfinite(limit) and limit > 0):
            raise RecipeError(f"[search] {name} in {path} is out of range", got=limit, expected="more than 0")
    if not (math.isfinite(search.caution) and search.caution >= 0):
        raise RecipeError(
            f"[search] caution in {path} is out of range", got=search.caution, expected="zero or more standard errors"
        )
    if search.max_fusion_passes < 1:
        raise RecipeError(
            f"[search] max_fusion_passes in {path} is out of range", got=search.max_fusion_passes, expected="at least 1"
        )


def _check_recovery(path: Path, recover: RecoverSection) -> None:
    _check_threads(f"[recover] threads in {path}", recover.threads)
    for name, low in (("epochs", 0), ("batch", 2), ("patience", 1), ("seed", 0)):
        if getattr(recover, name) < low:
            raise RecipeError(
                f"[recover] {name} in {path} is out of range", got=getattr(recover, name), expected=f"at least {low}"
            )
    if not 0 <= recover.settled <= 1:
        raise RecipeError(
            f"[recover] settled in {path} is out of range", got=recover.settled, expected="a fraction from 0 to 1"
        )
    if not (math.isfinite(recover.learning_rate) and recover.learning_rate > 0):
        raise RecipeError(
            f"[recover] learning_rate in {path} is out of range", got=recover.learning_rate, expected="more than 0"
        )
