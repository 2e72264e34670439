"""Candidates: the files that could run a stage, made once and kept in the cache."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgefuse import registry
from edgefuse.bundle.manifest import Binding, BuildPlan, Candidate, Pruning, Scheme, Tolerance
from edgefuse.bundle.spec import Record, StageSpec
from edgefuse.compiler.cache import fingerprint
from edgefuse.compiler.cache.cache import Cache, changed
from edgefuse.compiler.search import Objective
from edgefuse.errors import ExportError, QuantizeError, RecipeError
from edgefuse.export.target import Lowered, Target
from edgefuse.quantize.quantizer import Quantizer
from edgefuse.quantize.schemes import INT4, INT4_TABLE, closer
from edgefuse.quantize.sensitivity import mixed
from edgefuse.quantize.torch.balance import balance, links
from edgefuse.quantize.torch.fitting import fit
from edgefuse.runtime.backends.backend import Backend, Session, SessionOptions
from edgefuse.runtime.processor import available_processors
from edgefuse.stages.stage import FeedSource, TorchStage

logger = logging.getLogger(__name__)

FLOAT = Scheme(name="float")


class _Description(Record, frozen=True, kw_only=True):
    """What lies beside a file in the cache; `refused` says why there is no file."""

    inputs: tuple[Binding, ...] = ()
    outputs: tuple[Binding, ...] = ()
    opset: str = ""
    plan: BuildPlan | None = None
    refused: str = ""


class _Mixed(Record, frozen=True, kw_only=True):
    """Schemes that leave some layers float, as far as they are worth trying."""

    schemes: tuple[Scheme, ...] = ()


@dataclass(frozen=True)
class Built:
    """A stage's file for one target, pruning and scheme."""

    target: str
    stage: str
    scheme: Scheme
    path: Path
    sha256: str
    size_bytes: int
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    opset: str
    pruning: Pruning | None = None
    plan: BuildPlan | None = None

    @property
    def id(self) -> str:
        """The candidate's name within its target, such as `text_encoder.structured50.dynamic_wi8_af32`."""
        return candidate_id(self.stage, self.pruning, self.scheme)

    @property
    def form(self) -> tuple[str, str]:
        """The stage, and how it was pruned: what the file must agree with."""
        return self.stage, self.pruning.id if self.pruning else ""

    def read(self) -> bytes:
        """Return the content of the file.

        Raises:
            CacheError: if it is not what it was when this compile found or made it.
        """
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise changed(self.path, error.strerror) from error
        if (found := fingerprint.of_bytes(data)) != self.sha256:
            raise changed(self.path, f"SHA-256 {found}")
        return data

    def lowered(self) -> Lowered:
        """Read the file; errors are those of `read`."""
        return Lowered(self.read(), self.inputs, self.outputs, self.opset, self.plan)

    def open(self, backend: Backend, threads: int) -> Session:
        """Open the file in its target's runtime; errors are those of `read`, too."""
        # A device that measures may have more processors than this machine, where answers are judged.
        options = SessionOptions(threads=min(threads, available_processors()), plan=self.plan)
        return backend.open(self.read(), self.inputs, self.outputs, options)

    def record(self, suffix: str, tolerance: Tolerance) -> Candidate:
        """Return the entry of a bundle's manifest."""
        return Candidate(
            id=self.id,
            stage=self.stage,
            target=self.target,
            scheme=self.scheme,
            file=f"stages/{self.id}{suffix}",
            sha256=self.sha256,
            size_bytes=self.size_bytes,
            inputs=self.inputs,
            outputs=self.outputs,
            opset=self.opset,
            tolerance=tolerance,
            pruning=self.pruning,
            plan=self.plan,
        )


def candidate_id(stage: str, pruning: Pruning | None, scheme: Scheme) -> str:
    """Return the name of a candidate within its target."""
    return ".".join([stage, *([pruning.id] if pruning else []), scheme.id])


