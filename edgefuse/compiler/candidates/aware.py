"""Candidates out of stages that were trained on through the rounding of their int8 files: once for all targets."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import safetensors.torch

from edgefuse.bundle.manifest import Scheme
from edgefuse.bundle.spec import StageSpec
from edgefuse.compiler.cache import fingerprint
from edgefuse.compiler.candidates.built import Built
from edgefuse.compiler.candidates.toolchain import Toolchain
from edgefuse.compiler.evaluation.evaluator import Evaluator
from edgefuse.compiler.evaluation.runners import in_torch
from edgefuse.compiler.model.preparation import TUNING
from edgefuse.compiler.model.splits import TRAIN, SplitData
from edgefuse.compiler.model.subject import Subject
from edgefuse.compiler.recovery.forms import Forms
from edgefuse.compiler.workers import report
from edgefuse.datasets.cache import Cache
from edgefuse.quantize.schemes import aware
from edgefuse.quantize.torch.aware import train
from edgefuse.quantize.torch.balance import balance, links
from edgefuse.quantize.torch.fitting import fit
from edgefuse.stages.stage import FeedSource, TorchStage

_SOURCES = (  # all that decides what training gives; a result outlives any other change of ours
    "compiler/candidates/aware.py",
    "quantize/torch",
    "quantize/calibration",
    "quantize/onnx/static.py",
)
_WEIGHTS = "weights"


def pairs(
    subject: Subject, forms: Forms, stage: StageSpec, sources: Sequence[Built], schemes: Sequence[Scheme]
) -> Iterator[tuple[Built, Scheme]]:
    """Yield the float files of a stage with the aware scheme of each static one, if the recipe asks for them.

    Args:
        subject: the model and its data.
        forms: of all stages.
        stage: whose files are wanted.
        sources: its float files.
        schemes: that are tried on it.
    """
    static = [scheme for scheme in schemes if scheme.name.startswith("static")]
    if stage.name not in subject.recipe.quantize.aware or not static:
        return
    for source in sources:
        balanced = bool(links(forms.form(stage.name, source.pruning)))
        yield from ((source, one) for one in dict.fromkeys(aware(scheme, balanced=balanced) for scheme in static))


def trained(subject: Subject, tools: Toolchain, form: TorchStage, scheme: Scheme) -> tuple[TorchStage, Built]:
    """Return a form of a stage as an aware scheme wants it, and its float file; errors as those of `trained_form`.

    Args:
        subject: the model and its data.
        tools: of the target.
        form: of the stage.
        scheme: an aware one.
    """
    form = trained_form(subject, tools.cache, form, balanced=scheme.balanced)
    return form, tools.lower(form)


def trained_form(subject: Subject, cache: Cache, form: TorchStage, *, balanced: bool) -> TorchStage:
    """Return a form of a stage, balanced if asked for, fitted and trained on, or find it in the cache.

    What it reads of the stages before it is what torch gives, so it is the same for all targets.

    Args:
        subject: the model and its data.
        cache: that keeps it.
        form: of the stage.
        balanced: whether it is balanced first.

    Raises:
        QuantizeError: if there is nothing to train, or nothing to train on.
    """
    runners = in_torch(subject)
    data = subject.splits[TUNING if TUNING in subject.splits else TRAIN]
    calibration = subject.splits["calibration"]

    def feeds(split: SplitData) -> FeedSource:
        evaluator = Evaluator(subject, split, cache, lambda what: report(0, 0, what))
        return partial(evaluator.calibration_feeds, form.spec, [runners], runners)

    def make(folder: Path) -> None:
        start = fit(balance(form, feeds(calibration)) if balanced else form, feeds(calibration))
        module = train(start, form, feeds(calibration), feeds(data), progress=report).module
        tensors = {name: value.detach().clone().contiguous() for name, value in module.state_dict().items()}
        (folder / _WEIGHTS).write_bytes(safetensors.torch.save(tensors))

    key = [
        [form.spec, fingerprint.of_module(form.module), balanced],
        [runner.identity for runner in runners.values()],
        [calibration.digest, data.digest],
        fingerprint.of_source(*_SOURCES),
    ]
    module = copy.deepcopy(form.module)
    module.load_state_dict(safetensors.torch.load((cache.entry("aware", key, make) / _WEIGHTS).read_bytes()))
    return dataclasses.replace(form, module=module)
