"""Torch-Pruning's graph of dependencies, which is not ended by what it cannot follow.

It takes operators that it does not know for others, such as the products of a scan that is written out, and then raises
whatever it raises. Here only the channels that pass through such an operator are affected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from torch import nn
from torch_pruning import DependencyGraph
from torch_pruning.dependency import index_mapping
from torch_pruning.ops import OPTYPE

from edgefuse.prune.attention import FAILURES

_MOST_CHANNELS = 2**20
"""Of a tensor that is flattened: 256 maps of 64 x 64."""

_UPDATES: dict[Any, Callable[[Any, Any], None]] = {
    OPTYPE.CONCAT: index_mapping.update_concat_index_mapping,
    OPTYPE.SPLIT: index_mapping.update_split_index_mapping,
    OPTYPE.RESHAPE: index_mapping.update_reshape_index_mapping,
    OPTYPE.UNBIND: index_mapping.update_unbind_index_mapping,
    OPTYPE.EXPAND: index_mapping.update_expand_index_mapping,
    OPTYPE.SLICE: index_mapping.update_slice_index_mapping,
}


class Dependencies(DependencyGraph):  # type: ignore[misc]
    """The graph, with what it could not follow.

    Attributes:
        unfollowed: the operators whose channels are not known.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unfollowed: set[Any] = set()

    def build_dependency(self, *args: Any, **kwargs: Any) -> Dependencies:
        """Trace a model; see `DependencyGraph`."""
        with _mapped_by(self._map):
            super().build_dependency(*args, **kwargs)
        _show_flattening(self)
        return self

    def get_pruning_group(self, module: nn.Module, pruning_fn: Any, idxs: Sequence[int]) -> Any:
        """Return what goes together with channels of a module; see `DependencyGraph`.

        Args:
            module: a layer.
            pruning_fn: says whether they are of its output or of its input.
            idxs: the channels.
        """
        with _mapped_by(self._map):
            return super().get_pruning_group(module, pruning_fn, idxs)

    def groups(self, roots: tuple[type[nn.Module], ...]) -> Iterator[tuple[nn.Module, int, Any]]:
        """Yield each layer with two channels or more that no layer before shares, their number, and their group.

        Where the group cannot be told, what it fails by is in its place.

        Args:
            roots: the kinds of layers.
        """
        shared: set[int] = set()
        for layer in list(self.module2node):
            if not isinstance(layer, roots) or id(layer) in shared:
                continue
            pruner = self.get_pruner_of_module(layer)
            channels = 0 if pruner is None else pruner.get_out_channels(layer) or 0
            if channels < 2:
                continue
            try:
                group = self.get_pruning_group(layer, pruner.prune_out_channels, list(range(channels)))
            except FAILURES as error:
                yield layer, channels, error
                continue
            shared |= {id(dep.target.module) for dep, _ in group if self.is_out_channel_pruning_fn(dep.handler)}
            yield layer, channels, group

    def _map(self, _: Any) -> None:
        for node in self.module2node.values():
            if node.type in _UPDATES:
                try:
                    _UPDATES[node.type](self, node)
                except FAILURES:
                    self.unfollowed.add(node)
        for mapping in (
            one for node in self.module2node.values() for dep in node.dependencies for one in dep.index_mapping
        ):
            if type(mapping) is index_mapping._FlattenIndexMapping:
                mapping.__class__ = _BoundedFlattening


class _BoundedFlattening(index_mapping._FlattenIndexMapping):  # type: ignore[misc]
    """A flattening of channels that ends: around a circle of reshapes, as a cache has it, each pass multiplies them."""

    def __call__(self, idxs: Any) -> Any:
        if not self.reverse and len(idxs) * self._stride > _MOST_CHANNELS:
            raise RuntimeError(f"its channels are flattened into more than {_MOST_CHANNELS}")
        return super().__call__(idxs)


@contextmanager
def _mapped_by(update: Callable[[Any], None]) -> Iterator[None]:
    """Let the graph map channels by another function: it has no hook for that."""
    plain = index_mapping.update_index_mapping
    index_mapping.update_index_mapping = update
    try:
        yield
    finally:
        index_mapping.update_index_mapping = plain


def _show_flattening(graph: Any) -> None:
    """Tell the graph what its reshapes took: torch calls the attribute that it looks for differently by now.

    Without it, no map that is flattened into a vector can be told from a view of heads, once any linear layer of the
    model works on a sequence.
    """
    for node in graph.module2node.values():
        sizes = getattr(node.grad_fn, "_saved_self_sym_sizes", None)
        if node.type == OPTYPE.RESHAPE and sizes is not None and len(sizes) == 4:
            node.grad_fn = SimpleNamespace(_saved_self_sizes=tuple(int(size) for size in sizes))
