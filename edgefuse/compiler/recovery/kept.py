"""A pruned form on disk: its module and how it recovered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
from torch import nn

from edgefuse.bundle.manifest import Pruning
from edgefuse.bundle.spec import Record
from edgefuse.compiler.cache import fingerprint
from edgefuse.prune.persist import restore, save
from edgefuse.prune.training import Epoch
from edgefuse.stages.stage import TorchStage
from edgefuse.typed_json import decode


class _History(Record, frozen=True, kw_only=True):
    """How a form recovered: one point per epoch, from before recovery on."""

    points: tuple[Epoch, ...] = ()


def write_form(folder: Path, module: nn.Module, history: tuple[Epoch, ...]) -> None:
    """Keep a pruned module and its history in a folder.

    Args:
        folder: of the cache entry.
        module: pruned and recovered.
        history: one entry per epoch.
    """
    (folder / "module").write_bytes(save(module))
    (folder / "curve.json").write_bytes(msgspec.json.encode(_History(points=history)))


def read_history(folder: Path) -> tuple[Epoch, ...]:
    """Return the history that `write_form` kept."""
    return decode((folder / "curve.json").read_bytes(), _History).points


def read_form(folder: Path, stage: TorchStage, pruning: Pruning) -> TorchStage:
    """Return the pruned form of a stage that `write_form` kept.

    Args:
        folder: of the cache entry.
        stage: the unpruned one.
        pruning: of the form.
    """
    data = (folder / "module").read_bytes()
    module = restore(stage.module, data)
    made_from = [fingerprint.once(stage.module), fingerprint.of_bytes(data), fingerprint.of_source("prune")]
    fingerprint.keep(module, fingerprint.of_bytes("".join(made_from).encode()))
    return replace(stage, module=module.eval(), pruning=pruning)
