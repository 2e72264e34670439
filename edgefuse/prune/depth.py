"""Shorten a stage: remove whole residual blocks, those first that change their input least.

Small models spend their time on dispatching operators, so a block less saves more than narrower blocks do. A block is
removable if it is called once, gives a tensor of its input's shape, and adds its input to its output (a transformer
block, an inverted residual of stride 1): then the input passes through where it was. LayerDrop (arXiv:1909.11556)
shows that transformers bear it, ShortGPT (arXiv:2403.03853) by which measure to choose.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from edgefuse.bundle.manifest import PruningStep
from edgefuse.errors import PruneError
from edgefuse.prune.importance import spread
from edgefuse.prune.pruner import Examples, check, nothing_to_prune
from edgefuse.stages.examples import example_feeds
from edgefuse.stages.stage import TorchStage

_EXAMPLES = 128
_BATCH = 32

# Between a block's residual sum and its output may stand a norm (post-norm transformers) or an activation (ResNet).
_CLOSING = ("NativeLayerNorm", "Relu", "Hardtanh", "Clone", "Alias", "View", "UnsafeView")


class Skipped(nn.Module):
    """The stand-in of a removed block: its first input is its output, and no operator is left."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        """Return the input."""
        return x


class DepthPruner:
    """Remove a fraction of the removable blocks of a stage, rounded down.

    Importance `influence` (the default) is 1 - the cosine between a block's input and output (arXiv:2403.03853), here
    over all values of an example; it is measured anew after each removal.
    """

    name = "depth"
    gradual = False

    def prune(self, stage: TorchStage, step: PruningStep, examples: Examples) -> nn.Module:
        """Return a copy without the blocks that change their input least.

        Raises:
            PruneError: the stage has no removable block, or so few that the ratio removes none.
        """
        check(step, ("", "influence"))
        module = copy.deepcopy(stage.module)
        blocks = removable_blocks(replace(stage, module=module))
        if not blocks:
            raise nothing_to_prune(stage, step, "residual blocks that keep the shape of their input")
        count = int(step.ratio * len(blocks) + 1e-9)
        if step.ratio > 0 and count == 0:
            raise PruneError(
                f"the ratio of a 'depth' step removes no block of the stage '{stage.spec.name}'",
                got=f"{step.ratio} of {len(blocks)}",
                expected=f"at least {1 / len(blocks):.2g}" if len(blocks) > 1 else "two blocks or more",
                fix="raise the ratio, or leave this stage out of the step",
            )
        left = list(blocks)
        for _ in range(count):
            influence = _influence(module, left, examples)
            least = min(left, key=lambda name: influence[name])
            module.set_submodule(least, Skipped())
            left.remove(least)
        return module


def removable_blocks(stage: TorchStage) -> list[str]:
    """Return the names of the removable blocks of a stage's module in the order in which they are called."""
    calls: dict[str, list[bool]] = {}
    feeds = next(example_feeds(stage))
    tensors = [torch.tensor(feeds[port.tensor.name]) for port in stage.spec.inputs]
    candidates = [name for name, part in stage.module.named_modules() if name and any(True for _ in part.children())]
    with torch.enable_grad(), _watching(stage.module, candidates, calls):
        stage.module(*tensors)
    found = [name for name, residual in calls.items() if residual == [True]]
    return [name for name in found if not any(other.startswith(f"{name}.") for other in found)]


@contextmanager
def _watching(module: nn.Module, names: Sequence[str], calls: dict[str, list[bool]]) -> Iterator[None]:
    """Note for each call of the named parts whether it adds its input to its output, in the order of the calls."""

    def before(part: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        # A leaf of its own marks where the block begins, so that the walk back through the graph ends there.
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].is_floating_point():
            x = inputs[0]
            return (x.view_as(x) if x.requires_grad else x.requires_grad_(), *inputs[1:])
        return None

    def after(name: str) -> Any:
        def note(part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            x = inputs[0] if inputs else None
            same = isinstance(x, Tensor) and isinstance(output, Tensor) and output.shape == x.shape
            calls.setdefault(name, []).append(same and _adds(output, x))

        return note

    with ExitStack() as stack:
        for name in names:
            part = module.get_submodule(name)
            stack.callback(part.register_forward_pre_hook(before).remove)
            stack.callback(part.register_forward_hook(after(name)).remove)
        yield


def _adds(output: Tensor, x: Any) -> bool:
    """Say whether a path of sums, norms and activations leads from an output back to the input, with one sum at least.

    Dropout is no operator in eval mode.
    """
    goal = x.grad_fn
    stack: list[tuple[Any, bool]] = [(output.grad_fn, False)]
    seen: set[tuple[Any, bool]] = set()
    while stack:
        node, added = stack.pop()
        if node is None or (node, added) in seen:
            continue
        seen.add((node, added))
        if node is goal or (goal is None and getattr(node, "variable", None) is x):
            if added:
                return True
            continue
        kind = node.name().partition("Backward")[0]
        if kind == "Add":
            stack += [(parent, True) for parent, _ in node.next_functions]
        elif kind in _CLOSING and node.next_functions:
            stack.append((node.next_functions[0][0], added))
    return False


@torch.no_grad()
def _influence(module: nn.Module, names: Sequence[str], examples: Examples) -> dict[str, float]:
    """Return 1 - the mean cosine between input and output, over the examples, of each named block."""
    cosines: dict[str, list[Tensor]] = {name: [] for name in names}

    def watch(name: str) -> Any:
        def note(part: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            cosines[name].append(nn.functional.cosine_similarity(inputs[0].flatten(1), output.flatten(1), dim=1))

        return note

    indices = spread(len(examples), _EXAMPLES)
    with ExitStack() as stack:
        for name in names:
            stack.callback(module.get_submodule(name).register_forward_hook(watch(name)).remove)
        for start in range(0, len(indices), _BATCH):
            module(*examples.batch(indices[start : start + _BATCH])[0])
    return {name: 1 - float(torch.cat(values).double().mean()) for name, values in cosines.items()}
