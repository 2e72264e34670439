from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import ClassOutput, EmbeddingOutput, ValuesOutput
from edgefuse.errors import PruneError
from edgefuse.prune.recovery import RecoverySettings, recover
from tests.prune.students import (
    FAST,
    Encoder,
    Recorded,
    TwoHeads,
    agreement,
    encoder_examples,
    recovered,
    same,
    seeded,
)


def test_a_student_comes_nearer_to_the_unpruned_features(tmp_path: Path) -> None:
    student = seeded(lambda: Encoder(8), 2)
    before = {name: value.clone() for name, value in student.state_dict().items()}

    result = recovered(tmp_path, student=student)

    assert [point.epoch for point in result.history] == [0, 1, 2, 3, 4]
    assert result.history[-1].loss < 0.7 * result.history[0].loss
    assert result.best.mean_accuracy > result.history[0].mean_accuracy
    assert not any(module.training for module in result.module.modules())
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_the_best_epoch_is_returned(tmp_path: Path) -> None:
    kept: list[dict[str, Tensor]] = []
    scores = iter([0.1, 0.5, 0.9, 0.4, 0.2])

    def judge(module: nn.Module) -> Mapping[str, float]:
        kept.append({name: value.clone() for name, value in module.state_dict().items()})
        return {"image": next(scores)}

    result = recovered(tmp_path, judge=judge)

    assert result.best.epoch == 2
    assert all(torch.equal(value, kept[2][name]) for name, value in result.module.state_dict().items())


def test_a_student_that_only_gets_worse_comes_back_as_it_was(tmp_path: Path) -> None:
    student = seeded(lambda: Encoder(8), 2)
    scores = iter([0.9, 0.8, 0.7])

    result = recovered(
        tmp_path, RecoverySettings(epochs=9, patience=2), student, judge=lambda module: {"image": next(scores)}
    )

    assert [point.epoch for point in result.history] == [0, 1, 2]
    assert result.best.epoch == 0
    assert same(result.module, student)


def test_of_equal_accuracies_the_lower_loss_wins(tmp_path: Path) -> None:
    result = recovered(tmp_path, judge=lambda module: {"image": 0.5})

    assert result.best.loss == min(point.loss for point in result.history)


def test_two_recoveries_give_the_same_weights_and_leave_torch_as_it_was(tmp_path: Path) -> None:
    student = seeded(lambda: Encoder(8, dropout=0.2), 2)
    torch.manual_seed(5)
    first = recovered(tmp_path, student=student)
    drawn = torch.rand(1)
    torch.rand(3)
    second = recovered(tmp_path, student=student)

    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))
    assert not torch.are_deterministic_algorithms_enabled()
    assert first.history == second.history
    assert same(first.module, second.module)


def test_zeros_of_a_sparse_student_stay_zeros(tmp_path: Path) -> None:
    student = seeded(lambda: Encoder(8), 2)
    weight = student.get_parameter("head.weight")
    with torch.no_grad():
        weight[:, ::2] = 0.0

    result = recovered(tmp_path, student=student)

    after = result.module.get_parameter("head.weight")
    assert result.best.epoch > 0
    assert bool((after[:, ::2] == 0).all())
    assert bool((after[:, 1::2] != weight[:, 1::2]).any())


def test_batch_norms_keep_their_statistics_in_the_last_epochs(tmp_path: Path) -> None:
    means: list[Tensor] = []

    def judge(module: nn.Module) -> Mapping[str, float]:
        means.append(module.get_buffer("norm.running_mean").clone())
        return {"image": 0.5}

    recovered(tmp_path, RecoverySettings(epochs=4, batch=32, settled=0.5), judge=judge)

    assert not torch.equal(means[1], means[2])
    assert torch.equal(means[2], means[4])


def test_results_of_several_kinds_recover_together(tmp_path: Path) -> None:
    inputs = torch.randn(128, 4, generator=torch.Generator().manual_seed(0))
    examples = Recorded(seeded(TwoHeads, 1), inputs)

    result = recover(
        seeded(TwoHeads, 2),
        examples,
        lambda module: {"x": 0.5},
        RecoverySettings(epochs=30, batch=32, learning_rate=2e-2, patience=30),
        role="result",
        outputs=(ClassOutput(labels=("a", "b", "c")), EmbeddingOutput(size=5)),
        checkpoint=tmp_path / "c.pt",
    )

    with torch.no_grad():
        scores, point = result.module(inputs)
    wanted, goal = examples.answers
    assert torch.allclose(scores.softmax(1), wanted.softmax(1), atol=0.05)
    assert float(torch.cosine_similarity(point, goal).min()) > 0.9


def test_progress_says_what_recovers_and_how_well(tmp_path: Path) -> None:
    said: list[tuple[int, int, str]] = []
    recover(
        seeded(lambda: Encoder(8), 2),
        encoder_examples(70),
        lambda module: {"image": 0.25, "text": 0.75},
        RecoverySettings(epochs=2, batch=32),
        role="feature",
        checkpoint=tmp_path / "c.pt",
        progress=lambda done, total, what: said.append((done, total, what)),
        name="image_encoder",
    )

    assert [(done, total) for done, total, _ in said] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert said[0][2].startswith("recover image_encoder, epoch 1 of 2, loss ")
    assert said[0][2].endswith("mean accuracy 0.5000")


