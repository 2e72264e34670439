"""What cannot be traced is told with what to do about it; what only looks so is taken apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from edgefuse.bundle.spec import tensor
from edgefuse.errors import ModelError
from edgefuse.stages.found import find
from tests.stages.found.models import MOTION, described

SERIES = tensor("series", shape=(1, 12, 8))


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.motion = nn.LSTM(8, 16, batch_first=True), nn.Linear(6, 16)
        self.head = nn.Linear(32, 4)

    def forward(self, series: Tensor, motion: Tensor) -> Tensor:
        valid = (series.abs().sum(2) > 0).sum(1).clamp(min=1).cpu()
        packed = pack_padded_sequence(series, valid, batch_first=True, enforce_sorted=False)
        _, (last, _) = self.layer(packed)
        y: Tensor = self.head(torch.cat([last[-1], self.motion(motion).mean(1)], 1))
        return y


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.series = torch.jit.script(nn.Sequential(nn.Linear(8, 16), nn.ReLU()))
        self.motion, self.head = nn.Linear(6, 16), nn.Linear(32, 4)

    def forward(self, series: Tensor, motion: Tensor) -> Tensor:
        heard = self.series(series).mean(1)
        y: Tensor = self.head(torch.cat([heard, self.motion(motion).mean(1)], 1))
        return y


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("module", "line", "fix"),
    [
        (Packed, "self.layer(packed)", "Fix: sequences are not traced packed: .* as docs/recurrent.md shows"),
        (Scripted, "self.series(series)", "Fix: TorchScript is not traced: give the module that was scripted"),
    ],
)
def test_what_is_no_operator_of_torch_is_told_with_what_to_do(module: type[nn.Module], line: str, fix: str) -> None:
    with pytest.raises(
        ModelError, match=f"cannot trace the model {module.__name__} at 'test_refused.py.*{fix}"
    ) as caught:
        find(module().eval(), described(SERIES, MOTION))
    assert line in str(caught.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_model_that_is_torch_script_is_told_so() -> None:
    with pytest.raises(ModelError, match=r"the model is TorchScript.*Fix: give the module that was scripted"):
        find(torch.jit.script(nn.Linear(6, 4)), described(SERIES, MOTION))


class Batched(nn.Module):
    """Takes a batch as data loaders give it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        y: Tensor = self.layer(batch["motion"]).mean(1) + batch["series"].mean((1, 2), keepdim=True)[:, :, 0]
        return y


def test_a_model_that_takes_one_dict_is_told_what_to_write() -> None:
    with pytest.raises(ModelError) as caught:
        find(Batched(), described(SERIES, MOTION))
    assert "Batched.forward takes all of its inputs as one argument: got batch" in str(caught.value)
    assert "Fix: hand on a module around it: def forward(self, series, motion)" in str(caught.value)
    assert 'return self.model({"series": series, "motion": motion})' in str(caught.value)


class Listed(Batched):
    """Takes what data loaders give in order, and says so."""

    def forward(self, batch: list[Tensor]) -> Tensor:  # type: ignore[override]
        y: Tensor = self.layer(batch[1]).mean(1) + batch[0].mean((1, 2), keepdim=True)[:, :, 0]
        return y


class Unsaid(Listed):
    def forward(self, batch):  # type: ignore[no-untyped-def]
        return super().forward(batch)


@pytest.mark.parametrize(
    ("module", "held"),
    [
        (Listed, "return self.model([series, motion])"),
        (Unsaid, 'return self.model({"series": series, "motion": motion}), or self.model([series, motion])'),
    ],
)
def test_a_model_that_takes_one_list_is_told_of_a_list(module: type[nn.Module], held: str) -> None:
    with pytest.raises(ModelError, match="forward takes all of its inputs as one argument") as caught:
        find(module(), described(SERIES, MOTION))
    assert str(caught.value).endswith(f"{held}.")


class Sketched(nn.Module):
    """Compact bilinear pooling: features scattered in place, one of them the last state of a recurrent layer."""

    place: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.motion = nn.GRU(8, 16, batch_first=True), nn.Linear(6, 16)
        self.register_buffer("place", torch.arange(16) * 5 % 32)
        self.head = nn.Linear(32, 4)

    def sketch(self, x: Tensor) -> Tensor:
        return x.new_zeros(x.shape[0], 32).scatter_add_(1, self.place.expand(x.shape[0], -1), x)

    def forward(self, series: Tensor, motion: Tensor) -> Tensor:
        _, last = self.layer(series)
        y: Tensor = self.head(self.sketch(last.squeeze(0)) * self.sketch(self.motion(motion).mean(1)))
        return y


def test_a_recurrent_layer_stays_a_module_beside_changes_in_place() -> None:
    made = find(Sketched().eval(), described(SERIES, MOTION))
    assert [stage.spec.name for stage in made.stages] == ["series_encoder", "motion_encoder", "fusion"], made.notes
    assert made.work[0].modules == ("layer",)