@dataclass(frozen=True)
class Toolchain:
    """The target, its quantizer and its runtime, and the cache that they fill."""

    target: Target
    quantizer: Quantizer
    backend: Backend
    cache: Cache

    @classmethod
    def of(cls, name: str, cache: Cache) -> Toolchain:
        """Find what belongs to a target by name."""
        target: Target = registry.create("targets", name)
        return cls(target, registry.create("quantizers", name), registry.create("backends", target.backend), cache)

    def versions(self) -> dict[str, str]:
        """Return the versions of every tool that has a say in the result."""
        return self.target.versions() | self.quantizer.versions() | self.backend.versions()

    def lower(self, stage: TorchStage) -> Built:
        """Lower a stage in float32.

        Raises:
            ExportError: if the target lacks operators (it names them before lowering) or lowering fails.
        """
        key = ["float", self.target.name, stage.spec, fingerprint.of_module(stage.module), *self._tools()]

        built = self._built(stage.spec.name, stage.pruning, FLOAT, key, lambda: self.target.lower(stage))
        if isinstance(built, str):
            raise ExportError(built)
        return built

    def quantize(
        self, stage: TorchStage, source: Built, scheme: Scheme, calibration: FeedSource, calibration_key: object
    ) -> Built | str:
        """Apply a scheme to the float file of a stage; return why it could not be applied where that is so."""
        key = ["quantized", source.sha256, scheme, calibration_key, *self._tools()]

        def make() -> Lowered:
            prepared = self._prepared(stage, source, scheme, calibration, calibration_key)
            return self.quantizer.apply(prepared, scheme, calibration)

        return self._built(source.stage, source.pruning, scheme, key, make)

    def _prepared(
        self, stage: TorchStage, source: Built, scheme: Scheme, calibration: FeedSource, calibration_key: object
    ) -> Lowered:
        """Return the float file that a scheme applies to: some want a stage that was changed in torch, once for all."""
        if scheme.aware or not (scheme.balanced or scheme.fitted):  # the stage of an aware scheme is changed already
            return source.lowered()

        def make() -> Lowered:
            form = balance(stage, calibration) if scheme.balanced else stage
            return self.target.lower(fit(form, calibration) if scheme.fitted else form)

        key = ["prepared", source.sha256, scheme.balanced, scheme.fitted, calibration_key, *self._tools()]
        built = self._built(source.stage, source.pruning, FLOAT, key, make)
        if isinstance(built, str):
            raise QuantizeError(built.rstrip("."))  # a sentence already
        return built.lowered()

    def closer(
        self,
        stage: TorchStage,
        source: Built,
        scheme: Scheme,
        calibration: FeedSource,
        calibration_key: object,
        goals_db: Sequence[float],
        kept_db: Callable[[Built], float],
    ) -> tuple[Scheme, ...]:
        """Return what else to try on a stage of which a static scheme may miss signal-to-noise ratios.

        Args:
            stage: what `source` was lowered from.
            source: the float file.
            scheme: can be applied.
            calibration: starts a pass over the stage's calibration feeds.
            calibration_key: what these depend on.
            goals_db: the ratios at the stage's output.
            kept_db: measures them.

        Returns:
            The closest to float at the same cost, if `scheme` misses a goal; and for each goal that this misses as
            well, the same with the most sensitive layers in float, if that helps.
        """
        reached: dict[Scheme, float] = {}
        for one in (scheme,) if scheme.aware else dict.fromkeys((scheme, *closer(scheme))):
            if one.balanced and not self._balances(stage, source):
                continue
            built = self.quantize(stage, source, one, calibration, calibration_key)
            if isinstance(built, Built):
                reached[one] = kept_db(built)
                if reached[one] >= max(goals_db):
                    break
        best = max(reached, key=reached.__getitem__)
        missing_db = [goal_db - reached[best] for goal_db in goals_db if goal_db > reached[best]]
        partly = self._mixed(stage, source, best, calibration, calibration_key, missing_db) if missing_db else ()
        return tuple(one for one in (best, *partly) if one != scheme)

    def _balances(self, stage: TorchStage, source: Built) -> bool:
        """Tell whether a stage has anything to balance; finding out takes an export."""
        return self.cache.record("balances", [source.sha256, *self._tools()], bool, lambda: bool(links(stage)))

    def _mixed(
        self,
        stage: TorchStage,
        source: Built,
        scheme: Scheme,
        calibration: FeedSource,
        calibration_key: object,
        missing_db: Sequence[float],
    ) -> tuple[Scheme, ...]:
        """Return schemes with the most sensitive layers in float that gain what is missing, as far as there are any."""
        key = ["mixed", source.sha256, scheme, calibration_key, missing_db, *self._tools()]

        def make() -> _Mixed:
            try:
                lowered = self._prepared(stage, source, scheme, calibration, calibration_key)
                found = mixed(self.quantizer, self.backend, lowered, scheme, calibration, missing_db)
            except QuantizeError as error:
                logger.warning("%s: no mixed precision for %s: %s", self.target.name, source.id, error)
                return _Mixed()
            return _Mixed(schemes=tuple(one.scheme for one in found))

        return self.cache.record("mixed", key, _Mixed, make).schemes

    def _tools(self) -> list[object]:
        return [self.versions(), fingerprint.of_compiler()]

    def _built(
        self, stage: str, pruning: Pruning | None, scheme: Scheme, key: object, make: Callable[[], Lowered]
    ) -> Built | str:
        file = f"{stage}.{scheme.id}{self.target.suffix}"

        def fill(folder: Path) -> None:
            try:
                lowered = make()
            except QuantizeError as error:
                logger.warning("%s: no %s: %s", self.target.name, candidate_id(stage, pruning, scheme), error)
                description = _Description(refused=str(error))
            else:
                (folder / file).write_bytes(lowered.data)
                description = _Description(
                    inputs=lowered.inputs, outputs=lowered.outputs, opset=lowered.opset, plan=lowered.plan
                )
            (folder / "description.json").write_bytes(msgspec.json.encode(description))

        folder = self.cache.entry(f"stage-{self.target.name}", key, fill)
        found = msgspec.json.decode((folder / "description.json").read_bytes(), type=_Description)
        if found.refused:
            return found.refused
        data = (folder / file).read_bytes()
        sha256 = fingerprint.of_bytes(data)
        return Built(
            target=self.target.name,
            stage=stage,
            scheme=scheme,
            path=folder / file,
            sha256=sha256,
            size_bytes=len(data),
            inputs=found.inputs,
            outputs=found.outputs,
            opset=found.opset,
            pruning=pruning,
            plan=found.plan,
        )


