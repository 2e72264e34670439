"""Even out the ranges of activations between layers, so that one scale per tensor serves all of its channels.

Where the outputs of layers go, past a Relu and sums of each other at most, into linear layers or convolutions alone, a
factor per channel can be taken out of the ones and put into the others: the stage computes the same, and channels that
dwarfed their neighbours no longer cost them their resolution. The values between them, such as all of a residual
stream, are a *stream*: they share their factors. These go into weights that exist (layer norm, batch norm, linear,
convolution), so a run costs what it did. It is done in torch, before lowering, once for all targets.

Sources: between a layer norm and linear layers this is SmoothQuant (Xiao et al., arXiv:2211.10438), whose factor
max|X|^a / max|W|^(1-a) is used throughout, the largest over all takers of a stream; between convolutions it is the
cross-layer equalisation of Nagel et al. (arXiv:1906.04721, section 4.1), with the ranges of activations, since weights
have a scale per channel anyway.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from edgefuse.errors import QuantizeError
from edgefuse.stages.examples import example_feeds
from edgefuse.stages.running import call_torch
from edgefuse.stages.stage import TORCH, FeedSource, TorchStage

STRENGTH = 0.5
"""SmoothQuant's alpha: 0 leaves all the difficulty in the activations, 1 moves all of it into the weights."""

_aten = torch.ops.aten
_LAYERS: Mapping[Any, tuple[int, int]] = {  # what may give or take a factor: where the weight stands, axis of channels
    _aten.layer_norm.default: (2, -1),
    _aten.batch_norm.default: (1, 1),
    _aten.linear.default: (1, -1),
    _aten.conv1d.default: (1, -2),
    _aten.conv2d.default: (1, -3),
}
_TAKERS = frozenset({_aten.linear.default, _aten.conv1d.default, _aten.conv2d.default})
_KEEPS_FACTORS = frozenset(
    {_aten.relu.default, _aten.relu_.default, _aten.dropout.default, _aten.constant_pad_nd.default, _aten.pad.default}
)
_SUMS = frozenset({_aten.add.Tensor, _aten.add_.Tensor})
_SMALLEST = 1e-5


@dataclass(frozen=True)
class Link:
    """Layers whose outputs share a factor per channel, and those that take them, by the names of their parameters.

    Attributes:
        givers: weights and biases whose first axis is the channels.
        takers: weights, each with the axis of the input channels.
    """

    givers: tuple[str, ...]
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
            expected="layers whose outputs, or sums of these, only linear layers or convolutions take",
            fix="leave balanced schemes out for this stage",
        )
    module = copy.deepcopy(stage.module)
    balanced = replace(stage, module=module)
    parameters = dict(module.named_parameters())
    reach = _reach(balanced, {name: parameters[name] for link in found for name, _ in link.takers}, feeds)
    with torch.no_grad():
        for link in found:
            _move(link, parameters, reach, strength)
    return balanced


def links(stage: TorchStage) -> tuple[Link, ...]:
    """Return the places of a stage where a factor per channel can move, in the order of execution.

    There is none in a graph of an ONNX file: what its operators share is not traced.
    """
    if stage.origin != TORCH:
        return ()
    feed = next(example_feeds(stage))
    inputs = tuple(torch.from_numpy(feed[port.tensor.name]) for port in stage.spec.inputs)
    program = torch.export.export(stage.module, inputs, strict=False)
    names = _own_parameters(stage.module, program)
    return tuple(link for stream in _streams(program.graph) if (link := _link(stream, names)) is not None)


def _own_parameters(module: nn.Module, program: torch.export.ExportedProgram) -> Mapping[fx.Node, str]:
    """Return the parameters that one operator alone uses, by their node."""
    owners = Counter(id(parameter) for _, parameter in module.named_parameters(remove_duplicate=False))
    names = program.graph_signature.inputs_to_parameters
    nodes = {node: names[node.name] for node in program.graph.nodes if node.name in names and len(node.users) == 1}
    return {node: name for node, name in nodes.items() if owners[id(module.get_parameter(name))] == 1}


