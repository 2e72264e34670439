"""Even out the ranges of activations between layers, so that one scale per tensor serves all of its channels.

Where a layer's output goes, past a Relu at most, into linear layers or convolutions alone, a factor per channel can be
taken out of the one and put into the others: the stage computes the same, and channels that dwarfed their neighbours
no longer cost them their resolution. The factors go into weights that exist (layer norm, batch norm, linear,
convolution), so a run costs what it did. It is done in torch, before lowering, once for all targets.

Sources: between a layer norm and linear layers this is SmoothQuant (Xiao et al., arXiv:2211.10438), whose factor
max|X|^a / max|W|^(1-a) is used throughout; between convolutions it is the cross-layer equalisation of Nagel et al.
(arXiv:1906.04721, section 4.1), with the ranges of activations, since weights have a scale per channel anyway.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from edgefuse.errors import QuantizeError
from edgefuse.export.examples import call_torch, example_feeds
from edgefuse.export.stage import FeedSource, TorchStage

STRENGTH = 0.5
"""SmoothQuant's alpha: 0 leaves all the difficulty in the activations, 1 moves all of it into the weights."""

_aten = torch.ops.aten
_WEIGHT: Mapping[Any, int] = {  # the operators that may give or take a factor, and where their weight stands
    _aten.layer_norm.default: 2,
    _aten.batch_norm.default: 1,
    _aten.linear.default: 1,
    _aten.conv1d.default: 1,
    _aten.conv2d.default: 1,
}
_TAKERS = frozenset({_aten.linear.default, _aten.conv1d.default, _aten.conv2d.default})
_KEEPS_FACTORS = frozenset(
    {_aten.relu.default, _aten.relu_.default, _aten.dropout.default, _aten.constant_pad_nd.default, _aten.pad.default}
)
_SMALLEST = 1e-5


@dataclass(frozen=True)
class Link:
    """A layer and those that take its output, by the names of their parameters.

    Attributes:
        giver: the weight and, if there is one, the bias whose first axis is the channels.
        takers: weights, each with the axis of the input channels.
    """

    giver: tuple[str, ...]
    takers: tuple[tuple[str, int], ...]


def balance(stage: TorchStage, feeds: FeedSource, strength: float = STRENGTH) -> TorchStage:
    """Return a copy of a stage that computes the same with evened ranges.

    Args:
        stage: in eval mode; it is not changed.
        feeds: what the ranges of activations are taken from, one sample at a time.
        strength: the share of the difficulty that moves into the weights, 0 to 1.

    Raises:
        QuantizeError: if there are no feeds, or the stage has no layers between which a factor can move.
    """
    found = links(stage)
    if not found:
        raise QuantizeError(
            f"the stage '{stage.spec.name}' has nothing to balance",
            expected="a layer norm, linear layer or convolution whose output only linear layers or convolutions take",
            fix="leave balanced schemes out for this stage",
        )
    module = copy.deepcopy(stage.module)
    balanced = TorchStage(stage.spec, module, stage.pruning)
    parameters = dict(module.named_parameters())
    reach = _reach(balanced, {name: parameters[name] for link in found for name, _ in link.takers}, feeds)
    with torch.no_grad():
        for link in found:
            _move(link, parameters, reach, strength)
    return balanced


def links(stage: TorchStage) -> tuple[Link, ...]:
    """Return the places of a stage where a factor per channel can move, in the order of execution."""
    feed = next(example_feeds(stage))
    inputs = tuple(torch.from_numpy(feed[port.tensor.name]) for port in stage.spec.inputs)
    program = torch.export.export(stage.module, inputs, strict=False)
    names = _own_parameters(stage.module, program)
    return tuple(link for node in program.graph.nodes if (link := _link(node, names)) is not None)


def _own_parameters(module: nn.Module, program: torch.export.ExportedProgram) -> Mapping[fx.Node, str]:
    """Return the parameters that one operator alone uses, by their node."""
    owners = Counter(id(parameter) for _, parameter in module.named_parameters(remove_duplicate=False))
    names = program.graph_signature.inputs_to_parameters
    nodes = {node: names[node.name] for node in program.graph.nodes if node.name in names and len(node.users) == 1}
    return {node: name for node, name in nodes.items() if owners[id(module.get_parameter(name))] == 1}


