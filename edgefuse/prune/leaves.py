"""Modules that the dependency graph sees from outside only: attention over packed heads, recurrent layers.

What happens between their input and output width is not channel by channel, so tracing it would couple channels that
have nothing to do with each other. While the graph is traced a product with zeros stands in for the module; it has the
same widths. Each leaf then says which weights go with a channel of its input or output.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch_pruning.pruner.function import BasePruningFunc

from edgefuse.prune.importance import Slice
from edgefuse.prune.multihead import Multihead

_log = logging.getLogger(__name__)


class Leaf(BasePruningFunc):  # type: ignore[misc]
    """What Torch-Pruning needs to know about a leaf, and what ranking its channels needs."""

    def stand_in(self, layer: Any) -> Callable[..., Any]:
        """Return a forward pass with the layer's widths that couples no channel with another."""
        raise NotImplementedError

    def slices(self, layer: Any, channels: Tensor, owners: Tensor, *, out: bool) -> Iterator[Slice]:
        """Yield the weights that go with channels of the output (or input), int64 [n], and their owners, int64 [n].

        Args:
            layer: the module.
            channels: of its output or input, int64 [n].
            owners: the unit that each of them belongs to, int64 [n].
            out: whether the channels are those of the output.
        """
        raise NotImplementedError

    def units(self, layer: Any) -> list[list[int]] | None:
        """Return which output channels can only go together; None where each can go by itself."""
        return None


