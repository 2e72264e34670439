from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle.spec import ClassOutput, EmbeddingOutput, ValuesOutput
from edgefuse.errors import PruneError
from edgefuse.prune.recovery import Recovered, RecoverySettings, recover

FAST = RecoverySettings(epochs=4, batch=32, learning_rate=1e-2, patience=4)


class Encoder(nn.Module):
    """A picture [B, 1, 8, 8] to a feature [B, 6]."""

    def __init__(self, channels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, channels, 3, stride=2)
        self.norm = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, 6)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.dropout(torch.relu(self.norm(self.conv(x))).mean(dim=(2, 3))))
        return y


class TwoHeads(nn.Module):
    """A vector [B, 4] to class scores [B, 3] and an embedding [B, 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Linear(4, 3)
        self.point = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.scores(x), self.point(x)


class Recorded:
    """Examples with a teacher's answers."""

    def __init__(self, teacher: nn.Module, inputs: Tensor) -> None:
        self.inputs = inputs
        with torch.no_grad():
            answers = teacher.eval()(inputs)
        self.answers = answers if isinstance(answers, tuple) else (answers,)

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, indices: Sequence[int]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        chosen = torch.tensor(list(indices))
        return (self.inputs[chosen],), tuple(answer[chosen] for answer in self.answers)


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def pictures(count: int = 96) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def encoder_examples(count: int = 96) -> Recorded:
    return Recorded(seeded(lambda: Encoder(16), 1), pictures(count))


def agreement(examples: Recorded) -> Callable[[nn.Module], Mapping[str, float]]:
    """Judge by how near the features are: 1 is equal."""

    def judge(module: nn.Module) -> Mapping[str, float]:
        assert not module.training
        with torch.no_grad():
            error = (module(examples.inputs) - examples.answers[0]).square().mean()
        return {"image": 1 / (1 + float(error)), "image+text": 1.0}

    return judge


def recovered(
    tmp_path: Path,
    settings: RecoverySettings = FAST,
    student: nn.Module | None = None,
    judge: Callable[[nn.Module], Mapping[str, float]] | None = None,
) -> Recovered:
    examples = encoder_examples()
    student = student or seeded(lambda: Encoder(8), 2)
    judge = judge or agreement(examples)
    return recover(student, examples, judge, settings, role="feature", checkpoint=tmp_path / "c.pt", name="image")


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


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


@pytest.mark.parametrize("stop", ["judge", "progress"])
def test_an_interrupted_recovery_goes_on_to_the_same_bytes(
    tmp_path: Path, stop: str, caplog: pytest.LogCaptureFixture
) -> None:
    student = seeded(lambda: Encoder(8, dropout=0.2), 2)
    examples = encoder_examples()
    judge = agreement(examples)
    whole = recovered(tmp_path, student=student)
    checkpoint = tmp_path / "c.pt"
    assert not checkpoint.exists()
    judged = 0

    def interrupted_judge(module: nn.Module) -> Mapping[str, float]:
        nonlocal judged
        judged += 1
        if stop == "judge" and judged == 4:
            raise KeyboardInterrupt
        return judge(module)

    def interrupted_progress(done: int, total: int, what: str) -> None:
        if stop == "progress" and done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recover(
            student,
            examples,
            interrupted_judge,
            FAST,
            role="feature",
            checkpoint=checkpoint,
            progress=interrupted_progress,
        )
    assert checkpoint.exists()

    steps: list[int] = []
    with caplog.at_level(logging.INFO):
        rest = recover(
            student,
            examples,
            judge,
            FAST,
            role="feature",
            checkpoint=checkpoint,
            progress=lambda done, total, what: steps.append(done),
        )

    assert "goes on after epoch 2" in caplog.text
    assert steps == [7, 8, 9, 10, 11, 12]
    assert rest.history == whole.history
    assert same(rest.module, whole.module)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["settings", "student"])
def test_a_foreign_checkpoint_is_ignored(tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture) -> None:
    def stop(module: nn.Module, calls: list[int] = []) -> Mapping[str, float]:  # noqa: B006
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return {"image": 0.5}

    with pytest.raises(KeyboardInterrupt):
        recovered(tmp_path, judge=stop)
    settings = RecoverySettings(epochs=2, batch=32) if change == "settings" else FAST
    student = seeded(lambda: Encoder(8), 3 if change == "student" else 2)

    result = recovered(tmp_path, settings, student)

    assert "belongs to another student, data or settings" in caplog.text
    assert len(result.history) == settings.epochs + 1


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
    with pytest.raises(PruneError, match=r"the accuracy of 'image' in epoch 0: got .*nan.*, expected numbers"):
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
