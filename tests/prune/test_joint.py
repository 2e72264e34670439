from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgefuse.bundle import spec
from edgefuse.errors import PruneError
from edgefuse.models.fusion import FusionModel
from edgefuse.prune.joint import RecoveredJointly, recover_jointly
from edgefuse.prune.recovery import Epoch, RecoverySettings
from edgefuse.stages.explicit import split
from edgefuse.stages.stage import TorchStage

FAST = RecoverySettings(epochs=6, batch=32, learning_rate=1e-2, patience=6, joint_rate=1.0)
SUBSETS = ("sight+words", "sight", "words")


class Doubled(nn.Module):
    """A frontend."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2


class Sight(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.frontend = Doubled()
        self.body = nn.Sequential(nn.Linear(6, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, 4))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return y


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 5)
        self.head = nn.Linear(5, 4)

    def forward(self, ids: Tensor, length: Tensor) -> Tensor:
        valid = (torch.arange(ids.shape[1]) < length.unsqueeze(1)).float().unsqueeze(2)
        y: Tensor = self.head((self.table(ids) * valid).sum(dim=1))
        return y


class Sum(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(10, hidden), nn.ReLU(), nn.Linear(hidden, 3))

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
        y: Tensor = self.body(torch.cat([features["sight"], features["words"], present], dim=1))
        return y


def fusion_model() -> FusionModel:
    model = spec.ModelSpec(
        name="tiny",
        modalities=(
            spec.tensor("sight", shape=(1, 6), optional=True),
            spec.text("words", tokenizer="tokenizer.json", max_length=5, optional=True),
        ),
        outputs=(spec.ClassOutput(labels=("a", "b", "c")),),
    )
    return seeded(lambda: FusionModel(model, {"sight": Sight(24), "words": Words()}, Sum(24)).eval(), 0)


def seeded(make: Callable[[], FusionModel], seed: int) -> FusionModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


class Pools:
    """Random values and the unpruned features of the encoders, some items without a modality."""

    def __init__(self, model: FusionModel, count: int = 96, absent: bool = False) -> None:
        draw = torch.Generator().manual_seed(0)
        self.values = {
            "sight.values": torch.randn(count, 6, generator=draw),
            "words.ids": torch.randint(0, 9, (count, 5), generator=draw, dtype=torch.int32),
            "words.length": torch.randint(1, 6, (count,), generator=draw, dtype=torch.int32),
            "present": torch.ones(count, 2),
        }
        if absent:
            self.values["present"][::3, 0] = 0.0
            self.values["sight.values"][::3] = float("nan")  # must not be looked at
        with torch.no_grad():
            sight = model.encode("sight", self.values)
            words = model.encode("words", self.values)
        here = self.values["present"][:, :1] > 0
        self.features = {
            "/sight_encoder.feature": torch.where(here, sight, torch.zeros_like(sight)),
            "/words_encoder.feature": words,
        }

    def __len__(self) -> int:
        return len(self.values["present"])

    def batch(self, indices: Sequence[int]) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        chosen = torch.tensor(list(indices))
        return (
            {key: value[chosen] for key, value in self.values.items()},
            {key: value[chosen] for key, value in self.features.items()},
        )


def narrow() -> dict[str, nn.Module]:
    """Return students that are hand-made: half as wide, with other weights."""
    small = seeded(lambda: FusionModel(fusion_model().spec, {"sight": Sight(8), "words": Words()}, Sum(12)).eval(), 3)
    stages = {stage.spec.name: stage.module for stage in split(small)}
    return {"sight_encoder": stages["sight_encoder"], "fusion": stages["fusion"]}


def agreement(model: FusionModel, pools: Pools, stages: Sequence[TorchStage]) -> Callable[..., Mapping[str, float]]:
    """Judge by how many classes agree with the unpruned model's, by subset."""
    known = {stage.spec.name: stage.module for stage in stages}

    def judge(students: Mapping[str, nn.Module]) -> Mapping[str, float]:
        modules = {**known, **students}
        scores = {}
        with torch.no_grad():
            sight = modules["sight_encoder"](pools.values["sight.values"] * 2)
            words = pools.features["/words_encoder.feature"]
            for name in SUBSETS:
                mask = torch.tensor([float(part in name) for part in ("sight", "words")]).expand(len(pools), 2)
                wanted = known["fusion"](
                    pools.features["/sight_encoder.feature"] * mask[:, :1], words * mask[:, 1:], mask
                )
                given = modules["fusion"](sight * mask[:, :1], words * mask[:, 1:], mask)
                scores[name] = float((wanted.argmax(1) == given.argmax(1)).float().mean())
        return scores

    return judge


def recovered(
    tmp_path: Path, students: Mapping[str, nn.Module], settings: RecoverySettings = FAST, *, stop: int = 0
) -> RecoveredJointly:
    model = fusion_model()
    stages = split(model)
    pools = Pools(model)
    judge = agreement(model, pools, stages)
    calls = 0

    def stopping(modules: Mapping[str, nn.Module]) -> Mapping[str, float]:
        nonlocal calls
        calls += 1
        if calls == stop:
            raise KeyboardInterrupt
        return judge(modules)

    return recover_jointly(students, stages, model.spec, pools, stopping, settings, checkpoint=tmp_path / "c.pt")


