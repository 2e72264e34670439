"""Shrink the embedding table of a text stage to the tokens that its task uses.

The tokenizer and the stage's input stay: a lookup table in the graph turns each id into a row of the smaller table. An
id whose row is gone gets the kept row that is nearest by cosine, so an unseen word reads like its closest known one.
(Vocabulary trimming: Abdaoui et al., arXiv:2010.05609; Ushio et al., arXiv:2305.15020. They drop the tokens from the
tokenizer, too; here unseen ones degrade instead of becoming unknown.)
"""

from __future__ import annotations

import contextlib
import copy

import torch
from torch import Tensor, nn

from edgefuse.bundle.manifest import PruningStep
from edgefuse.prune.pruner import Examples, check, nothing_to_prune
from edgefuse.stages.stage import TorchStage

_BATCH = 64
_ROWS_AT_ONCE = 2048


class CompactEmbedding(nn.Module):
    """Embed ids by way of a smaller table.

    Args:
        rows: int32 [ids], the row of each id.
        table: float32 [rows, width].
    """

    def __init__(self, rows: Tensor, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows", rows)
        self.rows: Tensor
        self.table = nn.Embedding(table.shape[0], table.shape[1], _weight=table)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids, int32 [...], to float32 [..., width]."""
        # This becomes Gather on both targets; `rows[ids]` would be GatherND, which takes no int32 in ONNX.
        rows = torch.index_select(self.rows, 0, ids.flatten()).reshape(ids.shape)
        embedded: Tensor = self.table(rows)
        return embedded


class VocabularyPruner:
    """Remove a fraction of the rows of each embedding table: those that the examples use least.

    Of rows used equally often, or not at all, the later ones go: tokenizers number frequent tokens first, so the words
    that stay are those that an unseen text is most likely to hold.
    """

    name = "vocabulary"
    gradual = False

    def prune(self, stage: TorchStage, step: PruningStep, examples: Examples) -> nn.Module:
        """Return a copy with smaller tables.

        Raises:
            PruneError: the stage embeds no ids.
        """
        check(step)
        module = copy.deepcopy(stage.module)
        uses = _uses(module, examples)
        if not uses:
            raise nothing_to_prune(stage, step, "an nn.Embedding that the examples reach")
        for name, counts in uses.items():
            weight = module.get_parameter(f"{name}.weight").detach()
            kept = _kept(counts, step.ratio)
            if len(kept) < len(weight):
                _compact(module, name, nearest_rows(weight, kept), weight[kept].clone())
        return module.eval()


def nearest_rows(table: Tensor, kept: Tensor) -> Tensor:
    """Return for each row of a table which of the kept rows is nearest by cosine; a kept row is its own.

    Args:
        table: float32 [ids, width].
        kept: int64 [n], ascending.

    Returns:
        int32 [ids], positions in `kept`; of equally near rows the first.
    """
    unit = nn.functional.normalize(table, dim=1)
    targets = unit[kept].T.contiguous()
    chunks = torch.split(unit, _ROWS_AT_ONCE)
    rows = torch.cat([(chunk @ targets).argmax(dim=1) for chunk in chunks])
    rows[kept] = torch.arange(len(kept))
    return rows.to(torch.int32)


def _compact(module: nn.Module, name: str, rows: Tensor, table: Tensor) -> None:
    """Put a smaller table in the place of an embedding, or of the one that it has already become."""
    owner_name, _, _ = name.rpartition(".")
    owner = module.get_submodule(owner_name)
    if isinstance(owner, CompactEmbedding):
        name, rows = owner_name, rows[owner.rows]
    module.set_submodule(name, CompactEmbedding(rows, table))


def _kept(counts: Tensor, ratio: float) -> Tensor:
    """Return the ids to keep in ascending order: the most used, of equal ones the first, at least one."""
    order = torch.argsort(counts, descending=True, stable=True)
    return order[: max(1, len(counts) - round(ratio * len(counts)))].sort().values


class _Counted(Exception):  # noqa: N818 - not an error: what follows the last table need not run
    """All ids of a batch were seen."""


@torch.no_grad()
def _uses(module: nn.Module, examples: Examples) -> dict[str, Tensor]:
    """Return how often the examples look up each row, int64 [rows], by name of the embedding that took them."""
    tables = {name: part for name, part in module.named_modules() if isinstance(part, nn.Embedding)}
    counts: dict[str, Tensor] = {}
    last = ""

    def watch(name: str, size: int) -> None:
        def count(part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            found = torch.bincount(inputs[0].flatten().long(), minlength=size)
            counts[name] = counts.get(name, torch.zeros(size, dtype=torch.int64)) + found
            if name == last:
                raise _Counted

        handles.append(tables[name].register_forward_pre_hook(count))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    for name, part in tables.items():
        watch(name, part.num_embeddings)
    try:
        for start in range(0, len(examples), _BATCH):
            with contextlib.suppress(_Counted):
                module(*examples.batch(range(start, min(start + _BATCH, len(examples))))[0])
            last = next(reversed(counts), "")
    finally:
        for handle in handles:
            handle.remove()
    return counts