def test_a_loss_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PruneError, match=r"'image' diverged in epoch 0: got a loss of nan, .* Fix: lower the"):
        recovered(tmp_path, student=spoiled())


def spoiled() -> nn.Module:
    student = seeded(lambda: Encoder(8), 2)
    with torch.no_grad():
        student.get_parameter("head.bias").fill_(float("nan"))
    return student


def test_an_accuracy_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        PruneError, match=r"the accuracy of 'image' in epoch 0 is not finite: got .*nan.*, expected numbers"
    ):
        recovered(tmp_path, judge=lambda module: {"image": float("nan")})


def test_a_student_with_another_interface_is_refused(tmp_path: Path) -> None:
    student = seeded(lambda: Encoder(8), 2)
    student.head = nn.Linear(8, 5)

    with pytest.raises(PruneError, match=r"got \[\[32, 5\]\], expected \[\[32, 6\]\]. Fix: prune inside the stage"):
        recovered(tmp_path, student=student)


def test_outputs_must_be_described_one_by_one(tmp_path: Path) -> None:
    examples = encoder_examples()
    with pytest.raises(PruneError, match="wrong number of outputs"):
        recover(
            seeded(lambda: Encoder(8), 2),
            examples,
            agreement(examples),
            FAST,
            role="result",
            checkpoint=tmp_path / "c.pt",
            outputs=(ValuesOutput(labels=("a",)), ValuesOutput(labels=("b",))),
        )


def test_no_examples_are_refused(tmp_path: Path) -> None:
    examples = encoder_examples(1)
    examples.inputs, examples.answers = examples.inputs[:0], (examples.answers[0][:0],)
    with pytest.raises(PruneError, match=r"'student' cannot recover without examples. Fix: give the data"):
        recover(Encoder(8), examples, lambda module: {"image": 1.0}, FAST, role="feature", checkpoint=tmp_path / "c.pt")


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 0), ("batch", 0), ("learning_rate", -1.0), ("learning_rate", float("nan")), ("warm_up", 1.0)],
)
def test_settings_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(PruneError, match=f"the recovery setting '{field}' is out of range: got {value}"):
        RecoverySettings(**{field: value})  # type: ignore[arg-type]


class Reader(nn.Module):
    """Ids [B, 3] to a feature [B, 4] by a table of ten rows."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, ids: Tensor) -> Tensor:
        y: Tensor = self.head(self.table(ids).mean(dim=1))
        return y


def read(tmp_path: Path, student: Reader, teacher: Reader) -> Reader:
    """Let a student recover on texts that hold the first five tokens only."""
    ids = torch.randint(0, 5, (64, 3), generator=torch.Generator().manual_seed(0))
    examples = Recorded(teacher, ids)
    found = recover(
        *(student, examples, lambda _: {"text": 0.5}, FAST), role="feature", checkpoint=tmp_path / "c", teacher=teacher
    )
    assert isinstance(found.module, Reader)
    return found.module


def test_a_table_that_is_still_the_teachers_stays_and_with_it_words_that_no_example_holds(tmp_path: Path) -> None:
    teacher, student = seeded(Reader, 1), seeded(Reader, 2)
    assert isinstance(teacher, Reader)
    assert isinstance(student, Reader)
    student.table.load_state_dict(teacher.table.state_dict())
    result = read(tmp_path, student, teacher)
    assert torch.equal(result.table.weight, teacher.table.weight)
    unseen = torch.full((1, 3), 9)
    before, after = ((module(unseen) - teacher(unseen)).square().mean() for module in (student, result))
    assert after < before
    assert student.table.weight.requires_grad


def test_a_table_of_its_own_is_trained(tmp_path: Path) -> None:
    teacher, student = seeded(Reader, 1), seeded(Reader, 2)
    assert isinstance(teacher, Reader)
    assert isinstance(student, Reader)
    result = read(tmp_path, student, teacher)
    assert not torch.equal(result.table.weight[:5], student.table.weight[:5])


def test_a_recovery_in_bfloat16_gives_float32_weights_and_the_same_ones_again(tmp_path: Path) -> None:
    settings = RecoverySettings(epochs=4, batch=32, learning_rate=1e-2, precision="bfloat16")
    first, second = (recovered(tmp_path, settings) for _ in range(2))
    assert same(first.module, second.module)
    assert all(value.dtype == torch.float32 for value in first.module.parameters())
    assert first.best.loss < 0.7 * first.history[0].loss
    assert not same(first.module, recovered(tmp_path, FAST).module)


def test_where_accuracy_is_noise_the_least_loss_decides(tmp_path: Path) -> None:
    settings = RecoverySettings(epochs=4, batch=32, learning_rate=1e-2, patience=2, keep="loss")
    scores = iter([0.9, 0.8, 0.7, 0.6, 0.5])
    result = recovered(tmp_path, settings, judge=lambda _: {"image": next(scores)})
    assert len(result.history) == 5
    assert result.best.loss == min(point.loss for point in result.history)
    assert result.best.epoch > 0


def test_an_unknown_precision_or_rule_is_refused() -> None:
    with pytest.raises(PruneError, match=r"'keep' is out of range.*got speed, expected accuracy or loss"):
        RecoverySettings(keep="speed")  # type: ignore[arg-type]
    with pytest.raises(PruneError, match=r"'precision' is out of range.*got half, expected float32 or bfloat16"):
        RecoverySettings(precision="half")  # type: ignore[arg-type]
