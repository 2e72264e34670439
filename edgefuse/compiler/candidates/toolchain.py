"""A target's tools: they make the files of a stage, each once, and keep them in the cache."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgefuse import registry
from edgefuse.bundle.manifest import Binding, BuildPlan, Pruning, members
from edgefuse.bundle.scheme import Scheme
from edgefuse.bundle.spec import Record
from edgefuse.compiler.cache import fingerprint
from edgefuse.compiler.candidates.built import FLOAT, Built, candidate_id
from edgefuse.datasets.cache import Cache
from edgefuse.errors import ExportError, QuantizeError
from edgefuse.export.differing import explained
from edgefuse.export.target import Lowered, Target
from edgefuse.quantize.quantizer import Quantizer
from edgefuse.quantize.schemes import closer
from edgefuse.quantize.sensitivity import mixed
from edgefuse.quantize.torch.balance import balance, links
from edgefuse.quantize.torch.fitting import fit
from edgefuse.runtime.backends.backend import Backend
from edgefuse.stages.stage import FeedSource, TorchStage
from edgefuse.typed_json import decode

logger = logging.getLogger(__name__)


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
class Calibration:
    """Calibration samples of a stage.

    Attributes:
        feeds: starts a pass over them.
        key: all that they depend on.
    """

    feeds: FeedSource
    key: object


@dataclass(frozen=True)
class Quantizable:
    """What a scheme is applied to: the form of a stage, its float file, and what calibrates it."""

    form: TorchStage
    source: Built
    calibration: Calibration


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
        """Return the versions of all three."""
        return self.target.versions() | self.quantizer.versions() | self.backend.versions()

    def lower(self, stage: TorchStage) -> Built:
        """Lower a stage in float32.

        Raises:
            ExportError: if the target lacks operators (it names them before lowering) or lowering fails.
        """
        key = ["float", self.target.name, stage.spec, stage.alike, fingerprint.once(stage.module), *self._tools()]

        built = self._built(stage.spec.name, stage.pruning, FLOAT, key, lambda: explained(self.target.lower, stage))
        if isinstance(built, str):
            raise ExportError(built)
        return built

    def quantize(self, item: Quantizable, scheme: Scheme) -> Built | str:
        """Apply a scheme to the float file of a stage; return why it could not be applied where that is so."""
        source = item.source
        key = ["quantized", source.sha256, scheme, item.calibration.key, *self._tools()]

        def make() -> Lowered:
            return self.quantizer.apply(self._prepared(item, scheme), scheme, item.calibration.feeds)

        return self._built(source.stage, source.pruning, scheme, key, make)

    def _prepared(self, item: Quantizable, scheme: Scheme) -> Lowered:
        """Return the float file that a scheme applies to: some want a stage that was changed in torch, once for all."""
        source, calibration = item.source, item.calibration
        if not (scheme.balanced or scheme.fitted):
            return source.lowered()

        def make() -> Lowered:
            form = balance(item.form, calibration.feeds) if scheme.balanced else item.form
            return self.target.lower(fit(form, calibration.feeds) if scheme.fitted else form)

        key = ["prepared", source.sha256, scheme.balanced, scheme.fitted, calibration.key, *self._tools()]
        built = self._built(source.stage, source.pruning, FLOAT, key, make)
        if isinstance(built, str):
            raise QuantizeError(built.rstrip("."))  # a sentence already
        return built.lowered()

    def closer(
        self, item: Quantizable, scheme: Scheme, goals_db: Sequence[float], kept_db: Callable[[Built], float]
    ) -> tuple[Scheme, ...]:
        """Return what else to try on a stage of which a static scheme may miss signal-to-noise ratios.

        Args:
            item: what the scheme can be applied to.
            scheme: a static one.
            goals_db: the ratios at the stage's output, in dB.
            kept_db: measures the ratio of a file, in dB.

        Returns:
            The closest to float at the same cost, if `scheme` misses a goal; and for each goal that this misses as
            well, the same with the most sensitive layers in float, if that helps.
        """
        reached: dict[Scheme, float] = {}
        for one in dict.fromkeys((scheme, *closer(scheme))):
            if one.balanced and not self._balances(item):
                continue
            built = self.quantize(item, one)
            if isinstance(built, Built):
                reached[one] = kept_db(built)
                if reached[one] >= max(goals_db):
                    break
        best = max(reached, key=reached.__getitem__)
        missing_db = [goal_db - reached[best] for goal_db in goals_db if goal_db > reached[best]]
        partly = self._mixed(item, best, missing_db) if missing_db else ()
        return tuple(one for one in (best, *partly) if one != scheme)

    def _balances(self, item: Quantizable) -> bool:
        """Tell whether a stage has anything to balance; finding out takes an export."""
        return self.cache.record("balances", [item.source.sha256, *self._tools()], bool, lambda: bool(links(item.form)))

    def _mixed(self, item: Quantizable, scheme: Scheme, missing_db: Sequence[float]) -> tuple[Scheme, ...]:
        """Return schemes with the most sensitive layers in float that gain what is missing, as far as there are any."""
        key = ["mixed", item.source.sha256, scheme, item.calibration.key, missing_db, *self._tools()]

        def make() -> _Mixed:
            try:
                lowered = self._prepared(item, scheme)
                found = mixed(self.quantizer, self.backend, lowered, scheme, item.calibration.feeds, missing_db)
            except QuantizeError as error:
                logger.warning("%s: no mixed precision for %s: %s", self.target.name, item.source.id, error)
                return _Mixed()
            return _Mixed(schemes=found)

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

        # Stages that are one module have equal files, and what is made of them is equal, too, but for its name.
        folder = self.cache.entry(f"stage-{self.target.name}", [file, key], fill)
        found = decode((folder / "description.json").read_bytes(), _Description)
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


@dataclass(frozen=True)
class Toolchains:
    """The tools of a target, or of each that it joins, by name."""

    members: Mapping[str, Toolchain]

    @classmethod
    def of(cls, target: str, cache: Cache) -> Toolchains:
        """Find what belongs to a target, or to those that it joins."""
        return cls({name: Toolchain.of(name, cache) for name in members(target)})

    @property
    def title(self) -> str:
        """The target as its makers call it."""
        return " + ".join(tools.target.title for tools in self.members.values())

    @property
    def backends(self) -> list[Backend]:
        """The runtimes of the target."""
        return [tools.backend for tools in self.members.values()]

    def versions(self) -> dict[str, str]:
        """Return the versions of every tool that has a say in the result."""
        return {name: text for tools in self.members.values() for name, text in tools.versions().items()}