def _link(node: fx.Node, names: Mapping[fx.Node, str]) -> Link | None:
    place = _WEIGHT.get(node.target)
    if place is None:
        return None
    parameters = [argument for argument in node.args[place : place + 2] if argument is not None]
    if not parameters or any(parameter not in names for parameter in parameters):
        return None
    if node.target is _aten.layer_norm.default and len(_shape(parameters[0])) != 1:
        return None
    takers = [_taker(user, value, names) for value in [_past(node)] for user in value.users]
    if not takers or None in takers:
        return None
    giver = tuple(names[parameter] for parameter in parameters)  # type: ignore[index]
    return Link(giver, tuple(taker for taker in takers if taker is not None))


def _past(node: fx.Node) -> fx.Node:
    """Return what is left of a node's output behind operators through which a positive factor passes."""
    users = tuple(node.users)
    while len(users) == 1 and users[0].target in _KEEPS_FACTORS and _pads_with_zeros(users[0]):
        node = users[0]
        users = tuple(node.users)
    return node


def _pads_with_zeros(node: fx.Node) -> bool:
    if node.target is _aten.pad.default:
        return node.args[2:3] in ((), ("constant",)) and node.args[3:4] in ((), (None,), (0.0,))
    return node.target is not _aten.constant_pad_nd.default or node.args[2:3] in ((), (0.0,))


def _taker(user: fx.Node, value: fx.Node, names: Mapping[fx.Node, str]) -> tuple[str, int] | None:
    """Return the weight that takes a value, and the axis of its input channels; None where it cannot take a factor."""
    if user.target not in _TAKERS or user.args[0] is not value or user.args[1] not in names:
        return None
    groups = user.args[6] if user.target is not _aten.linear.default and len(user.args) > 6 else 1
    weight = user.args[1]
    if groups != 1 and _shape(weight)[:2] != (groups, 1):  # neither dense nor one filter per channel
        return None
    return names[weight], 1 if groups == 1 else 0  # type: ignore[index]


def _shape(node: Any) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


class _Reach(TorchFunctionMode):
    """Notes the largest magnitude, in each channel, of what is multiplied by some weights."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._names = {id(weight): name for name, weight in weights.items()}
        self.found: dict[str, Tensor] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Look at the arguments and call on."""
        name = self._names.get(id(args[1])) if len(args) > 1 else None
        if name is not None:
            channels = -1 if func is nn.functional.linear else 1
            largest = args[0].detach().abs().movedim(channels, -1).flatten(0, -2).amax(dim=0)
            self.found[name] = torch.maximum(self.found[name], largest) if name in self.found else largest
        return func(*args, **(kwargs or {}))


def _reach(stage: TorchStage, weights: Mapping[str, Tensor], feeds: FeedSource) -> Mapping[str, Tensor]:
    samples = 0
    reach = _Reach(weights)
    with reach:
        for feed in feeds():
            call_torch(stage, feed)
            samples += 1
    if samples == 0:
        raise QuantizeError("balancing got no samples", expected="at least one", fix="give a calibration split")
    return reach.found


def _move(link: Link, parameters: Mapping[str, Tensor], reach: Mapping[str, Tensor], strength: float) -> None:
    """Take the factors out of the giver and put them into the takers."""
    name, _ = link.takers[0]
    if name not in reach:  # a product that torch runs in one fused operator, without our seeing its input
        return
    largest = [parameters[taker].abs().movedim(axis, 0).flatten(1).amax(dim=1) for taker, axis in link.takers]
    weights = torch.stack(largest).amax(dim=0)
    factors = reach[name].pow(strength) / weights.clamp(min=_SMALLEST).pow(1.0 - strength)
    dead = (reach[name] < _SMALLEST) | (weights < _SMALLEST)
    factors = torch.where(dead, torch.ones_like(factors), factors.clamp(_SMALLEST, 1.0 / _SMALLEST))
    for giver in link.giver:
        parameter = parameters[giver]
        parameter.div_(factors.reshape(-1, *[1] * (parameter.ndim - 1)))
    for taker, axis in link.takers:
        parameter = parameters[taker]
        parameter.mul_(factors.reshape(*[-1 if i == axis else 1 for i in range(parameter.ndim)]))
