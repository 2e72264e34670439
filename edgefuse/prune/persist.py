"""Keep a pruned module as bytes, and rebuild it from the unpruned one: no pickle, nothing is executed.

The bytes are a safetensors file: all weights, and under `__structure__` as JSON what their shapes do not tell: which
blocks are gone, how many heads an attention has, which embedding looks its rows up. All other sizes follow from shapes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from edgefuse.errors import PruneError
from edgefuse.prune.depth import Skipped
from edgefuse.prune.leaves import is_attention
from edgefuse.prune.multihead import Multihead, is_packed, open_one, without_nesting
from edgefuse.prune.sizes import Pin, Pinned, pin
from edgefuse.prune.vocabulary import CompactEmbedding
from edgefuse.typed_json import decode

_STRUCTURE = "__structure__"


class _Structure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the shapes of the weights do not tell.

    Attributes:
        skipped: names of removed blocks.
        compact: names of embeddings with a lookup table.
        heads: heads and head width by name of an attention.
        pins: pinned sizes by name of a module: what each call, by its number, takes; the latest pins first.
    """

    skipped: tuple[str, ...]
    compact: tuple[str, ...]
    heads: dict[str, tuple[int, int]]
    pins: dict[str, tuple[tuple[tuple[int, tuple[Pin, ...]], ...], ...]] = {}


def save(module: nn.Module) -> bytes:
    """Return a pruned module as bytes, the same for the same weights."""
    parts = list(module.named_modules(remove_duplicate=False))
    structure = _Structure(
        skipped=tuple(name for name, part in parts if isinstance(part, Skipped)),
        compact=tuple(name for name, part in parts if isinstance(part, CompactEmbedding)),
        heads={name: (part.heads, part.head_width) for name, part in parts if _has_heads(part)},
        pins={
            name: tuple(tuple(sorted(pins.items())) for pins in part.pins)
            for name, part in module.named_modules()
            if isinstance(part, Pinned)
        },
    )
    tensors = {name: value.detach().clone().contiguous() for name, value in module.state_dict().items()}
    tensors[_STRUCTURE] = torch.tensor(list(msgspec.json.encode(structure, order="sorted")), dtype=torch.uint8)
    return save_tensors(tensors)


def _has_heads(part: nn.Module) -> bool:
    return is_attention(part) or isinstance(part, Multihead)


def restore(original: nn.Module, data: bytes) -> nn.Module:
    """Return a pruned module from the unpruned one, which stays as it is, and what `save` gave; in eval mode.

    Raises:
        PruneError: the bytes are damaged, or belong to another module.
    """
    try:
        tensors = load_tensors(data)
        structure = decode(bytes(tensors.pop(_STRUCTURE).tolist()), _Structure)
    except (SafetensorError, msgspec.MsgspecError, KeyError) as error:
        raise PruneError("a saved pruned module is damaged", got=f"'{error}'", fix="prune the stage again") from error
    module = copy.deepcopy(original)
    try:
        _rebuild(module, structure, tensors)
    except AttributeError as error:
        raise _foreign(str(error)) from error
    missing = sorted(module.state_dict().keys() ^ tensors.keys())
    if missing:
        raise _foreign(missing[0])
    _load(module, tensors)
    for part in module.modules():
        _fit(part)
    return module.eval()


def _foreign(got: str) -> PruneError:
    return PruneError(
        "a saved pruned module does not belong to this module", got=f"'{got}' on one side only", fix="prune it again"
    )


def _rebuild(module: nn.Module, structure: _Structure, tensors: Mapping[str, Tensor]) -> None:
    """Put removed blocks, lookup tables and numbers of heads in place."""
    for name in structure.skipped:
        module.set_submodule(name, Skipped(), strict=True)
    for name in structure.compact:
        if f"{name}.rows" not in tensors or f"{name}.table.weight" not in tensors:
            raise _foreign(name)
        compact = CompactEmbedding(tensors[f"{name}.rows"], tensors[f"{name}.table.weight"])
        module.set_submodule(name, compact, strict=True)
    for name, (heads, head_width) in structure.heads.items():
        attention = module.get_submodule(name)
        if is_packed(attention):
            open_one(attention)
        attention.heads, attention.head_width = heads, head_width  # type: ignore[assignment]
    without_nesting(module)
    for name, rounds in structure.pins.items():
        pin(module.get_submodule(name), *(dict(pins) for pins in rounds))


def _load(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put tensors of any shape in the place of parameters and buffers; what was shared stays shared."""
    shared: dict[nn.Parameter, nn.Parameter] = {}
    for name, value in tensors.items():
        owner_name, _, attribute = name.rpartition(".")
        owner = module.get_submodule(owner_name)
        old = owner._parameters.get(attribute)
        if old is None:
            setattr(owner, attribute, value)
            continue
        if old not in shared:
            shared[old] = nn.Parameter(value, requires_grad=value.is_floating_point())
        setattr(owner, attribute, shared[old])


def _fit(layer: nn.Module) -> None:
    """Set the sizes that a layer keeps as attributes to those of its tensors."""
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, nn.modules.conv._ConvNd):
        first, second = layer.weight.shape[:2]
        if layer.groups == layer.in_channels == layer.out_channels and layer.groups > 1:
            layer.groups = first
        inputs, outputs = (first, second * layer.groups) if layer.transposed else (second * layer.groups, first)
        layer.in_channels, layer.out_channels = inputs, outputs
    elif isinstance(layer, nn.modules.batchnorm._NormBase):
        known = next((value for value in (layer.weight, layer.running_mean) if value is not None), None)
        layer.num_features = layer.num_features if known is None else len(known)
    elif isinstance(layer, nn.LayerNorm) and layer.elementwise_affine:
        layer.normalized_shape = tuple(layer.weight.shape)
    elif isinstance(layer, nn.Embedding):
        layer.num_embeddings, layer.embedding_dim = layer.weight.shape
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = layer.weight.numel()
    elif isinstance(layer, Multihead):
        layer.embed_dim = layer.kdim = layer.vdim = layer.get_parameter("in_proj_weight").shape[1]
    elif isinstance(layer, nn.RNNBase):
        layer.hidden_size = layer.get_parameter("weight_hh_l0").shape[1]
        layer.input_size = layer.get_parameter("weight_ih_l0").shape[1]