class AttentionLeaf(Leaf):
    """Self-attention with the attributes `qkv`, `out`, `heads`, `head_width`: see `heads.py` for what is inside."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        """Take channels of the output away."""
        torch_pruning.prune_linear_out_channels(layer.out, idxs)
        return layer

    def prune_in_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        """Take channels of the input away."""
        torch_pruning.prune_linear_in_channels(layer.qkv, idxs)
        return layer

    def get_out_channels(self, layer: Any) -> int:
        """Return the width of the output."""
        return int(layer.out.out_features)

    def get_in_channels(self, layer: Any) -> int:
        """Return the width of the input."""
        return int(layer.qkv.in_features)

    def stand_in(self, layer: Any) -> Callable[..., Tensor]:
        """Return a product of the tokens with zeros; the mask does not matter."""
        weight = torch.zeros(layer.out.out_features, layer.qkv.in_features)
        return lambda x, *_, **__: nn.functional.linear(x, weight)

    def slices(self, layer: Any, channels: Tensor, owners: Tensor, *, out: bool) -> Iterator[Slice]:
        """Yield columns of the packed projection that reads, or rows of the projection that writes."""
        if not out:
            yield Slice(layer.qkv.weight, 1, channels, owners, reads=True)
            return
        yield Slice(layer.out.weight, 0, channels, owners)
        if layer.out.bias is not None:
            yield Slice(layer.out.bias, 0, channels, owners)


class MultiheadLeaf(Leaf):
    """`nn.MultiheadAttention` as `multihead.py` opens it: see `heads.py` for what is inside."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        """Take channels of the output away."""
        torch_pruning.prune_linear_out_channels(layer.out_proj, idxs)
        return layer

    def prune_in_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        """Take channels of queries, keys and values away."""
        gone = set(idxs)
        kept = [index for index in range(layer.in_proj_weight.shape[1]) if index not in gone]
        layer.in_proj_weight = nn.Parameter(layer.in_proj_weight.detach()[:, kept].contiguous())
        layer.embed_dim = layer.kdim = layer.vdim = len(kept)
        return layer

    def get_out_channels(self, layer: Any) -> int:
        """Return the width of the output."""
        return int(layer.out_proj.out_features)

    def get_in_channels(self, layer: Any) -> int:
        """Return the width of queries, keys and values."""
        return int(layer.in_proj_weight.shape[1])

    def stand_in(self, layer: Any) -> Callable[..., Any]:
        """Return a product with zeros of the queries and, where others than they are given, of keys and values."""
        weight = torch.zeros(layer.out_proj.out_features, layer.in_proj_weight.shape[1])
        steps = 1 if layer.batch_first else 0

        def forward(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Any:
            x, others = query, {id(other): other for other in (key, value) if other is not query}
            for other in others.values():
                x = x + other.mean(dim=steps if other.dim() > 2 else 0, keepdim=True)
            return nn.functional.linear(x, weight), None

        return forward

    def slices(self, layer: Any, channels: Tensor, owners: Tensor, *, out: bool) -> Iterator[Slice]:
        """Yield columns of the packed projection that reads, or rows of the projection that writes."""
        if not out:
            yield Slice(layer.in_proj_weight, 1, channels, owners, reads=True)
            return
        yield Slice(layer.out_proj.weight, 0, channels, owners)
        if layer.out_proj.bias is not None:
            yield Slice(layer.out_proj.bias, 0, channels, owners)


class RecurrentLeaf(Leaf):
    """LSTM, GRU and plain recurrent layers of one hidden size, of any depth, in one or both directions."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        """Take hidden units away, the same ones in every layer and direction."""
        hidden = layer.hidden_size
        gone = {int(index) % hidden for index in idxs}
        kept = torch.tensor([unit for unit in range(hidden) if unit not in gone])
        rows = torch.cat([kept + gate * hidden for gate in range(layer.weight_hh_l0.shape[0] // hidden)])
        directions = 2 if layer.bidirectional else 1
        columns = torch.cat([kept + direction * hidden for direction in range(directions)])
        for name, parameter in list(layer.named_parameters()):
            value = parameter.detach()[rows]
            if name.startswith("weight_hh"):
                value = value[:, kept]
            elif name.startswith("weight_ih") and not name.startswith("weight_ih_l0"):
                value = value[:, columns]
            setattr(layer, name, nn.Parameter(value))
        layer.hidden_size = len(kept)
        return layer

    def prune_in_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        """Take inputs of the first layer away."""
        gone = set(idxs)
        kept = torch.tensor([index for index in range(layer.input_size) if index not in gone])
        for name, parameter in list(layer.named_parameters()):
            if name.startswith("weight_ih_l0"):
                setattr(layer, name, nn.Parameter(parameter.detach()[:, kept]))
        layer.input_size = len(kept)
        return layer

    def get_out_channels(self, layer: Any) -> int:
        """Return the width of the output, both directions together."""
        return int(layer.hidden_size) * (2 if layer.bidirectional else 1)

    def get_in_channels(self, layer: Any) -> int:
        """Return the width of the input."""
        return int(layer.input_size)

    def stand_in(self, layer: Any) -> Callable[..., Any]:
        """Return a product with zeros for the sequence, and last states that are cut from it."""
        hidden, directions = layer.hidden_size, 2 if layer.bidirectional else 1
        weight = torch.zeros(hidden * directions, layer.input_size)

        def forward(x: Tensor, *_: Any, **__: Any) -> Any:
            y = nn.functional.linear(x, weight)
            last = y.select(1 if layer.batch_first else 0, -1)
            parts = [last[..., part * hidden : (part + 1) * hidden] for part in range(directions)]
            state = torch.stack(parts * layer.num_layers)
            return y, (state, state) if isinstance(layer, nn.LSTM) else state

        return forward

    def slices(self, layer: Any, channels: Tensor, owners: Tensor, *, out: bool) -> Iterator[Slice]:
        """Yield the columns that read inputs or hidden units, and the rows of all gates that make hidden units."""
        if not out:
            for name, parameter in layer.named_parameters():
                if name.startswith("weight_ih_l0"):
                    yield Slice(parameter, 1, channels, owners, reads=True)
            return
        hidden = layer.hidden_size
        for name, parameter in layer.named_parameters():
            here = channels // hidden == int(name.endswith("_reverse"))
            units, whose = channels[here] % hidden, owners[here]
            for gate in range(parameter.shape[0] // hidden):
                yield Slice(parameter, 0, units + gate * hidden, whose)
            if name.startswith("weight_hh"):
                yield Slice(parameter, 1, units, whose, reads=True)
            elif name.startswith("weight_ih") and not name.startswith("weight_ih_l0"):
                yield Slice(parameter, 1, channels, owners, reads=True)

    def units(self, layer: Any) -> list[list[int]] | None:
        """Pair the units of the two directions."""
        if not layer.bidirectional:
            return None
        return [[unit, unit + layer.hidden_size] for unit in range(layer.hidden_size)]


class FixedLeaf(Leaf):
    """A module whose widths stay: `nn.MultiheadAttention` over several widths, recurrent layers with a projection."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        """Refuse: groups with a fixed leaf are left out before."""
        raise NotImplementedError(type(layer).__name__)

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: Any) -> int:
        """Return the width of the output."""
        return int(layer.embed_dim) if isinstance(layer, nn.MultiheadAttention) else int(layer.proj_size)

    get_in_channels = get_out_channels

    def stand_in(self, layer: Any) -> Callable[..., Any]:
        """Return a sum over everything that comes in, so that whatever made it stays fixed, too."""
        width = self.get_out_channels(layer) * (2 if getattr(layer, "bidirectional", False) else 1)

        def forward(x: Tensor, *others: Any, **named: Any) -> Any:
            y = nn.functional.linear(x, torch.zeros(width, x.shape[-1]))
            for other in (*others, *named.values()):
                if isinstance(other, Tensor) and other.requires_grad:
                    y = y + other.mean()
            return y, None

        return forward


def leaves_of(module: nn.Module) -> dict[type[nn.Module], Leaf]:
    """Return the leaf of each class within a module that is one; warn of those whose widths must stay."""
    found: dict[type[nn.Module], Leaf] = {}
    for name, part in module.named_modules():
        leaf: Leaf | None = None
        if is_attention(part):
            leaf = AttentionLeaf()
        elif isinstance(part, Multihead):
            leaf = MultiheadLeaf()
        elif isinstance(part, nn.MultiheadAttention) or (isinstance(part, nn.RNNBase) and part.proj_size):
            leaf = FixedLeaf()
            _log.warning("pruning leaves '%s' and the widths around it alone: %s", name, type(part).__name__)
        elif isinstance(part, nn.RNNBase):
            leaf = RecurrentLeaf()
        if leaf is not None:
            found.setdefault(type(part), leaf)
    return found


def is_attention(module: nn.Module) -> bool:
    """Say whether a module has the attributes of attention over packed heads: `qkv`, `out`, `heads`, `head_width`."""
    sizes = getattr(module, "heads", None), getattr(module, "head_width", None)
    return (
        isinstance(getattr(module, "qkv", None), nn.Linear)
        and isinstance(getattr(module, "out", None), nn.Linear)
        and all(isinstance(size, int) for size in sizes)
    )


@contextmanager
def standing_in(module: nn.Module, leaves: dict[type[nn.Module], Leaf]) -> Iterator[None]:
    """Put the stand-ins of all leaves in place of their forward passes."""
    with ExitStack() as stack:
        for part in module.modules():
            if type(part) in leaves:
                part.forward = leaves[type(part)].stand_in(part)
                stack.callback(part.__dict__.pop, "forward")
        yield