def wanted_schemes(
    quantizer: Quantizer,
    stage: StageSpec,
    objective: Objective,
    narrowed: Mapping[str, tuple[str, ...]],
    device: str = "host",
) -> tuple[Scheme, ...]:
    """Return the schemes to try on a stage: what the quantizer offers for a device, or those that the recipe names.

    Raises:
        RecipeError: if the recipe names a scheme that the quantizer does not know.
    """
    offered = quantizer.schemes(stage)
    if device == "arm64":
        offered = _signed(offered)
    if offered and objective == "size":
        narrow = (INT4_TABLE, INT4) if _looks_up(stage) else (INT4,)
        offered = (*offered, *(scheme for scheme in narrow if scheme in quantizer.known()))
    if stage.name not in narrowed:
        return offered
    by_id = {scheme.id: scheme for scheme in (*quantizer.known(), *offered)} if offered else {}
    for name in narrowed[stage.name]:
        if name != FLOAT.id and name not in by_id:
            close = difflib.get_close_matches(name, by_id, n=1)
            raise RecipeError(
                f"[schemes] {stage.name}",
                got=repr(name),
                expected=" or ".join([FLOAT.id, *(scheme.id for scheme in offered)]),
                fix=f"did you mean '{close[0]}'?" if close else None,
            )
    return tuple(by_id[name] for name in narrowed[stage.name] if name in by_id)


def _looks_up(stage: StageSpec) -> bool:
    """Say whether a stage takes ids, which it then looks up in a table."""
    return any(port.source.kind == "modality" and port.tensor.dtype == "int32" for port in stage.inputs)


def _signed(schemes: Sequence[Scheme]) -> tuple[Scheme, ...]:
    """Return schemes with signed activations in place of unsigned ones: what Arm's dot products multiply."""
    signed = (msgspec.structs.replace(s, activation="s8") if s.activation == "u8" else s for s in schemes)
    return tuple(dict.fromkeys(signed))
