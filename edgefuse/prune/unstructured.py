"""Single weights set to zero: by magnitude anywhere, or two of every four where TensorRT skips them.

Zeros alone make no stage faster on ONNX Runtime or LiteRT; they compress well, and the 2:4 pattern runs up to twice as
fast on the sparse tensor cores of Ampere and later GPUs. The tensors keep their shapes, so this chains with
`structured` and `depth`. Recovery keeps the zeros: it calls `masks` once and `apply_masks` after each step of its
optimizer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from edgefuse.bundle.manifest import PruningStep
from edgefuse.errors import PruneError
from edgefuse.prune.pruner import Examples, check, nothing_to_prune
from edgefuse.stages.stage import TorchStage

_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class MagnitudePruner:
    """Zero the smallest weights of linear and convolution layers (Han et al., arXiv:1506.02626).

    `ratio` is the fraction of all their weights. Importance `layer` (the default) takes that fraction in every layer;
    `global` ranks the weights of all layers together, which can empty a layer that matters.
    """

    name = "magnitude"
    gradual = True

    def prune(self, stage: TorchStage, step: PruningStep, examples: Examples) -> nn.Module:
        """Return a copy with the smallest weights at zero; no examples are needed."""
        check(step, ("", "layer", "global"))
        module = copy.deepcopy(stage.module)
        layers = [layer for _, layer in _layers(module)]
        if not layers:
            raise nothing_to_prune(stage, step, "a Linear or a convolution")
        pairs = [(layer, "weight") for layer in layers]
        if step.importance == "global":
            torch_prune.global_unstructured(pairs, torch_prune.L1Unstructured, amount=step.ratio)
        else:
            for layer in layers:
                torch_prune.l1_unstructured(layer, "weight", amount=step.ratio)  # type: ignore[no-untyped-call]
        for layer in layers:
            _settle(layer)
        return module


class SemiStructuredPruner:
    """Keep the two largest of every four weights along the inputs (2:4 sparsity, arXiv:2104.08378).

    Layers whose input channels are no multiple of four stay dense, as do grouped convolutions: TensorRT cannot use the
    pattern there. The ratio is always one half.
    """

    name = "semi_structured"
    gradual = False

    def prune(self, stage: TorchStage, step: PruningStep, examples: Examples) -> nn.Module:
        """Return a copy in which each output row has two zeros among four inputs; no examples are needed."""
        check(step)
        if step.ratio not in (0, 0.5):
            raise PruneError(
                "2:4 pruning removes exactly half of the weights", got=f"ratio {step.ratio}", expected="0.5"
            )
        module = copy.deepcopy(stage.module)
        fitting = [layer for _, layer in _layers(module) if layer.weight.shape[1] % 4 == 0]
        if not fitting:
            raise nothing_to_prune(stage, step, "a Linear or convolution over a multiple of 4 input channels")
        for layer in fitting if step.ratio else ():
            layer.weight.data.mul_(_two_of_four(layer.weight.detach()))
        return module


def masks(module: nn.Module) -> Mapping[str, Tensor]:
    """Return where weights are kept: by parameter name a bool tensor of its shape, False where the weight is zero.

    Only linear and convolution weights that hold a zero are named.
    """
    found = {f"{name}.weight" if name else "weight": layer.weight.detach() != 0 for name, layer in _layers(module)}
    return {name: kept for name, kept in found.items() if not bool(kept.all())}


def apply_masks(module: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set the masked weights of a module to zero again, in place."""
    with torch.no_grad():
        for name, kept in masks.items():
            module.get_parameter(name).mul_(kept)


def _layers(module: nn.Module) -> Iterator[tuple[str, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d]]:
    for name, layer in module.named_modules():
        if isinstance(layer, _WEIGHTED):
            yield name, layer


def _settle(layer: nn.Module) -> None:
    """Make a mask of torch's pruning part of the weight, in the place that the weight had among the parameters."""
    torch_prune.remove(layer, "weight")  # type: ignore[no-untyped-call]
    names = [name for name in layer._parameters if name != "weight"]
    for name in names:
        layer._parameters[name] = layer._parameters.pop(name)


def _two_of_four(weight: Tensor) -> Tensor:
    """Return the mask of the two largest of each four along axis 1, bool [out, in, ...]; ties keep the first."""
    rows = weight.abs().movedim(1, -1)
    fours = rows.reshape(*rows.shape[:-1], rows.shape[-1] // 4, 4)
    order = fours.argsort(dim=-1, descending=True, stable=True)
    kept = torch.zeros_like(fours, dtype=torch.bool).scatter_(-1, order[..., :2], True)
    return kept.reshape(rows.shape).movedim(-1, 1)
