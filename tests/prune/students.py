"""Small students and their teachers, for the tests of recovery."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

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
