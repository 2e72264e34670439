"""The full-precision reference in torch, in its faster mode: the baseline of every speed-up."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from edgefuse.bundle.spec import ModelSpec
from edgefuse.compiler.evaluation.inductor import building
from edgefuse.compiler.model.opening import described
from edgefuse.compiler.recipe.factory import imported, staying_here, users_code
from edgefuse.errors import ModelError, cited
from edgefuse.measure.latency import Interleaved
from edgefuse.models.fusion import FusionModel
from edgefuse.runtime.backends.denormals import Flushed
from edgefuse.runtime.decoding import NO_TOKENS, TOKEN
from edgefuse.runtime.processor import checked_threads
from edgefuse.stages.explicit import undescribed
from edgefuse.stages.found import find
from edgefuse.stages.found.generating import Generating
from edgefuse.stages.stage import outputs_of, runtime_of

Array: TypeAlias = npt.NDArray[np.generic]
Forward: TypeAlias = Callable[..., Any]

_CHOICE = Interleaved(min_rounds=31, min_seconds=0.0, max_seconds=10.0)


class TorchReference:
    """A model in eval and inference mode, on the threads of the edge, as the faster of eager and torch.compile.

    A model that torch does not run, an ONNX file, is what its own runtime makes of it.

    Which one is faster is measured at the first call of `run`, which therefore takes long. It runs on CUDA where there
    is a device, as a copy, else on the CPU. The number of torch's threads is set for the whole process.

    Args:
        model: a `FusionModel`, or another module with a `spec` (called with all modality tensors in order, then the
            lengths, then `present` if any modality is optional).
        threads: that torch may use.

    Attributes:
        runtime: what runs the model in place of torch; None if torch does.
        device: `cpu` or `cuda`.
        mode: `eager` or `torch.compile`; empty before the first run.
        p50_ms: what was measured by mode when choosing.
        note: why torch.compile was not measured; empty if it was.

    Raises:
        ModelError: if the model has no spec.
        InputError: if there are not so many processors.
    """

    def __init__(self, model: nn.Module, threads: int = 1) -> None:
        spec = getattr(model, "spec", None)
        if not isinstance(spec, ModelSpec):
            raise undescribed(model, spec)
        torch.set_num_threads(checked_threads(threads))
        self.spec = spec
        self.threads = threads
        self.runtime = runtime_of(model)
        self.device = "cpu" if self.runtime else _device()
        self.mode = ""
        self.p50_ms: dict[str, float] = {}
        self.note = ""
        # Elsewhere a copy: stages share the model's parameters, and are run on the CPU afterwards.
        self._model = model.eval() if self.device == "cpu" else copy.deepcopy(model).eval().to(self.device)
        self._forward: Forward = self._model
        self._flushed = Flushed()

    @property
    def description(self) -> str:
        """The reference in words, for a report: versions, device, threads, the mode, and the time of the other one."""
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        facts = [self.runtime or f"torch {torch.__version__}", self.mode or "not measured yet", self.device, threads]
        measured = ", ".join(f"{mode} {value:.2f} ms" for mode, value in self.p50_ms.items())
        facts += [f"measured to choose: {measured}"] if len(self.p50_ms) > 1 else []
        return ", ".join(facts) + (f" ({self.note})" if self.note else "")

    def run(self, values: Mapping[str, Array], present: Sequence[str]) -> dict[str, Array]:
        """Return the outputs by name.

        Args:
            values: tensors by `Source.key`; those that are missing count as zeros of the largest shape.
            present: the names of the modalities that are present.
        """
        arguments = self._arguments(values, present)
        with torch.inference_mode():
            if not self.mode:
                self._choose(arguments)
            with self._flushed:  # as the edge's runtimes do: masked attention is 1.2 times slower without
                result = self._forward(*arguments)
        names = (output.name for output in self.spec.outputs)
        return {name: value.cpu().numpy() for name, value in zip(names, outputs_of(result), strict=True)}

    def _arguments(self, values: Mapping[str, Array], present: Sequence[str]) -> tuple[Any, ...]:
        mask = torch.tensor(
            [[float(modality.name in present) for modality in self.spec.modalities]], device=self.device
        )
        inputs: dict[str, Tensor] = {}
        lengths: dict[str, Tensor] = {}
        for modality in self.spec.modalities:
            for tensor in modality.tensors:
                key = f"{modality.name}.{tensor.name}"
                inputs[key] = self._tensor(values.get(key, np.zeros(tensor.max_shape, tensor.dtype)))
            if modality.length:
                key = f"{modality.name}.length"
                lengths[key] = self._tensor(values.get(key, np.zeros(1, np.int32)))
        if isinstance(self._model, Generating):
            return self._model.of({**inputs, **lengths, "present": mask}, self._tokens(values))
        if isinstance(self._model, FusionModel):
            return {**inputs, **lengths}, mask, *([self._tokens(values)] if self._model.decoder else [])
        optional = any(modality.optional for modality in self.spec.modalities)
        return *inputs.values(), *lengths.values(), *((mask,) if optional else ())

    def _tokens(self, values: Mapping[str, Array]) -> Tensor:
        """Return the tokens that are right, of which a decoder's steps are given all but the last: any will do."""
        given = values.get(TOKEN, NO_TOKENS)
        return self._tensor(np.concatenate([given[:, 1:], given[:, :1]], axis=1))

    def _tensor(self, value: Array) -> Tensor:
        # A copy where the array is read-only: torch may not share that memory.
        owned = np.require(value, requirements=["C", "W"])
        return torch.from_numpy(owned).to(self.device)

    def _choose(self, arguments: tuple[Any, ...]) -> None:
        """Measure eager against torch.compile on these arguments and keep the faster one."""
        modes: dict[str, Forward] = {"eager": self._model}
        if self.runtime:
            self.mode = "the float file"
            return
        compiled = self._compiled(arguments)
        if compiled is not None:
            modes["torch.compile"] = compiled
        latencies = _CHOICE({mode: self._call(forward, arguments) for mode, forward in modes.items()})
        self.p50_ms = {mode: latencies.p50_ms(mode) for mode in modes}
        self.mode = min(self.p50_ms, key=self.p50_ms.__getitem__)
        if latencies.pressure.busy:
            self.note = "; ".join([*([self.note] if self.note else []), "the machine was busy when it was chosen"])
        self._forward = modes[self.mode]

    def _compiled(self, arguments: tuple[Any, ...]) -> Forward | None:
        """Return the compiled model after its first call, or None and a note why there is none."""
        try:
            # Ignored are deprecations inside torch's own compiler.
            with warnings.catch_warnings(action="ignore"), building():
                compiled: Forward = torch.compile(self._model)
                compiled(*arguments)
        except (TorchDynamoException, RuntimeError, ImportError, OSError) as error:
            self.note = f"torch.compile failed: {cited(error)}"
            return None
        return compiled

    def _call(self, forward: Forward, arguments: tuple[Any, ...]) -> Callable[[], None]:
        def call() -> None:
            with self._flushed:
                forward(*arguments)
            if self.device == "cuda":
                torch.cuda.synchronize()

        return call


def _device() -> str:
    """Return where torch runs."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def open_reference(factory: str, threads: int = 1) -> TorchReference:
    """Build a reference from `module:callable`, as a recipe names it; the current folder is searched, too.

    The model is called as a compile calls it: by keyword and in the types that it wants, where it names its inputs.

    Raises:
        ModelError: if the factory cannot be imported or called, returns no model, or one that cannot be called.
    """
    build = imported(factory, Path.cwd(), kind=ModelError)
    with staying_here(), users_code(f"the factory '{factory}' failed", ModelError):
        made = build() if callable(build) else build
    return TorchReference(find(*described(factory, made)).module, threads)
