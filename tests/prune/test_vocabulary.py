from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle.manifest import PruningStep
from edgefuse.errors import PruneError
from edgefuse.export.onnx.target import OnnxTarget
from edgefuse.export.tflite.target import TfliteTarget
from edgefuse.prune.vocabulary import CompactEmbedding, VocabularyPruner, nearest_rows
from edgefuse.stages.stage import TorchStage


class Reading(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        y: Tensor = self.head(self.embedding(ids).mean(dim=1))
        return y


class Sentences:
    """Examples that use the ids 3 (once), 5 and 7 (more often)."""

    ids = torch.tensor([[3, 5, 7, 7], [5, 7, 7, 7]], dtype=torch.int32)

    def __len__(self) -> int:
        return 2

    def batch(self, indices: Sequence[int]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        return (self.ids[list(indices)],), ()


@pytest.fixture
def stage(stage_of: Any) -> TorchStage:
    made: TorchStage = stage_of(Reading(), (1, 4), "int32")
    return made


def _step(ratio: float) -> PruningStep:
    return PruningStep(method="vocabulary", ratio=ratio)


def test_what_is_used_keeps_its_row_and_the_rest_gets_the_nearest(stage: TorchStage) -> None:
    pruned: Any = VocabularyPruner().prune(stage, _step(0.925), Sentences())
    with torch.no_grad():
        assert torch.equal(pruned(Sentences.ids), stage.module(Sentences.ids))
    table = stage.module.get_parameter("embedding.weight").detach()
    assert torch.equal(pruned.embedding.table.weight, table[[3, 5, 7]])
    every = torch.arange(40, dtype=torch.int32)
    cosine = nn.functional.cosine_similarity(table[:, None], table[None, [3, 5, 7]], dim=2)
    assert torch.equal(pruned.embedding.rows.long(), cosine.argmax(dim=1))
    assert pruned.embedding(every).shape == (40, 8)
    assert isinstance(stage.module.get_submodule("embedding"), nn.Embedding)


def test_a_ratio_takes_the_least_used_and_a_second_step_goes_on(stage: TorchStage) -> None:
    pruned = VocabularyPruner().prune(stage, _step(0.95), Sentences())
    kept = pruned.get_parameter("embedding.table.weight")
    table = stage.module.get_parameter("embedding.weight")
    assert torch.equal(kept, table[[5, 7]])
    again: Any = VocabularyPruner().prune(TorchStage(stage.spec, pruned), _step(0.5), Sentences())
    assert torch.equal(again.embedding.table.weight, table[[7]])
    assert isinstance(again.embedding.table, nn.Embedding)
    assert torch.equal(again.embedding.rows, torch.zeros(40, dtype=torch.int32))


def test_of_what_is_not_used_the_first_stay(stage: TorchStage) -> None:
    pruned = VocabularyPruner().prune(stage, _step(0.875), Sentences())
    table = stage.module.get_parameter("embedding.weight")
    assert torch.equal(pruned.get_parameter("embedding.table.weight"), table[[0, 1, 3, 5, 7]])


def test_ratio_zero_changes_nothing(stage: TorchStage) -> None:
    pruned = VocabularyPruner().prune(stage, _step(0), Sentences())
    assert isinstance(pruned.get_submodule("embedding"), nn.Embedding)


def test_it_lowers_to_gathers_on_both_targets(stage: TorchStage) -> None:
    import onnx

    pruned = TorchStage(stage.spec, VocabularyPruner().prune(stage, _step(0.9), Sentences()))
    # `lower` compares each file with torch.
    lowered = OnnxTarget().lower(pruned)
    kinds = [node.op_type for node in onnx.load_from_string(lowered.data).graph.node]
    assert kinds.count("Gather") == 2
    assert "GatherND" not in kinds
    assert TfliteTarget().lower(pruned).data


def test_a_table_of_the_size_of_a_language_model_is_searched_in_pieces() -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(9000, 16, generator=generator)
    table[8999] = 3 * table[17]
    rows = nearest_rows(table, torch.arange(500))
    assert rows.dtype == torch.int32
    assert torch.equal(rows[:500], torch.arange(500, dtype=torch.int32))
    assert rows[8999] == 17


def test_lookup_is_a_buffer_and_the_table_learns() -> None:
    compact = CompactEmbedding(torch.tensor([0, 0, 1], dtype=torch.int32), torch.ones(2, 4))
    assert [name for name, _ in compact.named_parameters()] == ["table.weight"]
    assert sorted(compact.state_dict()) == ["rows", "table.weight"]


def test_a_stage_without_a_table_is_refused(stage_of: Any, examples_of: Any) -> None:
    plain = stage_of(nn.Linear(4, 3), (1, 4))
    with pytest.raises(PruneError, match=r"'own_encoder' holds nothing that 'vocabulary' can prune: expected an nn.Em"):
        VocabularyPruner().prune(plain, _step(0.5), examples_of(plain))
    with pytest.raises(PruneError, match=r"got 1.2, expected at least 0 and below 1"):
        VocabularyPruner().prune(plain, _step(1.2), examples_of(plain))
