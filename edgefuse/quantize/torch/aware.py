"""Train a stage's biases and the scales of its norms on, through the rounding of its int8 files.

One simulation serves all targets: weights are rounded per channel once, and layers with weights and what sums up their
results take values that were rounded with the ranges of a static scheme. What is rounded passes gradients on as if it
were not (straight-through). The weights themselves stay where fitting put them, on the int8 grid: training them as well
gains no more. Nothing needs a label: the goal is the output of the float stage. Inputs
should look like deployed ones: what rounding does on plain grounds and in silence is systematic, and does not show
where there is noise everywhere.

Sources: straight-through training with given ranges of activations is Jacob et al. (arXiv:1712.05877, section 3); the
float stage as the teacher is Mishra and Marr (arXiv:1711.05852).
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edgefuse.errors import QuantizeError
from edgefuse.progress import Progress, silent
from edgefuse.quantize.calibration.calibrators import CALIBRATORS
from edgefuse.quantize.calibration.ranges import RunningRange
from edgefuse.quantize.onnx.static import affine
from edgefuse.quantize.torch.fitting import LAYERS
from edgefuse.stages.stage import Feeds, FeedSource, TorchStage, outputs_of

_CONVOLUTIONS = frozenset({"conv1d", "conv2d"})  # a linear layer gives float unless another layer follows
_PRODUCTS = _CONVOLUTIONS | {"linear"}
_SUMS = frozenset({"add", "add_", "__add__", "__iadd__", "mul", "mean", "avg_pool2d", "adaptive_avg_pool2d"})
_PASSES = frozenset({"batch_norm", "relu", "relu_", "relu6", "hardtanh", "clamp", "max_pool2d", "pad", "flatten"})
_LOOKS = frozenset({"dim", "size", "__get__"})


@dataclass(frozen=True)
class AwareSettings:
    """How a stage is trained on.

    Attributes:
        steps: at the most.
        batch: samples per step.
        learning_rate: how far a step of Adam moves a value at the peak, as a share of its tensor's mean size.
        interval: steps after which the stage is judged.
        patience: intervals without a better result after which training ends.
    """

    steps: int = 300
    batch: int = 8
    learning_rate: float = 2e-4
    interval: int = 100
    patience: int = 2


DEFAULT = AwareSettings()

_HELD_OUT = 8  # every so many samples one is not trained on: the stage is judged on it
_JUDGED = 64  # on so many at most
_LEAST = 1e-30


def train(
    stage: TorchStage,
    teacher: TorchStage,
    calibration: FeedSource,
    samples: FeedSource,
    settings: AwareSettings = DEFAULT,
    progress: Progress = silent,
) -> TorchStage:
    """Return a copy of a stage whose int8 files come closer to the teacher: the best that training came by.

    Args:
        stage: in eval mode, best balanced and fitted before; it is not changed.
        teacher: the stage as it was before that.
        calibration: what a quantizer will take ranges from, which do not clip it: nothing is judged on it.
        samples: what is trained and judged on, in this order, over and over.
        settings: how to train.
        progress: told after every step.

    Raises:
        QuantizeError: if there is nothing to train, or nothing to train on.
    """
    student = dataclasses.replace(stage, module=copy.deepcopy(stage.module))
    _round_weights(student.module)
    optimizer = _optimizer(student.module, settings.learning_rate)
    few = next(calibration(), None) is None or len(list(islice(samples(), 2))) < 2
    if few or not optimizer.param_groups[0]["params"]:
        raise QuantizeError(
            f"the stage '{stage.spec.name}' has nothing to train through its rounding, or no samples to train it on",
            expected="biases or norms, a calibration split, and two samples of the stage's modality or more",
            fix="leave it out of [quantize] aware",
        )
    rounding, batches = _Rounding(), _batches(samples, settings.batch)
    best, best_state, better_at = math.inf, student.module.state_dict(), 0
    for step in range(settings.steps + 1):
        if step % settings.interval == 0 or step == settings.steps:
            if (noise := _noise(student, teacher, rounding, calibration, samples)) < best:
                best, best_state, better_at = noise, copy.deepcopy(student.module.state_dict()), step
            if step == settings.steps or step - better_at >= settings.patience * settings.interval:
                break
        _set_rate(optimizer, step, settings)
        _step(student, teacher, rounding, next(batches), optimizer)
        progress(step + 1, settings.steps, f"train {stage.spec.name} for int8, {-10 * math.log10(best):.1f} dB so far")
    student.module.load_state_dict(best_state)
    return student


class _Rounding(TorchFunctionMode):
    """Rounds, inside a call of a stage, the values that its int8 files round; knows them by their order in a call."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: list[RunningRange] = []
        self._grids: list[tuple[float, int]] = []  # scale and zero point of each value; none while they are looked for

    def __enter__(self) -> Any:
        self._known: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._int8: dict[int, Tensor] = {}  # what int8 kernels give; held here, or another tensor might get its id
        return super().__enter__()  # type: ignore[no-untyped-call]

    def observe(self, stage: TorchStage, feeds: FeedSource) -> None:
        """Take new ranges from what a stage comes upon, unrounded."""
        self._seen, self._grids = [], []
        for feed in feeds():
            with self:
                _outputs(stage, feed)
        self._grids = [affine(CALIBRATORS["mse"](seen), signed=False) for seen in self._seen]

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Round the arguments and call on."""
        name = getattr(func, "__name__", "")
        tensors = [value for value in args if isinstance(value, Tensor)]
        results = [value for value in tensors if id(value) in self._int8]
        from_int8 = False
        if name in _PRODUCTS and isinstance(args[1], nn.Parameter):
            args = (self._rounded(args[0]), *args[1:])
            from_int8 = name in _CONVOLUTIONS
        elif name in _PASSES:
            from_int8 = bool(results)
        elif results and name not in _LOOKS:  # whatever computes with an int8 kernel's result takes it rounded
            args = tuple(self._rounded(value) if id(value) in self._int8 else value for value in args)
            from_int8 = name in _SUMS and len(results) == len(tensors)
        result = func(*args, **(kwargs or {}))
        if from_int8:
            self._int8[id(result)] = result
        return result

    def _rounded(self, value: Tensor) -> Tensor:
        key = id(value), value._version  # it may be changed in place
        if key not in self._known:
            self._known[key] = value, self._round(value, len(self._known))
        return self._known[key][1]

    def _round(self, value: Tensor, place: int) -> Tensor:
        if self._grids:
            return torch.fake_quantize_per_tensor_affine(value, *self._grids[place], 0, 255)
        if place == len(self._seen):
            self._seen.append(RunningRange(f"value {place}"))
        self._seen[place].update(value.detach().numpy())
        return value


def _round_weights(module: nn.Module) -> None:
    """Put weights on the int8 grid; fitted ones are there already."""
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, LAYERS):
                scales = (layer.weight.abs().flatten(1).amax(dim=1) / 127.0).clamp(min=1e-30)
                zeros = torch.zeros_like(scales, dtype=torch.int32)
                layer.weight.copy_(torch.fake_quantize_per_channel_affine(layer.weight, scales, zeros, 0, -127, 127))


def _outputs(stage: TorchStage, feed: Feeds) -> tuple[Tensor, ...]:
    inputs = (np.require(feed[port.tensor.name], requirements=["C", "W"]) for port in stage.spec.inputs)
    return outputs_of(stage.module(*map(torch.from_numpy, inputs)))


def _compared(student: TorchStage, teacher: TorchStage, rounding: _Rounding, feed: Feeds) -> Tensor:
    """Return the energy of the error that rounding makes, and that of what the teacher gives, [2]."""
    with torch.no_grad():
        wanted = _outputs(teacher, feed)
    with rounding:
        given = _outputs(student, feed)
    pairs = [((one - other).square().sum(), other.square().sum()) for one, other in zip(given, wanted, strict=True)]
    return torch.stack([torch.stack(pair) for pair in pairs]).sum(dim=0).clamp(min=_LEAST)


def _noise(
    student: TorchStage, teacher: TorchStage, rounding: _Rounding, calibration: FeedSource, samples: FeedSource
) -> float:
    """Return the share of noise in what a stage gives for samples held out, after taking its ranges anew."""
    with torch.no_grad():
        rounding.observe(student, calibration)
        held_out = islice(samples(), 0, _HELD_OUT * _JUDGED, _HELD_OUT)
        parts = [_compared(student, teacher, rounding, feed).double() for feed in held_out]
    error, energy = torch.stack(parts).sum(dim=0).tolist()
    return max(float(error / energy), _LEAST)


def _step(
    student: TorchStage, teacher: TorchStage, rounding: _Rounding, feeds: Sequence[Feeds], optimizer: torch.optim.Adam
) -> None:
    optimizer.zero_grad()
    for feed in feeds:
        error, energy = _compared(student, teacher, rounding, feed)
        torch.autograd.backward(error / (energy * len(feeds)))
    optimizer.step()


def _optimizer(module: nn.Module, rate: float) -> torch.optim.Adam:
    """Return what moves biases and the scales of norms, each tensor by its own size; nothing else gets gradients."""
    groups: list[dict[str, Any]] = []
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.ndim == 1)
        if parameter.ndim == 1:
            groups.append({"params": [parameter], "peak": rate * float(parameter.detach().square().mean().sqrt())})
    return torch.optim.Adam(groups or [{"params": []}])


def _set_rate(optimizer: torch.optim.Adam, step: int, settings: AwareSettings) -> None:
    """Rise to the peak over a tenth of the steps, then fall to nothing along a cosine."""
    done = (step + 1) / (settings.steps + 1)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * min(1.0, 10.0 * done) * (1 + math.cos(math.pi * done)) / 2


def _batches(samples: FeedSource, size: int) -> Iterator[Sequence[Feeds]]:
    """Yield batches without end: one feed where all have the same shapes, else the samples one by one."""
    passes = (enumerate(source()) for source in repeat(samples))
    feeds = (feed for number, feed in chain.from_iterable(passes) if number % _HELD_OUT)
    while batch := list(islice(feeds, size)):
        alike = len({tuple(array.shape for array in feed.values()) for feed in batch}) == 1
        yield [{name: np.concatenate([feed[name] for feed in batch]) for name in batch[0]}] if alike else batch
