"""The widths inside a stage: which channels of which layers go together, by the dependency graph of Torch-Pruning.

Torch-Pruning (DepGraph, arXiv:2301.12900) follows autograd from the outputs to the inputs. The stage's interfaces take
part as ports, so a width that a port shares is known and stays.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch_pruning.ops import OPTYPE
from torch_pruning.pruner.function import BasePruningFunc

from edgefuse.errors import PruneError, cited
from edgefuse.prune.attention import FAILURES
from edgefuse.prune.dependencies import Dependencies
from edgefuse.prune.importance import Ranked, Slice
from edgefuse.prune.leaves import FixedLeaf, Leaf, leaves_of, standing_in
from edgefuse.prune.pruner import INTERFACE
from edgefuse.stages.examples import example_feeds
from edgefuse.stages.openness import without_checkpoints
from edgefuse.stages.stage import TorchStage, outputs_of

_MOST_CONSTANTS = 16
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.PReLU)


@dataclass(frozen=True)
class Width:
    """Channels that are pruned together, across all layers that share them.

    Attributes:
        name: of the layer that makes it.
        units: the channels of the root layer; those of one unit can only go together.
        ranked: the units with the weights that go with each.
        group: what Torch-Pruning calls the same.
    """

    name: str
    units: tuple[tuple[int, ...], ...]
    ranked: Ranked
    group: Any

    @property
    def is_hidden(self) -> bool:
        """Whether it lies within a block: no sum and no embedding table has part in it, as in a residual stream."""
        parts = [item.dep.target for item in self.group.items]
        return not any(isinstance(part.module, nn.Embedding) or _sums(part) for part in parts)

    @property
    def is_reshaped(self) -> bool:
        """Whether its channels pass through a view, which may take them for something else when there are fewer.

        Where nothing mixes them on the way (a norm over all of them, weights of its own), zeros in place of a channel
        are as good as no channel, so that it can be told.
        """
        parts = [item.dep.target for item in self.group.items]
        mixed = any(isinstance(part.module, (nn.LayerNorm, nn.Parameter)) for part in parts)
        return self.is_hidden and not mixed and any(part.type == OPTYPE.RESHAPE for part in parts)

    def silence(self, units: Sequence[int]) -> None:
        """Put zeros where units are read, in place: what comes of that is what comes of taking them away."""
        gone = torch.zeros(len(self.units), dtype=torch.bool)
        gone[list(units)] = True
        with torch.no_grad():
            for part in self.ranked.slices:
                if part.reads:
                    part.parameter.index_fill_(part.axis, part.positions[gone[part.owners]], 0)

    def remove(self, units: Sequence[int]) -> None:
        """Take units away from every layer that shares them, in place."""
        channels = sorted(channel for unit in units for channel in self.units[unit])
        root = self.group[0].dep
        self.group._DG.get_pruning_group(root.target.module, root.handler, channels).prune(record_history=False)


@dataclass(frozen=True)
class Kept:
    """A width, or the heads of an attention, that stays as it is.

    Attributes:
        name: of the layer that makes it, or of the module that the attention is.
        kind: `channels` or `heads`.
        size: how many there are.
        reason: why it stays, as a sentence.
    """

    name: str
    kind: str
    size: int
    reason: str


def widths_of(
    stage: TorchStage, makers: Iterable[str] = (), readers: Iterable[str] = ()
) -> tuple[list[Width], list[Kept]]:
    """Return the widths inside a stage's module that may shrink, in the order of the graph from its outputs.

    The module is left in eval mode with gradients enabled for all parameters.

    Args:
        stage: with its module.
        makers: names of the layers that make queries, keys and values: their outputs are heads, and no channels.
        readers: names of the layers that read what attentions give.

    Returns:
        The widths, and those that stay.

    Raises:
        PruneError: if the module cannot be traced.
    """
    leaves = leaves_of(stage.module)
    names = {id(part): name for name, part in stage.module.named_modules()}
    graph = _traced(stage, leaves)
    roots = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding, *leaves)
    outward = {id(stage.module.get_submodule(name)) for name in makers}
    inward = {id(stage.module.get_submodule(name)) for name in readers}
    sharers = Counter(id(parameter) for _, parameter in stage.module.named_parameters(remove_duplicate=False))
    widths: list[Width] = []
    kept: list[Kept] = []
    for layer, channels, group in graph.groups(roots):
        name = names[id(layer)]
        try:
            if isinstance(group, Exception):
                raise group
            if _is_inside(graph, group, outward, inward):
                continue
            made = _width(graph, group, leaves, name)
        except FAILURES:  # the graph takes an operator for another one: the rest of it is well
            made = f"'{name}' keeps its {channels} channels: an operator on the way cannot be followed"
        if isinstance(made, Width) and _is_torn(made, sharers):
            made = (
                f"'{name}' keeps its {len(made.units)} channels: another layer has the same weights, and other channels"
            )
        if isinstance(made, Width):
            widths.append(made)
        else:
            kept.append(Kept(name, "channels", channels, made))
    return widths, kept


def _is_torn(width: Width, sharers: Mapping[int, int]) -> bool:
    """Say whether a weight that several layers have would become narrower in some of them only, or in another way."""
    touched = Counter((id(part.parameter), part.axis) for part in width.ranked.slices)
    return any(sharers[parameter] > 1 and count != sharers[parameter] for (parameter, _), count in touched.items())


def _is_inside(graph: Any, group: Any, outward: Set[int], inward: Set[int]) -> bool:
    """Say whether a group is the inside of an attention: what some layers make, or another one reads."""
    return any(
        id(item.dep.target.module) in (outward if graph.is_out_channel_pruning_fn(item.dep.handler) else inward)
        for item in group.items
    )


class _Port(nn.Module):
    """Where a tensor enters or leaves a stage."""

    channels = 0

    def forward(self, x: Tensor) -> Tensor:
        """Return the tensor as the result of an operation that autograd knows."""
        self.channels = x.shape[1] if x.dim() == 4 else x.shape[-1]
        return x.clone()


class _PortPruner(BasePruningFunc):  # type: ignore[misc]
    def prune_out_channels(self, layer: _Port, idxs: Sequence[int]) -> nn.Module:
        raise NotImplementedError("interfaces stay as they are")

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: _Port) -> int:
        return layer.channels

    get_in_channels = get_out_channels


class _Joined(TorchFunctionMode):
    """Puts ports before what no gradient reaches and is joined to channels: the graph counts what it sees only.

    A gated linear unit is written as the halves that it takes, of which the graph knows nothing else.
    """

    def __init__(self, ports: Iterable[nn.Module]) -> None:
        super().__init__()
        self._ports = iter(ports)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.cat, torch.concat, torch.concatenate):
            tensors, dim = args[0], (*args[1:], (kwargs or {}).get("dim", 0))[0]
            if dim % tensors[0].dim() == tensors[0].dim() - 1:
                args = ([self._seen(tensor) for tensor in tensors], *args[1:])
        if func in (nn.functional.glu, torch._C._nn.glu):
            x, dim = (*args, *(kwargs or {}).values(), -1)[:2]
            value, gate = x.chunk(2, dim)
            return value * gate.sigmoid()
        return func(*args, **(kwargs or {}))

    def _seen(self, tensor: Tensor) -> Tensor:
        port = None if tensor.requires_grad or not tensor.is_floating_point() else next(self._ports, None)
        seen: Tensor = tensor if port is None else port(tensor.detach().requires_grad_())
        return seen


class _Ported(nn.Module):
    """A stage's module between ports."""

    def __init__(self, stage: TorchStage) -> None:
        super().__init__()
        self.module = stage.module
        # What says which modalities are there, or how long they are, is no width.
        self.entries = nn.ModuleList(
            nn.Identity() if port.source.kind in ("present", "length") else _Port() for port in stage.spec.inputs
        )
        self.exits = nn.ModuleList(_Port() for _ in stage.spec.outputs)
        self.constants = nn.ModuleList(_Port() for _ in range(_MOST_CONSTANTS))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Pass floating-point inputs and all outputs through their ports."""
        inputs = [
            port(x.requires_grad_()) if isinstance(port, _Port) and x.is_floating_point() else x
            for port, x in zip(self.entries, tensors, strict=True)
        ]
        with _Joined(self.constants):
            result = self.module(*inputs)
        return tuple(port(x) for port, x in zip(self.exits, outputs_of(result), strict=True))


def _traced(stage: TorchStage, leaves: dict[type[nn.Module], Leaf]) -> Dependencies:
    model = _Ported(stage).eval().requires_grad_()
    feeds = next(example_feeds(stage))
    tensors = tuple(torch.tensor(feeds[port.tensor.name]) for port in stage.spec.inputs)
    graph = Dependencies()
    try:
        with (
            without_checkpoints(),
            standing_in(stage.module, leaves),
            torch.enable_grad(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            graph.build_dependency(
                model,
                tensors,
                forward_fn=lambda module, inputs: module(*inputs),
                unwrapped_parameters=_free_parameters(model, leaves),
                customized_pruners={**leaves, _Port: _PortPruner()},
                verbose=False,
            )
    except (*FAILURES, KeyError) as error:
        raise PruneError(
            f"the dependencies between the layers of the stage '{stage.spec.name}' cannot be traced",
            got=cited(error),
            fix="use another method of pruning for this stage",
        ) from error
    return graph


def _free_parameters(model: nn.Module, leaves: dict[type[nn.Module], Leaf]) -> list[tuple[nn.Parameter, int]]:
    """Return the parameters that modules use by themselves (positions, class tokens), with the axis of their channels.

    That axis is the last one that is longer than 1: of [1, T, C] the last, of a scale [C, 1, 1] the first.
    """
    known = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding, nn.GroupNorm, *_NORMS, *leaves)
    free: list[tuple[nn.Parameter, int]] = []
    for module in model.modules():
        if not isinstance(module, known):
            for parameter in module.parameters(recurse=False):
                axes = [axis for axis, size in enumerate(parameter.shape) if size > 1]
                free.append((parameter, axes[-1] if axes else parameter.dim() - 1))
    return free


def _width(graph: Any, group: Any, leaves: dict[type[nn.Module], Leaf], name: str) -> Width | str:
    """Return a group of the graph as a width, or why something in it must stay."""
    root = group[0].dep
    channels = len(group[0].idxs)
    reasons = (_why_fixed(graph, item, leaves) for item in group.items)
    if reason := next((reason for reason in reasons if reason), ""):
        return f"'{name}' keeps its {channels} channels: {reason}"
    leaf = leaves.get(type(root.target.module))
    units = (leaf.units(root.target.module) if leaf else None) or _coupled(graph, root, channels)
    if not leaf and any(_has_pairs(item, leaves) for item in group.items):
        return f"'{name}' keeps its {channels} channels: a layer in both directions shares them"
    owner = torch.empty(channels, dtype=torch.int64)
    for number, unit in enumerate(units):
        owner[list(unit)] = number
    slices = tuple(part for item in group.items for part in _slices(graph, item, owner, leaves))
    if any(len(part.positions) and int(part.positions.max()) >= part.parameter.shape[part.axis] for part in slices):
        return f"'{name}' keeps its {channels} channels: an operator on the way mixes or repeats them"
    return Width(name, tuple(tuple(unit) for unit in units), Ranked(len(units), slices), group)


def _why_fixed(graph: Any, item: Any, leaves: dict[type[nn.Module], Leaf]) -> str:
    """Say why a member of a group keeps its width: an interface, a fixed leaf, groups, a shape of its own."""
    layer = item.dep.target.module
    if item.dep.target in graph.unfollowed:
        return "an operator on the way cannot be followed"
    if _outruns(graph, item):
        return "an operator on the way mixes or repeats them"
    if isinstance(layer, _Port):
        return INTERFACE
    if isinstance(leaves.get(type(layer)), FixedLeaf):
        return f"a layer of the kind {type(layer).__name__} shares them"
    if isinstance(layer, (nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)):
        return f"a norm of the kind {type(layer).__name__} shares them"
    if isinstance(layer, nn.modules.conv._ConvNd):
        depthwise = layer.groups == layer.in_channels == layer.out_channels
        return "" if layer.groups == 1 or depthwise else "a convolution in groups shares them"
    if isinstance(layer, nn.LayerNorm):
        return "a norm over more than one axis shares them" if len(layer.normalized_shape) != 1 else ""
    other = isinstance(layer, nn.Parameter) and layer.shape[item.dep.target.pruning_dim] != len(item.idxs)
    return "a parameter with another width shares them" if other else ""


def _outruns(graph: Any, item: Any) -> bool:
    """Say whether channels that a layer does not have come to it: the graph took an operator for one by element."""
    target, handler = item.dep.target, item.dep.handler
    count = graph.get_out_channels if graph.is_out_channel_pruning_fn(handler) else graph.get_in_channels
    channels = None if isinstance(target.module, nn.Parameter) else count(target)
    return channels is not None and max(item.idxs) >= channels


def _has_pairs(item: Any, leaves: dict[type[nn.Module], Leaf]) -> bool:
    """Say whether a member has outputs that can only go together, which the root of the group does not know."""
    layer = item.dep.target.module
    leaf = leaves.get(type(layer))
    return leaf is not None and leaf.units(layer) is not None and item.dep.handler == leaf.prune_out_channels


def _sums(node: Any) -> bool:
    name = getattr(node.grad_fn, "name", None)
    return name is not None and name().startswith("AddBackward")


def _coupled(graph: Any, root: Any, channels: int) -> list[list[int]]:
    """Return which channels of a root layer go together (the halves of a gated unit); mostly each goes alone."""

    def closure(channel: int) -> list[int]:
        return sorted(set(graph.get_pruning_group(root.target.module, root.handler, [channel])[0].idxs))

    if all(len(closure(channel)) == 1 for channel in {0, channels // 2, channels - 1}):
        return [[channel] for channel in range(channels)]
    found: list[list[int]] = []
    left = set(range(channels))
    while left:  # a unit is looked for once: in a model that is written out over time that takes long
        found.append(closure(min(left)))
        left -= set(found[-1])
    return sorted(found)


def _slices(graph: Any, item: Any, owner: Tensor, leaves: dict[type[nn.Module], Leaf]) -> Iterator[Slice]:
    """Yield the weights of a member of a group, by the unit that they go with."""
    layer, handler = item.dep.target.module, item.dep.handler
    positions = torch.tensor(item.idxs)
    owners = owner[torch.tensor(item.root_idxs)]
    if type(layer) in leaves:
        leaf = leaves[type(layer)]
        yield from leaf.slices(layer, positions, owners, out=handler == leaf.prune_out_channels)
    elif isinstance(layer, nn.Parameter):
        yield Slice(layer, item.dep.target.pruning_dim, positions, owners)
    elif isinstance(layer, nn.Embedding):
        yield Slice(layer.get_parameter("weight"), 1, positions, owners)
    elif isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)):
        reads = graph.is_in_channel_pruning_fn(handler) and not graph.is_out_channel_pruning_fn(handler)
        inputs_first = getattr(layer, "transposed", False)
        yield Slice(layer.get_parameter("weight"), int(reads) ^ int(inputs_first), positions, owners, reads=reads)
        if layer.bias is not None and not reads:
            yield Slice(layer.get_parameter("bias"), 0, positions, owners)
    elif isinstance(layer, _NORMS):
        for parameter in layer.parameters(recurse=False):
            if parameter.numel() > 1:
                yield Slice(parameter, 0, positions, owners)