def test_students_recover_together_and_stay_near_the_features(tmp_path: Path) -> None:
    model = fusion_model()
    students = narrow()
    result = recovered(tmp_path, students, RecoverySettings(epochs=20, batch=32, learning_rate=8e-2, patience=20))

    pools = Pools(model)
    feature = pools.features["/sight_encoder.feature"]
    with torch.no_grad():
        before = students["sight_encoder"](pools.values["sight.values"] * 2)
        after = result.modules["sight_encoder"](pools.values["sight.values"] * 2)
    assert list(result.modules) == ["sight_encoder", "fusion"]
    assert (after - feature).square().mean() < 0.5 * (before - feature).square().mean()
    assert result.history[-1].loss < 0.5 * result.history[0].loss
    assert max(point.mean_accuracy for point in result.history) > result.history[0].mean_accuracy + 0.1
    assert not any(part.training for module in result.modules.values() for part in module.modules())


def test_stages_without_a_student_stay_as_they_are(tmp_path: Path) -> None:
    model = fusion_model()
    stages = split(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    students = {"sight_encoder": narrow()["sight_encoder"]}

    recover_jointly(
        students,
        stages,
        model.spec,
        Pools(model),
        agreement(model, Pools(model), stages),
        FAST,
        checkpoint=tmp_path / "c.pt",
    )

    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_a_table_that_is_still_the_teachers_stays(tmp_path: Path) -> None:
    student = next(stage.module for stage in split(fusion_model()) if stage.spec.name == "words_encoder")
    head = next(part for part in student.modules() if isinstance(part, nn.Linear))
    with torch.no_grad():
        head.weight.mul_(0.5)
    result = recovered(tmp_path, {"words_encoder": student}).modules["words_encoder"]
    before, after = student.state_dict(), result.state_dict()
    same = {name: torch.equal(before[name], after[name]) for name in before}
    assert all(same[name] == ("table" in name) for name in same)


def test_what_no_student_needs_may_be_left_out(tmp_path: Path) -> None:
    model = fusion_model()
    stages = split(model)
    full, bare = Pools(model), Pools(model)
    bare.values = {"present": bare.values["present"]}
    students = {"fusion": narrow()["fusion"]}

    results = [
        recover_jointly(
            students, stages, model.spec, pools, agreement(model, full, stages), FAST, checkpoint=tmp_path / "c.pt"
        )
        for pools in (full, bare)
    ]

    assert results[0].history == results[1].history


def test_the_output_of_a_frontend_stands_in_for_its_input(tmp_path: Path) -> None:
    model = fusion_model()
    pools = Pools(model)
    pools.values["/sight_frontend.feature"] = pools.values.pop("sight.values") * 2

    result = recover_jointly(
        narrow(),
        split(model),
        model.spec,
        pools,
        lambda students: dict.fromkeys(SUBSETS, 0.5),
        FAST,
        checkpoint=tmp_path / "c.pt",
    )

    assert result.history[1:] == plain_history(tmp_path)[1:]


def plain_history(tmp_path: Path) -> tuple[Epoch, ...]:
    model = fusion_model()
    result = recover_jointly(
        narrow(),
        split(model),
        model.spec,
        Pools(model),
        lambda students: dict.fromkeys(SUBSETS, 0.5),
        FAST,
        checkpoint=tmp_path / "c.pt",
    )
    return result.history


def test_an_interrupted_joint_recovery_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    students = narrow()
    whole = recovered(tmp_path, students)
    with pytest.raises(KeyboardInterrupt):
        recovered(tmp_path, students, stop=4)

    rest = recovered(tmp_path, students)

    assert rest.history == whole.history
    for name, module in whole.modules.items():
        for one, other in zip(module.state_dict().values(), rest.modules[name].state_dict().values(), strict=True):
            assert torch.equal(one, other)


def test_items_that_lack_a_modality_are_left_out_where_it_is_needed(tmp_path: Path) -> None:
    model = fusion_model()
    result = recover_jointly(
        narrow(),
        split(model),
        model.spec,
        Pools(model, absent=True),
        lambda students: dict.fromkeys(SUBSETS, 0.5),
        FAST,
        checkpoint=tmp_path / "c.pt",
    )

    assert result.history[-1].loss < result.history[0].loss


def test_a_whole_model_in_one_stage_recovers_jointly(tmp_path: Path) -> None:
    class Whole(nn.Module):
        def __init__(self, hidden: int) -> None:
            super().__init__()
            self.spec = spec.ModelSpec(
                name="whole",
                modalities=(spec.tensor("a", shape=(1, 3), optional=True), spec.tensor("b", shape=(1, 2))),
                outputs=(spec.ValuesOutput(labels=("x", "y")),),
            )
            self.body = nn.Sequential(nn.Linear(7, hidden), nn.ReLU(), nn.Linear(hidden, 2))

        def forward(self, a: Tensor, b: Tensor, present: Tensor) -> Tensor:
            y: Tensor = self.body(torch.cat([a, b, present], dim=1))
            return y

    class Inputs:
        def __len__(self) -> int:
            return 64

        def batch(self, indices: Sequence[int]) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
            draw = torch.Generator().manual_seed(0)
            values = {"a.values": torch.randn(64, 3, generator=draw), "b.values": torch.randn(64, 2, generator=draw)}
            return {key: value[list(indices)] for key, value in {**values, "present": torch.ones(64, 2)}.items()}, {}

    torch.manual_seed(0)
    model, student = Whole(16).eval(), Whole(8).eval()
    result = recover_jointly(
        {"model": student},
        split(model),
        model.spec,
        Inputs(),
        lambda students: {"a+b": 0.5},
        FAST,
        checkpoint=tmp_path / "c.pt",
    )

    assert result.history[-1].loss < 0.8 * result.history[0].loss


def test_a_student_of_no_stage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        PruneError, match="got 'ear', expected sight_frontend or sight_encoder or words_encoder or fusion"
    ):
        recovered(tmp_path, {"ear": nn.Identity()})