def _streams(graph: fx.Graph) -> Iterable[tuple[fx.Node, ...]]:
    """Return all values of a graph, those together that must share their factors, in the order of execution."""
    streams: dict[fx.Node, tuple[fx.Node, ...]] = {}
    for node in graph.nodes:
        joined = (streams[value] for value in _carried(node))
        stream = tuple(dict.fromkeys([*chain.from_iterable(joined), node]))
        streams.update(dict.fromkeys(stream, stream))
    return dict.fromkeys(streams.values())


def _carried(node: fx.Node) -> Sequence[fx.Node]:
    """Return the values whose positive factors a node passes on as they are: what it sums up, or what a Relu takes."""
    if node.target in _KEEPS_FACTORS and _pads_with_zeros(node):
        return node.all_input_nodes[:1]
    if node.target in _SUMS and all(
        isinstance(value, fx.Node) and _shape(value) == _shape(node) for value in node.args
    ):
        return node.all_input_nodes
    return ()


def _link(stream: tuple[fx.Node, ...], names: Mapping[fx.Node, str]) -> Link | None:
    """Return the layers at both ends of a stream; None where one of them cannot give or take a factor."""
    layers = [node for node in stream if not _carried(node)]
    uses = [(user, value) for value in stream for user in value.users if value not in _carried(user)]
    givers = [_giver(layer, names) for layer in layers]
    takers = [_taker(user, value, names) for user, value in uses]
    if not takers or None in givers or None in takers:
        return None
    if len({_channels(layer, value) for layer, value in [*zip(layers, layers, strict=True), *uses]}) > 1:
        return None
    parameters = chain.from_iterable(giver for giver in givers if giver is not None)
    return Link(tuple(parameters), tuple(taker for taker in takers if taker is not None))


def _giver(layer: fx.Node, names: Mapping[fx.Node, str]) -> tuple[str, ...] | None:
    """Return the weight and the bias of a layer; None where they cannot give a factor."""
    if layer.target not in _LAYERS:
        return None
    place, _ = _LAYERS[layer.target]
    parameters = [argument for argument in layer.args[place : place + 2] if argument is not None]
    if not parameters or any(parameter not in names for parameter in parameters):
        return None
    if layer.target is _aten.layer_norm.default and len(_shape(parameters[0])) != 1:
        return None
    return tuple(names[parameter] for parameter in parameters)  # type: ignore[index]


def _channels(layer: fx.Node, value: fx.Node) -> tuple[int, int]:
    """Return which axis of a value a layer has the channels on, and their number."""
    shape = _shape(value)
    axis = _LAYERS[layer.target][1] % len(shape)
    return axis, shape[axis]


def _pads_with_zeros(node: fx.Node) -> bool:
    """Return whether a node, if it pads, adds zeros alone and crops nothing: it might be channels."""
    if node.target is _aten.pad.default:
        zeros = node.args[2:3] in ((), ("constant",)) and node.args[3:4] in ((), (None,), (0.0,))
    elif node.target is _aten.constant_pad_nd.default:
        zeros = node.args[2:3] in ((), (0.0,))
    else:
        return True
    return zeros and min(node.args[1]) >= 0  # type: ignore[arg-type]


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
    """Take the factors out of the givers and put them into the takers."""
    seen = [reach[name] for name, _ in link.takers if name in reach]
    if not seen:  # products that torch runs in one fused operator, without our seeing their input
        return
    values = torch.stack(seen).amax(dim=0)
    largest = [parameters[taker].abs().movedim(axis, 0).flatten(1).amax(dim=1) for taker, axis in link.takers]
    weights = torch.stack(largest).amax(dim=0)
    factors = values.pow(strength) / weights.clamp(min=_SMALLEST).pow(1.0 - strength)
    dead = (values < _SMALLEST) | (weights < _SMALLEST)
    factors = torch.where(dead, torch.ones_like(factors), factors.clamp(_SMALLEST, 1.0 / _SMALLEST))
    for giver in link.givers:
        parameter = parameters[giver]
        parameter.div_(factors.reshape(-1, *[1] * (parameter.ndim - 1)))
    for taker, axis in link.takers:
        parameter = parameters[taker]
        parameter.mul_(factors.reshape(*[-1 if i == axis else 1 for i in range(parameter.ndim)]))
